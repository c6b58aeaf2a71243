//! What can be known about a process without touching it, and the obstacles that it amounts to.

use super::cgroups::is_frozen;
use super::obstacle::Obstacle;
use super::process::{Access, open_mem};
use super::seccomp::{self, Filtered, Passage};
use super::stat::Stat;
use super::stuck::{one_wakes_up, waits_for_child};
use super::surroundings::{CAP_DAC_OVERRIDE, CAP_SYS_PTRACE, Surroundings};
use crate::error::Error;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

/// Threads that are looked at for a state.
const THREADS_MAX: usize = 256;

/// Facts from /proc, `None` or empty where they could not be read.
#[derive(Clone, Debug, Default)]
pub struct Facts {
    pub pid: i32,
    pub exists: bool,
    /// There is such a process, but this /proc does not show it (hidepid).
    pub is_hidden: bool,
    /// The kernel's short name of it: hostile text.
    pub name: String,
    /// The state letter of the leader, and of the threads that were looked at.
    pub state: Option<char>,
    pub thread_states: Vec<char>,
    pub threads_count: usize,
    pub is_kernel_thread: bool,
    /// All of its threads sleep uninterruptibly, and none has woken up while they were watched.
    pub is_stuck: bool,
    /// Its cgroup is frozen.
    pub is_frozen: bool,
    /// One of them waits for the child that it started by vfork or posix_spawn.
    pub is_vforking: bool,
    pub tracer_pid: i32,
    pub tracer_name: String,
    /// Real, effective, saved and file system user id, and the same of groups.
    pub uids: Vec<u32>,
    pub gids: Vec<u32>,
    /// What it may do beyond its user's rights.
    pub permitted_capabilities: u64,
    /// False where it has made itself non-dumpable; the kernel then hands its /proc files to root.
    pub is_dumpable: Option<bool>,
    /// How its seccomp filters are got past.
    pub passage: Option<Result<Passage, Filtered>>,
    /// Process ids from the outermost to the innermost namespace.
    pub namespace_pids: Vec<i32>,
    pub has_shadow_stack: bool,
    /// From the executable's header: 1 is 32-bit, 2 is 64-bit.
    pub elf_class: Option<u8>,
    pub elf_machine: Option<u16>,
    /// Whether its memory file opens for us: the kernel's own answer to "may I trace it".
    pub open_error: Option<i32>,
    pub yama_scope: Option<u32>,
    pub same_user_namespace: bool,
    /// What we are and where.
    pub surroundings: Surroundings,
}

/// One thing that can be in the way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Topic {
    Process,
    Architecture,
    Tracer,
    Permission,
    ShadowStack,
    Threads,
    Seccomp,
}

/// All of them, in the order in which they are met.
const TOPICS: [Topic; 7] = [
    Topic::Process,
    Topic::Architecture,
    Topic::Tracer,
    Topic::Permission,
    Topic::ShadowStack,
    Topic::Threads,
    Topic::Seccomp,
];

/// Collects the facts.
pub fn facts(pid: i32) -> Facts {
    let mut facts = Facts {
        pid,
        surroundings: Surroundings::look(),
        ..Facts::default()
    };
    let Some(stat) = Stat::of_process(pid).ok().filter(|_| pid > 0) else {
        facts.is_hidden = is_hidden(pid);
        return facts;
    };
    facts.exists = true;
    facts.state = stat.state();
    // PF_KTHREAD in the flags.
    facts.is_kernel_thread = stat.number(9).unwrap_or(0) & 0x20_0000 != 0;
    facts.read_status();
    facts.read_thread_states();
    if let Ok(head) = read_head(&format!("/proc/{pid}/exe")) {
        facts.elf_class = head.starts_with(b"\x7fELF").then_some(head[4]);
        facts.elf_machine = facts.elf_class.map(|_| u16::from_le_bytes([head[18], head[19]]));
    }
    facts.open_error = match open_mem(pid, Access::Write) {
        Ok(_) => None,
        Err(Error::Proc { error, .. }) => error.raw_os_error(),
        Err(_) => Some(libc::ESRCH),
    };
    facts.yama_scope = yama_scope();
    let owner = std::fs::metadata(format!("/proc/{pid}/stat")).map(|metadata| metadata.uid());
    facts.is_dumpable = match (owner, facts.uids.get(1)) {
        // Root's look the same either way.
        (Ok(owner), Some(&uid)) if uid != 0 => Some(owner == uid),
        _ => None,
    };
    let namespace = |pid: &str| {
        std::fs::metadata(format!("/proc/{pid}/ns/user"))
            .map(|metadata| metadata.ino())
            .ok()
    };
    let (own, theirs) = (namespace("self"), namespace(&pid.to_string()));
    facts.passage = Some(seccomp::passage(pid, pid));
    // Where it can't be read, it is one above or beside ours; from the first one all can be read.
    facts.same_user_namespace = match theirs {
        Some(_) => own == theirs,
        None => facts.surroundings.is_first_user_namespace,
    };
    facts
}

/// Yama's restriction of ptrace, where there is Yama.
pub fn yama_scope() -> Option<u32> {
    let text = std::fs::read_to_string("/proc/sys/kernel/yama/ptrace_scope").ok()?;
    text.trim().parse().ok()
}

impl Facts {
    /// The process id as the process itself sees it.
    pub fn inner_pid(&self) -> u32 {
        self.namespace_pids.last().copied().unwrap_or(self.pid) as u32
    }

    /// The first thing that is in the way.
    pub fn obstacle(&self) -> Option<Obstacle> {
        TOPICS.into_iter().find_map(|topic| self.obstacle_of(topic))
    }

    /// What of this kind is in the way.
    pub fn obstacle_of(&self, topic: Topic) -> Option<Obstacle> {
        match topic {
            Topic::Process => self.no_process(),
            Topic::Architecture => self.is_foreign().then_some(Obstacle::NotThisArchitecture),
            Topic::Tracer => (self.tracer_pid != 0).then(|| Obstacle::Traced {
                by: self.tracer_pid,
                name: self.tracer_name.clone(),
            }),
            Topic::Permission => self.open_error.map(|errno| self.refusal(errno)),
            Topic::ShadowStack => self.has_shadow_stack.then_some(Obstacle::ShadowStack),
            Topic::Threads if self.is_frozen => Some(Obstacle::Frozen),
            Topic::Threads => self.is_stuck.then_some(if self.is_vforking {
                Obstacle::Vforking
            } else {
                Obstacle::Uninterruptible
            }),
            Topic::Seccomp => self.passage.and_then(Result::err).map(Obstacle::Seccomp),
        }
    }

    fn no_process(&self) -> Option<Obstacle> {
        let pid = self.pid;
        let lives = self.thread_states.iter().any(|state| !matches!(state, 'Z' | 'X' | 'x'));
        if !self.exists {
            return Some(if !self.surroundings.has_proc {
                Obstacle::NoProc
            } else if self.is_hidden {
                Obstacle::Hidden { pid }
            } else {
                Obstacle::NoSuchProcess { pid }
            });
        }
        if self.is_kernel_thread {
            return Some(Obstacle::KernelThread);
        }
        if matches!(self.state, Some('Z' | 'X' | 'x')) && !lives {
            return Some(Obstacle::Zombie { pid });
        }
        (pid as u32 == std::process::id()).then_some(Obstacle::Oneself)
    }

    fn is_foreign(&self) -> bool {
        let is_foreign = |machine| machine != goblin::elf::header::EM_X86_64;
        self.elf_class == Some(1) || self.elf_machine.is_some_and(is_foreign)
    }

    /// The kernel's rules for who may trace whom, in `__ptrace_may_access`: user ids, dumpable, security modules.
    fn refusal(&self, errno: i32) -> Obstacle {
        if errno == libc::ENOENT || errno == libc::ESRCH {
            return Obstacle::NoSuchProcess { pid: self.pid };
        }
        let by = self.surroundings.clone();
        let may_ptrace = by.has(CAP_SYS_PTRACE);
        if let Some(scope @ 3) = self.yama_scope {
            return Obstacle::Yama { scope, by };
        }
        // The process' real, effective and saved ids, all six.
        let is_same = |ids: &[u32], own: u32| ids.iter().take(3).all(|&id| id == own);
        let other_uid = self.uids.iter().take(3).copied().find(|&uid| uid != by.uid);
        if may_ptrace {
            return match other_uid {
                _ if !self.same_user_namespace => Obstacle::UserNamespace,
                // Its files in /proc are its user's, and readable by that one alone.
                Some(uid) if !by.has(CAP_DAC_OVERRIDE) => Obstacle::FilesOfOtherUser { uid, by },
                _ => Obstacle::Refused { errno, by },
            };
        }
        if let Some(uid) = other_uid {
            return Obstacle::OtherUser { uid, by };
        }
        if !is_same(&self.gids, by.gid) {
            return Obstacle::OtherGroup { by };
        }
        if self.is_dumpable == Some(false) {
            return Obstacle::NotDumpable { by };
        }
        if self.permitted_capabilities & !by.permitted_capabilities != 0 {
            return Obstacle::MoreCapable { by };
        }
        match self.yama_scope {
            Some(scope @ 1..=2) => Obstacle::Yama { scope, by },
            _ if self.is_dumpable.is_none() => Obstacle::NotDumpable { by },
            _ => Obstacle::Refused { errno, by },
        }
    }

    fn read_status(&mut self) {
        let Ok(text) = std::fs::read(format!("/proc/{}/status", self.pid)) else {
            return;
        };
        self.parse_status(&text);
        if self.tracer_pid != 0 {
            let name = super::process::proc_text(&format!("/proc/{}/comm", self.tracer_pid)).unwrap_or_default();
            self.tracer_name = name.trim().to_owned();
        }
    }

    fn parse_status(&mut self, text: &[u8]) {
        for line in String::from_utf8_lossy(text).lines() {
            let Some((key, value)) = line.split_once(':') else {
                continue;
            };
            let mut numbers = value.split_ascii_whitespace();
            match key {
                "TracerPid" => self.tracer_pid = numbers.next().and_then(|it| it.parse().ok()).unwrap_or(0),
                "Name" => self.name = value.trim().to_owned(),
                "Uid" => self.uids = numbers.filter_map(|it| it.parse().ok()).collect(),
                "Gid" => self.gids = numbers.filter_map(|it| it.parse().ok()).collect(),
                "CapPrm" => self.permitted_capabilities = u64::from_str_radix(value.trim(), 16).unwrap_or(0),
                "Threads" => self.threads_count = numbers.next().and_then(|it| it.parse().ok()).unwrap_or(0),
                "NSpid" => self.namespace_pids = numbers.filter_map(|it| it.parse().ok()).collect(),
                "x86_Thread_features" => self.has_shadow_stack = value.split_ascii_whitespace().any(|it| it == "shstk"),
                _ => {}
            }
        }
    }

    fn read_thread_states(&mut self) {
        let Ok(tasks) = std::fs::read_dir(format!("/proc/{}/task", self.pid)) else {
            return;
        };
        let tasks: Vec<PathBuf> = tasks
            .take(THREADS_MAX)
            .filter_map(|task| Some(task.ok()?.path()))
            .collect();
        for task in &tasks {
            let state = Stat::read(task.join("stat")).ok().and_then(|stat| stat.state());
            self.thread_states.extend(state);
            if state == Some('D') {
                let call = std::fs::read_to_string(task.join("syscall")).unwrap_or_default();
                self.is_vforking |= waits_for_child(&call);
            }
        }
        let all_sleep = !self.thread_states.is_empty() && self.thread_states.iter().all(|&state| state == 'D');
        self.is_frozen = is_frozen(self.pid);
        self.is_stuck = all_sleep && !self.is_frozen && !one_wakes_up(&tasks);
    }
}

fn read_head(path: &str) -> std::io::Result<[u8; 20]> {
    use std::io::Read;
    let mut head = [0; 20];
    std::fs::File::open(path)?.read_exact(&mut head)?;
    Ok(head)
}

/// Whether there is a process with this id all the same: the kernel says so when it is sent nothing.
fn is_hidden(pid: i32) -> bool {
    use nix::sys::signal::kill;
    pid > 0 && kill(nix::unistd::Pid::from_raw(pid), None) != Err(nix::errno::Errno::ESRCH)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An ordinary process of the same user that may not be traced, seen by somebody with these capabilities.
    fn refused(effective_capabilities: u64) -> Facts {
        Facts {
            exists: true,
            state: Some('S'),
            thread_states: vec!['S'],
            uids: vec![1000; 4],
            gids: vec![1000; 4],
            is_dumpable: Some(true),
            same_user_namespace: true,
            open_error: Some(libc::EACCES),
            surroundings: Surroundings {
                uid: 1000,
                gid: 1000,
                effective_capabilities,
                has_proc: true,
                ..Surroundings::default()
            },
            ..Facts::default()
        }
    }

    #[test]
    fn yama_is_named_where_it_is_the_cause() {
        let scope_of = |scope, capabilities| {
            let facts = Facts {
                yama_scope: Some(scope),
                ..refused(capabilities)
            };
            match facts.obstacle() {
                Some(Obstacle::Yama { scope, .. }) => Some(scope),
                Some(Obstacle::Refused { .. }) => None,
                other => panic!("{other:?}"),
            }
        };
        assert_eq!(
            [0, 1, 2, 3].map(|scope| scope_of(scope, 0)),
            [None, Some(1), Some(2), Some(3)]
        );
        // With CAP_SYS_PTRACE only the last scope refuses.
        assert_eq!(
            [0, 1, 2, 3].map(|scope| scope_of(scope, CAP_SYS_PTRACE)),
            [None, None, None, Some(3)]
        );
    }

    #[test]
    fn each_refusal_has_its_own_cause() {
        let obstacle = |capabilities, change: fn(&mut Facts)| {
            let mut facts = refused(capabilities);
            change(&mut facts);
            facts.obstacle().expect("it is refused")
        };
        let other_user = obstacle(0, |facts| facts.uids = vec![7; 4]);
        assert!(
            matches!(other_user, Obstacle::OtherUser { uid: 7, .. }),
            "{other_user:?}"
        );
        let files = |capabilities| obstacle(CAP_SYS_PTRACE | capabilities, |facts| facts.uids = vec![7; 4]);
        let closed = files(0);
        assert!(
            matches!(closed, Obstacle::FilesOfOtherUser { uid: 7, .. }),
            "{closed:?}"
        );
        let open = files(CAP_DAC_OVERRIDE);
        assert!(matches!(open, Obstacle::Refused { .. }), "{open:?}");
        let more = obstacle(0, |facts| facts.permitted_capabilities = 4);
        assert!(matches!(more, Obstacle::MoreCapable { .. }), "{more:?}");
        let not_dumpable = obstacle(0, |facts| facts.is_dumpable = Some(false));
        assert!(matches!(not_dumpable, Obstacle::NotDumpable { .. }), "{not_dumpable:?}");
        let namespace = obstacle(CAP_SYS_PTRACE, |facts| facts.same_user_namespace = false);
        assert_eq!(namespace, Obstacle::UserNamespace);
        let strict = obstacle(0, |facts| {
            facts.open_error = None;
            facts.passage = Some(Err(Filtered::Strict));
        });
        assert_eq!(strict, Obstacle::Seccomp(Filtered::Strict));
        let no_proc = obstacle(0, |facts| (facts.exists, facts.surroundings.has_proc) = (false, false));
        assert_eq!(no_proc, Obstacle::NoProc);
    }

    fn status(text: &[u8]) -> Facts {
        let mut facts = Facts::default();
        facts.parse_status(text);
        facts
    }

    #[test]
    fn shadow_stacks_are_seen() {
        assert!(status(b"x86_Thread_features:\tshstk \n").has_shadow_stack);
        assert!(status(b"x86_Thread_features:\tshstk wrss \nx86_Thread_features_locked:\t\n").has_shadow_stack);
        assert!(!status(b"x86_Thread_features:\t\nx86_Thread_features_locked:\tshstk wrss \n").has_shadow_stack);
        assert!(!status(b"x86_Thread_features:\twrss\n").has_shadow_stack);
    }

    #[test]
    fn a_hostile_name_says_nothing() {
        // The kernel writes a line feed in a name as two characters.
        let named = status(b"Name:\tx86_Thread_features:\\nx86_Thread_features:\tshstk\nTracerPid:\t0\n");
        assert!(!named.has_shadow_stack);
        assert_eq!(named.tracer_pid, 0);
        let odd = status(b"TracerPid:\t99999999999999\nUid:\n:\n\xff\xfe:shstk\nNSpid:\tx 1 y 2\nx86_Thread_features");
        assert_eq!((odd.tracer_pid, odd.uids.len(), odd.has_shadow_stack), (0, 0, false));
        assert_eq!(odd.namespace_pids, [1, 2]);
    }

    #[test]
    fn threads_in_d_state_forbid_unless_one_is_not() {
        let facts = |states: &str, is_vforking| Facts {
            pid: 1,
            exists: true,
            state: Some('D'),
            thread_states: states.chars().collect(),
            is_stuck: !states.contains('S'),
            is_vforking,
            ..Facts::default()
        };
        assert_eq!(facts("DD", false).obstacle(), Some(Obstacle::Uninterruptible));
        assert_eq!(facts("D", true).obstacle(), Some(Obstacle::Vforking));
        assert_eq!(facts("DS", true).obstacle(), None);
    }
}
