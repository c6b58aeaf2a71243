//! What `scripts/package` makes: installed where nothing else is, with its licences, and for old C libraries.
//!
//! Packed is the binary that these tests run. That it needs no newer glibc than 2.17 is asked of the one that is
//! released: `MEMRAY_TEST_RELEASED` names it.

use crate::support::{Dir, Tool, interpreters, root, skip_optional, tool};
use goblin::elf::Elf;
use std::path::{Path, PathBuf};
use std::time::Duration;

const BYTES_MAX: u64 = 10_000_000;

fn package(dir: &Dir, name: &str) -> (PathBuf, PathBuf) {
    let out = dir.file(name);
    let binary = tool::binary().to_string_lossy();
    let arguments = ["--out", &out, "--binary", &binary];
    let made = Tool::program(root().join("scripts/package"), &arguments)
        .current_dir(root())
        .env("SOURCE_DATE_EPOCH", "1700000000")
        .deadline(Duration::from_secs(300))
        .succeed();
    let paths: Vec<PathBuf> = made.stdout.lines().map(PathBuf::from).collect();
    let [deb, wheel] = paths
        .try_into()
        .unwrap_or_else(|paths| panic!("a package and a wheel: {paths:?}"));
    (deb, wheel)
}

fn run(program: &Path, arguments: &[&str]) -> String {
    Tool::program(program.to_owned(), arguments)
        .deadline(Duration::from_secs(300))
        .succeed()
        .stdout
}

#[test]
fn the_debian_package_installs() {
    let dir = Dir::new();
    let (deb, _) = package(&dir, "one");
    let (again, _) = package(&dir, "two");
    assert_eq!(
        std::fs::read(&deb).expect("a file"),
        std::fs::read(&again).expect("a file"),
        "not the same twice"
    );
    if !Path::new("/usr/bin/dpkg-deb").exists() {
        return skip_optional("dpkg-deb", "this machine has none");
    }
    let (deb, root) = (deb.to_string_lossy().into_owned(), dir.file("root"));
    let control = run("/usr/bin/dpkg-deb".as_ref(), &["--field", &deb]);
    assert!(
        control.contains("Package: memray\n") && control.contains("libc6 (>= 2.17)"),
        "{control}"
    );
    run("/usr/bin/dpkg-deb".as_ref(), &["--extract", &deb, &root]);
    let root = Path::new(&root);
    let version = run(&root.join("usr/bin/memray"), &["-V"]);
    assert!(version.starts_with("memray "), "{version}");
    for path in [
        "usr/share/doc/memray/LICENSE",
        "usr/share/man/man1/memray-attach.1.gz",
        "usr/share/bash-completion/completions/memray",
    ] {
        assert!(root.join(path).is_file(), "{path}");
    }
    let licences =
        std::fs::read_to_string(root.join("usr/share/doc/memray/THIRD-PARTY-LICENCES.txt")).expect("licences");
    for text in [
        "clap 4",
        "goblin 0",
        "nix 0",
        "Permission is hereby granted",
        "Apache License",
    ] {
        assert!(licences.contains(text), "no {text}");
    }
}

#[test]
fn the_wheel_installs() {
    let Some(python) = interpreters::any() else { return };
    let dir = Dir::new();
    let (_, wheel) = package(&dir, "out");
    let venv = dir.file("venv");
    run(&python.path, &["-m", "venv", &venv]);
    let inside = Path::new(&venv).join("bin/python");
    let install = ["-m", "pip", "install", "-q", "--no-index", "--no-deps"];
    run(&inside, &[&install[..], &[&wheel.to_string_lossy()]].concat());
    let direct = run(&Path::new(&venv).join("bin/memray"), &["-V"]);
    assert_eq!(run(&inside, &["-m", "memray", "-V"]), direct);
    // The interpreter is the one that was typed, whatever is active.
    let capture = dir.file("out.bin");
    let code = "import sys; print(sys.prefix)";
    let ran = run(&inside, &["-m", "memray", "run", "-q", "-o", &capture, "-c", code]);
    assert_eq!(ran.trim(), venv);
    // Also where pip puts things elsewhere.
    let elsewhere = dir.file("elsewhere");
    run(
        &python.path,
        &[&install[..], &["--target", &elsewhere, &wheel.to_string_lossy()]].concat(),
    );
    let output = Tool::program(python.path.clone(), &["-m", "memray", "-V"])
        .env("PYTHONPATH", &elsewhere)
        .succeed();
    assert_eq!(output.stdout, direct);
}

/// An old distribution's C library has to do.
#[test]
fn the_released_binary_is_small_and_needs_little() {
    let bytes = std::fs::metadata(tool::binary()).expect("the binary").len();
    assert!(bytes <= BYTES_MAX, "{bytes} bytes");
    let Some(path) = std::env::var_os("MEMRAY_TEST_RELEASED") else {
        return skip_optional(
            "the released binary",
            "MEMRAY_TEST_RELEASED does not name it; scripts/package builds it",
        );
    };
    let bytes = std::fs::read(&path).expect("the released binary");
    assert!(bytes.len() as u64 <= BYTES_MAX, "{} bytes", bytes.len());
    let elf = Elf::parse(&bytes).expect("an ELF file");
    let needed = elf.verneed.as_ref().expect("needed versions");
    for file in needed.iter() {
        for version in file.iter() {
            let name = elf.dynstrtab.get_at(version.vna_name).expect("a name");
            let Some(number) = name.strip_prefix("GLIBC_") else {
                continue;
            };
            let mut parts = number.split('.').map(|part| part.parse::<u32>().expect("a number"));
            let pair = (parts.next(), parts.next());
            assert!(pair <= (Some(2), Some(17)), "it needs {name}");
        }
    }
    let known = [
        "libc.so.6",
        "libm.so.6",
        "libgcc_s.so.1",
        "libpthread.so.0",
        "libdl.so.2",
        "librt.so.1",
        "libutil.so.1",
    ];
    for library in &elf.libraries {
        assert!(
            known.contains(library) || library.starts_with("ld-linux"),
            "it needs {library}"
        );
    }
}
