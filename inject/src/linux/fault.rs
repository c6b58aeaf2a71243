//! The door through which calls go that tests make fail. In other builds it always lets pass, and is nothing.

#[cfg(not(test))]
use nix::errno::Errno;

/// Kinds of calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Call {
    /// A ptrace request.
    Ptrace,
    /// Waiting for a tracee.
    Wait,
    /// Opening something of a process.
    Open,
    /// Reading and writing its memory.
    Read,
    Write,
    /// A system call that a borrowed thread makes for us.
    Remote,
}

/// Says whether a call that concerns this process is to be made, or to fail with an error.
#[cfg(not(test))]
#[inline(always)]
pub fn pass(_call: Call, _pid: i32) -> Result<(), Errno> {
    Ok(())
}

#[cfg(test)]
pub use planned::pass;

#[cfg(test)]
mod planned {
    use super::Call;
    use nix::errno::Errno;
    use std::collections::HashMap;
    use std::sync::Mutex;

    /// Which call is to fail: the `number`th of a kind, from 1.
    #[derive(Clone, Copy)]
    pub struct Plan {
        pub call: Call,
        pub number: usize,
        pub errno: Errno,
    }

    #[derive(Default)]
    struct State {
        plan: Option<Plan>,
        counts: HashMap<Call, usize>,
    }

    /// By process, so that tests do not meet.
    static STATES: Mutex<Option<HashMap<i32, State>>> = Mutex::new(None);

    fn with_states<T>(work: impl FnOnce(&mut HashMap<i32, State>) -> T) -> T {
        let mut states = STATES.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        work(states.get_or_insert_default())
    }

    pub fn pass(call: Call, pid: i32) -> Result<(), Errno> {
        with_states(|states| {
            let Some(state) = states.get_mut(&pid) else {
                return Ok(());
            };
            let count = state.counts.entry(call).or_default();
            *count += 1;
            match state.plan {
                Some(plan) if plan.call == call && plan.number == *count => Err(plan.errno),
                _ => Ok(()),
            }
        })
    }

    /// Does some work on a process under a plan; how many calls of each kind it made.
    pub fn under<T>(pid: i32, plan: Option<Plan>, work: impl FnOnce() -> T) -> (T, HashMap<Call, usize>) {
        let counts = HashMap::new();
        with_states(|states| states.insert(pid, State { plan, counts }));
        let result = work();
        let state = with_states(|states| states.remove(&pid)).unwrap_or_default();
        (result, state.counts)
    }
}

#[cfg(test)]
mod tests {
    use super::Call;
    use super::planned::{Plan, under};
    use crate::{BorrowOptions, Error, Process, RemoteAddr, with_borrowed_thread};
    use nix::errno::Errno;
    use std::io::Read;
    use std::process::{Child, Command, Stdio};
    use std::time::{Duration, Instant};

    /// What each kind of call can fail with.
    const FAILURES: [(Call, &[Errno]); 6] = [
        (Call::Ptrace, &[Errno::EPERM, Errno::ESRCH, Errno::EIO]),
        (Call::Wait, &[Errno::ECHILD, Errno::EINTR]),
        (Call::Open, &[Errno::EACCES, Errno::EMFILE, Errno::ENOENT]),
        (Call::Read, &[Errno::EIO]),
        (Call::Write, &[Errno::EIO]),
        (Call::Remote, &[Errno::ENOMEM]),
    ];
    const DEADLINE: Duration = Duration::from_secs(30);

    struct Target(Child);

    impl Target {
        fn start(program: &str, arguments: &[&str]) -> Self {
            let mut command = Command::new(program);
            command.args(arguments).stdin(Stdio::null()).stdout(Stdio::piped());
            Self(command.spawn().expect("start a target"))
        }

        fn pid(&self) -> i32 {
            self.0.id() as i32
        }

        fn file(&self, name: &str) -> String {
            std::fs::read_to_string(format!("/proc/{}/{name}", self.pid())).expect("the target lives")
        }

        fn status(&self, name: &str) -> String {
            let status = self.file("status");
            let line = status.lines().find_map(|line| line.strip_prefix(name));
            line.expect("a field of its status").trim().to_owned()
        }

        /// Where it sleeps: stack pointer and program counter.
        fn place(&self) -> Option<Vec<String>> {
            let words: Vec<String> = self.file("syscall").split_whitespace().map(str::to_owned).collect();
            // Not what it waits for while it is being loaded.
            let sleeps = [
                libc::SYS_nanosleep,
                libc::SYS_clock_nanosleep,
                libc::SYS_restart_syscall,
            ];
            let is_asleep = sleeps.iter().any(|number| words[0] == number.to_string());
            (is_asleep && words.len() == 9).then(|| words[7..].to_vec())
        }

        fn eventually<T>(&self, what: &str, mut look: impl FnMut() -> Option<T>) -> T {
            let end = Instant::now() + DEADLINE;
            loop {
                if let Some(found) = look() {
                    return found;
                }
                assert!(Instant::now() < end, "{what}: {}", self.file("status"));
                std::thread::sleep(Duration::from_micros(200));
            }
        }
    }

    impl Drop for Target {
        fn drop(&mut self) {
            let _ = self.0.kill();
            let _ = self.0.wait();
        }
    }

    /// All that is done to a process, once.
    fn attack(pid: i32) -> Result<(), Box<dyn std::error::Error>> {
        let process = Process::open(pid)?;
        let maps = process.maps()?;
        let (protection, flags) = (libc::PROT_READ, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
        let worked = with_borrowed_thread(&process, &maps, &BorrowOptions::default(), |thread| {
            let at = thread.mmap(RemoteAddr(0), 4096, protection as u64, flags as u64, -1)?;
            let written = process.write_word(at, 7).and_then(|()| process.read_u64(at));
            thread.munmap(at, 4096)?;
            written.map_err(crate::BorrowError::from)
        });
        let (value, _) = worked?;
        assert_eq!(value, 7);
        Ok(())
    }

    fn each_call_fails_in_turn(target: &Target, is_asleep: bool) {
        let pid = target.pid();
        let place = |target: &Target| is_asleep.then(|| target.eventually("it sleeps", || target.place()));
        let before = place(target);
        let blocked = target.status("SigBlk:");
        let (result, counts) = under(pid, None, || attack(pid));
        result.expect("nothing fails");
        let mut failures = 0;
        for (call, errors) in FAILURES {
            let count = counts.get(&call).copied().unwrap_or(0);
            assert!(count > 0, "no {call:?} goes through the door: {counts:?}");
            for number in 1..=count {
                for &errno in errors {
                    let plan = Plan { call, number, errno };
                    let (result, _) = under(pid, Some(plan), || attack(pid));
                    failures += usize::from(result.is_err());
                    let what = format!("{call:?} {number} failed with {errno:?}, which gave {result:?}");
                    target.eventually(&what, || (target.status("TracerPid:") == "0").then_some(()));
                    // All signals are blocked as long as it is not back in its own state.
                    target.eventually(&what, || (target.status("SigBlk:") == blocked).then_some(()));
                    assert!(!target.status("State:").starts_with(['t', 'T']), "{what}");
                    assert_eq!(place(target), before, "{what}");
                }
            }
        }
        assert!(failures > 30, "only {failures} calls were missed");
    }

    #[test]
    fn a_sleeping_target_sleeps_on_whatever_fails() {
        each_call_fails_in_turn(&Target::start("sleep", &["1000"]), true);
    }

    #[test]
    fn a_busy_target_works_on_whatever_fails() {
        let mut target = Target::start("sh", &["-c", "echo ready; while :; do :; done"]);
        // Until its libraries are loaded nobody can borrow it.
        let mut ready = [0; 6];
        let output = target.0.stdout.as_mut().expect("stdout is piped");
        output.read_exact(&mut ready).expect("it says that it is ready");
        each_call_fails_in_turn(&target, false);
    }

    #[test]
    fn what_a_failure_says_names_the_call() {
        let target = Target::start("sleep", &["1000"]);
        let plan = |call| Plan {
            call,
            number: 1,
            errno: Errno::EACCES,
        };
        let (result, _) = under(target.pid(), Some(plan(Call::Open)), || Process::open(target.pid()));
        assert!(matches!(result, Err(Error::Proc { .. })), "{:?}", result.err());
    }
}
