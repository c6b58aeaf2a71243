//! Why a session could not start, go on or end; each with what to do about it.

use super::headroom::Shortage;
use super::landing::Owner;
use super::limits::Room;
use super::output::{OutputError, error_text};
use super::processes;
use super::target;
use crate::capture::WriteError;
use crate::python;
use crate::ui::format::bytes_short;
use std::fmt;
use std::path::PathBuf;

/// One variant for each step that can fail.
#[derive(Debug)]
pub enum Error {
    /// Something about the process forbids it, found before it was touched.
    Obstacle(inject::Obstacle),
    /// A limit of the target leaves no room for an attach.
    NoRoom(Shortage),
    Inject(inject::Error),
    Borrow(inject::BorrowError),
    Python(python::FindError),
    Output(OutputError),
    Write(WriteError),
    /// The capture's file system is nearly full.
    NoDisk(PathBuf, Room),
    /// What `--trace-python-allocators` needs.
    Tables(python::TablesError),
    /// A table of Python's allocators holds a hook of another build of memray.
    ForeignHook,
    /// An aligned word written through `/proc/PID/mem` was seen half-written on this machine.
    TornWords,
    /// The kernel was told to forbid what slots behind RELRO need.
    ReadOnlyPages,
    /// A step with the region's memory.
    Memfd(&'static str, std::io::Error),
    /// The target closed the region's descriptor in the middle of the attach and opened something else there.
    ForeignDescriptor,
    Guardian(std::io::Error),
    /// Somebody tracks this process already.
    Busy {
        pid: i32,
        owner: Owner,
        owner_name: String,
    },
    /// The collector belongs to another user, who has to end it.
    ForeignOwner(Owner, String),
    /// The collector runs in another PID namespace and can't be reached from here.
    ElsewhereOwned(Owner),
    /// The process that the session's mark names works on the target, but is no memray.
    NoCollector(i32),
    /// The collector was asked to end its window and does not.
    DeafOwner {
        owner_pid: i32,
        is_held: bool,
    },
    /// Another memray is attaching and does not get done.
    BeingAttached,
    /// The process became another program in the middle of the attach.
    Executed,
    /// Nobody tracks this process.
    NoSession,
    /// The allocation functions were not found in any module.
    NothingToHook,
    /// The modules have more slots than the journal has room for.
    TooManySlots(usize),
    /// Something about this machine, and what helps.
    Host(String, Vec<String>),
    /// Something that a working build never meets.
    Internal(String),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Obstacle(obstacle) => write!(f, "{obstacle}"),
            Self::NoRoom(shortage) => f.write_str(&shortage.cause),
            Self::Inject(error) => write!(f, "{error}"),
            Self::Borrow(error) => write!(f, "{error}"),
            Self::Python(error) => write!(f, "{error}"),
            Self::Tables(error) => write!(f, "{error}"),
            Self::ForeignHook => {
                f.write_str("its Python allocators still lead through an earlier attach of another memray")
            }
            Self::Output(error) => write!(f, "{error}"),
            Self::Write(error) => write!(f, "{error}"),
            Self::NoDisk(path, room) => write!(f, "the file system of {} has {room}", path.display()),
            Self::Memfd(step, error) => write!(f, "the ring's memory cannot be {step}: {}", error_text(error)),
            Self::TornWords => f.write_str(
                "this kernel does not write words of another process as a whole, so slots can't be changed safely",
            ),
            Self::ReadOnlyPages => f.write_str(
                "this kernel forbids writing read-only pages of another process (proc_mem.force_override), where most \
                 slots are",
            ),
            Self::ForeignDescriptor => f.write_str("it closed the ring's descriptor while it was being set up"),
            Self::Guardian(error) => write!(f, "the guardian process cannot be started: {}", error_text(error)),
            Self::Busy { owner, owner_name, .. } => write!(
                f,
                "it is being tracked since {} by {owner_name} (memray pid {}), into {}",
                clock_text(owner.started_ms),
                owner.pid,
                owner.path.display()
            ),
            Self::ForeignOwner(owner, name) => {
                write!(
                    f,
                    "its collector (memray pid {}) belongs to {name}, who alone may end it",
                    owner.pid
                )
            }
            Self::ElsewhereOwned(owner) => {
                write!(
                    f,
                    "its collector (memray pid {} there) runs in another container",
                    owner.pid
                )
            }
            Self::NoCollector(pid) => write!(f, "its mark names process {pid} as its collector, which is no memray"),
            Self::DeafOwner { owner_pid, is_held } => {
                let why = if *is_held {
                    "is held by a debugger or a frozen cgroup and cannot end its window"
                } else {
                    "does not end its window"
                };
                write!(f, "its collector (memray pid {owner_pid}) {why}")
            }
            Self::BeingAttached => f.write_str("another memray is attaching to it right now"),
            Self::Executed => f.write_str("it has just become another program (exec)"),
            Self::NoSession => f.write_str("it is not being tracked"),
            Self::NothingToHook => f.write_str("none of its modules calls malloc through a slot that could be hooked"),
            Self::TooManySlots(count) => {
                write!(f, "its modules have {count} slots, more than the journal has room for")
            }
            Self::Host(what, _) | Self::Internal(what) => f.write_str(what),
        }
    }
}

impl Error {
    /// Whether a process that is still being started could give this reason.
    pub fn may_be_early(&self) -> bool {
        use python::FindError;
        let is_early = |error: &FindError| matches!(error, FindError::NotInitialised { .. } | FindError::Layout { .. });
        matches!(self, Self::NothingToHook) || matches!(self, Self::Python(error) if is_early(error))
    }

    /// The same, or the reason behind it: a target that left in the middle makes any step fail.
    pub fn or_left(self, process: &inject::Process) -> Self {
        if !process.is_alive() {
            Self::Inject(inject::Error::Gone { pid: process.pid() })
        } else if process.has_left() {
            Self::Executed
        } else {
            self
        }
    }

    /// What to type or change. There is always something, but where nothing is wrong.
    pub fn fix(&self) -> Option<String> {
        if matches!(self, Self::NoSession) {
            return None;
        }
        let general =
            || "try again in a moment; memray detach PID repairs what a failed attempt may have left".to_owned();
        Some(self.particular_fix().unwrap_or_else(general))
    }

    fn particular_fix(&self) -> Option<String> {
        match self {
            Self::Obstacle(_) => self.fixes().into_iter().next(),
            Self::NoRoom(shortage) => Some(shortage.fix.clone()),
            Self::Inject(error) => error.fix(),
            Self::Borrow(error) => error.fix(),
            Self::Python(error) => error.fix(),
            Self::Tables(_) => Some("leave out --trace-python-allocators".to_owned()),
            Self::ForeignHook => {
                Some("attach with the memray that was used before, or leave out --trace-python-allocators".to_owned())
            }
            Self::Output(error) => Some(error.fix()),
            Self::Write(error) => error.fix(),
            Self::NoDisk(_, room) => Some(format!(
                "name a place with more room with -o FILE, or let the capture take more of it: --keep-free {}",
                bytes_short(room.free_bytes / 2)
            )),
            Self::Memfd(_, error) if error.kind() == std::io::ErrorKind::FileTooLarge => {
                Some("raise memray's file size limit: ulimit -f unlimited".to_owned())
            }
            Self::Memfd(..) => Some("try again; -v shows the steps".to_owned()),
            Self::Guardian(_) => Some("check the limit of processes: ulimit -u".to_owned()),
            Self::Busy { owner, .. } if owner.pid_namespace != target::own_pid_namespace() => {
                Some("run memray detach in the container where it was attached".to_owned())
            }
            Self::Busy { pid, .. } => Some(format!("memray detach {pid}")),
            Self::ForeignOwner(_, name) => Some(format!("run memray detach as {name} or as root")),
            Self::ElsewhereOwned(_) => Some("run memray detach in the container where it was attached".to_owned()),
            Self::NothingToHook => {
                Some("a statically linked allocator cannot be tracked; see the README's limits".to_owned())
            }
            Self::ReadOnlyPages => Some("boot it with: proc_mem.force_override=always".to_owned()),
            Self::DeafOwner { owner_pid, .. } => Some(format!(
                "end it: kill -KILL {owner_pid}; its guardian, or another memray detach, then repairs the process"
            )),
            Self::TornWords => Some("run memray on another kernel; this one could break the process".to_owned()),
            Self::NoCollector(pid) => Some(format!("see what it is (ps -fp {pid}), end it, then detach again")),
            Self::ForeignDescriptor | Self::BeingAttached | Self::Executed => Some("try again in a moment".to_owned()),
            Self::Host(_, fixes) => fixes.first().cloned(),
            Self::NoSession | Self::TooManySlots(_) | Self::Internal(_) => None,
        }
    }

    /// Whether there is no such process at all.
    pub fn is_no_process(&self) -> bool {
        matches!(self, Self::Obstacle(inject::Obstacle::NoSuchProcess { .. }))
    }

    /// All that helps in the situation that was found, the best first: [`Self::fix`], then what else there is.
    pub fn fixes(&self) -> Vec<String> {
        match self {
            Self::Obstacle(inject::Obstacle::NoSuchProcess { pid }) => processes::advice_for_unknown(*pid)
                .map_or_else(|| inject::Obstacle::NoSuchProcess { pid: *pid }.fixes(), |it| vec![it]),
            Self::Obstacle(obstacle) => obstacle.fixes(),
            Self::Host(_, fixes) => fixes.clone(),
            _ => self.fix().into_iter().collect(),
        }
    }
}

/// Wall-clock time of milliseconds since the epoch, e.g. `2026-01-31 14:05:09 UTC`.
pub fn clock_text(ms: u64) -> String {
    let seconds = ms / 1000;
    let (days, second_of_day) = (seconds / 86_400, seconds % 86_400);
    let (year, month, day) = civil_date(days);
    format!(
        "{year}-{month:02}-{day:02} {:02}:{:02}:{:02} UTC",
        second_of_day / 3600,
        second_of_day / 60 % 60,
        second_of_day % 60
    )
}

/// Gregorian date of a day number since 1970-01-01, by walking years and months.
fn civil_date(mut days: u64) -> (u64, u64, u64) {
    let is_leap = |year: u64| year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400));
    let mut year = 1970;
    // A mark's time is a u64 of milliseconds that the target could have overwritten: bounded to the year 9999.
    while year < 9999 {
        let length = if is_leap(year) { 366 } else { 365 };
        if days < length {
            break;
        }
        days -= length;
        year += 1;
    }
    let february = if is_leap(year) { 29 } else { 28 };
    let mut month = 1;
    for length in [31, february, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31] {
        if days < length || month == 12 {
            break;
        }
        days -= length;
        month += 1;
    }
    (year, month, days % 31 + 1)
}

impl From<inject::Error> for Error {
    fn from(error: inject::Error) -> Self {
        Self::Inject(error)
    }
}

impl From<inject::BorrowError> for Error {
    fn from(error: inject::BorrowError) -> Self {
        Self::Borrow(error)
    }
}

impl From<OutputError> for Error {
    fn from(error: OutputError) -> Self {
        Self::Output(error)
    }
}

impl From<WriteError> for Error {
    fn from(error: WriteError) -> Self {
        Self::Write(error)
    }
}

#[cfg(test)]
mod tests {
    use super::clock_text;

    #[test]
    fn times_are_told_in_utc() {
        assert_eq!(clock_text(0), "1970-01-01 00:00:00 UTC");
        assert_eq!(clock_text(951_782_400_000), "2000-02-29 00:00:00 UTC");
        assert_eq!(clock_text(1_795_252_449_123), "2026-11-21 09:14:09 UTC");
        assert!(clock_text(u64::MAX).starts_with("9999-"));
    }
}
