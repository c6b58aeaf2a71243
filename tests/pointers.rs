//! Pointers to hooks that the target keeps, and threads that are inside of them, after detach: all go on working, since
//! the code stays, inert, and each of its entries jumps to the real function. What stays never grows.

use crate::hooking::is_landing;
use crate::support::libraries::{Library, Native};
use crate::support::snapshot::{Snapshot, maps};
use crate::support::{Dir, Tool};

/// RSS may differ by what the target's own allocator does between two looks.
const RSS_KB_MAX: u64 = 1024;

fn keeping() -> Option<Native> {
    let dir = Dir::new();
    let library = Library::new("kept.c", &[]).build(&dir, "kept.so")?;
    let mut target = Native::start(dir)?;
    target.ask(&format!("load k {library} lazy"));
    Some(target)
}

/// Keeps something in a window, then uses it in the window, after it, and in and after a second one.
fn kept(keep: &str, uses: &[&str], last: &str) {
    let Some(mut target) = keeping() else { return };
    target.attach();
    assert_ne!(target.ask(&format!("call k {keep}")), 0);
    for round in 0..2 {
        for used in uses {
            assert_eq!(target.ask(&format!("call k {used}")), 1, "{used} in window {round}");
        }
        target.detach();
        for used in uses {
            assert_eq!(target.ask(&format!("call k {used}")), 1, "{used} after window {round}");
        }
        if round == 0 {
            target.attach();
        }
    }
    if !last.is_empty() {
        assert_eq!(target.ask(&format!("call k {last}")), 1, "{last}");
    }
    target.finish();
}

#[test]
fn a_key_whose_destructor_is_free() {
    kept("keep_key", &["use_key 50"], "use_key 1000");
}

#[test]
fn a_table_of_callbacks() {
    kept("keep_table", &["use_table 2000", "use_in_child 500"], "use_table 20000");
}

#[test]
fn objects_with_a_destroy_callback() {
    kept("keep_objects", &[], "use_objects");
}

/// The end of the target calls it, and must be a good one.
#[test]
fn what_runs_at_exit() {
    kept("keep_at_exit", &[], "");
}

#[test]
fn a_pointer_in_a_register_of_a_running_loop() {
    kept("keep_hoisted", &["progress"], "use_hoisted");
}

/// A pointer taken in the window is the landing's, in any later one as well; one that is taken after it is the function.
#[test]
fn a_copied_pointer_leads_to_the_landing() {
    let Some(mut target) = keeping() else { return };
    let real = target.ask("call k taken");
    target.attach();
    let hook = target.ask("call k taken");
    assert!(is_landing(&maps(target.0.pid()), hook as u64), "{hook:#x}");
    target.detach();
    assert_eq!(target.ask("call k taken"), real);
    assert!(is_landing(&maps(target.0.pid()), hook as u64), "the code was unmapped");
    target.attach();
    assert_eq!(target.ask("call k taken"), hook, "a second landing");
    target.detach();
    target.finish();
}

/// A hundred windows later the pointers still work, and what stays is what the first one left.
#[test]
fn a_hundred_windows() {
    let Some(mut target) = keeping() else { return };
    target.attach();
    target.ask("call k keep_table");
    target.ask("call k keep_key");
    assert_eq!(target.ask("call k use_table 6000"), 1);
    assert_eq!(target.ask("call k use_key 3"), 1);
    target.detach();
    let first = Snapshot::take(target.0.pid());
    for _ in 0..99 {
        target.attach();
        assert_eq!(target.ask("call k use_table 20"), 1);
        assert_eq!(target.ask("call k use_key 3"), 1);
        target.detach();
        assert_eq!(target.ask("call k use_table 20"), 1);
    }
    let last = Snapshot::take(target.0.pid());
    let (added, removed) = first.maps_changed(&last);
    let is_ours = |map: &&crate::support::snapshot::Mapping| map.is_anonymous();
    let grown: u64 = added.iter().filter(is_ours).map(|map| map.bytes()).sum();
    let shrunk: u64 = removed.iter().filter(is_ours).map(|map| map.bytes()).sum();
    assert_eq!(grown, shrunk, "{added:#?} {removed:#?}");
    assert!(
        last.rss_kb <= first.rss_kb + RSS_KB_MAX,
        "RSS {} to {} kB",
        first.rss_kb,
        last.rss_kb
    );
    first.assert_same_but_maps(&last);
    target.finish();
}

/// Eight threads that are in a hook nearly always, while windows end.
#[test]
fn threads_between_two_instructions() {
    const WINDOWS: usize = 200;
    let Some(mut target) = keeping() else { return };
    target.attach();
    assert_eq!(target.ask("call k keep_storm"), 1);
    target.detach();
    let capture = target.0.dir.file("capture.bin");
    let pid = target.0.pid_text();
    for _ in 0..WINDOWS {
        Tool::new(&["attach", &pid, "-f", "-q", "-o", &capture, "--duration", "0.001"]).succeed();
    }
    target.0.assert_free();
    assert_eq!(target.ask("call k use_storm"), 1);
    target.finish();
}
