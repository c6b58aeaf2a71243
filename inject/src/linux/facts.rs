//! What can be known about a process without touching it, and the one obstacle that it amounts to.

use super::process::{start_ticks, stat_field};
use super::seccomp::{self, Filtered, Passage};
use std::fmt;
use std::os::unix::fs::MetadataExt;

/// CAP_SYS_PTRACE.
const CAP_SYS_PTRACE: u64 = 1 << 19;
/// Threads that are looked at for a state.
const THREADS_MAX: usize = 256;

/// Facts from /proc, `None` or empty where they could not be read.
#[derive(Clone, Debug)]
pub struct Facts {
    pub pid: i32,
    pub exists: bool,
    /// The state letter of the leader, and of all threads.
    pub state: Option<char>,
    pub thread_states: Vec<char>,
    pub is_kernel_thread: bool,
    pub tracer_pid: i32,
    pub tracer_name: String,
    /// Real user id.
    pub uid: Option<u32>,
    /// Process ids from the outermost to the innermost namespace.
    pub namespace_pids: Vec<i32>,
    pub has_shadow_stack: bool,
    /// From the executable's header: 1 is 32-bit, 2 is 64-bit.
    pub elf_class: Option<u8>,
    pub elf_machine: Option<u16>,
    /// Whether its memory file opens for us: the kernel's own answer to "may I trace it".
    pub open_error: Option<i32>,
    pub yama_scope: Option<u32>,
    pub own_uid: u32,
    pub own_may_ptrace: bool,
    pub same_user_namespace: bool,
    /// How its seccomp filters are got past.
    pub passage: Result<Passage, Filtered>,
}

/// Why a process can't be attached to: one cause, as it was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Obstacle {
    NoSuchProcess { pid: i32 },
    Zombie { pid: i32 },
    KernelThread,
    Oneself,
    Traced { by: i32, name: String },
    NotThisArchitecture,
    ShadowStack,
    Uninterruptible,
    Seccomp(Filtered),
    Yama { scope: u32 },
    OtherUser { uid: u32 },
    UserNamespace,
    NotDumpable,
    Refused { errno: i32 },
}

impl fmt::Display for Obstacle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoSuchProcess { pid } => write!(f, "there is no process {pid}"),
            Self::Zombie { .. } => f.write_str("it is a zombie: it has ended, and its parent has not collected it"),
            Self::KernelThread => f.write_str("it is a thread of the kernel"),
            Self::Oneself => f.write_str("it is this very process"),
            Self::Traced { by, name } => write!(f, "process {by} ({name}) is already tracing it"),
            Self::NotThisArchitecture => f.write_str("it is not a 64-bit process of this machine's architecture"),
            Self::ShadowStack => {
                f.write_str("it runs with a user shadow stack, which borrowing a thread would violate")
            }
            Self::Uninterruptible => f.write_str("all of its threads sleep uninterruptibly (D state)"),
            Self::Seccomp(filtered) => write!(f, "{filtered}"),
            Self::Yama { scope } => write!(f, "ptrace is refused; kernel.yama.ptrace_scope is {scope}"),
            Self::OtherUser { uid } => write!(f, "ptrace is refused; the process belongs to another user (uid {uid})"),
            Self::UserNamespace => f.write_str("ptrace is refused; the process lives in another user namespace"),
            Self::NotDumpable => f.write_str("ptrace is refused; the process has made itself non-dumpable"),
            Self::Refused { errno } => {
                write!(
                    f,
                    "the kernel refuses access to its memory ({})",
                    nix::errno::Errno::from_raw(*errno).desc()
                )
            }
        }
    }
}

impl Obstacle {
    /// What to type or change.
    pub fn fix(&self) -> Option<String> {
        let text = match self {
            Self::NoSuchProcess { .. } => "check the number with: ps -e -o pid,args".to_owned(),
            Self::Zombie { pid } => format!("find its parent with: ps -o ppid= -p {pid}"),
            Self::KernelThread | Self::Oneself => "check the number with: ps -e -o pid,args".to_owned(),
            Self::Traced { by, .. } => format!("end the other tracer first: kill {by}"),
            Self::NotThisArchitecture => "use a memray built for its architecture".to_owned(),
            Self::ShadowStack => "start it without: GLIBC_TUNABLES=glibc.cpu.x86_shstk=off".to_owned(),
            Self::Uninterruptible => "try again when its disk or network file system answers".to_owned(),
            Self::Seccomp(_) => Filtered::FIX.to_owned(),
            Self::Yama { scope: 3 } => "none before a reboot: this scope forbids ptrace to everybody".to_owned(),
            Self::Yama { .. } => {
                "run memray as root, or set kernel.yama.ptrace_scope to 0: sudo sysctl kernel.yama.ptrace_scope=0"
                    .to_owned()
            }
            Self::OtherUser { .. } => {
                "run memray as root (sudo), or in a container with --cap-add=SYS_PTRACE".to_owned()
            }
            Self::UserNamespace => "run memray as root outside of containers, or inside the same one".to_owned(),
            Self::NotDumpable | Self::Refused { .. } => {
                "run memray as root (sudo), or in a container with --cap-add=SYS_PTRACE".to_owned()
            }
        };
        Some(text)
    }
}

/// Collects the facts.
pub fn facts(pid: i32) -> Facts {
    let mut facts = Facts::nothing(pid);
    facts.exists = pid > 0 && start_ticks(pid).is_some();
    if !facts.exists {
        return facts;
    }
    facts.state = stat_field(pid, 3).and_then(|state| state.chars().next());
    // PF_KTHREAD in the flags.
    facts.is_kernel_thread = stat_field(pid, 9)
        .and_then(|flags| flags.parse::<u64>().ok())
        .unwrap_or(0)
        & 0x20_0000
        != 0;
    facts.read_status();
    facts.read_thread_states();
    if let Ok(head) = read_head(&format!("/proc/{pid}/exe")) {
        facts.elf_class = head.starts_with(b"\x7fELF").then_some(head[4]);
        facts.elf_machine = facts.elf_class.map(|_| u16::from_le_bytes([head[18], head[19]]));
    }
    facts.open_error = match std::fs::File::options()
        .read(true)
        .write(true)
        .open(format!("/proc/{pid}/mem"))
    {
        Ok(_) => None,
        Err(error) => error.raw_os_error(),
    };
    facts.yama_scope = std::fs::read_to_string("/proc/sys/kernel/yama/ptrace_scope")
        .ok()
        .and_then(|text| text.trim().parse().ok());
    facts.own_may_ptrace = own_capabilities() & CAP_SYS_PTRACE != 0;
    let namespace = |pid: &str| {
        std::fs::metadata(format!("/proc/{pid}/ns/user"))
            .map(|metadata| metadata.ino())
            .ok()
    };
    let (own, theirs) = (namespace("self"), namespace(&pid.to_string()));
    facts.passage = seccomp::passage(pid, pid);
    facts.same_user_namespace = theirs.is_none() || own == theirs;
    facts
}

impl Facts {
    fn nothing(pid: i32) -> Self {
        Self {
            pid,
            exists: false,
            state: None,
            thread_states: Vec::new(),
            is_kernel_thread: false,
            tracer_pid: 0,
            tracer_name: String::new(),
            uid: None,
            namespace_pids: Vec::new(),
            has_shadow_stack: false,
            elf_class: None,
            elf_machine: None,
            open_error: None,
            yama_scope: None,
            own_uid: nix::unistd::getuid().as_raw(),
            own_may_ptrace: false,
            same_user_namespace: true,
            passage: Ok(Passage::Unfiltered),
        }
    }

    /// The process id as the process itself sees it.
    pub fn inner_pid(&self) -> u32 {
        self.namespace_pids.last().copied().unwrap_or(self.pid) as u32
    }

    /// The one thing that is in the way, in the order in which it would be met.
    pub fn obstacle(&self) -> Option<Obstacle> {
        let pid = self.pid;
        let lives = self.thread_states.iter().any(|state| !matches!(state, 'Z' | 'X' | 'x'));
        if !self.exists {
            return Some(Obstacle::NoSuchProcess { pid });
        }
        if self.is_kernel_thread {
            return Some(Obstacle::KernelThread);
        }
        if matches!(self.state, Some('Z' | 'X' | 'x')) && !lives {
            return Some(Obstacle::Zombie { pid });
        }
        if pid as u32 == std::process::id() {
            return Some(Obstacle::Oneself);
        }
        if self.tracer_pid != 0 {
            return Some(Obstacle::Traced {
                by: self.tracer_pid,
                name: self.tracer_name.clone(),
            });
        }
        if let Some(errno) = self.open_error {
            return Some(self.refusal(errno));
        }
        if self.elf_class == Some(1)
            || self
                .elf_machine
                .is_some_and(|machine| machine != goblin::elf::header::EM_X86_64)
        {
            return Some(Obstacle::NotThisArchitecture);
        }
        if self.has_shadow_stack {
            return Some(Obstacle::ShadowStack);
        }
        if !self.thread_states.is_empty() && self.thread_states.iter().all(|&state| state == 'D') {
            return Some(Obstacle::Uninterruptible);
        }
        if let Err(filtered) = self.passage {
            return Some(Obstacle::Seccomp(filtered));
        }
        None
    }

    fn refusal(&self, errno: i32) -> Obstacle {
        if errno == libc::ENOENT || errno == libc::ESRCH {
            return Obstacle::NoSuchProcess { pid: self.pid };
        }
        match (self.uid, self.yama_scope) {
            (_, Some(scope @ 3)) => Obstacle::Yama { scope },
            _ if self.own_may_ptrace && !self.same_user_namespace => Obstacle::UserNamespace,
            (Some(uid), _) if uid != self.own_uid && !self.own_may_ptrace => Obstacle::OtherUser { uid },
            (_, Some(scope @ 1..=2)) if !self.own_may_ptrace => Obstacle::Yama { scope },
            _ if !self.own_may_ptrace => Obstacle::NotDumpable,
            _ => Obstacle::Refused { errno },
        }
    }

    fn read_status(&mut self) {
        let Ok(text) = std::fs::read(format!("/proc/{}/status", self.pid)) else {
            return;
        };
        for line in String::from_utf8_lossy(&text).lines() {
            let Some((key, value)) = line.split_once(':') else {
                continue;
            };
            let mut numbers = value.split_ascii_whitespace();
            match key {
                "TracerPid" => self.tracer_pid = numbers.next().and_then(|it| it.parse().ok()).unwrap_or(0),
                "Uid" => self.uid = numbers.next().and_then(|it| it.parse().ok()),
                "NSpid" => self.namespace_pids = numbers.filter_map(|it| it.parse().ok()).collect(),
                "x86_Thread_features" => self.has_shadow_stack = value.contains("shstk"),
                _ => {}
            }
        }
        if self.tracer_pid != 0 {
            let name = std::fs::read_to_string(format!("/proc/{}/comm", self.tracer_pid)).unwrap_or_default();
            self.tracer_name = name.trim().to_owned();
        }
    }

    fn read_thread_states(&mut self) {
        let Ok(tasks) = std::fs::read_dir(format!("/proc/{}/task", self.pid)) else {
            return;
        };
        self.thread_states = tasks
            .take(THREADS_MAX)
            .filter_map(|task| {
                let text = std::fs::read(task.ok()?.path().join("stat")).ok()?;
                String::from_utf8_lossy(&text).rsplit_once(") ")?.1.chars().next()
            })
            .collect();
    }
}

fn read_head(path: &str) -> std::io::Result<[u8; 20]> {
    use std::io::Read;
    let mut head = [0; 20];
    std::fs::File::open(path)?.read_exact(&mut head)?;
    Ok(head)
}

/// The tool's effective capabilities.
pub(super) fn own_capabilities() -> u64 {
    let text = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    text.lines()
        .find_map(|line| u64::from_str_radix(line.strip_prefix("CapEff:")?.trim(), 16).ok())
        .unwrap_or(0)
}
