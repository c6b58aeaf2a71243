//! `status`: which sessions there are, whoever asks from wherever, and what became of them.

use crate::hooking::assert_clean;
use crate::support::{Dir, Interpreter, Output, Stranger, Target, Tool, eventually, interpreters, process, skip};
use nix::sys::signal::Signal;
use serde_json::Value;
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

/// Control files are refreshed each second.
const SOON: Duration = Duration::from_secs(30);

fn interpreter() -> Option<Interpreter> {
    let python = interpreters::any();
    if python.is_none() {
        skip("no interpreter");
    }
    python
}

fn sessions(output: &Output) -> Vec<Value> {
    let value: Value = serde_json::from_str(&output.stdout)
        .unwrap_or_else(|error| panic!("no JSON object: {error}\n{}", output.describe()));
    assert_eq!(value["schema"], 1, "{}", output.describe());
    value["sessions"].as_array().expect("a list of sessions").clone()
}

/// The session of one process in the list of all.
fn listed(pid: u32) -> Option<Value> {
    let all = sessions(&Tool::new(&["status", "--json"]).succeed());
    all.into_iter().find(|session| session["pid"] == pid)
}

fn only(pid: u32) -> Value {
    let output = Tool::new(&["status", &pid.to_string(), "--json"]).succeed();
    let mut list = sessions(&output);
    assert_eq!(list.len(), 1, "{}", output.describe());
    list.remove(0)
}

fn number(session: &Value, name: &str) -> u64 {
    session[name]
        .as_u64()
        .unwrap_or_else(|| panic!("{name} is no number: {session:#}"))
}

/// Kills guardian and collector of a target's session, which must end before anything else is looked at.
pub fn kill_session(target: &Target) {
    let session = only(target.pid());
    for name in ["guardian_pid", "collector_pid"] {
        let pid = u32::try_from(number(&session, name)).expect("a process id");
        process::signal(pid, Signal::SIGKILL);
        eventually("the killed process is dead", SOON, || {
            process::stat_field(pid, 3)
                .is_none_or(|state| state == "Z")
                .then_some(())
        });
    }
}

#[test]
fn a_session_is_listed_from_anywhere_while_it_lasts() {
    let Some(python) = interpreter() else { return };
    let mut target = Target::spawn(&python, "service.py", &[]);
    let (pid, capture) = (target.pid_text(), target.dir.file("capture.bin"));
    let none = Tool::new(&["status", &pid]).run();
    none.assert_refusal().assert_says("not being tracked");
    Tool::new(&["attach", &pid, "-o", &capture]).succeed();
    let elsewhere = Dir::new();
    let output = Tool::new(&["status"]).current_dir(elsewhere.path()).succeed();
    output
        .assert_plain()
        .assert_says(&pid)
        .assert_says(&capture)
        .assert_says("live");
    let one = Tool::new(&["status", &pid]).current_dir(elsewhere.path()).succeed();
    one.assert_plain().assert_says(&format!("memray detach {pid}"));
    assert!(
        one.stdout.lines().all(|line| line.chars().count() <= 80),
        "{}",
        one.describe()
    );
    let first = listed(target.pid()).expect("it is listed");
    assert_eq!(
        (&first["state"], &first["capture"]),
        (&Value::from("live"), &Value::from(capture.clone()))
    );
    // Told anew each second, and never less.
    let later = eventually("events are counted", SOON, || {
        listed(target.pid()).filter(|now| number(now, "allocations_count") > number(&first, "allocations_count"))
    });
    for name in ["allocations_count", "frees_count", "written_bytes", "updated_ms"] {
        assert!(
            number(&later, name) >= number(&first, name),
            "{name}: {first:#} {later:#}"
        );
    }
    assert_eq!(number(&later, "started_ms"), number(&first, "started_ms"));
    let on_disk = eventually("the capture's length is told", SOON, || {
        target.ask("quiet", "ok");
        let told = number(&only(target.pid()), "written_bytes");
        (told == std::fs::metadata(&capture).expect("the capture").len()).then_some(told)
    });
    assert!(on_disk > 0);
    Tool::new(&["detach", &pid]).succeed();
    assert_eq!(listed(target.pid()), None, "it is over");
    let none = Tool::new(&["status", &pid, "--json"]).run();
    none.assert_code(1);
    assert_eq!(sessions(&none), [] as [Value; 0]);
}

#[test]
fn an_orphaned_session_is_told_until_it_is_repaired() {
    let Some(python) = interpreter() else { return };
    let mut target = Target::spawn(&python, "service.py", &[]);
    let (pid, capture) = (target.pid_text(), target.dir.file("capture.bin"));
    Tool::new(&["attach", &pid, "-o", &capture]).succeed();
    kill_session(&target);
    for arguments in [&["status"][..], &["status", &pid]] {
        Tool::new(arguments)
            .succeed()
            .assert_plain()
            .assert_says("orphaned")
            .assert_says(&format!("memray detach {pid}"));
    }
    let session = listed(target.pid()).expect("it is listed");
    assert_eq!(
        (&session["state"], &session["guardian_pid"]),
        (&Value::from("orphaned"), &Value::Null)
    );
    assert_eq!(session["capture"], capture);
    // It goes on all the same.
    target.ask("quiet", "ok");
    Tool::new(&["detach", &pid]).succeed().assert_says(&capture);
    assert_clean(target.pid());
    assert_eq!(listed(target.pid()), None);
    Tool::new(&["status", &pid]).run().assert_refusal();
}

/// The guardian puts the process back, and nothing of the session is listed any more.
#[test]
fn a_killed_collector_is_forgotten_once_the_guardian_is_done() {
    let Some(python) = interpreter() else { return };
    let target = Target::spawn(&python, "service.py", &[]);
    let capture = target.dir.file("capture.bin");
    Tool::new(&["attach", &target.pid_text(), "-o", &capture]).succeed();
    let session = only(target.pid());
    let collector = u32::try_from(number(&session, "collector_pid")).expect("a process id");
    process::signal(collector, Signal::SIGKILL);
    eventually("the session is gone", SOON, || {
        let now = listed(target.pid());
        let state = now
            .as_ref()
            .map(|session| session["state"].as_str().expect("text").to_owned());
        assert!(
            state
                .as_deref()
                .is_none_or(|state| ["live", "being_repaired", "orphaned"].contains(&state)),
            "{now:?}"
        );
        now.is_none().then_some(())
    });
    assert_clean(target.pid());
    Tool::new(&["status", &target.pid_text()]).run().assert_refusal();
}

#[test]
fn a_collector_without_guardian_is_told() {
    let Some(python) = interpreter() else { return };
    let target = Target::spawn(&python, "service.py", &[]);
    let capture = target.dir.file("capture.bin");
    Tool::new(&["attach", &target.pid_text(), "-o", &capture]).succeed();
    let session = only(target.pid());
    let guardian = u32::try_from(number(&session, "guardian_pid")).expect("a process id");
    process::signal(guardian, Signal::SIGKILL);
    eventually("the guardian is dead", SOON, || {
        process::stat_field(guardian, 3)
            .is_none_or(|state| state == "Z")
            .then_some(())
    });
    assert_eq!(only(target.pid())["state"], "live_unguarded");
    Tool::new(&["detach", &target.pid_text()]).succeed();
    assert_clean(target.pid());
}

#[test]
fn a_collector_that_stands_still_is_told() {
    let Some(python) = interpreter() else { return };
    let target = Target::spawn(&python, "service.py", &[]);
    let capture = target.dir.file("capture.bin");
    Tool::new(&["attach", &target.pid_text(), "-o", &capture]).succeed();
    let collector = u32::try_from(number(&only(target.pid()), "collector_pid")).expect("a process id");
    process::signal(collector, Signal::SIGSTOP);
    eventually("its silence is told", SOON, || {
        let output = Tool::new(&["status", &target.pid_text()]).succeed();
        output.stdout.contains("  heard ").then_some(())
    });
    assert_eq!(only(target.pid())["state"], "live");
    process::signal(collector, Signal::SIGCONT);
    Tool::new(&["detach", &target.pid_text()]).succeed();
    assert_clean(target.pid());
}

#[test]
fn a_child_is_not_taken_for_its_parent() {
    let Some(python) = interpreter() else { return };
    let mut target = Target::spawn(&python, "steps.py", &[]);
    let capture = target.dir.file("capture.bin");
    Tool::new(&["attach", &target.pid_text(), "-o", &capture]).succeed();
    let child: u32 = target.ask("fork", "forked").trim().parse().expect("a process id");
    assert_eq!(only(child)["state"], "inherited");
    assert_eq!(only(target.pid())["state"], "live");
    Tool::new(&["detach", &child.to_string()]).succeed();
    Tool::new(&["status", &child.to_string()]).run().assert_refusal();
    assert_eq!(only(target.pid())["state"], "live");
    Tool::new(&["detach", &target.pid_text()]).succeed();
}

/// Each user sees and ends what is theirs; root everybody's; the tracked process' own user is told by whom.
#[test]
fn owners() {
    let Some(python) = interpreters::system() else { return };
    let Some(stranger) = Stranger::new() else { return };
    stranger.tool(&["status"]).succeed().assert_says("no sessions");
    assert_eq!(
        sessions(&stranger.tool(&["status", "--json"]).succeed()),
        [] as [Value; 0]
    );
    let target = Target::start(Dir::new(), stranger.target(&python, "service.py", &[]));
    let pid = target.pid_text();

    stranger.tool(&["attach", &pid, "-o", "own.bin"]).succeed();
    let own = sessions(&stranger.tool(&["status", "--json"]).succeed());
    assert_eq!(own.len(), 1, "{own:?}");
    assert_eq!(own[0]["owner_uid"], stranger.uid);
    // Even after somebody cleaned up.
    std::fs::remove_dir_all(stranger.control_directory()).expect("remove its directory");
    eventually("it is listed again", SOON, || {
        (sessions(&stranger.tool(&["status", "--json"]).succeed()).len() == 1).then_some(())
    });
    let directory = std::fs::metadata(stranger.control_directory()).expect("its directory");
    assert_eq!(directory.permissions().mode() & 0o7777, 0o700);
    let seen_by_root = listed(target.pid()).expect("root sees it");
    assert_eq!(
        (&seen_by_root["owner_uid"], &seen_by_root["state"]),
        (&own[0]["owner_uid"], &Value::from("live"))
    );
    // Root may end it.
    Tool::new(&["detach", &pid]).succeed();
    stranger.tool(&["status"]).succeed().assert_says("no sessions");

    Tool::new(&["attach", &pid, "-q", "-o", &target.dir.file("roots.bin")]).succeed();
    let session = only(target.pid());
    assert_eq!(session["owner_uid"], 0);
    stranger.tool(&["status"]).succeed().assert_says("no sessions");
    stranger.tool(&["status", &pid]).succeed().assert_says("root");
    stranger
        .tool(&["detach", &pid])
        .run()
        .assert_refusal()
        .assert_says("root");
    assert_eq!(only(target.pid())["state"], "live");
    Tool::new(&["detach", &pid]).succeed();
    assert_clean(target.pid());
}

/// What any user can put where root looks: nothing is believed, followed or waited for.
#[test]
fn hostile_control_files() {
    let Some(stranger) = Stranger::new() else { return };
    let directory = stranger.control_directory();
    std::fs::create_dir(&directory).expect("create it");
    std::fs::set_permissions(&directory, std::fs::Permissions::from_mode(0o700)).expect("close it");
    let own = |path: &std::path::Path| {
        std::os::unix::fs::lchown(path, Some(stranger.uid), Some(stranger.uid)).expect("give it away");
    };
    let me = std::process::id();
    let ticks = process::stat_field(me, 22).expect("own start time");
    let namespace = std::fs::read_link("/proc/self/ns/pid").expect("own namespace");
    let namespace = namespace
        .to_str()
        .and_then(|it| it.strip_prefix("pid:[")?.strip_suffix(']'))
        .expect("a number");
    // Claims root's own process as its collector; names one that is gone; says too much; is none.
    let lie = format!(
        r#"{{"schema":1,"target_pid":{me},"target_start_ticks":{ticks},"collector_pid":{me},
            "collector_start_ticks":{ticks},"pid_namespace":{namespace},"capture":"\u001b[31mlie"}}"#
    );
    let secret = stranger.dir.file("secret");
    std::fs::write(&secret, &lie).expect("write a file");
    for (name, text) in [
        ("1-1-1.json", lie.as_str()),
        (
            "2-2-2.json",
            r#"{"schema":1,"target_pid":-5,"collector_pid":4194303,"pid_namespace":0}"#,
        ),
        ("3-3-3.json", r#"{"schema":1e999}"#),
        ("4-4-4.json", &"[".repeat(60_000)),
        ("5-5-5.json", &" ".repeat(1 << 20)),
    ] {
        std::fs::write(directory.join(name), text).expect("write a file");
        own(&directory.join(name));
    }
    std::os::unix::fs::symlink(&secret, directory.join("6-6-6.json")).expect("link");
    own(&directory.join("6-6-6.json"));
    nix::unistd::mkfifo(&directory.join("7-7-7.json"), nix::sys::stat::Mode::S_IRWXU).expect("make a pipe");
    own(&directory.join("7-7-7.json"));
    own(&directory);
    let output = Tool::new(&["status"]).succeed();
    output.assert_plain();
    assert!(!output.stdout.contains("lie"), "{}", output.describe());
    assert_eq!(listed(me), None);
    assert_eq!(std::fs::read_to_string(&secret).expect("it is still there"), lie);
    // A directory that others may enter, or that leads elsewhere, is not even read.
    let gone = format!(r#"{{"schema":1,"target_pid":{me},"target_start_ticks":7,"pid_namespace":{namespace}}}"#);
    let file = directory.join("8-8-8.json");
    std::fs::write(&file, gone).expect("write a file");
    own(&file);
    std::fs::set_permissions(&directory, std::fs::Permissions::from_mode(0o777)).expect("open it");
    Tool::new(&["status"]).succeed();
    assert!(file.exists(), "a foreign directory was cleaned up");
    std::fs::set_permissions(&directory, std::fs::Permissions::from_mode(0o700)).expect("close it");
    Tool::new(&["status"]).succeed();
    assert!(!file.exists(), "the file of a session that is over stays");
}

#[test]
fn no_such_process() {
    let mut child = std::process::Command::new("true").spawn().expect("start true");
    child.wait().expect("wait for true");
    let pid = child.id().to_string();
    let output = Tool::new(&["status", &pid]).run();
    output.assert_refusal().assert_says("there is no process");
    let output = Tool::new(&["status", &pid, "--json"]).run();
    output.assert_code(1).assert_says("there is no process");
    assert_eq!(sessions(&output), [] as [Value; 0]);
}
