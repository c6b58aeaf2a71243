//! Whose processes may be tracked by whom: by root, by an ordinary user, by root without capabilities.

use crate::support::snapshot::Snapshot;
use crate::support::stage::{NOBODY, Stage};
use crate::support::{Output, Target, Tool, skip_optional};
use std::process::Command;

const WITHOUT_CAPABILITIES: [&str; 2] = ["--bounding-set=-all", "--inh-caps=-all"];

/// A whole window by somebody with these privileges.
fn works(stage: &Stage, privileges: &[&str], mut target: Target) {
    target.ask("go", "done");
    let before = Snapshot::take(target.pid());
    let pid = target.pid_text();
    let capture = stage.dir.file("capture.bin");
    stage
        .memray(privileges, &["attach", &pid, "-q", "-f", "-o", &capture])
        .succeed();
    target.ask("go", "done");
    stage.memray(privileges, &["detach", &pid]).succeed();
    let records = Tool::new(&["parse", &capture]).succeed();
    let found = records
        .stdout
        .lines()
        .filter(|line| line.contains(" size=123457 "))
        .count();
    assert_eq!(found, 50);
    target.assert_free();
    before.assert_same_but_maps(&Snapshot::take(target.pid()));
    target.ask("go", "done");
    assert!(target.finish().success());
    let _ = std::fs::remove_file(capture);
}

fn refused(stage: &Stage, privileges: &[&str], mut target: Target) -> Output {
    let before = Snapshot::take(target.pid());
    let output = stage
        .memray(privileges, &["attach", &target.pid_text(), "--duration", "1"])
        .run();
    output.assert_refusal().assert_plain().assert_says("ptrace is refused");
    let after = Snapshot::take(target.pid());
    before.assert_same_but_maps(&after);
    assert_eq!(before.maps_changed(&after), (vec![], vec![]));
    target.assert_free();
    target.ask("go", "done");
    output
}

#[test]
fn root_and_another_users_process() {
    let Some(stage) = Stage::set("privileges", "targets/limited.py") else {
        return;
    };
    works(&stage, &[], stage.target(&NOBODY, &["nothing"]));
}

#[test]
fn a_users_own_process() {
    let Some(stage) = Stage::set("privileges", "targets/limited.py") else {
        return;
    };
    works(&stage, &NOBODY, stage.target(&NOBODY, &["nothing"]));
}

/// Without root's rights the ring takes a descriptor for a moment.
#[test]
fn a_users_own_process_without_a_free_descriptor() {
    let Some(stage) = Stage::set("privileges", "targets/limited.py") else {
        return;
    };
    let target = stage.target(&NOBODY, &["files"]);
    let output = stage
        .memray(&NOBODY, &["attach", &target.pid_text(), "--duration", "1"])
        .run();
    output
        .assert_refusal()
        .assert_says("RLIMIT_NOFILE")
        .assert_says("--nofile=");
    target.assert_free();
    assert!(target.finish().success());
}

/// It locks what it maps, up to a limit that has no room for a ring: refused, and the landing taken back.
#[test]
fn a_users_own_process_that_locks_its_memory() {
    let Some(stage) = Stage::set("privileges", "targets/limited.py") else {
        return;
    };
    let mut target = stage.target(&NOBODY, &["locked_later", "9000000"]);
    target.ask("go", "done");
    let before = Snapshot::take(target.pid());
    let output = stage
        .memray(&NOBODY, &["attach", &target.pid_text(), "--duration", "1"])
        .run();
    output
        .assert_refusal()
        .assert_says("RLIMIT_MEMLOCK")
        .assert_says("--memlock=");
    let after = Snapshot::take(target.pid());
    before.assert_same_but_maps(&after);
    assert_eq!(before.maps_changed(&after), (vec![], vec![]));
    target.assert_free();
    target.ask("go", "done");
    assert!(target.finish().success());
}

#[test]
fn not_dumpable() {
    let Some(stage) = Stage::set("privileges", "targets/limited.py") else {
        return;
    };
    works(&stage, &[], stage.target(&NOBODY, &["not_dumpable"]));
    let output = refused(&stage, &NOBODY, stage.target(&NOBODY, &["not_dumpable"]));
    output.assert_says("non-dumpable");
}

/// As in a container without CAP_SYS_PTRACE: one's own user's processes, but nobody else's.
#[test]
fn root_without_capabilities() {
    let Some(stage) = Stage::set("privileges", "targets/limited.py") else {
        return;
    };
    works(
        &stage,
        &WITHOUT_CAPABILITIES,
        stage.target(&WITHOUT_CAPABILITIES, &["nothing"]),
    );
    let output = refused(&stage, &WITHOUT_CAPABILITIES, stage.target(&NOBODY, &["nothing"]));
    output.assert_says("another user").assert_says("SYS_PTRACE");
    assert!(
        !output.stderr.contains("sudo"),
        "it is root already\n{}",
        output.describe()
    );
    // As root of more rights.
    let output = refused(&stage, &WITHOUT_CAPABILITIES, stage.target(&[], &["nothing"]));
    output.assert_says("capabilities that memray has not");
}

/// A user's own user namespace is the user's.
#[test]
fn a_users_own_user_namespace() {
    let Some(stage) = Stage::set("privileges", "targets/limited.py") else {
        return;
    };
    let mut trial = NOBODY.to_vec();
    trial.extend(["unshare", "--user", "--map-root-user", "true"]);
    if !Command::new("setpriv")
        .args(&trial)
        .status()
        .is_ok_and(|status| status.success())
    {
        return skip_optional("user namespaces", "an ordinary user may not make one here");
    }
    let mut privileges = NOBODY.to_vec();
    privileges.extend(["unshare", "--user", "--map-root-user"]);
    works(&stage, &NOBODY, stage.target(&privileges, &["nothing"]));
}
