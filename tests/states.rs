//! States of a target that a debugger rarely meets: attached to and detached from, or refused at once with the cause.

use crate::hooking::assert_clean;
use crate::support::snapshot::maps;
use crate::support::{
    Dir, Interpreter, Output, Target, Tool, eventually, interpreters, native, process, skip, skip_optional, test_file,
};
use nix::sys::signal::Signal;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// For what is refused or done at once.
const AT_ONCE: Duration = Duration::from_secs(1);
/// What a busy machine adds to that at most.
const BUSY: Duration = Duration::from_secs(2);

fn any() -> Option<Interpreter> {
    let python = interpreters::any();
    if python.is_none() {
        skip("no interpreter");
    }
    python
}

/// Every interpreter whose shutdown or embedding may differ.
fn each_minor() -> Vec<Interpreter> {
    (8..=13).filter_map(interpreters::minor).collect()
}

fn attach(target: &Target) -> String {
    let capture = target.dir.file("capture.bin");
    Tool::new(&["attach", &target.pid_text(), "-f", "-o", &capture]).succeed();
    capture
}

fn detach(target: &Target) -> Output {
    Tool::new(&["detach", &target.pid_text()]).succeed()
}

fn allocations(capture: &str) -> usize {
    let records = Tool::new(&["parse", capture]).succeed().stdout;
    assert!(records.ends_with("TRAILER\n"), "{capture} is not complete");
    let is_ours = |line: &&str| line.starts_with("ALLOCATION ") && line.contains(" size=54322 ");
    records.lines().filter(is_ours).count()
}

/// Tries to attach; nothing may change.
fn refused(pid: u32) -> Output {
    let dir = Dir::new();
    let before = maps(pid);
    let output = Tool::new(&["attach", &pid.to_string(), "--duration", "1"])
        .current_dir(dir.path())
        .run();
    output.assert_refusal().assert_plain();
    assert!(output.took < AT_ONCE + BUSY, "{}", output.describe());
    assert_eq!(dir.names(), [""; 0], "a refusal left a file");
    assert_eq!(before, maps(pid), "a refusal changed the process");
    output
}

/// A window in which the target serves once.
fn serve_in_a_window(target: &mut Target) {
    let capture = attach(target);
    target.ask("go", "done");
    detach(target);
    assert_eq!(allocations(&capture), 1);
    target.ask("go", "done");
    assert_clean(target.pid());
}

fn state(target: &Target) -> String {
    process::stat_field(target.pid(), 3).expect("the target's state")
}

fn stop(target: &Target, signal: Signal) {
    target.signal(signal);
    eventually("the target stops", Duration::from_secs(10), || {
        (state(target) == "T").then_some(())
    });
}

fn go_on(target: &Target) {
    target.signal(Signal::SIGCONT);
    eventually("the target goes on", Duration::from_secs(10), || {
        (state(target) != "T").then_some(())
    });
}

#[test]
fn a_stopped_target_stays_stopped() {
    let Some(python) = any() else { return };
    for signal in [Signal::SIGSTOP, Signal::SIGTSTP] {
        for name in ["states.py", "quiet.py"] {
            let mut command = Command::new(&python.path);
            command.arg(test_file("targets").join(name)).arg("serve");
            // Of its own, whose leader has a parent outside: in a group that is nobody's, SIGTSTP stops nothing.
            command.process_group(0);
            let mut target = Target::start(Dir::new(), command);
            stop(&target, signal);
            let capture = attach(&target);
            assert_eq!(state(&target), "T", "after attach");
            detach(&target);
            assert_eq!(state(&target), "T", "after detach");
            allocations(&capture);
            go_on(&target);
            target.ask("go", "done");
            assert_clean(target.pid());
            target.assert_free();
            // Stopped and continued within the window, and stopped again at its end.
            stop(&target, signal);
            let capture = attach(&target);
            go_on(&target);
            target.ask("go", "done");
            stop(&target, signal);
            detach(&target);
            assert_eq!(state(&target), "T", "after detach");
            go_on(&target);
            target.ask("go", "done");
            if name == "states.py" {
                assert_eq!(allocations(&capture), 1);
            }
            assert_clean(target.pid());
            assert!(target.finish().success());
        }
    }
}

/// Somebody else traces the target when the window is to end: it is switched off all the same, and cleaned up later.
#[test]
fn a_tracer_that_comes_in_the_window() {
    let Some(python) = any() else { return };
    let mut target = Target::spawn(&python, "states.py", &["serve"]);
    let capture = attach(&target);
    target.ask("go", "done");
    let mut command = Command::new(&python.path);
    command.arg(test_file("targets/tracer.py")).arg(target.pid_text());
    let tracer = Target::start(Dir::new(), command);
    detach(&target).assert_says("detaching again").assert_says(&capture);
    assert_clean(target.pid());
    assert_eq!(allocations(&capture), 1);
    let again = Tool::new(&["detach", &target.pid_text()]).run();
    again.assert_code(1);
    assert!(tracer.finish().success());
    target.ask("go", "done");
    detach(&target).assert_says("ring");
    Tool::new(&["detach", &target.pid_text()]).run().assert_code(1);
    assert!(
        !maps(target.pid())
            .iter()
            .any(|map| map.path.contains("memfd:memray") || map.path.starts_with("/dev/zero"))
    );
    serve_in_a_window(&mut target);
    assert!(target.finish().success());
}

#[test]
fn a_leader_that_has_ended() {
    for python in each_minor() {
        let mut target = Target::spawn(&python, "states.py", &["leader_exited"]);
        // What /proc says of the process, it says of its other thread only.
        let tasks = std::fs::read_dir(format!("/proc/{}/task", target.pid())).expect("its threads");
        let mut tids = tasks.filter_map(|task| task.ok()?.file_name().to_str()?.parse::<u32>().ok());
        let tid = tids.find(|&tid| tid != target.pid()).expect("another thread");
        for _ in 0..2 {
            let capture = attach(&target);
            target.ask("go", "done");
            detach(&target);
            assert_eq!(allocations(&capture), 1);
            target.ask("go", "done");
            assert_clean(tid);
        }
        assert!(target.finish().success());
    }
}

#[test]
fn a_kernel_thread() {
    let is_kernels = |pid: &u32| {
        process::stat_field(*pid, 9).is_some_and(|flags| flags.parse::<u64>().is_ok_and(|flags| flags & 0x20_0000 != 0))
    };
    let Some(pid) = (2..200).find(is_kernels) else {
        return skip_optional("a kernel thread", "none is visible in this PID namespace");
    };
    let output = Tool::new(&["attach", &pid.to_string()]).run();
    output.assert_refusal().assert_says("kernel");
    assert!(output.took < AT_ONCE + BUSY);
}

/// A vfork's parent sleeps in D state until its child has gone its own way.
#[test]
fn a_vfork_that_takes_its_time() {
    let Some(python) = any() else { return };
    let Some(library) = native::library("states.c", &[]) else {
        return;
    };
    let mut target = Target::spawn(&python, "states.py", &["vfork", "6000", &library]);
    let capture = attach(&target);
    // Vforking when the window ends: switched off and put back all the same.
    target.ask("vfork", "forking");
    eventually("it vforks", Duration::from_secs(10), || {
        (state(&target) == "D").then_some(())
    });
    detach(&target).assert_says("detaching again");
    assert_clean(target.pid());
    allocations(&capture);
    refused(target.pid()).assert_says("vfork");
    assert_eq!(state(&target), "D", "the child ended before the refusal");
    target.expect("forked");
    detach(&target).assert_says("ring");
    target.assert_free();
    assert!(target.finish().success());
}

#[test]
fn a_short_vfork_is_waited_for_and_other_threads_are_taken() {
    let Some(python) = any() else { return };
    let Some(library) = native::library("states.c", &[]) else {
        return;
    };
    for (kind, ms) in [("vfork", "300"), ("vfork_others", "3000")] {
        let mut target = Target::spawn(&python, "states.py", &[kind, ms, &library]);
        target.ask("vfork", "forking");
        attach(&target);
        target.expect("forked");
        target.ask("vfork", "forking");
        eventually("it vforks", Duration::from_secs(10), || {
            (state(&target) == "D").then_some(())
        });
        let output = detach(&target);
        assert!(
            !output.all().contains("detaching again"),
            "{kind}\n{}",
            output.describe()
        );
        target.expect("forked");
        target.assert_free();
        assert_clean(target.pid());
        assert!(target.finish().success());
    }
}

#[test]
fn shutting_down() {
    for python in each_minor() {
        // In an atexit function the interpreter is still whole.
        let mut target = Target::spawn(&python, "states.py", &["at_exit"]);
        target.ask("exit", "leaving");
        let capture = attach(&target);
        target.ask("go", "done");
        assert!(target.wait().success());
        eventually("the capture is complete", Duration::from_secs(20), || {
            let records = Tool::new(&["parse", &capture]).run().stdout;
            records.ends_with("TRAILER\n").then_some(())
        });
        assert_eq!(allocations(&capture), 1);
        // Later it is not.
        let mut target = Target::spawn(&python, "states.py", &["finalizing"]);
        target.ask("exit", "leaving");
        refused(target.pid()).assert_says("shutting down");
        target.ask("go", "done");
        assert!(target.wait().success(), "{}", target.stderr());
    }
}

#[test]
fn shutting_down_in_the_window() {
    for python in each_minor() {
        for kind in ["at_exit", "finalizing"] {
            // The window ends while it shuts down, and with it.
            for ends_first in [true, false] {
                let mut target = Target::spawn(&python, "states.py", &[kind]);
                let capture = attach(&target);
                target.ask("exit", "leaving");
                if ends_first {
                    detach(&target);
                    assert_clean(target.pid());
                }
                target.ask("go", "done");
                assert!(target.wait().success(), "{kind}\n{}", target.stderr());
                eventually("the capture is complete", Duration::from_secs(20), || {
                    let records = Tool::new(&["parse", &capture]).run().stdout;
                    records.ends_with("TRAILER\n").then_some(())
                });
            }
        }
    }
}

/// A program that is killed when dropped.
struct Program(Child);

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_32_bit_program() {
    let built = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("bits32-{}", std::process::id()));
    let mut compiler = Command::new("cc");
    compiler.args(["-m32", "-nostdlib", "-static", "-o"]).arg(&built);
    compiler.arg(test_file("targets/bits32.c")).stderr(Stdio::null());
    if !compiler.status().is_ok_and(|status| status.success()) {
        return skip_optional("32-bit", "the C compiler makes no 32-bit programs");
    }
    let Ok(child) = Command::new(&built).stdout(Stdio::null()).spawn() else {
        return skip_optional("32-bit", "the kernel runs no 32-bit programs");
    };
    let mut program = Program(child);
    let pid = program.0.id();
    eventually("it waits", Duration::from_secs(10), || {
        let has_ended = program.0.try_wait().expect("wait").is_some();
        (has_ended || process::stat_field(pid, 3)? == "S").then_some(())
    });
    if program.0.try_wait().expect("wait").is_some() {
        return skip_optional("32-bit", "the kernel runs no 32-bit system calls");
    }
    refused(pid).assert_says("64-bit");
}

#[test]
fn pypy() {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let Some(pypy) = std::env::split_paths(&path)
        .map(|directory| directory.join("pypy3"))
        .find(|path| path.exists())
    else {
        return skip_optional("PyPy", "pypy3 is not on PATH");
    };
    let mut command = Command::new(pypy);
    command.args(["-c", "import os\nos.write(1, b'ready\\n')\nos.read(0, 9)"]);
    let target = Target::start(Dir::new(), command);
    refused(target.pid()).assert_says("PyPy");
}

#[test]
fn no_python_at_all() {
    let mut command = Command::new("sh");
    command.args(["-c", "echo ready; read line"]);
    let target = Target::start(Dir::new(), command);
    refused(target.pid()).assert_says("not CPython").assert_says("shell");
}

/// The shared library of a pyenv interpreter.
fn shared_library(python: &Interpreter) -> Option<PathBuf> {
    let library = python
        .path
        .parent()?
        .parent()?
        .join(format!("lib/libpython3.{}.so.1.0", python.minor));
    library.exists().then_some(library)
}

fn embedding(mode: &str, libraries: &[&Path]) -> Option<Target> {
    let program = native::build("embed.c", &["-ldl"])?;
    let mut command = Command::new(program);
    command.arg(mode).args(libraries);
    Some(Target::start(Dir::new(), command))
}

#[test]
fn not_initialised_yet() {
    for library in each_minor().iter().filter_map(shared_library) {
        let Some(mut target) = embedding("late", &[&library]) else {
            return;
        };
        refused(target.pid()).assert_says("no Python interpreter is running");
        target.ask("start", "ready");
        serve_in_a_window(&mut target);
        assert!(target.finish().success());
    }
}

#[test]
fn embedded_with_local_symbols() {
    for library in each_minor().iter().filter_map(shared_library) {
        let Some(mut target) = embedding("local", &[&library]) else {
            return;
        };
        serve_in_a_window(&mut target);
        assert!(target.finish().success());
    }
}

/// The one that runs is the one that is tracked, whichever was loaded first.
#[test]
fn two_libraries_of_which_one_runs() {
    let libraries: Vec<PathBuf> = each_minor().iter().filter_map(shared_library).collect();
    for pair in libraries.windows(2) {
        for mode in ["two", "second"] {
            for pair in [[&pair[0], &pair[1]], [&pair[1], &pair[0]]] {
                let Some(mut target) = embedding(mode, &pair.map(PathBuf::as_path)) else {
                    return;
                };
                serve_in_a_window(&mut target);
                assert!(target.finish().success(), "{mode} {pair:?}");
            }
        }
    }
}

/// A cgroup that can be frozen, of either version.
struct Freezer {
    directory: PathBuf,
    file: &'static str,
    words: [&'static str; 2],
}

impl Freezer {
    const KINDS: [(&str, &str, [&str; 2]); 3] = [
        ("/sys/fs/cgroup/freezer", "freezer.state", ["THAWED", "FROZEN"]),
        ("/sys/fs/cgroup/unified", "cgroup.freeze", ["0", "1"]),
        ("/sys/fs/cgroup", "cgroup.freeze", ["0", "1"]),
    ];

    /// Those that may be made here.
    fn all() -> Vec<Self> {
        let make = |(root, file, words): (&str, &'static str, _)| {
            let root = Path::new(root);
            // Elsewhere it would be a directory like any other.
            root.join("cgroup.procs").exists().then_some(())?;
            let directory = root.join(format!("memray-test-frozen-{}", std::process::id()));
            std::fs::create_dir(&directory).ok()?;
            let freezer = Self { directory, file, words };
            // One of no use is removed again where it is dropped.
            freezer.directory.join(file).exists().then_some(freezer)
        };
        Self::KINDS.into_iter().filter_map(make).collect()
    }

    fn add(&self, pid: u32) {
        std::fs::write(self.directory.join("cgroup.procs"), pid.to_string()).expect("put the target into the cgroup");
    }

    fn freeze(&self, is_frozen: bool) {
        std::fs::write(self.directory.join(self.file), self.words[usize::from(is_frozen)]).expect("freeze or thaw");
        let events = || std::fs::read_to_string(self.directory.join("cgroup.events")).unwrap_or_default();
        let state = || std::fs::read_to_string(self.directory.join(self.file)).unwrap_or_default();
        eventually("it is frozen, or thawed", Duration::from_secs(10), || {
            let is_done = state().trim() == self.words[usize::from(is_frozen)];
            (is_done && !events().contains(if is_frozen { "frozen 0" } else { "frozen 1" })).then_some(())
        });
    }
}

impl Drop for Freezer {
    fn drop(&mut self) {
        let _ = std::fs::write(self.directory.join(self.file), self.words[0]);
        // Busy as long as the target's end is being worked on.
        for _ in 0..500 {
            if std::fs::remove_dir(&self.directory).is_ok() {
                return;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

/// As `docker pause` does it, before an attach and in the window.
#[test]
fn frozen() {
    let Some(python) = any() else { return };
    let freezers = Freezer::all();
    if freezers.is_empty() {
        skip_optional("frozen cgroups", "none may be made here");
    }
    for freezer in &freezers {
        let mut target = Target::spawn(&python, "checksums.py", &[]);
        freezer.add(target.pid());
        freezer.freeze(true);
        refused(target.pid())
            .assert_says("its cgroup is frozen")
            .assert_says("unpause");
        freezer.freeze(false);
        let capture = attach(&target);
        freezer.freeze(true);
        detach(&target).assert_says("its cgroup is frozen");
        assert_clean(target.pid());
        freezer.freeze(false);
        detach(&target).assert_says("ring");
        allocations(&capture);
        target.assert_free();
        assert!(
            target.ask("stop", "ok").parse::<u64>().is_ok(),
            "{:?}",
            freezer.directory
        );
    }
}

/// A cgroup whose processes get 20 ms of a CPU in each second, while it is so.
struct Throttle {
    directory: PathBuf,
    quota: (&'static str, &'static str),
}

impl Throttle {
    fn set() -> Option<Self> {
        let v1 = ("/sys/fs/cgroup/cpu", ("cpu.cfs_quota_us", "-1"));
        let v2 = ("/sys/fs/cgroup", ("cpu.max", "max"));
        [v1, v2].into_iter().find_map(|(root, quota)| {
            Path::new(root).join("cgroup.procs").exists().then_some(())?;
            let directory = Path::new(root).join(format!("memray-test-throttled-{}", std::process::id()));
            std::fs::create_dir(&directory).ok()?;
            let throttle = Self { directory, quota };
            let write = |file, text| std::fs::write(throttle.directory.join(file), text).ok();
            throttle.directory.join(quota.0).exists().then_some(())?;
            match quota.0 {
                "cpu.max" => write("cpu.max", "20000 1000000")?,
                _ => write("cpu.cfs_period_us", "1000000").and_then(|()| write("cpu.cfs_quota_us", "20000"))?,
            }
            Some(throttle)
        })
    }

    fn add(&self, pid: u32) {
        std::fs::write(self.directory.join("cgroup.procs"), pid.to_string()).expect("put the target into the cgroup");
    }

    fn lift(&self) {
        std::fs::write(self.directory.join(self.quota.0), self.quota.1).expect("lift the quota");
    }
}

impl Drop for Throttle {
    fn drop(&mut self) {
        // Busy as long as the target's end is being worked on.
        for _ in 0..500 {
            if std::fs::remove_dir(&self.directory).is_ok() {
                return;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

/// Its only thread is always ready to run and hardly ever does: it is waited for, and not said to sleep.
#[test]
fn throttled() {
    let Some(python) = any() else { return };
    let Some(throttle) = Throttle::set() else {
        return skip_optional("a throttled cgroup", "none may be made here");
    };
    let mut target = Target::spawn(&python, "checksums.py", &[]);
    throttle.add(target.pid());
    for _ in 0..2 {
        let capture = attach(&target);
        detach(&target);
        allocations(&capture);
    }
    throttle.lift();
    assert_clean(target.pid());
    target.assert_free();
    assert!(target.ask("stop", "ok").parse::<u64>().is_ok());
    drop(target);
}
