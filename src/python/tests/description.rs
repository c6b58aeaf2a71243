//! What is said about the target is what it says about itself.

use std::process::Command;

use super::interpreters::{SUPPORTED, interpreter, missing};
use super::target::{Target, tempfile_directory};
use crate::python::describe::{Description, describe};

fn read(target: &Target) -> Description {
    describe(&target.memory, &target.find().unwrap(), &target.cwd())
}

fn compare(target: &Target, version: &str) {
    let description = read(target);
    assert_eq!(description.version_hex.to_string(), target.one("hex"), "{version}");
    assert_eq!(
        description.command_line.as_deref(),
        Some(target.one("argv")),
        "{version}"
    );
    assert_eq!(description.libdest, target.one("libdest"), "{version}");
    assert_eq!(description.sys_path, target.all("path"), "{version}");
    assert!(description.sys_path.len() >= 3, "{version}");
    assert_eq!(description.user_site.as_deref(), Some(target.one("user")), "{version}");
    let mut site_packages = target.all("site");
    if target.all("path").contains(&target.one("user")) {
        site_packages.push(target.one("user"));
    }
    assert_eq!(description.site_packages, site_packages, "{version}");
}

#[test]
fn scripts_with_arguments() {
    for version in SUPPORTED {
        let Some(python) = interpreter(version) else { continue };
        let target = Target::start(&python, "describe(); say('ready'); time.sleep(1000)");
        assert!(target.one("argv").ends_with("target program.py one zwei drei 四"));
        compare(&target, version);
    }
}

#[test]
fn commands_modules_and_relative_paths() {
    for version in SUPPORTED {
        let Some(python) = interpreter(version) else { continue };
        let program = format!(
            "{}\nsys.path.append('rel/../rel2/./x'); sys.path.append(b'bytes'.decode())\n\
             sys.path.extend('/p%d' % i for i in range(300))\ndescribe(); say('ready'); time.sleep(1000)",
            Target::prelude()
        );
        compare(
            &Target::run(Command::new(&python).args(["-c", &program, "a", "b c"])),
            version,
        );

        let directory = tempfile_directory();
        std::fs::write(directory.join("module_under_test.py"), &program).unwrap();
        let mut command = Command::new(&python);
        command.current_dir(&directory).args(["-m", "module_under_test", "x"]);
        let target = Target::run(&mut command);
        compare(&target, version);
        assert!(target.one("argv").ends_with("module_under_test.py x"));
        std::fs::remove_dir_all(directory).unwrap();
    }
}

#[test]
fn virtual_environments() {
    for version in SUPPORTED {
        let Some(python) = interpreter(version) else { continue };
        let directory = tempfile_directory();
        let venv = directory.join("venv");
        let made = Command::new(&python)
            .args(["-m", "venv", "--without-pip"])
            .arg(&venv)
            .status();
        if made.is_ok_and(|status| status.success()) {
            let target = Target::start(&venv.join("bin/python"), "describe(); say('ready'); time.sleep(1000)");
            compare(&target, version);
            assert!(target.prove(&target.find().unwrap()).is_ok());
            assert!(read(&target).site_packages[0].starts_with(venv.to_str().unwrap()));
        } else {
            missing(&format!("Python {version} makes no virtual environment"));
        }
        std::fs::remove_dir_all(directory).unwrap();
    }
}

#[test]
fn a_missing_argv_and_strange_paths_are_no_errors() {
    for version in SUPPORTED {
        let Some(python) = interpreter(version) else { continue };
        let target = Target::start(
            &python,
            "del sys.argv; sys.path = ['/a', 7, None, '/b\\udc80', '/' + 'x' * 100000]\n\
             del sys.modules['os']; say('ready'); time.sleep(1000)",
        );
        let description = read(&target);
        assert_eq!(description.command_line, None, "{version}");
        assert_eq!(description.sys_path, ["/a", "/b\u{fffd}"], "{version}");
        assert!(!description.libdest.is_empty(), "{version}");
    }
}

#[test]
fn allocators() {
    for version in SUPPORTED {
        let Some(python) = interpreter(version) else { continue };
        let allocator = |malloc: Option<&str>, program: &str| {
            let program = format!("{}\n{program}\nsay('ready'); time.sleep(1000)", Target::prelude());
            let mut command = Command::new(&python);
            command.env_remove("PYTHONMALLOC").args(["-c", &program]);
            if let Some(malloc) = malloc {
                command.env("PYTHONMALLOC", malloc);
            }
            read(&Target::run(&mut command)).python_allocator
        };
        assert_eq!(allocator(None, ""), 1, "{version}");
        assert_eq!(allocator(Some("pymalloc"), ""), 1, "{version}");
        assert_eq!(allocator(Some("debug"), ""), 2, "{version}");
        assert_eq!(allocator(Some("pymalloc_debug"), ""), 2, "{version}");
        assert_eq!(allocator(Some("malloc"), ""), 3, "{version}");
        assert_eq!(allocator(Some("malloc_debug"), ""), 4, "{version}");
        assert_eq!(
            allocator(None, "import tracemalloc; tracemalloc.start()"),
            4,
            "{version}"
        );
        if version == "3.13" {
            assert_eq!(allocator(Some("mimalloc"), ""), 5, "{version}");
            assert_eq!(allocator(Some("mimalloc_debug"), ""), 6, "{version}");
        }
    }
}
