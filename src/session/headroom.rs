//! Is there room in the target for what an attach needs? Worked out before anything is touched: a target must not
//! be killed for our memory, nor fail to allocate because we took the last of what its limits permit.
//!
//! What an attach costs the target: the landing (96 KiB at most), the pages of the journal that are used, a private
//! copy of each page that holds a hooked slot, and about 16 MB of address space for journal and ring. The ring's
//! memory itself is charged to whoever touches it first, which is the tool (see [`crate::collect::Region::touch`]); only
//! where both live in one cgroup does it count against the target's limit, and so does the tool.

use super::error::Error;
use super::payload::Image;
use super::place::RESERVATION_BYTES;
use super::ring_memory::RingSource;
use crate::ui::format::{bytes_short, count};
use inject::{Limits, MemoryCgroup, Room};
use wire::PAGE_BYTES;
use wire::region::{paths_offset, region_bytes};
use wire::ring::RING_SLOTS;

/// Address space and data that must remain for the target itself.
const ADDRESSES_KEPT_BYTES: u64 = 8 << 20;
/// Memory that must remain in its cgroup.
const MEMORY_KEPT_BYTES: u64 = 1 << 20;
/// Journal pages, the signal frame, page tables.
const SMALL_PAGES_BYTES: u64 = 256 << 10;
/// Pages with slots in one module: `.got` and `.got.plt`.
const SLOT_PAGES_PER_MODULE: u64 = 2;
/// What the tool and its guardian use in an ordinary window, apart from the ring.
const TOOL_BYTES: u64 = 24 << 20;
/// Mappings that an attach makes, at most, and those that must remain for the target itself.
const MAPPINGS_MADE: u64 = 8;
const MAPPINGS_KEPT: u64 = 56;

/// What an attach would take.
#[derive(Clone, Debug)]
pub struct Need {
    /// 0 where the landing of an earlier attach is used again.
    pub landing_bytes: u64,
    /// 0 where the reservation of an earlier attach is used again.
    pub reservation_bytes: u64,
    pub modules_count: usize,
    pub ring: RingSource,
    /// The limited cgroups of the tool.
    pub own_cgroups: Vec<MemoryCgroup>,
}

/// One limit: what was found, and what is in the way if anything is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Check {
    pub name: &'static str,
    /// What was read and what an attach needs, in a few words.
    pub seen: String,
    pub shortage: Option<Shortage>,
}

/// A limit that an attach would exceed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shortage {
    pub cause: String,
    pub fix: String,
}

impl Need {
    /// For a target in which nothing of an earlier attach is used again.
    pub fn full(image: &Image, modules_count: usize, ring: RingSource) -> Self {
        Self {
            landing_bytes: PAGE_BYTES + image.span_bytes,
            reservation_bytes: RESERVATION_BYTES,
            modules_count,
            ring,
            own_cgroups: inject::memory_cgroups(std::process::id() as i32),
        }
    }
}

/// Every limit in turn; refuses for the first that an attach would exceed.
pub fn require(limits: &Limits, need: &Need) -> Result<Vec<Check>, Error> {
    let checks = checks(limits, need);
    match checks.iter().find_map(|check| check.shortage.clone()) {
        Some(shortage) => Err(Error::NoRoom(shortage)),
        None => Ok(checks),
    }
}

/// Every limit in turn.
pub fn checks(limits: &Limits, need: &Need) -> Vec<Check> {
    let pid = limits.pid;
    let mapped_bytes = need.landing_bytes + need.reservation_bytes;
    // Where everything is locked, the ring is mapped elsewhere first and then moved into place.
    let moved_bytes = if limits.locks_everything {
        region_bytes(RING_SLOTS)
    } else {
        0
    };
    let kept = |bytes: u64| if bytes == 0 { 0 } else { bytes + ADDRESSES_KEPT_BYTES };
    let mut checks = vec![memory(limits, need)];
    let mut limit = |name, room: &Room, needed: u64, noun: &dyn Fn(u64) -> String, cause: &str, option: &str| {
        checks.push(resource(pid, name, room, needed, noun, cause, option));
    };
    let size = |bytes: u64| bytes_short(bytes);
    limit(
        "address space",
        &limits.address_space,
        kept(mapped_bytes + moved_bytes),
        &size,
        "its address space is limited (RLIMIT_AS)",
        "as",
    );
    limit(
        "data",
        &limits.data,
        kept(need.reservation_bytes),
        &size,
        "its private memory is limited (RLIMIT_DATA)",
        "data",
    );
    let locked_bytes = if limits.locks_everything {
        mapped_bytes + moved_bytes
    } else {
        0
    };
    limit(
        "locked memory",
        &limits.locked,
        locked_bytes,
        &size,
        "it locks all of its memory (mlockall), up to a limit (RLIMIT_MEMLOCK)",
        "memlock",
    );
    let descriptors = match need.ring {
        RingSource::SharedAnonymous => 0,
        RingSource::Memfd => 1,
    };
    limit(
        "open files",
        &limits.open_files,
        descriptors,
        &count,
        "it has no free file descriptor (RLIMIT_NOFILE)",
        "nofile",
    );
    checks.push(system(
        "mappings",
        &limits.mappings,
        MAPPINGS_MADE + MAPPINGS_KEPT,
        &count,
        "it has nearly as many mappings as the kernel permits",
        |wanted| format!("raise it: sudo sysctl vm.max_map_count={wanted}"),
    ));
    checks.push(system(
        "commit limit",
        &limits.commit,
        kept(mapped_bytes + moved_bytes),
        &size,
        "the machine does not overcommit memory (vm.overcommit_memory is 2)",
        |_| "free some memory, or raise vm.overcommit_ratio".to_owned(),
    ));
    checks
}

/// The cgroup with the least room.
fn memory(limits: &Limits, need: &Need) -> Check {
    let slot_bytes = need.modules_count as u64 * SLOT_PAGES_PER_MODULE * PAGE_BYTES;
    let target_bytes = need.landing_bytes + slot_bytes + SMALL_PAGES_BYTES + MEMORY_KEPT_BYTES;
    let needed_in = |cgroup: &MemoryCgroup| {
        let is_shared = need.own_cgroups.iter().any(|own| own.directory == cgroup.directory);
        let shared_bytes = if is_shared {
            paths_offset(RING_SLOTS) + TOOL_BYTES
        } else {
            0
        };
        (target_bytes + shared_bytes, is_shared)
    };
    let name = "memory";
    let tightest = limits
        .memory_cgroups
        .iter()
        .map(|cgroup| (cgroup, needed_in(cgroup)))
        .min_by_key(|(cgroup, (needed, _))| cgroup.left_bytes() as i128 - i128::from(*needed));
    let Some((cgroup, (needed, is_shared))) = tightest else {
        return Check {
            name,
            seen: "its cgroup has no limit".to_owned(),
            shortage: None,
        };
    };
    let (left, limit) = (bytes_short(cgroup.left_bytes()), bytes_short(cgroup.limit_bytes));
    let seen = format!("{left} left of its cgroup's {limit}; {} needed", bytes_short(needed));
    let shortage = (cgroup.left_bytes() < needed).then(|| {
        let wanted = cgroup.limit_bytes + (needed - cgroup.left_bytes());
        let file = cgroup.directory.join(cgroup.limit_file);
        let raise = format!("raise the limit: echo {wanted} > {}", file.display());
        Shortage {
            cause: format!("its cgroup is nearly full: {seen}"),
            fix: if is_shared {
                format!("run memray outside of its container, where the ring does not count against it; or {raise}")
            } else {
                raise
            },
        }
    });
    Check { name, seen, shortage }
}

fn describe(room: &Room, needed: u64, noun: &dyn Fn(u64) -> String) -> String {
    match (room.limit, room.left()) {
        _ if needed == 0 => "none needed".to_owned(),
        (Some(limit), Some(left)) => format!("{} left of {}; {} needed", noun(left), noun(limit), noun(needed)),
        _ => "no limit".to_owned(),
    }
}

/// A resource limit of the process.
fn resource(
    pid: i32,
    name: &'static str,
    room: &Room,
    needed: u64,
    noun: &dyn Fn(u64) -> String,
    cause: &str,
    option: &str,
) -> Check {
    let seen = describe(room, needed, noun);
    let is_short = room.left().is_some_and(|left| left < needed);
    let shortage = is_short.then(|| {
        let wanted = with_slack(room.used + needed);
        // Only root raises the hard limit.
        let raise = if room.hard_limit.is_some_and(|hard| hard < wanted) {
            format!("sudo prlimit --pid {pid} --{option}={wanted}:{wanted}")
        } else {
            format!("prlimit --pid {pid} --{option}={wanted}:")
        };
        Shortage {
            cause: format!("{cause}: {seen}"),
            fix: format!("raise it: {raise}"),
        }
    });
    Check { name, seen, shortage }
}

/// A limit to be typed: the target uses more by the time that it is set.
fn with_slack(wanted: u64) -> u64 {
    let step = if wanted < 1 << 20 { 64 } else { 16 << 20 };
    (wanted + step / 4).next_multiple_of(step)
}

/// A limit of the machine.
fn system(
    name: &'static str,
    room: &Room,
    needed: u64,
    noun: &dyn Fn(u64) -> String,
    cause: &str,
    fix: impl Fn(u64) -> String,
) -> Check {
    let seen = describe(room, needed, noun);
    let is_short = room.left().is_some_and(|left| left < needed);
    let shortage = is_short.then(|| Shortage {
        cause: format!("{cause}: {seen}"),
        fix: fix(with_slack(room.used + needed)),
    });
    Check { name, seen, shortage }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::PathBuf;

    const UNLIMITED: Room = Room {
        used: 1 << 20,
        limit: None,
        hard_limit: None,
    };

    fn unlimited() -> Limits {
        Limits {
            pid: 42,
            address_space: UNLIMITED,
            data: UNLIMITED,
            open_files: UNLIMITED,
            locked: UNLIMITED,
            mappings: UNLIMITED,
            commit: UNLIMITED,
            memory_cgroups: Vec::new(),
            locks_everything: false,
        }
    }

    fn need(ring: RingSource) -> Need {
        Need {
            landing_bytes: 96 << 10,
            reservation_bytes: RESERVATION_BYTES,
            modules_count: 20,
            ring,
            own_cgroups: Vec::new(),
        }
    }

    fn room(used: u64, limit: u64) -> Room {
        Room {
            used,
            limit: Some(limit),
            hard_limit: Some(limit),
        }
    }

    /// The one check that fails.
    fn shortage(limits: &Limits, need: &Need) -> Option<(&'static str, Shortage)> {
        let checks = checks(limits, need);
        let mut short = checks
            .into_iter()
            .filter_map(|check| Some((check.name, check.shortage?)));
        let first = short.next();
        assert!(short.next().is_none());
        first
    }

    #[test]
    fn each_limit_is_met_by_itself() {
        let memfd = need(RingSource::Memfd);
        assert_eq!(shortage(&unlimited(), &memfd), None);
        type Set = fn(&mut Limits);
        let cases: [(&str, &str, Set); 5] = [
            ("address space", "--as=", |limits| {
                limits.address_space = room(90 << 20, 100 << 20)
            }),
            ("data", "--data=", |limits| limits.data = room(90 << 20, 100 << 20)),
            ("open files", "--nofile=1088:1088", |limits| {
                limits.open_files = room(1024, 1024)
            }),
            ("mappings", "vm.max_map_count=65600", |limits| {
                limits.mappings = room(65_500, 65_530)
            }),
            ("commit limit", "overcommit", |limits| {
                limits.commit = room(99 << 20, 100 << 20)
            }),
        ];
        for (name, fix, set) in cases {
            let mut limits = unlimited();
            set(&mut limits);
            let (found, shortage) = shortage(&limits, &memfd).expect(name);
            assert_eq!(found, name);
            assert!(shortage.fix.contains(fix), "{}", shortage.fix);
        }
    }

    #[test]
    fn what_is_used_again_needs_no_room() {
        let mut limits = unlimited();
        limits.address_space = room(99 << 20, 100 << 20);
        limits.data = limits.address_space;
        limits.open_files = room(8, 8);
        let need = Need {
            landing_bytes: 0,
            reservation_bytes: 0,
            ..need(RingSource::SharedAnonymous)
        };
        assert_eq!(shortage(&limits, &need), None);
    }

    #[test]
    fn locked_memory_counts_only_where_everything_is_locked() {
        let mut limits = unlimited();
        limits.locked = room(64 << 10, 8 << 20);
        assert_eq!(shortage(&limits, &need(RingSource::Memfd)), None);
        limits.locks_everything = true;
        let (name, shortage) = shortage(&limits, &need(RingSource::Memfd)).expect("too little");
        assert_eq!(name, "locked memory");
        assert!(shortage.fix.contains("--memlock="), "{}", shortage.fix);
    }

    #[test]
    fn the_ring_counts_where_the_tool_shares_the_cgroup() {
        let cgroup = |directory: &str, used_bytes| MemoryCgroup {
            directory: PathBuf::from(directory),
            limit_file: "memory.max",
            limit_bytes: 100 << 20,
            used_bytes,
            reclaimable_bytes: 1 << 20,
        };
        let mut limits = unlimited();
        limits.memory_cgroups = vec![cgroup("/a/b", 90 << 20), cgroup("/a", 10 << 20)];
        let mut need = need(RingSource::Memfd);
        assert_eq!(
            shortage(&limits, &need),
            None,
            "11 MiB are enough for the target's own part"
        );
        need.own_cgroups = vec![cgroup("/a", 0)];
        assert_eq!(shortage(&limits, &need), None, "the outer one has room for all of it");
        need.own_cgroups.push(cgroup("/a/b", 0));
        let (name, found) = shortage(&limits, &need).expect("too little for both");
        assert_eq!(name, "memory");
        assert!(found.fix.contains("> /a/b/memory.max"), "{}", found.fix);
        limits.memory_cgroups = vec![cgroup("/c", 100 << 20)];
        assert!(shortage(&limits, &need).is_some(), "1 MiB is too little for anybody");
    }
}
