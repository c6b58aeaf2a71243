//! What is no target, and the reason that is given.

use std::os::unix::fs::symlink;
use std::process::{Child, Command, Stdio};

use super::images::{ProcMemory, images};
use super::interpreters::{command, interpreter, missing};
use super::target::{Target, tempfile_directory};
use crate::python::{FindError, find};

const READY: &str = "\nsay('ready'); time.sleep(1000)";

#[test]
fn older_versions_are_named() {
    for version in ["2.7", "3.6"] {
        let Some(python) = interpreter(version) else { continue };
        let program = format!("{}{READY}", Target::prelude());
        let target = Target::run(Command::new(python).args(["-c", &program]));
        let error = target.find().unwrap_err();
        let FindError::UnsupportedVersion { version: found } = &error else {
            panic!("{error:?}")
        };
        assert!(found.starts_with(&format!("{version}.")), "{found}");
        assert!(error.to_string().ends_with("supported are 3.7 to 3.15"), "{error}");
        assert!(error.fix().is_some());
    }
}

struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn another_program_is_no_python() {
    // It prints before it waits, so that it is known to have been loaded.
    let mut child = Command::new("cat")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    use std::io::{Read, Write};
    child.stdin.as_mut().unwrap().write_all(b"x").unwrap();
    child.stdout.as_mut().unwrap().read_exact(&mut [0]).unwrap();
    let child = Killed(child);
    let error = find(&ProcMemory::open(child.0.id()), &images(child.0.id())).unwrap_err();
    assert_eq!(error, FindError::NotPython);
}

/// A library that is loaded and not initialised, and one that was: an interpreter that opens another's
/// library beside its own.
#[test]
fn a_second_library_without_an_interpreter_is_passed_over() {
    let (Some(host), Some(other)) = (interpreter("3.12"), interpreter("3.9")) else {
        return;
    };
    let library = other.with_file_name("../lib/libpython3.9.so.1.0");
    if !library.exists() {
        return missing("Python 3.9 has no shared library");
    }
    let open = format!("import ctypes; ctypes.CDLL({:?}, 2)", library.to_str().unwrap());
    let target = Target::start(&host, &format!("{open}{READY}"));
    let images = target.images();
    let runtime = find(&target.memory, &images).unwrap();
    assert_eq!(runtime.version.minor(), 12);
    // With the order reversed, too, and alone it is refused.
    let reversed: Vec<_> = images.into_iter().rev().collect();
    assert_eq!(find(&target.memory, &reversed).unwrap().version.minor(), 12);
    let alone: Vec<_> = reversed
        .into_iter()
        .filter(|image| crate::python::Image::path(image).contains("libpython3.9"))
        .collect();
    assert_eq!(alone.len(), 1);
    let error = find(&target.memory, &alone).unwrap_err();
    assert!(matches!(error, FindError::NotInitialised { .. }), "{error:?}");
}

#[test]
fn a_library_named_after_another_version_is_refused_where_only_its_text_tells() {
    let Some(python) = interpreter("3.8") else { return };
    let library = python.with_file_name("../lib/libpython3.8.so.1.0");
    let Ok(library) = library.canonicalize() else {
        return missing("Python 3.8 has no shared library");
    };
    let directory = tempfile_directory();
    // The loader finds the name that the executable asks for; the kernel maps the file behind it.
    std::fs::copy(&library, directory.join("libpython3.9.so.1.0")).unwrap();
    symlink("libpython3.9.so.1.0", directory.join("libpython3.8.so.1.0")).unwrap();
    let program = format!("{}{READY}", Target::prelude());
    // The executable's RUNPATH comes after LD_LIBRARY_PATH, its RPATH before: preload wins over both.
    let mut command = Command::new(&python);
    command
        .env("LD_PRELOAD", directory.join("libpython3.8.so.1.0"))
        .args(["-c", &program]);
    let target = Target::run(&mut command);
    let error = target.find().unwrap_err();
    assert!(matches!(error, FindError::VersionConflict { .. }), "{error:?}");
    std::fs::remove_dir_all(directory).unwrap();
}

/// The states at the end of a program: a finaliser that waits while the runtime shuts down.
#[test]
fn a_program_that_is_shutting_down_is_refused() {
    for version in super::interpreters::SUPPORTED {
        let Some(python) = interpreter(version) else { continue };
        let target = Target::start(
            &python,
            "class Last(object):\n\
             \x20   def __del__(self, say=say, sleep=time.sleep):\n\
             \x20       say('ready'); sleep(1000)\n\
             last = Last()\n",
        );
        let error = target.find().unwrap_err();
        assert_eq!(error, FindError::Finalising, "{version}");
    }
}

/// A debug build of the system's Python, if the package is installed.
#[test]
fn debug_builds_are_like_others() {
    let Some(python) = ["python3.11d", "python3-dbg"].iter().find_map(|name| command(name)) else {
        return;
    };
    let program = format!("{}{READY}", Target::prelude());
    let target = Target::run(Command::new(python).args(["-c", &program]));
    let runtime = target.find().unwrap();
    assert!(target.prove(&runtime).unwrap().threads.iter().all(|it| it.is_bound));
}
