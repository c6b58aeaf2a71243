//! Interpreters of other distributions, with other C libraries: directories with a whole root file system each,
//! named in MEMRAY_TEST_ROOTS (separated by colons; needs root for chroot). Nothing to do without it.

use std::process::Command;

use super::target::Target;
use crate::python::describe;

const NAMES: [&str; 9] = [
    "python3.7",
    "python3.8",
    "python3.9",
    "python3.10",
    "python3.11",
    "python3.12",
    "python3.13",
    "python3.14",
    "python3.15",
];
/// Debug builds' default, pymalloc_debug; pymalloc.
const ALLOCATORS: [(&str, u8); 2] = [("d", 2), ("", 1)];

#[test]
fn interpreters_of_other_distributions() {
    let Ok(roots) = std::env::var("MEMRAY_TEST_ROOTS") else {
        return println!("skipped: MEMRAY_TEST_ROOTS is not set");
    };
    let mut found = 0;
    for root in roots.split(':') {
        let start = |name: &str| {
            let wait = "say('pid', os.getpid())\nsay('ready'); time.sleep(1000)";
            let program = format!(
                "{}\ndescribe()\nthreading.Thread(target=time.sleep, args=(1000,)).start()\n{wait}",
                Target::prelude()
            );
            let interpreter = format!("/usr/bin/{name}");
            Target::run(Command::new("chroot").args([root, &interpreter, "-c", &program, "é"]))
        };
        let exists = |name: &str| std::path::Path::new(root).join("usr/bin").join(name).exists();
        let builds = NAMES
            .iter()
            .flat_map(|name| ALLOCATORS.map(|(flag, allocator)| (format!("{name}{flag}"), allocator)));
        for (name, allocator) in builds.filter(|(name, _)| exists(name)) {
            found += 1;
            let target = start(&name);
            let runtime = target.find().unwrap();
            assert_eq!(runtime.version.hex.to_string(), target.one("hex"));
            let proof = target.prove(&runtime).unwrap();
            assert_eq!(proof.main_tid, target.pid());
            assert_eq!(proof.threads.len(), 2);
            assert!(proof.threads.iter().all(|it| it.is_bound));
            let description = describe(&target.memory, &runtime, "/");
            assert_eq!(description.command_line.as_deref(), Some("-c é"));
            assert_eq!(description.libdest, target.one("libdest"));
            assert_eq!(description.sys_path, target.all("path"));
            assert_eq!(description.site_packages, target.all("site"));
            assert_eq!(description.python_allocator, allocator, "{name}");
            println!(
                "{root}/usr/bin/{name}: {:#x} {:#x}",
                proof.tid_offset, proof.layout.tstate_offset
            );
        }
    }
    assert!(found > 0, "no interpreter in {roots}");
}
