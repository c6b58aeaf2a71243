//! Unusual hosts: a C program whose Python lives in another thread than its first, and sub-interpreters.

use std::process::Command;

use super::interpreters::{SUPPORTED, command, interpreter};
use super::target::{Target, tempfile_directory};

/// Compares with its own copy of `PyCode_Type` (R_X86_64_COPY in a non-PIE program), starts Python in a second
/// thread and waits for it in the first.
const HOST: &str = r#"
#include <pthread.h>
extern char PyCode_Type[]; void Py_InitializeEx(int); int PyRun_SimpleString(const char *);
static const char *program;
static void *run(void *unused) { Py_InitializeEx(0); PyRun_SimpleString(program); return PyCode_Type; }
int main(int argc, char **argv) {
    pthread_t thread; void *result;
    program = argv[1];
    pthread_create(&thread, 0, run, 0);
    return pthread_join(thread, &result) || result == PyCode_Type;
}
"#;

#[test]
fn a_host_that_runs_python_in_its_second_thread() {
    let Some(compiler) = command("cc") else { return };
    for version in SUPPORTED.into_iter().filter(|&it| it != "system") {
        let Some(python) = interpreter(version) else { continue };
        let libraries = python.with_file_name("../lib");
        let directory = tempfile_directory();
        let (source, host) = (directory.join("host.c"), directory.join("host"));
        // The type only needs a size for the linker to copy it.
        std::fs::write(&source, HOST).unwrap();
        let mut build = Command::new(&compiler);
        build.args(["-no-pie", "-fno-pie", "-w", "-o"]).args([&host, &source]);
        build
            .arg("-L")
            .arg(&libraries)
            .arg(format!("-Wl,-rpath,{}", libraries.display()));
        // Named after its flag for pymalloc, up to 3.7.
        let flag = if version == "3.7" { "m" } else { "" };
        build.args([&format!("-lpython{version}{flag}"), "-lpthread"]);
        assert!(build.status().unwrap().success(), "{build:?}");
        let program = format!("{}\nsay('tid', native_id())\n{READY}", Target::prelude());
        let home = python.with_file_name("..");
        let target = Target::run(Command::new(&host).arg(program).env("PYTHONHOME", home));
        let runtime = target.find().unwrap();
        let proof = target.prove(&runtime).unwrap();
        assert_eq!(proof.main_tid.to_string(), target.one("tid"), "{version}");
        assert_ne!(proof.main_tid, target.pid());
        assert_eq!((proof.threads.len(), proof.threads[0].depth), (1, 1), "{version}");
        assert!(proof.threads[0].is_main && proof.threads[0].is_bound);
        std::fs::remove_dir_all(directory).unwrap();
    }
}

const READY: &str = "_out.write(b'ready\\n'); _out.flush(); time.sleep(1000)";

#[test]
fn sub_interpreters_are_walked() {
    // 3.7 has no module for them.
    for version in SUPPORTED.into_iter().filter(|&it| it != "3.7") {
        let Some(python) = interpreter(version) else { continue };
        let target = Target::start(
            &python,
            &format!(
                "try:\n\
                 \x20   import _xxsubinterpreters as sub\n\
                 except ImportError:\n\
                 \x20   import _interpreters as sub\n\
                 idle, busy = sub.create(), sub.create()\n\
                 r, w = os.pipe()\n\
                 code = 'import os, time; os.write(%d, b\"x\"); time.sleep(1000)' % w\n\
                 run = getattr(sub, 'run_string', None) or sub.exec\n\
                 threading.Thread(target=run, args=(busy, code)).start()\n\
                 os.read(r, 1)\n{READY}"
            ),
        );
        let runtime = target.find().unwrap();
        let proof = target.prove(&runtime).unwrap();
        // The busy interpreter's frame is alone in its own thread state, or under that of `run`.
        assert!(proof.threads.len() >= 3, "{version}: {:?}", proof.threads);
        assert_eq!(proof.main_tid, target.pid(), "{version}");
        let bound = proof.threads.iter().filter(|it| it.is_bound);
        let mut tids: Vec<_> = bound.map(|it| it.tid.unwrap()).collect();
        tids.sort_unstable();
        let mut all = target.tids();
        all.sort_unstable();
        if runtime.version.minor() <= 11 {
            assert_eq!(tids, all, "{version}: {:?}", proof.threads);
        } else {
            // From 3.12 on `run` borrows the thread state that `create` made in the main thread, whose thread_id
            // stays the main thread's: the payload finds no stack there, rather than another thread's.
            assert!(tids.contains(&target.pid()), "{version}: {:?}", proof.threads);
        }
    }
}
