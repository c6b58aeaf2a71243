//! What may happen to a process while one of its threads is borrowed: it ends, executes another program, is stopped.
//! The tool is told and never hangs; the process does what it would have done.

use inject::{BorrowError, BorrowOptions, Borrowed, Error, Process, with_borrowed_thread};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

/// Tells this test binary to be the target: who acts on the line, or that it was executed by one.
const CHILD: &str = "INJECT_TEST_CHILD";

/// How long the sleeper sleeps: longer than two borrows take.
const SLEEP: Duration = Duration::from_secs(3);

/// Without the test harness: its own thread would be the leader of the target.
fn main() {
    match std::env::var(CHILD).as_deref() {
        // Two threads, of which one sleeps and the other does what a line says.
        Ok("leader") => {
            std::thread::spawn(|| std::thread::sleep(Duration::from_secs(1000)));
            act();
        }
        Ok("other") => {
            std::thread::spawn(act);
            std::thread::sleep(Duration::from_secs(1000));
        }
        Ok("executed") => {
            println!("executed");
            read_line();
        }
        Ok("sleeper") => sleep(),
        Ok(pid) => die_holding(pid.parse().expect("a process id")),
        Err(_) => {
            another_thread_executes_a_program();
            another_thread_ends_the_process();
            it_is_killed();
            it_is_stopped();
            it_is_frozen();
            the_tool_dies();
        }
    }
}

fn act() {
    println!("ready");
    wait_for_input();
    match read_line().as_str() {
        "exec" => {
            let error = Command::new(std::env::current_exe().expect("this program"))
                .env(CHILD, "executed")
                .exec();
            panic!("exec: {error}");
        }
        "exit" => std::process::exit(3),
        _ => {
            println!("went on");
            std::process::exit(4);
        }
    }
}

/// Sleeps by one system call, and says what it returned.
fn sleep() {
    println!("ready");
    let time = libc::timespec {
        tv_sec: SLEEP.as_secs() as libc::time_t,
        tv_nsec: 0,
    };
    let before = Instant::now();
    // SAFETY: the time is a timespec that lives here; what is left of it is not asked for.
    let result = unsafe { libc::clock_nanosleep(libc::CLOCK_MONOTONIC, 0, &time, std::ptr::null_mut()) };
    let is_early = before.elapsed() < SLEEP;
    println!("slept: {result}, early: {is_early}");
}

/// A tool that dies while a thread is borrowed.
fn die_holding(pid: i32) {
    let process = Process::open(pid).expect("open the target");
    let maps = process.maps().expect("read its maps");
    let held = with_borrowed_thread(&process, &maps, &BorrowOptions::default(), |thread| {
        getpid(thread).map_err(BorrowError::from)?;
        std::process::exit(0);
        #[expect(unreachable_code, reason = "gives the closure its type")]
        Ok::<(), BorrowError>(())
    });
    panic!("not borrowed: {held:?}");
}

fn read_line() -> String {
    let mut line = String::new();
    std::io::stdin().read_line(&mut line).expect("read a line");
    line.trim_end().to_owned()
}

/// In a call that a stop interrupts for good, so that it is the other thread that is borrowed.
fn wait_for_input() {
    // SAFETY: descriptors of this process, and an event that lives here and is written once.
    unsafe {
        let poller = libc::epoll_create1(0);
        let mut event = libc::epoll_event {
            events: libc::EPOLLIN as u32,
            u64: 0,
        };
        assert_eq!(libc::epoll_ctl(poller, libc::EPOLL_CTL_ADD, 0, &mut event), 0);
        // A SIGSTOP and SIGCONT end it with EINTR.
        let ready = loop {
            match libc::epoll_wait(poller, &mut event, 1, -1) {
                -1 if *libc::__errno_location() == libc::EINTR => {}
                ready => break ready,
            }
        };
        assert_eq!(ready, 1);
    }
}

struct Target {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Target {
    fn start(who_acts: &str) -> Self {
        let mut child = Command::new(std::env::current_exe().expect("this program"))
            .env(CHILD, who_acts)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("start the target");
        let mut target = Self {
            input: child.stdin.take().expect("stdin is piped"),
            output: BufReader::new(child.stdout.take().expect("stdout is piped")),
            child,
        };
        target.expect("ready");
        // Each thread has come to where it waits.
        let tasks = format!("/proc/{}/task", target.child.id());
        let is_asleep = |task: std::io::Result<std::fs::DirEntry>| {
            let stat = std::fs::read_to_string(task.expect("a thread").path().join("stat")).expect("its stat");
            stat.contains(") S ")
        };
        while !std::fs::read_dir(&tasks).expect("its threads").all(is_asleep) {
            std::thread::sleep(Duration::from_millis(1));
        }
        target
    }

    fn say(&mut self, line: &str) {
        writeln!(self.input, "{line}").expect("write to the target");
    }

    fn expect(&mut self, wanted: &str) {
        let mut line = String::new();
        self.output.read_line(&mut line).expect("read from the target");
        assert_eq!(line.trim_end(), wanted);
    }

    /// Borrows a thread, says the line meanwhile, if there is one, and does the rest.
    fn borrow_while<T: Send>(
        &mut self,
        line: &str,
        then: impl FnOnce(&mut Borrowed, &Process) -> Result<T, Error> + Send,
    ) -> Result<T, BorrowError> {
        let process = Process::open(self.child.id() as i32).expect("open the target");
        let maps = process.maps().expect("read its maps");
        let held = with_borrowed_thread(&process, &maps, &BorrowOptions::default(), |thread| {
            if !line.is_empty() {
                self.say(line);
            }
            then(thread, &process).map_err(BorrowError::from)
        });
        held.map(|(value, _)| value)
    }
}

impl Drop for Target {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn getpid(thread: &mut Borrowed) -> Result<u64, Error> {
    thread.syscall("getpid", libc::SYS_getpid, [0; 6])
}

/// Calls until that fails, which it must before long.
fn call_until_it_fails(thread: &mut Borrowed) -> Result<u64, Error> {
    let deadline = Instant::now() + Duration::from_secs(10);
    while Instant::now() < deadline {
        getpid(thread)?;
    }
    Ok(0)
}

fn another_thread_executes_a_program() {
    for who in ["leader", "other"] {
        let mut target = Target::start(who);
        let held = target.borrow_while("exec", |thread, _| call_until_it_fails(thread));
        assert!(held.is_err(), "{who}: {held:?}");
        target.expect("executed");
        target.say("end");
        assert!(target.child.wait().expect("wait").success(), "{who}");
    }
}

fn another_thread_ends_the_process() {
    for who in ["leader", "other"] {
        let mut target = Target::start(who);
        let held = target.borrow_while("exit", |thread, _| call_until_it_fails(thread));
        assert!(held.is_err(), "{who}: {held:?}");
        assert_eq!(target.child.wait().expect("wait").code(), Some(3), "{who}");
    }
}

fn it_is_killed() {
    let mut target = Target::start("other");
    let held = target.borrow_while("", |thread, process| {
        // SAFETY: kill takes numbers; the process is a child of this test that was not waited for.
        unsafe { libc::kill(process.pid(), libc::SIGKILL) };
        call_until_it_fails(thread)
    });
    assert!(held.is_err(), "{held:?}");
    assert!(!target.child.wait().expect("wait").success());
}

/// The borrowed thread goes on making calls, and the process is stopped afterwards.
fn it_is_stopped() {
    let mut target = Target::start("other");
    let pid = target.child.id();
    let state = || {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).expect("its stat");
        stat.rsplit_once(") ").and_then(|(_, rest)| rest.chars().next())
    };
    let held = target.borrow_while("", |thread, process| {
        // SAFETY: as above.
        unsafe { libc::kill(process.pid(), libc::SIGSTOP) };
        for _ in 0..100 {
            assert_eq!(getpid(thread)?, u64::from(pid));
        }
        Ok(())
    });
    held.expect("calls succeed in a stopped process");
    let deadline = Instant::now() + Duration::from_secs(10);
    while state() != Some('T') {
        assert!(Instant::now() < deadline, "it was not stopped: {:?}", state());
        std::thread::sleep(Duration::from_millis(1));
    }
    // SAFETY: as above.
    unsafe { libc::kill(pid as i32, libc::SIGCONT) };
    target.say("go on");
    target.expect("went on");
    assert_eq!(target.child.wait().expect("wait").code(), Some(4));
}

/// Frozen while a thread is borrowed: the tool gives up in time, and the process goes on once it is thawed.
fn it_is_frozen() {
    let roots = ["/sys/fs/cgroup/unified", "/sys/fs/cgroup"];
    let group = roots.map(|root| PathBuf::from(format!("{root}/inject-test-{}", std::process::id())));
    let is_made = |group: &&PathBuf| std::fs::create_dir(group).is_ok() && group.join("cgroup.freeze").exists();
    let Some(group) = group.iter().find(is_made) else {
        for group in &group {
            let _ = std::fs::remove_dir(group);
        }
        println!("not tried: freezing a cgroup takes root, and a cgroup hierarchy of version 2");
        return;
    };
    let write = |file: &str, text: &str| std::fs::write(group.join(file), text).expect("write to the cgroup");
    let mut target = Target::start("other");
    write("cgroup.procs", &target.child.id().to_string());
    let began = Instant::now();
    let held = target.borrow_while("", |thread, _| {
        write("cgroup.freeze", "1");
        call_until_it_fails(thread)
    });
    assert!(
        matches!(held, Err(BorrowError::Failed(Error::Held { .. }))),
        "{held:?} after {:?}",
        began.elapsed()
    );
    let refused = target.borrow_while("", |thread, _| getpid(thread));
    assert!(matches!(refused, Err(BorrowError::Frozen)), "{refused:?}");
    write("cgroup.freeze", "0");
    target.say("go on");
    target.expect("went on");
    assert_eq!(target.child.wait().expect("wait").code(), Some(4));
    std::fs::remove_dir(group).expect("remove the cgroup");
}

/// Its sleep, which the kernel had already gone on with once, is executed anew: it is neither cut short nor fails.
fn the_tool_dies() {
    let mut target = Target::start("sleeper");
    target
        .borrow_while("", |thread, _| getpid(thread))
        .expect("borrow for the first time");
    let mut tool = Command::new(std::env::current_exe().expect("this program"))
        .env(CHILD, target.child.id().to_string())
        .spawn()
        .expect("start the tool");
    assert!(tool.wait().expect("wait for the tool").success());
    target.expect("slept: 0, early: false");
    assert!(target.child.wait().expect("wait").success());
}
