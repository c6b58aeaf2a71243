//! Children of the target: each is attached to by a memray of its own and gets a capture of its own.
//!
//! A fork is noticed by asking the kernel for the target's children a hundred times a second: no right is needed for
//! that, and nothing is changed in the target. What a child allocates in the some hundredths of a second from its fork
//! until it is attached to is not seen, nor are children that live no longer than that; those are counted.
//!
//! A child that was forked carries the parent's marks. One that shares the parent's memory (vfork) carries them, too,
//! and is switched on; it is left alone until it executes a program. One without marks has executed a program.
//!
//! The memrays of children are processes, so whatever goes wrong with one is its own matter. They end with this one.

use super::landing::Landing;
use super::signals::Signals;
use crate::ui::escape::printable;
use inject::{Process, RemoteAddr};
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use rustc_hash::{FxHashMap, FxHashSet};
use std::ffi::OsString;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, Command, Stdio};
use std::time::{Duration, Instant};

/// How often the target's children are asked for; less often where that takes more than a hundredth of the time, up to a
/// bound: it may have taken so long because others had the processor.
const LOOK_EVERY: Duration = Duration::from_millis(10);
const LOOK_EVERY_MAX: Duration = Duration::from_millis(100);
const LOOK_SHARE: u32 = 100;
/// How often children are looked for whose parents have ended.
const ORPHANS_EVERY: Duration = Duration::from_secs(1);
/// A program that was executed is known for an interpreter after so many looks, or is none.
const LOOKS_MAX: u32 = 200;
/// Children that are tracked at the same time; each costs two processes and a ring.
const FOLLOWERS_MAX: usize = 64;
/// How long children's memrays may take to close their captures.
const END_MAX: Duration = Duration::from_secs(15);
/// Numbers tried for the name of a child's capture.
const NAMES_MAX: u32 = 1000;
/// Children that are named; of the rest only the number is kept.
const NAMED_MAX: usize = 1000;
/// What a child's memray may say.
const SAID_BYTES_MAX: usize = 4096;

/// What `--follow-fork` asks for.
#[derive(Clone, Debug)]
pub struct FollowOptions {
    /// Also programs that children execute.
    pub exec: bool,
    /// What the names of children's captures begin with, if not with that of the target's own.
    pub base: Option<PathBuf>,
    /// Options for the memrays of children.
    pub arguments: Vec<OsString>,
}

/// What became of the children.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Family {
    /// Process and capture.
    pub followed: Vec<(i32, PathBuf)>,
    /// Those that ended before they could be attached to.
    pub missed_count: u64,
    /// Those that could not be attached to, and why.
    pub refused: Vec<(i32, String)>,
}

/// What is known of a child.
enum Seen {
    /// It shares the parent's memory, or has just executed something: looked at so often.
    Undecided(u32),
    /// Older than the window, tracked, or left alone for good.
    Settled,
}

/// The memray of a child.
struct Follower {
    pid: i32,
    process: Child,
    said: Vec<u8>,
    stderr: ChildStderr,
    capture: PathBuf,
}

/// Follows the target's children while its window is open.
pub struct Follow {
    parent: i32,
    /// Of the parent: older processes are none of its children in the window.
    attached_ticks: u64,
    options: FollowOptions,
    base: PathBuf,
    keeps_nothing: bool,
    until: Option<Instant>,
    known: FxHashMap<i32, Seen>,
    /// Processes that were asked whether they are orphans.
    strangers: FxHashSet<i32>,
    followers: Vec<Follower>,
    family: Family,
    next_look: Instant,
    next_orphans: Instant,
    is_ending: bool,
}

impl Follow {
    /// `capture` is the parent's own. Children that there are already are not followed.
    pub fn new(
        parent: i32,
        options: FollowOptions,
        capture: &Path,
        keeps_nothing: bool,
        until: Option<Instant>,
    ) -> Self {
        let now = Instant::now();
        let before = inject::children(parent).unwrap_or_default();
        Self {
            parent,
            attached_ticks: super::target::own_start_ticks(),
            base: options.base.clone().unwrap_or_else(|| capture.to_owned()),
            options,
            keeps_nothing,
            until,
            known: before.into_iter().map(|pid| (pid, Seen::Settled)).collect(),
            strangers: inject::processes().unwrap_or_default().into_iter().collect(),
            followers: Vec::new(),
            family: Family::default(),
            next_look: now,
            next_orphans: now + ORPHANS_EVERY,
            is_ending: false,
        }
    }

    /// Looks for new children where it is time to. `landing` is the parent's.
    pub fn look(&mut self, now: Instant, process: &Process, landing: &Landing) {
        if now < self.next_look {
            return;
        }
        let started = Instant::now();
        let children = inject::children(self.parent).unwrap_or_default();
        self.known.retain(|pid, _| children.contains(pid));
        for pid in children {
            self.meet(pid, process, landing);
        }
        if now >= self.next_orphans {
            self.adopt_orphans(process, landing);
            self.next_orphans = Instant::now() + ORPHANS_EVERY;
        }
        self.hear();
        let done = Instant::now();
        self.next_look = done + ((done - started) * LOOK_SHARE).clamp(LOOK_EVERY, LOOK_EVERY_MAX);
    }

    fn meet(&mut self, pid: i32, process: &Process, landing: &Landing) {
        let looks = match self.known.get(&pid) {
            Some(Seen::Settled) => return,
            Some(Seen::Undecided(looks)) => *looks,
            None => 0,
        };
        let seen = match kind(pid, process, landing) {
            Kind::Gone => {
                self.family.missed_count += 1;
                Seen::Settled
            }
            // For as long as it does.
            Kind::Shares => Seen::Undecided(0),
            Kind::Forked => self.follow(pid),
            Kind::Executed if !self.options.exec || looks >= LOOKS_MAX => Seen::Settled,
            Kind::Executed if is_python(pid) => self.follow(pid),
            Kind::Executed => Seen::Undecided(looks + 1),
            Kind::Closed(why) => {
                self.refuse(pid, why);
                Seen::Settled
            }
        };
        self.known.insert(pid, seen);
    }

    /// Forked children whose own parents have ended, as daemons do: they carry the marks, whoever their parent is now.
    fn adopt_orphans(&mut self, process: &Process, landing: &Landing) {
        let processes = inject::processes().unwrap_or_default();
        self.strangers.retain(|pid| processes.contains(pid));
        for pid in processes {
            let is_new = self.strangers.insert(pid) && !self.known.contains_key(&pid) && pid != self.parent;
            let is_orphan = is_new
                && inject::start_ticks(pid).is_some_and(|ticks| ticks >= self.attached_ticks)
                && matches!(inject::stat_field(pid, 4).as_deref(), Some(parent) if self.is_nobodys(parent))
                && matches!(kind(pid, process, landing), Kind::Forked);
            if is_orphan {
                self.follow(pid);
            }
        }
    }

    /// Whether a process with this parent is followed by nobody else: the memray of a child follows the child's.
    fn is_nobodys(&self, parent: &str) -> bool {
        let parent = parent.parse::<i32>().unwrap_or(0);
        parent != self.parent && !self.followers.iter().any(|follower| follower.pid == parent)
    }

    /// Starts a memray for a child.
    fn follow(&mut self, pid: i32) -> Seen {
        if self.followers.len() >= FOLLOWERS_MAX {
            self.refuse(pid, format!("{FOLLOWERS_MAX} others were being tracked"));
            return Seen::Settled;
        }
        let capture = self.capture_of(pid);
        let mut command = Command::new("/proc/self/exe");
        command
            .args(["attach", &pid.to_string(), "--collector", "-q", "--follower"])
            .arg(std::process::id().to_string())
            .arg("-o")
            .arg(&capture)
            .arg("--follow-base")
            .arg(&self.base)
            .args(&self.options.arguments);
        if let Some(until) = self.until {
            let left = until.saturating_duration_since(Instant::now());
            command.arg(format!("--duration={}ms", left.as_millis().max(1)));
        }
        let started = command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn();
        match started.map(|mut process| (process.stderr.take(), process)) {
            Ok((Some(stderr), process)) => {
                // It says something only if it fails, and is not waited for.
                let _ = fcntl(&stderr, FcntlArg::F_SETFL(OFlag::O_NONBLOCK));
                self.followers.push(Follower {
                    pid,
                    process,
                    said: Vec::new(),
                    stderr,
                    capture,
                });
            }
            Ok((None, _)) => {}
            Err(error) => self.refuse(pid, format!("no memray can be started for it: {error}")),
        }
        Seen::Settled
    }

    /// `FILE.<pid>`, or with a number behind it where that exists: a process that executes a program has two.
    fn capture_of(&self, pid: i32) -> PathBuf {
        if self.keeps_nothing {
            return self.base.clone();
        }
        let name = |number: u32| {
            let mut name = self.base.clone().into_os_string();
            name.push(format!(".{pid}"));
            if number > 0 {
                name.push(format!(".{number}"));
            }
            PathBuf::from(name)
        };
        let is_free = |path: &PathBuf| path.symlink_metadata().is_err();
        (0..NAMES_MAX)
            .map(name)
            .find(is_free)
            .unwrap_or_else(|| name(NAMES_MAX))
    }

    fn refuse(&mut self, pid: i32, why: String) {
        if self.family.refused.len() < NAMED_MAX {
            self.family.refused.push((pid, why));
        }
    }

    /// Notes which memrays of children have ended, and how.
    fn hear(&mut self) {
        let mut ended = Vec::new();
        for (index, follower) in self.followers.iter_mut().enumerate() {
            let mut bytes = [0; 1024];
            while let Ok(count @ 1..) = follower.stderr.read(&mut bytes) {
                let room = SAID_BYTES_MAX.saturating_sub(follower.said.len());
                follower.said.extend_from_slice(&bytes[..count.min(room)]);
            }
            if let Ok(Some(status)) = follower.process.try_wait() {
                ended.push((index, status.success()));
            }
        }
        for (index, is_good) in ended.into_iter().rev() {
            let follower = self.followers.swap_remove(index);
            self.note_end(follower, is_good);
        }
    }

    fn note_end(&mut self, follower: Follower, is_good: bool) {
        let Follower { pid, said, capture, .. } = follower;
        let lives = inject::stat_field(pid, 3).is_some_and(|state| state != "Z");
        if is_good {
            if self.family.followed.len() < NAMED_MAX {
                self.family.followed.push((pid, capture));
            }
            if lives && self.options.exec && !self.is_ending {
                // Its window ended and it lives: it executes another program now.
                self.known.insert(pid, Seen::Undecided(0));
            }
        } else if !lives {
            self.family.missed_count += 1;
        } else {
            let said = String::from_utf8_lossy(&said);
            let first = said.lines().next().unwrap_or("its memray ended");
            let before = format!("memray: cannot attach to {pid}: ");
            let why = printable(first.strip_prefix(&before).unwrap_or(first)).into_owned();
            // The memray of another child was faster.
            if !why.starts_with("it is being tracked") {
                self.refuse(pid, why);
            }
        }
    }

    /// Asks the memrays of children to end their windows.
    pub fn end(&mut self) {
        self.is_ending = true;
        for follower in &self.followers {
            // Not collected yet, so the number is still its own.
            let _ = kill(Pid::from_raw(follower.process.id() as i32), Signal::SIGTERM);
        }
    }

    /// Waits until their captures are closed.
    pub fn wait(&mut self) {
        let deadline = Instant::now() + END_MAX;
        self.hear();
        while !self.followers.is_empty() && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(2));
            self.hear();
        }
    }

    /// Lets windows on children go on that outlive the target, up to the time that was asked for or a signal.
    pub fn outlast(&mut self, signals: &Signals) {
        self.hear();
        while !self.followers.is_empty() && !self.is_ending {
            let is_over = self.until.is_some_and(|until| Instant::now() >= until);
            if is_over || signals.take().is_some() {
                self.end();
            }
            std::thread::sleep(LOOK_EVERY);
            self.hear();
        }
        self.wait();
    }

    /// What became of the children, those included that are still being tracked.
    pub fn family(&self) -> Family {
        let mut family = self.family.clone();
        let open = self.followers.iter().map(|it| (it.pid, it.capture.clone()));
        family.followed.extend(open.take(NAMED_MAX));
        family.followed.sort();
        family
    }
}

impl Drop for Follow {
    fn drop(&mut self) {
        if !self.is_ending {
            self.end();
        }
    }
}

/// What a process is to the parent.
enum Kind {
    Gone,
    /// It uses the parent's memory.
    Shares,
    /// It has a copy of the parent's memory.
    Forked,
    /// It has memory of its own.
    Executed,
    /// It can't be looked into.
    Closed(String),
}

fn kind(pid: i32, parent: &Process, landing: &Landing) -> Kind {
    let process = match Process::open_to_look(pid) {
        Ok(process) if process.is_alive() => process,
        Ok(_) | Err(inject::Error::Gone { .. }) => return Kind::Gone,
        Err(_) if inject::stat_field(pid, 3).is_none_or(|state| state == "Z") => return Kind::Gone,
        Err(error) => return Kind::Closed(error.to_string()),
    };
    // The first words of the landing: magic, version, sizes.
    let words = |process: &Process| {
        let mut bytes = [0; 32];
        process.read(RemoteAddr(landing.base), &mut bytes).map(|()| bytes)
    };
    match (words(&process), words(parent)) {
        (Ok(its), Ok(parents)) if its == parents => match landing.is_on(&process) {
            Ok(true) => Kind::Shares,
            Ok(false) => Kind::Forked,
            Err(_) => Kind::Executed,
        },
        _ if !process.is_alive() => Kind::Gone,
        _ => Kind::Executed,
    }
}

/// Whether a process seems to run CPython: by its executable's name, or by a library of its.
fn is_python(pid: i32) -> bool {
    let name = std::fs::read_link(format!("/proc/{pid}/exe")).unwrap_or_default();
    let name = name.file_name().unwrap_or_default().to_string_lossy().into_owned();
    name.starts_with("python")
        || std::fs::read_to_string(format!("/proc/{pid}/maps")).is_ok_and(|maps| maps.contains("libpython"))
}
