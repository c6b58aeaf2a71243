//! What a process may still use: resource limits, mappings, locked memory, memory cgroups. Facts only; what is
//! enough is for the caller to say.

use super::cgroups::{Cgroup, cgroups};
use super::process::proc_text;
use std::path::{Path, PathBuf};

/// CAP_IPC_LOCK.
const CAP_IPC_LOCK: u64 = 1 << 14;
/// v1 says "no limit" by a number near the largest.
const UNLIMITED_MIN: u64 = 1 << 62;

/// How much of something is used, and how much there may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Room {
    pub used: u64,
    /// `None`: without limit.
    pub limit: Option<u64>,
    /// What the process itself, or one of the same user, could raise the limit to.
    pub hard_limit: Option<u64>,
}

impl Room {
    /// What is left; `None` without a limit.
    pub fn left(&self) -> Option<u64> {
        self.limit.map(|limit| limit.saturating_sub(self.used))
    }
}

/// One level of the memory cgroups that a process is charged to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemoryCgroup {
    pub directory: PathBuf,
    /// The file that holds the limit.
    pub limit_file: &'static str,
    pub limit_bytes: u64,
    pub used_bytes: u64,
    /// The part of it that the kernel takes back before it kills: cached files.
    pub reclaimable_bytes: u64,
}

impl MemoryCgroup {
    pub fn left_bytes(&self) -> u64 {
        let needed = self.used_bytes.saturating_sub(self.reclaimable_bytes);
        self.limit_bytes.saturating_sub(needed)
    }
}

/// All limits of a process that an attach could meet. What could not be read counts as unlimited.
#[derive(Clone, Debug)]
pub struct Limits {
    pub pid: i32,
    /// RLIMIT_AS, in bytes.
    pub address_space: Room,
    /// RLIMIT_DATA, in bytes: private writable mappings.
    pub data: Room,
    /// RLIMIT_NOFILE: descriptor numbers.
    pub open_files: Room,
    /// RLIMIT_MEMLOCK, in bytes. Without limit for a process with CAP_IPC_LOCK.
    pub locked: Room,
    /// vm.max_map_count.
    pub mappings: Room,
    /// The machine's commit limit, in bytes, where vm.overcommit_memory is 2.
    pub commit: Room,
    /// Its cgroups that have a limit, innermost first.
    pub memory_cgroups: Vec<MemoryCgroup>,
    /// Most of its address space is locked, as mlockall(MCL_CURRENT | MCL_FUTURE) does it.
    pub locks_everything: bool,
}

/// Reads the limits. `mappings_count` is the number of lines of its maps, which the caller has read.
pub fn limits(pid: i32, mappings_count: usize) -> Limits {
    let read = |file: &str| proc_text(&format!("/proc/{pid}/{file}")).unwrap_or_default();
    let (limits, status) = (read("limits"), read("status"));
    let kib = |name: &str| field(&status, name).map_or(0, |kib| kib.saturating_mul(1024));
    let room = |name: &str, used: u64| {
        let (limit, hard_limit) = resource_limit(&limits, name);
        Room {
            used,
            limit,
            hard_limit,
        }
    };
    let (locked_bytes, size_bytes) = (kib("VmLck"), kib("VmSize"));
    let open_files = room("Max open files", 0);
    let mut locked = room("Max locked memory", locked_bytes);
    if capabilities(&status) & CAP_IPC_LOCK != 0 {
        locked.limit = None;
    }
    Limits {
        pid,
        address_space: room("Max address space", size_bytes),
        data: room("Max data size", kib("VmData")),
        open_files: Room {
            used: open_files.limit.map_or(0, |limit| descriptors_below(pid, limit)),
            ..open_files
        },
        locked,
        mappings: unraisable(mappings_count as u64, system_number("vm/max_map_count")),
        commit: commit_room(),
        memory_cgroups: memory_cgroups(pid),
        locks_everything: locked_bytes > size_bytes / 2,
    }
}

/// Whether a process has locked memory, so that it may lock what is mapped next.
pub fn has_locked_memory(pid: i32) -> bool {
    let status = proc_text(&format!("/proc/{pid}/status")).unwrap_or_default();
    field(&status, "VmLck").is_some_and(|kib| kib > 0)
}

/// The limited memory cgroups of a process, innermost first.
pub fn memory_cgroups(pid: i32) -> Vec<MemoryCgroup> {
    limited(&cgroups(pid, "memory"))
}

/// v1 where the memory controller has a hierarchy of its own, else v2.
fn limited(cgroups: &[Cgroup]) -> Vec<MemoryCgroup> {
    let Some(cgroup) = cgroups.first() else {
        return Vec::new();
    };
    let look = if cgroup.is_unified { look_v2 } else { look_v1 };
    cgroup.levels().filter_map(look).collect()
}

fn look_v1(directory: &Path) -> Option<MemoryCgroup> {
    let limit_file = "memory.limit_in_bytes";
    let limit_bytes = number(&directory.join(limit_file)).filter(|&limit| limit < UNLIMITED_MIN)?;
    Some(MemoryCgroup {
        limit_bytes,
        limit_file,
        used_bytes: number(&directory.join("memory.usage_in_bytes"))?,
        reclaimable_bytes: reclaimable(directory, "total_"),
        directory: directory.to_owned(),
    })
}

fn look_v2(directory: &Path) -> Option<MemoryCgroup> {
    let limit_file = "memory.max";
    Some(MemoryCgroup {
        // "max" is no number: no limit.
        limit_bytes: number(&directory.join(limit_file))?,
        limit_file,
        used_bytes: number(&directory.join("memory.current"))?,
        reclaimable_bytes: reclaimable(directory, ""),
        directory: directory.to_owned(),
    })
}

fn reclaimable(directory: &Path, prefix: &str) -> u64 {
    let text = std::fs::read_to_string(directory.join("memory.stat")).unwrap_or_default();
    ["inactive_file", "active_file"]
        .iter()
        .filter_map(|name| {
            let wanted = format!("{prefix}{name} ");
            text.lines()
                .find_map(|line| line.strip_prefix(wanted.as_str()))?
                .trim()
                .parse::<u64>()
                .ok()
        })
        .fold(0, u64::saturating_add)
}

fn number(path: &Path) -> Option<u64> {
    std::fs::read_to_string(path).ok()?.trim().parse().ok()
}

fn system_number(name: &str) -> Option<u64> {
    number(&Path::new("/proc/sys").join(name))
}

/// A limit that belongs to the machine.
fn unraisable(used: u64, limit: Option<u64>) -> Room {
    Room {
        used,
        limit,
        hard_limit: None,
    }
}

fn commit_room() -> Room {
    const STRICT: u64 = 2;
    if system_number("vm/overcommit_memory") != Some(STRICT) {
        return unraisable(0, None);
    }
    let memory = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let bytes = |name: &str| field(&memory, name).map(|kib| kib.saturating_mul(1024));
    unraisable(bytes("Committed_AS").unwrap_or(0), bytes("CommitLimit"))
}

/// The number behind `name:`.
fn field(text: &str, name: &str) -> Option<u64> {
    let value = text
        .lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
    value.split_ascii_whitespace().next()?.parse().ok()
}

/// Effective capabilities in a status file.
fn capabilities(status: &str) -> u64 {
    let value = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    value
        .and_then(|value| u64::from_str_radix(value.trim(), 16).ok())
        .unwrap_or(0)
}

/// Soft and hard value of a line of `/proc/PID/limits`; `None` for "unlimited".
fn resource_limit(text: &str, name: &str) -> (Option<u64>, Option<u64>) {
    let Some(values) = text.lines().find_map(|line| line.strip_prefix(name)) else {
        return (None, None);
    };
    let mut values = values.split_ascii_whitespace().map(|value| value.parse().ok());
    (values.next().flatten(), values.next().flatten())
}

/// Open descriptors whose numbers lie below a limit: a lowered limit leaves those above it open.
fn descriptors_below(pid: i32, limit: u64) -> u64 {
    let entries = std::fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten();
    let numbers = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<u64>().ok());
    numbers.filter(|&descriptor| descriptor < limit).count() as u64
}

#[cfg(test)]
mod tests {
    use super::super::cgroups::cgroups_in;
    use super::*;

    #[test]
    fn own_limits_are_read() {
        let limits = limits(std::process::id() as i32, 100);
        assert!(limits.address_space.used > 1 << 20);
        assert!(limits.data.used > 4096);
        assert!(
            limits
                .open_files
                .limit
                .is_none_or(|limit| limit > limits.open_files.used)
        );
        assert!(limits.open_files.used >= 3);
        assert_eq!(limits.mappings.used, 100);
        assert!(limits.mappings.limit.is_some_and(|limit| limit > 1000));
    }

    #[test]
    fn soft_and_hard_limits_are_told_apart() {
        let text = "Limit                     Soft Limit           Hard Limit           Units     \n\
                    Max open files            1024                 524288               files     \n\
                    Max address space         unlimited            unlimited            bytes     \n";
        assert_eq!(resource_limit(text, "Max open files"), (Some(1024), Some(524_288)));
        assert_eq!(resource_limit(text, "Max address space"), (None, None));
        assert_eq!(resource_limit(text, "Max data size"), (None, None));
    }

    #[test]
    fn every_level_of_both_cgroup_versions_is_read() {
        let root = std::env::temp_dir().join(format!("inject-limits-{}", std::process::id()));
        let write = |path: &str, text: &str| {
            let path = root.join(path);
            std::fs::create_dir_all(path.parent().expect("has a parent")).unwrap();
            std::fs::write(path, text).unwrap();
        };
        for (directory, limit) in [
            ("memory", "9223372036854771712"),
            ("memory/a", "9000"),
            ("memory/a/b", "5000"),
        ] {
            write(&format!("{directory}/memory.limit_in_bytes"), limit);
            write(&format!("{directory}/memory.usage_in_bytes"), "4000\n");
            write(
                &format!("{directory}/memory.stat"),
                "inactive_file 1\ntotal_inactive_file 300\ntotal_active_file 50\n",
            );
        }
        let v1 = limited(&cgroups_in("5:cpu,memory:/a/b\n0::/c\n", &root, "memory"));
        let left: Vec<u64> = v1.iter().map(MemoryCgroup::left_bytes).collect();
        assert_eq!(left, [1350, 5350], "the unlimited level is left out");
        assert_eq!(v1[0].directory, root.join("memory/a/b"));

        write("c/memory.max", "8000\n");
        write("c/memory.current", "8200\n");
        write("c/memory.stat", "anon 8000\ninactive_file 50\nactive_file 200\n");
        write("memory.max", "max\n");
        let v2 = limited(&cgroups_in("0::/c\n", &root, "memory"));
        assert_eq!(v2.iter().map(MemoryCgroup::left_bytes).collect::<Vec<_>>(), [50]);
        // Not mounted, or relative to a namespace's root.
        assert_eq!(limited(&cgroups_in("0::/elsewhere\n", &root, "memory")), []);
        assert_eq!(limited(&cgroups_in("0::/../c\n", &root, "memory")), []);
        std::fs::remove_dir_all(&root).unwrap();
    }
}
