//! How much memory the target and its cgroup use, read from outside while the window is open.

use crate::capture::Sample;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

/// Milliseconds since the epoch, counted on from the first call: should somebody set the clock in the window, the
/// trend and the duration must not see it.
pub fn now_ms() -> i64 {
    static FIRST: OnceLock<(i64, Instant)> = OnceLock::new();
    let &(first_ms, first) = FIRST.get_or_init(|| {
        let since = SystemTime::now().duration_since(UNIX_EPOCH);
        (since.map_or(0, |since| since.as_millis() as i64), Instant::now())
    });
    first_ms + first.elapsed().as_millis() as i64
}

/// Reads RSS and cgroup usage.
pub struct Sampler {
    /// Open from the start: a process that is given the same number later is another.
    statm: Option<File>,
    own_statm: Option<File>,
    page_bytes: u64,
    cgroup: Option<Cgroup>,
    /// Whether the tool's own memory counts in the target's cgroup.
    shares_cgroup: bool,
}

impl Sampler {
    pub fn new(pid: i32) -> Self {
        let page_bytes = nix::unistd::sysconf(nix::unistd::SysconfVar::PAGE_SIZE)
            .ok()
            .flatten()
            .unwrap_or(4096);
        let target = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
        let own = std::fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
        let cgroup = Cgroup::find(&target, Path::new("/sys/fs/cgroup"));
        Self {
            statm: File::open(format!("/proc/{pid}/statm")).ok(),
            own_statm: File::open("/proc/self/statm").ok(),
            page_bytes: page_bytes as u64,
            shares_cgroup: cgroup.is_some() && target == own,
            cgroup,
        }
    }

    /// The limit of the target's cgroup, if it has one.
    pub fn limit_bytes(&self) -> Option<u64> {
        self.cgroup.as_ref().and_then(Cgroup::limit_bytes)
    }

    /// How often the cgroup's kernel killer has struck.
    pub fn oom_kills(&self) -> Option<u64> {
        self.cgroup.as_ref().and_then(Cgroup::oom_kills)
    }

    /// Resident memory alone, by one system call; `None` once the target is gone. `own_bytes` as for a sample.
    pub fn rss_bytes(&self, own_bytes: u64) -> Option<u64> {
        let rss_bytes = resident_bytes(self.statm.as_ref(), self.page_bytes).filter(|&bytes| bytes > 0)?;
        Some(rss_bytes.saturating_sub(own_bytes))
    }

    /// One sample; `None` once the target is gone. `own_bytes` is what the target's RSS shows of our region.
    pub fn sample(&self, own_bytes: u64) -> Option<Sample> {
        let rss_bytes = self.rss_bytes(own_bytes)?;
        let tool_bytes = if self.shares_cgroup {
            resident_bytes(self.own_statm.as_ref(), self.page_bytes).unwrap_or(0)
        } else {
            0
        };
        Some(Sample {
            time_ms: now_ms(),
            rss_bytes,
            cgroup_bytes: self
                .cgroup
                .as_ref()
                .and_then(Cgroup::used_bytes)
                .map(|bytes| bytes.saturating_sub(tool_bytes)),
        })
    }
}

fn resident_bytes(statm: Option<&File>, page_bytes: u64) -> Option<u64> {
    // Seven numbers.
    let mut text = [0; 256];
    let length = statm?.read_at(&mut text, 0).ok()?;
    let text = std::str::from_utf8(&text[..length]).ok()?;
    Some(text.split_ascii_whitespace().nth(1)?.parse::<u64>().ok()? * page_bytes)
}

/// A memory cgroup of either version.
enum Cgroup {
    V1(PathBuf),
    V2(PathBuf),
}

impl Cgroup {
    /// From the text of `/proc/PID/cgroup`: v1 where a memory controller is mounted there, else v2.
    fn find(text: &str, root: &Path) -> Option<Self> {
        let cgroup = inject::cgroups_in(text, root, "memory").into_iter().next()?;
        let (version, file) = match cgroup.is_unified {
            false => (Self::V1 as fn(PathBuf) -> Self, "memory.usage_in_bytes"),
            true => (Self::V2 as fn(PathBuf) -> Self, "memory.current"),
        };
        let directory = [cgroup.directory, cgroup.mount]
            .into_iter()
            .find(|directory| directory.join(file).exists());
        directory.map(version)
    }

    /// Usage less what the kernel can take back at once.
    fn used_bytes(&self) -> Option<u64> {
        let (directory, usage, reclaimable) = match self {
            Self::V1(directory) => (directory, "memory.usage_in_bytes", "total_inactive_file"),
            Self::V2(directory) => (directory, "memory.current", "inactive_file"),
        };
        let used = read_number(&directory.join(usage))?;
        Some(used.saturating_sub(field(&directory.join("memory.stat"), reclaimable).unwrap_or(0)))
    }

    fn limit_bytes(&self) -> Option<u64> {
        match self {
            // v1 says "no limit" by a number near the largest.
            Self::V1(directory) => {
                read_number(&directory.join("memory.limit_in_bytes")).filter(|&limit| limit < 1 << 62)
            }
            Self::V2(directory) => read_number(&directory.join("memory.max")),
        }
    }

    fn oom_kills(&self) -> Option<u64> {
        match self {
            Self::V1(directory) => field(&directory.join("memory.oom_control"), "oom_kill"),
            Self::V2(directory) => field(&directory.join("memory.events"), "oom_kill"),
        }
    }
}

fn read_number(path: &Path) -> Option<u64> {
    std::fs::read_to_string(path).ok()?.trim().parse().ok()
}

fn field(path: &Path, name: &str) -> Option<u64> {
    let text = std::fs::read_to_string(path).ok()?;
    text.lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.trim().parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_rss_is_read() {
        let sampler = Sampler::new(std::process::id() as i32);
        let sample = sampler.sample(0).expect("this process lives");
        assert!(sample.rss_bytes > 100_000, "{}", sample.rss_bytes);
        assert_eq!(sampler.sample(u64::MAX).expect("this process lives").rss_bytes, 0);
    }

    #[test]
    fn both_cgroup_versions_are_read() {
        let root = std::env::temp_dir().join(format!("memray-cgroup-{}", std::process::id()));
        let write = |path: &str, text: &str| {
            let path = root.join(path);
            std::fs::create_dir_all(path.parent().expect("has a parent")).unwrap();
            std::fs::write(path, text).unwrap();
        };
        write("memory/a/memory.usage_in_bytes", "1000\n");
        write("memory/a/memory.stat", "cache 1\ntotal_inactive_file 300\n");
        write("memory/a/memory.limit_in_bytes", "9223372036854771712\n");
        write("b/memory.current", "5000\n");
        write("b/memory.max", "8000\n");
        write("b/memory.stat", "inactive_file 50\n");
        write("b/memory.events", "oom 0\noom_kill 2\n");
        let v1 = Cgroup::find("5:memory:/a\n0::/b\n", &root).expect("v1");
        assert_eq!((v1.used_bytes(), v1.limit_bytes()), (Some(700), None));
        let v2 = Cgroup::find("0::/b\n", &root).expect("v2");
        assert_eq!(
            (v2.used_bytes(), v2.limit_bytes(), v2.oom_kills()),
            (Some(4950), Some(8000), Some(2))
        );
        std::fs::remove_dir_all(&root).unwrap();
    }
}
