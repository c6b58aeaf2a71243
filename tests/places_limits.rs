//! Targets whose limits are nearly reached: attached without harm, or refused with the limit and the command that
//! raises it.

use crate::support::snapshot::{Mapping, Snapshot};
use crate::support::{Dir, Interpreter, Target, Tool, interpreters, process, skip, skip_optional, test_file};
use std::path::PathBuf;
use std::process::Command;

/// More than journal and ring together, plus what is kept for the target.
const ENOUGH: &str = "40000000";
/// Less than that.
const TOO_LITTLE: &str = "9000000";
/// What an attach leaves: the landing, and address space.
const LEFT_BYTES_MAX: u64 = 17 << 20;
const LEFT_RSS_KB_MAX: u64 = 256;

fn interpreter() -> Option<Interpreter> {
    let python = interpreters::any();
    if python.is_none() {
        skip("no interpreter");
    }
    python
}

fn limited(arguments: &[&str]) -> Option<Target> {
    Some(Target::spawn(&interpreter()?, "limited.py", arguments))
}

/// A whole window with work in it: recorded, and nothing but the landing left.
fn works(target: &mut Target) -> Snapshot {
    // What the work itself maps is mapped before.
    target.ask("go", "done");
    let before = Snapshot::take(target.pid());
    let pid = target.pid_text();
    let capture = target.dir.file("capture.bin");
    Tool::new(&["attach", &pid, "-f", "-q", "-o", &capture]).succeed();
    target.ask("go", "done");
    Tool::new(&["detach", &pid]).succeed();
    target.assert_free();
    let after = Snapshot::take(target.pid());
    before.assert_same_but_maps(&after);
    let (added, _) = before.maps_changed(&after);
    let added_bytes: u64 = added.iter().map(Mapping::bytes).sum();
    assert!(added_bytes <= LEFT_BYTES_MAX, "{added:#?}");
    assert!(
        after.rss_kb <= before.rss_kb + LEFT_RSS_KB_MAX,
        "RSS {} → {} kB",
        before.rss_kb,
        after.rss_kb
    );
    let records = Tool::new(&["parse", &capture]).succeed();
    let found = records
        .stdout
        .lines()
        .filter(|line| line.contains(" size=123457 "))
        .count();
    assert_eq!(found, 50, "{}", records.stderr);
    target.ask("go", "done");
    after
}

/// Refused with these words; untouched, and goes on.
fn refused(target: &mut Target, cause: &str, fix: &str) {
    let before = Snapshot::take(target.pid());
    let output = Tool::new(&["attach", &target.pid_text(), "--duration", "1"]).run();
    output
        .assert_refusal()
        .assert_plain()
        .assert_says(cause)
        .assert_says(fix);
    let after = Snapshot::take(target.pid());
    before.assert_same_but_maps(&after);
    assert_eq!(before.maps_changed(&after), (vec![], vec![]));
    target.assert_free();
    target.ask("go", "done");
}

fn finish(target: Target) {
    assert!(target.finish().success());
}

#[test]
fn address_space() {
    let Some(mut target) = limited(&["address_space", ENOUGH]) else {
        return;
    };
    works(&mut target);
    // The second needs no more, though the limit would not permit a second ring.
    works(&mut target);
    finish(target);
    let Some(mut target) = limited(&["address_space", TOO_LITTLE]) else {
        return;
    };
    refused(&mut target, "RLIMIT_AS", "prlimit --pid");
    finish(target);
}

#[test]
fn data() {
    let Some(mut target) = limited(&["data", ENOUGH]) else {
        return;
    };
    works(&mut target);
    finish(target);
    let Some(mut target) = limited(&["data", TOO_LITTLE]) else {
        return;
    };
    refused(&mut target, "RLIMIT_DATA", "prlimit --pid");
    finish(target);
}

/// At the end of the window another tracer has the target, so that nothing can be mapped in the ring's place. It
/// stays, once and empty: the next session has it.
#[test]
fn a_ring_that_could_not_be_withdrawn_is_used_again() {
    let Some(python) = interpreter() else { return };
    let Some(mut target) = limited(&["nothing"]) else {
        return;
    };
    target.ask("go", "done");
    let before = Snapshot::take(target.pid());
    let pid = target.pid_text();
    let capture = target.dir.file("capture.bin");
    let shared_bytes = |target: &Target| -> u64 {
        let maps = Snapshot::take(target.pid()).maps;
        let shared = maps
            .iter()
            .filter(|map| map.permissions.ends_with('s') && map.bytes() > 1 << 20);
        shared.map(Mapping::bytes).sum()
    };
    Tool::new(&["attach", &pid, "-f", "-q", "-o", &capture]).succeed();
    let mut command = Command::new(&python.path);
    command.arg(test_file("targets/tracer.py")).arg(&pid);
    let tracer = Target::start(Dir::new(), command);
    Tool::new(&["detach", &pid]).succeed();
    assert!(tracer.finish().success());
    target.assert_free();
    assert!(shared_bytes(&target) > 0, "it was withdrawn");
    before.assert_same_but_maps(&Snapshot::take(target.pid()));
    for _ in 0..2 {
        works(&mut target);
        assert_eq!(shared_bytes(&target), 0);
    }
    let (added, _) = before.maps_changed(&Snapshot::take(target.pid()));
    let added_bytes: u64 = added
        .iter()
        .filter(|map| map.path != "[heap]")
        .map(Mapping::bytes)
        .sum();
    assert!(added_bytes <= LEFT_BYTES_MAX, "{added:#?}");
    finish(target);
}

/// The command in the fix is one that helps.
#[test]
fn the_fix_can_be_typed() {
    let Some(mut target) = limited(&["address_space", TOO_LITTLE]) else {
        return;
    };
    let output = Tool::new(&["attach", &target.pid_text(), "--duration", "1"]).run();
    let command = output
        .stderr
        .lines()
        .find_map(|line| line.strip_prefix("  fix: raise it: "));
    let words: Vec<&str> = command.expect("a command").split_whitespace().collect();
    let status = std::process::Command::new(words[0]).args(&words[1..]).status();
    let Ok(status) = status else {
        return skip_optional("the fix", "prlimit is not installed");
    };
    assert!(status.success(), "{words:?}");
    works(&mut target);
    finish(target);
}

#[test]
fn no_free_descriptor() {
    let Some(mut target) = limited(&["files"]) else { return };
    // Root maps the ring without one.
    if process::is_root() {
        works(&mut target);
    } else {
        refused(&mut target, "RLIMIT_NOFILE", "--nofile=");
    }
    finish(target);
}

#[test]
fn no_file_may_grow() {
    let Some(mut target) = limited(&["file_size"]) else {
        return;
    };
    works(&mut target);
    finish(target);
}

/// Nothing of ours is locked but the landing: the ring would otherwise stay resident for ever.
#[test]
fn everything_is_locked() {
    if !process::is_root() {
        return skip_optional("mlockall", "only root may lock without limit");
    }
    let locked_kb = |target: &Target| -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", target.pid())).expect("its status");
        let line = status
            .lines()
            .find_map(|line| line.strip_prefix("VmLck:"))
            .expect("VmLck");
        line.split_whitespace()
            .next()
            .expect("a number")
            .parse()
            .expect("a number")
    };
    let Some(mut target) = limited(&["locked"]) else { return };
    target.ask("go", "done");
    let before_kb = locked_kb(&target);
    works(&mut target);
    works(&mut target);
    let grown_kb = locked_kb(&target).saturating_sub(before_kb);
    assert!(grown_kb <= LEFT_RSS_KB_MAX, "{grown_kb} kB more are locked");
    finish(target);
}

#[test]
fn nearly_as_many_mappings_as_permitted() {
    let max = std::fs::read_to_string("/proc/sys/vm/max_map_count").expect("vm.max_map_count");
    if max.trim().parse::<u64>().expect("a number") > 300_000 {
        return skip_optional("mappings", "vm.max_map_count is too high to come near it");
    }
    let Some(mut target) = limited(&["mappings", "400"]) else {
        return;
    };
    works(&mut target);
    finish(target);
    let Some(mut target) = limited(&["mappings", "40"]) else {
        return;
    };
    refused(&mut target, "mappings", "sysctl vm.max_map_count=");
    finish(target);
}

#[test]
fn no_new_executable_memory() {
    let Some(mut target) = limited(&["no_new_code"]) else {
        return;
    };
    if target.ready == "unsupported" {
        return skip_optional("PR_SET_MDWE", "this kernel is older than 6.3");
    }
    works(&mut target);
    finish(target);
}

/// A memory cgroup of one's own, removed with it.
struct Cgroup(PathBuf);

impl Cgroup {
    fn new(name: &str) -> Option<Self> {
        let root = PathBuf::from("/sys/fs/cgroup");
        let unified = root.join("cgroup.controllers");
        let base = if root.join("memory/memory.limit_in_bytes").exists() {
            root.join("memory")
        } else if std::fs::read_to_string(unified).is_ok_and(|text| text.contains("memory")) {
            root
        } else {
            return None;
        };
        let path = base.join(format!("memray-test-{name}-{}", std::process::id()));
        std::fs::create_dir(&path).ok()?;
        let cgroup = Self(path);
        (cgroup.limit_file().exists()).then_some(cgroup)
    }

    fn limit_file(&self) -> PathBuf {
        ["memory.limit_in_bytes", "memory.max"]
            .map(|name| self.0.join(name))
            .into_iter()
            .find(|path| path.exists())
            .unwrap_or_else(|| self.0.join("memory.max"))
    }

    fn used_bytes(&self) -> u64 {
        let text = ["memory.usage_in_bytes", "memory.current"]
            .iter()
            .find_map(|name| std::fs::read_to_string(self.0.join(name)).ok());
        text.expect("the cgroup's usage").trim().parse().expect("a number")
    }

    fn limit(&self, bytes: u64) {
        std::fs::write(self.limit_file(), bytes.to_string()).expect("limit the cgroup");
    }

    fn add(&self, pid: u32) {
        std::fs::write(self.0.join("cgroup.procs"), pid.to_string()).expect("put the target into the cgroup");
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        // Busy as long as the target's end is being worked on.
        for _ in 0..500 {
            if std::fs::remove_dir(&self.0).is_ok() {
                return;
            }
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
    }
}

/// The ring is charged to the tool, so a target with 8 MB left is attached to; one with none left is refused.
#[test]
fn memory_cgroup_nearly_full() {
    let Some(cgroup) = Cgroup::new("full") else {
        return skip_optional("a memory cgroup", "none may be made here");
    };
    let Some(mut target) = limited(&["file_size"]) else {
        return;
    };
    cgroup.add(target.pid());
    target.ask("go", "done");
    let used = cgroup.used_bytes();
    // Room for the work, and for the target's part of an attach, but not for a ring.
    cgroup.limit(used + (9 << 20));
    works(&mut target);
    assert!(
        cgroup.used_bytes() < used + (9 << 20),
        "{} → {} bytes",
        used,
        cgroup.used_bytes()
    );
    cgroup.limit(cgroup.used_bytes() + (64 << 10));
    let output = Tool::new(&["attach", &target.pid_text(), "--duration", "1"]).run();
    output
        .assert_refusal()
        .assert_says("cgroup is nearly full")
        .assert_says("limit");
    target.assert_free();
    drop(target);
    drop(cgroup);
}
