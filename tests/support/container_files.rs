//! The files of a container, as the host sees them.

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// What would change if a file were written: its inode, size, and both of its times.
type Mark = (u64, u64, i64, i64, i64, i64);

/// Every file of a container's root and of the file systems that programs write to, with a mark of its content.
#[derive(Debug, PartialEq, Eq)]
pub struct ContainerFiles(BTreeMap<PathBuf, Mark>);

impl ContainerFiles {
    /// Those that a process sees.
    pub fn of(pid: u32) -> Self {
        let mut files = BTreeMap::new();
        for place in ["", "tmp", "run", "dev/shm", "var/tmp"] {
            let root = PathBuf::from(format!("/proc/{pid}/root/")).join(place);
            if let Ok(metadata) = std::fs::metadata(&root) {
                collect(&root, metadata.dev(), &mut files);
            }
        }
        assert!(!files.is_empty(), "nothing is seen of the root of {pid}");
        Self(files)
    }

    /// Fails where one came, went or was written since then.
    pub fn assert_untouched(&self, pid: u32) {
        let now = Self::of(pid);
        let differ = |a: &Self, b: &Self| -> Vec<PathBuf> {
            let is_new = |(path, mark): &(&PathBuf, &Mark)| b.0.get(*path) != Some(*mark);
            a.0.iter().filter(is_new).map(|(path, _)| path.clone()).collect()
        };
        assert_eq!(differ(&now, self), Vec::<PathBuf>::new(), "written in the container");
        assert_eq!(differ(self, &now), Vec::<PathBuf>::new(), "gone from the container");
    }
}

/// Below one directory, without what is mounted there.
fn collect(directory: &Path, device: u64, files: &mut BTreeMap<PathBuf, Mark>) {
    for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
        let Ok(metadata) = entry.path().symlink_metadata() else {
            continue;
        };
        if metadata.dev() != device {
            continue;
        }
        let times = (
            metadata.mtime(),
            metadata.mtime_nsec(),
            metadata.ctime(),
            metadata.ctime_nsec(),
        );
        let mark = (metadata.ino(), metadata.size(), times.0, times.1, times.2, times.3);
        files.insert(entry.path(), mark);
        if metadata.is_dir() {
            collect(&entry.path(), device, files);
        }
    }
}
