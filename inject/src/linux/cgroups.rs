//! Where a process stands in the hierarchies of control groups, of both versions, and whether it is frozen there.

use super::process::proc_text;
use std::path::{Path, PathBuf};

/// Levels of a hierarchy that are looked at.
const DEPTH_MAX: usize = 32;
/// Where distributions mount the hierarchies: v1's by controller below it, v2's here or, beside v1, in `unified`.
const ROOT: &str = "/sys/fs/cgroup";

/// A process' cgroup in one hierarchy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cgroup {
    /// Of version 2.
    pub is_unified: bool,
    pub directory: PathBuf,
    /// The top of what is mounted of the hierarchy.
    pub mount: PathBuf,
}

impl Cgroup {
    /// The directories from this cgroup to the top of what is mounted, innermost first.
    pub fn levels(&self) -> impl Iterator<Item = &Path> {
        let is_below = |directory: &&Path| directory.starts_with(&self.mount);
        self.directory.ancestors().take(DEPTH_MAX).take_while(is_below)
    }
}

/// The process' cgroups in the hierarchy of a v1 controller, if that has one of its own, and in the unified one.
pub fn cgroups(pid: i32, controller: &str) -> Vec<Cgroup> {
    let text = proc_text(&format!("/proc/{pid}/cgroup")).unwrap_or_default();
    cgroups_in(&text, Path::new(ROOT), controller)
}

/// The same from the text of `/proc/PID/cgroup` (cgroups(7)), for hierarchies that are mounted below `root`.
pub fn cgroups_in(text: &str, root: &Path, controller: &str) -> Vec<Cgroup> {
    let mut found = Vec::new();
    for line in text.lines() {
        let mut fields = line.splitn(3, ':');
        let (Some(hierarchy), Some(controllers), Some(path)) = (fields.next(), fields.next(), fields.next()) else {
            continue;
        };
        let is_unified = hierarchy == "0" && controllers.is_empty();
        let mount = if !is_unified {
            root.join(controller)
        } else if root.join("unified").is_dir() {
            root.join("unified")
        } else {
            root.to_owned()
        };
        if is_unified || controllers.split(',').any(|name| name == controller) {
            let inner = mount.join(path.trim_start_matches('/'));
            // In a container the host's path is not mounted: its own cgroup is the mount itself.
            let is_shown = inner.is_dir() && !path.contains("/..");
            found.push(Cgroup {
                is_unified,
                directory: if is_shown { inner } else { mount.clone() },
                mount,
            });
        }
    }
    found.sort_by_key(|cgroup| cgroup.is_unified);
    found
}

/// Whether a process is in a frozen cgroup (`docker pause`, `systemctl freeze`), as far as that can be seen from here.
/// None of its threads makes a step then, for nobody.
pub fn is_frozen(pid: i32) -> bool {
    cgroups(pid, "freezer").iter().any(|cgroup| {
        let read = |file: &str| std::fs::read_to_string(cgroup.directory.join(file)).unwrap_or_default();
        if cgroup.is_unified {
            // Also where it is one further up that was frozen.
            read("cgroup.events").lines().any(|line| line == "frozen 1")
        } else {
            ["FROZEN", "FREEZING"].contains(&read("freezer.state").trim())
        }
    })
}
