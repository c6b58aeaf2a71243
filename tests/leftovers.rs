//! What is different in a process after detach: what the design leaves, and nothing else.

use crate::support::snapshot::{Mapping, Snapshot, maps};
use crate::support::{Interpreter, Target, Tool, interpreters, process, skip, skip_optional, tool};

per_interpreter!(
    one_leaves_little_and_a_hundred_leave_the_same,
    a_window_with_work_leaves_no_more,
    a_tool_that_needs_a_memfd_leaves_the_same
);

/// The code that stays, with its tables and its on-flag.
const LANDING_BYTES_MAX: u64 = 96 * 1024;
/// The address space that is kept for the next ring. Nothing is resident in it.
const RESERVATION_BYTES_MAX: u64 = 17 << 20;
const MAPPINGS_MAX: usize = 8;
/// The landing's pages, and what the program's own allocator may do between two looks.
const RSS_KB_MAX: u64 = 256;

fn cycle(target: &Target) {
    let pid = target.pid_text();
    let capture = target.dir.file("capture.bin");
    Tool::new(&["attach", &pid, "-f", "-q", "-o", &capture]).succeed();
    Tool::new(&["detach", &pid]).succeed();
    target.assert_free();
}

/// Only new private anonymous mappings, few and bounded, none both writable and executable.
fn assert_bounded(added: &[Mapping]) {
    assert!(added.len() <= MAPPINGS_MAX, "{added:#?}");
    let mut landing_bytes = 0;
    let mut reserved_bytes = 0;
    for mapping in added {
        assert!(
            mapping.is_anonymous() && mapping.permissions.ends_with('p'),
            "{mapping:?}"
        );
        assert!(
            !(mapping.permissions.contains('w') && mapping.permissions.contains('x')),
            "{mapping:?}"
        );
        if mapping.bytes() <= LANDING_BYTES_MAX {
            landing_bytes += mapping.bytes();
        } else {
            assert!(!mapping.permissions.contains('x'), "{mapping:?}");
            reserved_bytes += mapping.bytes();
        }
    }
    assert!(landing_bytes <= LANDING_BYTES_MAX, "{added:#?}");
    assert!(reserved_bytes <= RESERVATION_BYTES_MAX, "{added:#?}");
}

fn one_leaves_little_and_a_hundred_leave_the_same(python: &Interpreter) {
    let mut target = Target::spawn(python, "quiet.py", &[]);
    let before = Snapshot::take(target.pid());
    cycle(&target);
    let after_one = Snapshot::take(target.pid());
    before.assert_same_but_maps(&after_one);
    let (added, removed) = before.maps_changed(&after_one);
    assert_eq!(removed, [], "mappings were changed");
    assert_bounded(&added);
    assert!(
        after_one.rss_kb <= before.rss_kb + RSS_KB_MAX,
        "RSS {} → {} kB",
        before.rss_kb,
        after_one.rss_kb
    );

    for _ in 0..99 {
        cycle(&target);
    }
    let after_hundred = Snapshot::take(target.pid());
    before.assert_same_but_maps(&after_hundred);
    assert_eq!(after_one.maps_changed(&after_hundred), (vec![], vec![]));
    let growth_kb = after_hundred.rss_kb.saturating_sub(after_one.rss_kb);
    assert!(growth_kb <= RSS_KB_MAX, "RSS grew by {growth_kb} kB in 99 cycles");
    target.ask("go", "done");
    assert!(target.finish().success());
}

fn a_window_with_work_leaves_no_more(python: &Interpreter) {
    let mut target = Target::spawn(python, "quiet.py", &[]);
    // The program's own mappings may change while it works; files, slots, threads and descriptors may not.
    target.ask("go", "done");
    let before = Snapshot::take(target.pid());
    let pid = target.pid_text();
    let capture = target.dir.file("capture.bin");
    Tool::new(&["attach", &pid, "-f", "-o", &capture]).succeed();
    let during = Snapshot::take(target.pid());
    assert_ne!(before.slots, during.slots, "nothing was hooked");
    assert_eq!(before.fds, during.fds, "file descriptors, in the window");
    assert_eq!(before.threads, during.threads, "threads, in the window");
    target.ask("go", "done");
    Tool::new(&["detach", &pid]).succeed();
    let after = Snapshot::take(target.pid());
    before.assert_same_but_maps(&after);
    let (added, removed) = before.maps_changed(&after);
    assert!(
        added
            .iter()
            .chain(&removed)
            .all(|mapping| mapping.is_anonymous() || mapping.path == "[heap]")
    );
    let added: u64 = added.iter().map(Mapping::bytes).sum();
    let removed: u64 = removed.iter().map(Mapping::bytes).sum();
    // Beyond what an attach leaves, the work itself may have taken an arena or two.
    let own = 4 << 20;
    assert!(
        added.saturating_sub(removed) <= LANDING_BYTES_MAX + RESERVATION_BYTES_MAX + own,
        "{added} bytes more"
    );
    target.ask("go", "done");
    assert!(target.finish().success());
}

/// Without the right to open `/proc/PID/map_files` the ring is a memfd of the target's, whose descriptor is closed.
fn a_tool_that_needs_a_memfd_leaves_the_same(python: &Interpreter) {
    if !process::is_root() {
        return skip_optional("less than all capabilities", "only root has any to drop");
    }
    let mut target = Target::spawn(python, "quiet.py", &[]);
    let pid = target.pid_text();
    let capture = target.dir.file("capture.bin");
    let before = Snapshot::take(target.pid());
    let memray = tool::binary().to_str().expect("UTF-8");
    let ring = |name: &str| maps(target.pid()).iter().any(|map| map.path.starts_with(name));
    for _ in 0..2 {
        let bounds = "--bounding-set=-sys_admin,-checkpoint_restore";
        let arguments = [bounds, memray, "attach", &pid, "-f", "-q", "-o", &capture];
        Tool::program("setpriv".into(), &arguments).succeed();
        assert!(ring("/memfd:memray") && !ring("/dev/zero"), "the ring is no memfd");
        Tool::new(&["detach", &pid]).succeed();
    }
    let after_memfd = Snapshot::take(target.pid());
    before.assert_same_but_maps(&after_memfd);
    let (added, removed) = before.maps_changed(&after_memfd);
    assert_eq!(removed, [], "mappings were changed");
    assert_bounded(&added);
    // With all rights it is anonymous, and takes the same place.
    Tool::new(&["attach", &pid, "-f", "-q", "-o", &capture]).succeed();
    assert!(ring("/dev/zero") && !ring("/memfd:memray"), "the ring is a memfd");
    Tool::new(&["detach", &pid]).succeed();
    let after = Snapshot::take(target.pid());
    before.assert_same_but_maps(&after);
    assert_eq!(after_memfd.maps_changed(&after), (vec![], vec![]));
    target.ask("go", "done");
    assert!(target.finish().success());
}

/// A thread that left a hook's recording part by a jump leaves its mark there, too: nothing tells it from one that is
/// held up in it and will write yet. Its ring's place is not used again before it has run on; then it is.
#[test]
fn the_place_of_a_ring_that_a_thread_was_recording_into_is_used_again_once_it_ran_on() {
    let Some(python) = interpreters::any() else {
        return skip("no interpreter");
    };
    let mut target = Target::spawn(&python, "quiet.py", &[]);
    let size_kb = |target: &Target| {
        let status = std::fs::read_to_string(format!("/proc/{}/status", target.pid())).expect("status");
        let line = status.lines().find_map(|line| line.strip_prefix("VmSize:"));
        let number = line.and_then(|line| line.split_whitespace().next());
        number.and_then(|it| it.parse::<u64>().ok()).expect("VmSize")
    };
    // Where memory is taken on demand it is taken here.
    target.ask("go", "done");
    cycle(&target);
    leave_a_mark(&mut target);
    let marked_kb = size_kb(&target);
    cycle(&target);
    let elsewhere_kb = size_kb(&target);
    assert!(
        elsewhere_kb > marked_kb + 8192,
        "{marked_kb} → {elsewhere_kb} kB: the mark was ignored"
    );

    leave_a_mark(&mut target);
    let before_ticks = cpu_ticks(&target);
    while cpu_ticks(&target) < before_ticks + 20 {
        target.ask("go", "done");
    }
    for _ in 0..3 {
        cycle(&target);
    }
    let after_kb = size_kb(&target);
    assert!(
        after_kb < elsewhere_kb + 2048,
        "{elsewhere_kb} → {after_kb} kB: the range is lost"
    );
    assert!(target.finish().success());
}

/// A window at whose end the main thread is marked as recording.
fn leave_a_mark(target: &mut Target) {
    use std::os::unix::fs::FileExt;
    // `wire::region`: the thread table begins behind one page, with 64 bytes a thread: its pointer, id, and mark.
    const TABLE: u64 = 4096;
    const THREADS: usize = 8192;
    let pid = target.pid_text();
    let capture = target.dir.file("capture.bin");
    Tool::new(&["attach", &pid, "-f", "-q", "-o", &capture]).succeed();
    target.ask("go", "done");
    let region = maps(target.pid())
        .into_iter()
        .find(|map| map.path.contains("memfd:memray") || map.path.starts_with("/dev/zero"))
        .expect("the ring is mapped");
    let memory = std::fs::File::options()
        .read(true)
        .write(true)
        .open(format!("/proc/{pid}/mem"))
        .expect("its memory");
    let mut table = vec![0; 64 * THREADS];
    memory
        .read_exact_at(&mut table, region.start + TABLE)
        .expect("the table");
    let tid = target.pid().to_le_bytes();
    let entry = table
        .chunks_exact(64)
        .position(|entry| entry[8..12] == tid)
        .expect("its entry");
    let mark = region.start + TABLE + 64 * entry as u64 + 12;
    memory.write_all_at(&1u32.to_le_bytes(), mark).expect("the mark");
    Tool::new(&["detach", &pid]).succeed();
    target.assert_free();
}

fn cpu_ticks(target: &Target) -> u64 {
    let field = |number| process::stat_field(target.pid(), number).and_then(|it| it.parse::<u64>().ok());
    field(14).expect("utime") + field(15).expect("stime")
}
