//! Targets whose files are deleted or replaced on disk while they run, as an upgrade does it: everything is read from
//! what is mapped, never from what has the name now.

use crate::support::snapshot::{Mapping, Snapshot, maps};
use crate::support::stage::NOBODY;
use crate::support::{Dir, Interpreter, Target, Tool, interpreters, process, skip, skip_optional, test_file, tool};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Copies of the program, its libpython and its libc.
struct Copies {
    dir: Dir,
    files: Vec<PathBuf>,
    home: String,
}

impl Copies {
    fn make(python: &Interpreter) -> Self {
        let dir = Dir::new();
        std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o777)).expect("open it to everybody");
        let original = Target::spawn(python, "limited.py", &["nothing"]);
        let program = std::fs::read_link(format!("/proc/{}/exe", original.pid())).expect("its program");
        let is_wanted = |path: &str| {
            let name = path.rsplit('/').next().unwrap_or("");
            Path::new(path) == program || name.starts_with("libpython") || name.starts_with("libc.so")
        };
        let mut wanted: Vec<String> = maps(original.pid()).into_iter().map(|map| map.path).collect();
        wanted.retain(|path| is_wanted(path));
        wanted.dedup();
        let mut files = Vec::new();
        for path in wanted {
            let copy = dir.path().join(Path::new(&path).file_name().expect("a file"));
            std::fs::copy(&path, &copy).expect("copy a file");
            files.push(copy);
        }
        let script = dir.path().join("limited.py");
        std::fs::copy(test_file("targets/limited.py"), &script).expect("copy the script");
        std::fs::set_permissions(script, std::fs::Permissions::from_mode(0o755)).expect("open it to everybody");
        let program = dir.path().join(program.file_name().expect("a name"));
        files.retain(|file| *file != program);
        files.insert(0, program);
        let prefix = Tool::program(python.path.clone(), &["-c", "import sys; print(sys.base_prefix)"]).succeed();
        Self {
            dir,
            files,
            home: prefix.stdout.trim().to_owned(),
        }
    }

    fn start(&self, wrapper: &[&str]) -> Target {
        let program = self.files[0].to_str().expect("UTF-8");
        let script = self.dir.file("limited.py");
        let mut words = wrapper.to_vec();
        words.extend([program, &script, "nothing"]);
        let mut command = Command::new(words[0]);
        command
            .args(&words[1..])
            .env("LD_LIBRARY_PATH", self.dir.path())
            .env("PYTHONHOME", &self.home);
        let target = Target::start(Dir::new(), command);
        let mapped = maps(target.pid());
        for file in &self.files {
            let is_mapped = mapped.iter().any(|map| Path::new(&map.path) == file);
            assert!(is_mapped, "{} is not what is mapped", file.display());
        }
        target
    }

    fn delete(&self) {
        for file in &self.files {
            std::fs::remove_file(file).expect("delete a copy");
        }
    }

    /// Another file by the same name, which is no ELF image at all, or one of another kind.
    fn replace(&self) {
        for (index, file) in self.files.iter().enumerate() {
            let new = file.with_extension("new");
            if index % 2 == 0 {
                std::fs::write(&new, "not what it was").expect("write a file");
            } else {
                std::fs::copy("/bin/true", &new).expect("copy a file");
            }
            std::fs::rename(&new, file).expect("replace a copy");
        }
    }
}

fn works(target: &mut Target, memray: impl Fn(&[&str]) -> Tool, capture: &str) {
    target.ask("go", "done");
    let before = Snapshot::take(target.pid());
    let pid = target.pid_text();
    memray(&["attach", &pid, "-q", "-f", "-o", capture]).succeed();
    target.ask("go", "done");
    memray(&["detach", &pid]).succeed();
    let records = Tool::new(&["parse", capture]).succeed();
    let rows = records.stdout.lines().filter(|line| line.contains(" size=123457 "));
    assert_eq!(rows.count(), 50);
    // The stacks, too: which take the interpreter to be recognised.
    let leaks = Tool::new(&["summary", capture]).succeed();
    leaks.assert_says("work");
    target.assert_free();
    let after = Snapshot::take(target.pid());
    assert_eq!(before.fds, after.fds);
    let (added, _) = before.maps_changed(&after);
    assert!(added.iter().all(Mapping::is_anonymous), "{added:#?}");
    target.ask("go", "done");
}

fn with_files(harm: fn(&Copies)) {
    let shared = interpreters::any();
    let Some(shared) = shared else {
        return skip("no interpreter");
    };
    for python in [Some(shared), interpreters::system()].into_iter().flatten() {
        let copies = Copies::make(&python);
        let mut target = copies.start(&[]);
        harm(&copies);
        let capture = target.dir.file("capture.bin");
        works(&mut target, |arguments| Tool::new(arguments), &capture);
        assert!(target.finish().success());
    }
}

#[test]
fn deleted() {
    with_files(Copies::delete);
}

#[test]
fn replaced() {
    with_files(Copies::replace);
}

/// An ordinary user may not open what is mapped: everything comes from memory.
#[test]
fn deleted_and_replaced_for_an_ordinary_user() {
    let Some(python) = interpreters::system() else { return };
    if !process::is_root() || Command::new("setpriv").arg("--version").output().is_err() {
        return skip_optional("an ordinary user", "takes root and setpriv: apt-get install util-linux");
    }
    for harm in [Copies::delete, Copies::replace] {
        let copies = Copies::make(&python);
        let memray = copies.dir.file("memray");
        std::fs::copy(tool::binary(), &memray).expect("copy the program");
        let mut wrapper = vec!["setpriv"];
        wrapper.extend(NOBODY);
        let mut target = copies.start(&wrapper);
        harm(&copies);
        let tool = |arguments: &[&str]| {
            let mut all = NOBODY.to_vec();
            all.push(&memray);
            all.extend(arguments);
            Tool::program("setpriv".into(), &all).current_dir(copies.dir.path())
        };
        works(&mut target, tool, &copies.dir.file("capture.bin"));
        assert!(target.finish().success());
    }
}
