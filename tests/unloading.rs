//! Libraries that are unloaded while hooked: whatever is mapped where they were is not written to (hazard 4), and what is
//! put back is what the slot held last.

use crate::hooking::assert_clean;
use crate::support::libraries::{Library, Native};
use crate::support::{Dir, Tool};

fn churning(dir: Dir) -> Option<(Native, String)> {
    let churn = Library::new("churn.c", &["-ldl"]).build(&dir, "churn.so")?;
    let holder = Library::new("holder.c", &["-Wl,-z,lazy"]).build(&dir, "holder.so")?;
    let mut target = Native::start(dir)?;
    target.ask(&format!("load c {churn} now"));
    Some((target, holder))
}

/// Thousands of times in one window, its place taken by memory that holds what its slots held.
#[test]
fn the_memory_of_others_is_not_written() {
    let Some((mut target, holder)) = churning(Dir::new()) else {
        return;
    };
    target.attach();
    assert_eq!(
        target.ask(&format!("call c churn 4000 {holder}")),
        0,
        "words were changed"
    );
    target.detach();
    let took = target.ask("call c times");
    assert!(took > 2000, "the memory took the library's place only {took} times");
    assert_clean(target.0.pid());
    target.finish();
}

/// While windows begin and end.
#[test]
fn while_windows_begin_and_end() {
    let Some((mut target, holder)) = churning(Dir::new()) else {
        return;
    };
    let pid = target.0.pid_text();
    let capture = target.0.dir.file("capture.bin");
    for _ in 0..30 {
        let window = Tool::new(&["attach", &pid, "-f", "-q", "-o", &capture, "--duration", "0.01"]).spawn();
        assert_eq!(
            target.ask(&format!("call c churn 100 {holder}")),
            0,
            "words were changed"
        );
        window.wait().assert_code(0);
    }
    assert_clean(target.0.pid());
    target.finish();
}

/// Two libraries of different layout that take turns at one address: each slot gets back what that library held.
#[test]
fn two_libraries_at_one_address() {
    let dir = Dir::new();
    let other = Library::new("holder.c", &["-Wl,-z,lazy", "-DPADDING"]);
    let Some(other) = other.build(&dir, "other.so") else {
        return;
    };
    let Some((mut target, holder)) = churning(dir) else {
        return;
    };
    for round in 0..20 {
        let stays = if round % 2 == 0 { &holder } else { &other };
        target.attach();
        assert_eq!(target.ask(&format!("call c alternate 40 {holder} {other}")), 0);
        target.ask(&format!("load s {stays} lazy"));
        assert_eq!(target.ask("call s hold 5000"), 1);
        target.detach();
        assert_eq!(target.ask("call s let_go"), 0);
        assert_eq!(target.ask("call s both 5000"), 1);
        target.ask("close s");
    }
    let same = target.ask("call c times");
    assert!(same > 100, "the two shared an address only {same} times");
    assert_clean(target.0.pid());
    target.finish();
}
