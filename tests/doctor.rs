//! `doctor`: says what attach would, changes nothing, repairs when asked to.

use crate::hooking::assert_clean;
use crate::status::kill_session;
use crate::support::snapshot::Snapshot;
use crate::support::{
    Dir, Interpreter, Output, Stranger, Target, Tool, eventually, interpreters, process, skip, skip_optional,
    test_file, tool,
};
use serde_json::Value;
use std::process::Command;
use std::time::Duration;

/// Pages of read-only files that looking at them maps into the target.
const RSS_KB_MAX: u64 = 256;

fn interpreter() -> Option<Interpreter> {
    let python = interpreters::any();
    if python.is_none() {
        skip("no interpreter");
    }
    python
}

fn parse(output: &Output) -> Value {
    let value: Value = serde_json::from_str(&output.stdout)
        .unwrap_or_else(|error| panic!("no JSON object: {error}\n{}", output.describe()));
    assert_eq!(value["schema"], 1, "{}", output.describe());
    value
}

/// Of each check its name and status.
fn statuses(value: &Value) -> Vec<(String, String)> {
    let checks = value["checks"].as_array().expect("a list of checks");
    let text = |check: &Value, name: &str| check[name].as_str().expect("text").to_owned();
    checks
        .iter()
        .map(|check| (text(check, "name"), text(check, "status")))
        .collect()
}

/// The words of attach's refusal are those of doctor's obstacle: in JSON, and on the terminal but for line breaks.
fn assert_agrees(attach: &Output, doctor: &Output, json: &Output) -> Value {
    attach.assert_refusal();
    doctor.assert_code(1).assert_plain();
    json.assert_code(1).assert_plain();
    let value = parse(json);
    assert_eq!(value["would_attach"], false);
    let mut lines = attach.stderr.lines();
    let refusal = lines.next().expect("the cause");
    let (_, cause) = refusal
        .strip_prefix("memray: ")
        .and_then(|it| it.split_once(": "))
        .expect("a cause");
    let fix = lines
        .next()
        .and_then(|line| line.strip_prefix("  fix: "))
        .expect("a fix");
    assert_eq!(value["obstacle"]["what"], cause, "{}", json.describe());
    assert_eq!(value["obstacle"]["fix"], fix, "{}", json.describe());
    let joined = |text: &str| {
        text.replace(" \\\n", " ")
            .split_whitespace()
            .collect::<Vec<_>>()
            .join(" ")
    };
    let shown = joined(&doctor.stdout);
    assert!(shown.contains(&joined(cause)), "{cause}\n{}", doctor.describe());
    assert!(shown.contains(&joined(fix)), "{fix}\n{}", doctor.describe());
    assert!(
        doctor.stdout.lines().all(|line| line.chars().count() <= 80),
        "{}",
        doctor.describe()
    );
    value
}

/// Asks both about a process that can't be attached to.
fn both(pid: u32) -> Value {
    let pid = pid.to_string();
    let dir = Dir::new();
    let run = |arguments: &[&str]| Tool::new(arguments).current_dir(dir.path()).run();
    let value = assert_agrees(
        &run(&["attach", &pid, "--duration", "1"]),
        &run(&["doctor", &pid]),
        &run(&["doctor", &pid, "--json"]),
    );
    assert_eq!(dir.names(), [""; 0], "a file was left");
    value
}

#[test]
fn a_good_target_is_not_touched() {
    let Some(python) = interpreter() else { return };
    let mut target = Target::spawn(&python, "quiet.py", &[]);
    let pid = target.pid_text();
    let before = Snapshot::take(target.pid());
    let hands_off = test_file("targets/hands_off.py");
    let memray = tool::binary().to_str().expect("UTF-8");
    let guarded = |arguments: &[&str]| {
        let mut all = vec![hands_off.to_str().expect("UTF-8"), memray];
        all.extend(arguments);
        Tool::program(python.path.clone(), &all).current_dir(target.dir.path())
    };
    for _ in 0..5 {
        let output = guarded(&["doctor", &pid]).succeed();
        output
            .assert_plain()
            .assert_says(&format!("attach would work: memray attach {pid}"));
        output.assert_says(&format!("CPython 3.{}.", python.minor));
        guarded(&["status", &pid]).run().assert_code(1);
        assert!(
            output.stdout.lines().all(|line| line.chars().count() <= 80),
            "{}",
            output.describe()
        );
    }
    let value = parse(&guarded(&["doctor", &pid, "--json"]).succeed());
    assert_eq!(
        (&value["pid"], &value["would_attach"]),
        (&Value::from(target.pid()), &Value::from(true))
    );
    for (name, status) in statuses(&value) {
        assert_eq!(status, "ok", "{name}");
    }
    let after = Snapshot::take(target.pid());
    before.assert_same_but_maps(&after);
    assert_eq!(before.maps_changed(&after), (vec![], vec![]));
    assert!(
        after.rss_kb <= before.rss_kb + RSS_KB_MAX,
        "RSS {} → {} kB",
        before.rss_kb,
        after.rss_kb
    );
    assert_eq!(target.dir.names(), ["stderr"], "doctor left a file");
    // The guard is one: an attach does not get past it.
    let attach = guarded(&["attach", &pid, "--duration", "0.1"]).run();
    assert_ne!(
        attach.status.code(),
        Some(0),
        "the guard lets a tracer pass\n{}",
        attach.describe()
    );
    target.assert_free();
    target.ask("go", "done");
    assert!(target.finish().success());
}

#[test]
fn obstacles_are_told_in_the_words_of_attach() {
    let Some(python) = interpreter() else { return };
    let mut child = Command::new("true").spawn().expect("start true");
    eventually("true ends", Duration::from_secs(10), || {
        process::stat_field(child.id(), 3).filter(|state| state == "Z")
    });
    both(child.id());
    child.wait().expect("wait for true");
    let value = both(child.id());
    assert_eq!(value["obstacle"]["check"], "process");
    assert!(
        statuses(&value)
            .iter()
            .any(|(name, status)| name == "python" && status == "unseen")
    );

    let target = Target::spawn(&python, "quiet.py", &[]);
    let mut command = Command::new(&python.path);
    command.arg(test_file("targets/tracer.py")).arg(target.pid_text());
    let tracer = Target::start(Dir::new(), command);
    let value = both(target.pid());
    assert_eq!(value["obstacle"]["check"], "tracer");
    // What is behind the obstacle can be seen all the same.
    assert!(
        statuses(&value).contains(&("python".to_owned(), "ok".to_owned())),
        "{value:#}"
    );
    assert!(tracer.finish().success());

    let capture = target.dir.file("capture.bin");
    Tool::new(&["attach", &target.pid_text(), "-o", &capture]).succeed();
    let value = both(target.pid());
    assert_eq!(value["obstacle"]["check"], "session");
    assert!(
        value["obstacle"]["what"].as_str().expect("text").contains(&capture),
        "{value:#}"
    );
    Tool::new(&["detach", &target.pid_text()]).succeed();
    assert_clean(target.pid());
    Tool::new(&["doctor", &target.pid_text()])
        .current_dir(target.dir.path())
        .succeed();
}

#[test]
fn not_python() {
    let mut child = Command::new("sleep").arg("600").spawn().expect("start sleep");
    let pid = child.id();
    eventually("sleep runs", Duration::from_secs(10), || {
        let name = std::fs::read_to_string(format!("/proc/{pid}/comm")).ok()?;
        (name.trim() == "sleep" && matches!(process::blocked_in(pid), Some(35 | 230))).then_some(())
    });
    let value = std::panic::catch_unwind(|| both(pid));
    child.kill().expect("kill sleep");
    child.wait().expect("wait for sleep");
    let value = value.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    assert_eq!(value["obstacle"]["check"], "python");
}

/// Another user's process, one that let nobody trace it, and a filter that could kill.
#[test]
fn rights_that_are_missing() {
    let Some(python) = interpreters::system() else { return };
    let Some(stranger) = Stranger::new() else { return };
    let both = |pid: &str, environment: Option<&str>| {
        let run = |arguments: &[&str]| {
            let tool = stranger.tool(arguments).without_env("KUBERNETES_SERVICE_HOST");
            match environment {
                Some(name) => tool.env(name, "10.0.0.1").run(),
                None => tool.run(),
            }
        };
        assert_agrees(
            &run(&["attach", pid, "--duration", "1"]),
            &run(&["doctor", pid]),
            &run(&["doctor", pid, "--json"]),
        )
    };
    let text = |value: &Value| value["obstacle"]["what"].as_str().expect("text").to_owned();
    let fixes = |value: &Value| {
        let checks = value["checks"].as_array().expect("checks");
        let check = checks
            .iter()
            .find(|check| check["status"] == "obstacle")
            .expect("the obstacle");
        check["fixes"].to_string()
    };
    let roots = Target::spawn(&python, "quiet.py", &[]);
    let value = both(&roots.pid_text(), None);
    assert!(text(&value).contains("another user (uid 0)"), "{value:#}");
    assert!(fixes(&value).contains("sudo -u '#0' memray"), "{value:#}");
    // In a pod other things help.
    let value = both(&roots.pid_text(), Some("KUBERNETES_SERVICE_HOST"));
    let fixes_in_pod = fixes(&value);
    for wanted in [
        "kubectl debug -it ",
        "--profile=general",
        "securityContext",
        "SYS_PTRACE",
    ] {
        assert!(fixes_in_pod.contains(wanted), "{wanted}: {value:#}");
    }
    roots.assert_free();

    let undumpable = Target::start(Dir::new(), stranger.target(&python, "marked.py", &["undumpable"]));
    let value = both(&undumpable.pid_text(), None);
    assert!(text(&value).contains("non-dumpable"), "{value:#}");
    // Root is not kept out.
    Tool::new(&["doctor", &undumpable.pid_text()])
        .current_dir(stranger.dir.path())
        .succeed();

    let filtered = Target::start(Dir::new(), stranger.target(&python, "seccomp.py", &[]));
    let value = both(&filtered.pid_text(), None);
    assert_eq!(value["obstacle"]["check"], "seccomp");
    let root = Tool::new(&["doctor", &filtered.pid_text()])
        .current_dir(stranger.dir.path())
        .run();
    root.assert_code(0).assert_says("suspended");
}

/// Root whose capabilities were taken, other groups, other namespaces, a /proc that hides or is not there.
#[test]
fn places_with_fewer_rights() {
    let Some(python) = interpreters::system() else { return };
    let Some(stranger) = Stranger::new() else { return };
    let target = Target::start(Dir::new(), stranger.target(&python, "quiet.py", &[]));
    let (pid, uid) = (target.pid_text(), stranger.uid);
    let memray = stranger.dir.file("memray");
    let ask = |place: &[&str], wanted: &[&str]| {
        let (program, options) = place.split_first().expect("a program");
        let works = Command::new(program).args(options).arg("true").status();
        if !works.is_ok_and(|status| status.success()) {
            return skip_optional(&place.join(" "), "not permitted here");
        }
        let run = |arguments: &[&str]| {
            let mut all = options.to_vec();
            all.push(&memray);
            all.extend(arguments);
            Tool::program(program.into(), &all)
                .current_dir(stranger.dir.path())
                .run()
        };
        let value = assert_agrees(
            &run(&["attach", &pid, "--duration", "1"]),
            &run(&["doctor", &pid]),
            &run(&["doctor", &pid, "--json"]),
        );
        for text in wanted {
            assert!(value.to_string().contains(text), "{place:?}: {text}: {value:#}");
        }
    };
    let become_user = format!("--reuid={uid} --regid={uid}");
    ask(
        &["setpriv", "--bounding-set=-sys_ptrace", "--inh-caps=-sys_ptrace"],
        &["CAP_SYS_PTRACE is missing", "another user", &become_user],
    );
    let (own, other) = (format!("--reuid={uid}"), format!("--regid={}", uid + 1));
    ask(&["setpriv", &own, &other, "--clear-groups"], &["other group ids"]);
    ask(&["unshare", "--user", "--map-root-user"], &["another user namespace"]);
    let mount = |how: &str| format!("mount -t {how} /proc && exec \"$@\"");
    ask(
        &["unshare", "--mount", "sh", "-c", &mount("tmpfs none"), "sh"],
        &["/proc is not mounted"],
    );
    let hidden =
        mount("proc -o hidepid=2 proc").replace("exec", "exec setpriv --reuid=65534 --regid=65534 --clear-groups");
    ask(&["unshare", "--mount", "sh", "-c", &hidden, "sh"], &["hidepid"]);
    target.assert_free();
}

#[test]
fn a_place_that_cannot_be_written() {
    let Some(python) = interpreters::system() else { return };
    let Some(stranger) = Stranger::new() else { return };
    let target = Target::start(Dir::new(), stranger.target(&python, "quiet.py", &[]));
    let closed = Dir::new();
    let pid = target.pid_text();
    let run = |arguments: &[&str]| stranger.tool(arguments).current_dir(closed.path()).run();
    let value = assert_agrees(
        &run(&["attach", &pid, "--duration", "1"]),
        &run(&["doctor", &pid]),
        &run(&["doctor", &pid, "--json"]),
    );
    assert_eq!(value["obstacle"]["check"], "capture");
}

/// Collector and guardian killed: told, left alone, and put back when asked.
#[test]
fn what_a_killed_session_left_is_told_and_repaired() {
    let Some(python) = interpreter() else { return };
    let mut target = Target::spawn(&python, "quiet.py", &[]);
    let (pid, capture) = (target.pid_text(), target.dir.file("capture.bin"));
    // Once before, so that what stays after a session is there already.
    Tool::new(&["attach", &pid, "-q", "-o", &capture]).succeed();
    Tool::new(&["detach", &pid]).succeed();
    target.ask("go", "done");
    let before = Snapshot::take(target.pid());
    Tool::new(&["attach", &pid, "-q", "-f", "-o", &capture]).succeed();
    kill_session(&target);
    let orphaned = Snapshot::take(target.pid());
    assert_ne!(before.slots, orphaned.slots, "the hooks do not stand");

    let doctor = |arguments: &[&str]| Tool::new(arguments).current_dir(target.dir.path());
    let told = doctor(&["doctor", &pid]).succeed();
    told.assert_plain()
        .assert_says(&format!("memray detach {pid}"))
        .assert_says("note  session");
    let looked_at = Snapshot::take(target.pid());
    orphaned.assert_same_but_maps(&looked_at);
    assert_eq!(orphaned.maps_changed(&looked_at), (vec![], vec![]));

    let repaired = parse(&doctor(&["doctor", &pid, "--repair", "--json"]).succeed());
    assert_eq!(repaired["has_repaired"], true);
    assert!(
        statuses(&repaired).contains(&("session".to_owned(), "ok".to_owned())),
        "{repaired:#}"
    );
    let after = Snapshot::take(target.pid());
    before.assert_same_but_maps(&after);
    assert_eq!(before.maps_changed(&after), (vec![], vec![]), "mappings");
    assert_clean(target.pid());
    doctor(&["doctor", &pid, "--repair"])
        .succeed()
        .assert_says("nothing to repair");
    Tool::new(&["attach", &pid, "-q", "-f", "-o", &capture]).succeed();
    // A live session is none of doctor's business.
    doctor(&["doctor", &pid, "--repair"])
        .run()
        .assert_code(1)
        .assert_says("nothing to repair");
    target.ask("go", "done");
    Tool::new(&["detach", &pid]).succeed();
    target.assert_free();
    assert!(target.finish().success());
}

/// A killed collector whose parent does not collect it keeps its number and its start time, and is dead all the same.
#[test]
fn a_dead_collector_that_nobody_collects_is_dead() {
    let Some(python) = interpreter() else { return };
    let target = Target::spawn(&python, "service.py", &[]);
    let (pid, capture) = (target.pid_text(), target.dir.file("capture.bin"));
    let collector = Tool::new(&["attach", &pid, "-q", "-o", &capture, "--foreground"]).spawn();
    eventually("the session is listed", Duration::from_secs(30), || {
        let session = Tool::new(&["status", &pid]).run();
        session.stdout.contains("guardian").then_some(())
    });
    // Not waited for: it stays a zombie.
    kill_session(&target);
    assert_eq!(process::stat_field(collector.pid(), 3).as_deref(), Some("Z"));
    Tool::new(&["status", &pid]).succeed().assert_says("orphaned");
    let doctor = |arguments: &[&str]| Tool::new(arguments).current_dir(target.dir.path()).succeed();
    doctor(&["doctor", &pid]).assert_says("was killed");
    doctor(&["doctor", &pid, "--repair"]).assert_says("cleaned up");
    assert_clean(target.pid());
    Tool::new(&["attach", &pid, "-q", "-f", "-o", &capture, "--duration", "0.2"]).succeed();
    assert_clean(target.pid());
}

#[test]
fn what_a_child_inherited_is_told_and_repaired() {
    let Some(python) = interpreter() else { return };
    let mut target = Target::spawn(&python, "steps.py", &[]);
    let (pid, capture) = (target.pid_text(), target.dir.file("capture.bin"));
    Tool::new(&["attach", &pid, "-o", &capture]).succeed();
    let child = target.ask("fork", "forked").trim().to_owned();
    let doctor = |arguments: &[&str]| Tool::new(arguments).current_dir(target.dir.path()).succeed();
    doctor(&["doctor", &child])
        .assert_says("inherited")
        .assert_says(&format!("memray detach {child}"));
    doctor(&["doctor", &child, "--repair"]).assert_says("cleaned up");
    assert_clean(child.parse().expect("a process id"));
    target.ask("child", "child did");
    // The parent's session went on.
    Tool::new(&["status", &pid]).succeed().assert_says("live");
    Tool::new(&["detach", &pid]).succeed().assert_says(&capture);
    assert_clean(target.pid());
}

#[test]
fn names_from_the_target_do_not_steer_the_terminal() {
    let Some(python) = interpreter() else { return };
    let target = Target::spawn(&python, "marked.py", &["name", "\u{1b}[31m\r\nok"]);
    let output = Tool::new(&["doctor", &target.pid_text()])
        .current_dir(target.dir.path())
        .succeed();
    output.assert_plain();
    assert_eq!(output.stdout.matches("process ").count(), 1, "{}", output.describe());
    let value = parse(
        &Tool::new(&["doctor", &target.pid_text(), "--json"])
            .current_dir(target.dir.path())
            .succeed(),
    );
    assert!(
        value["checks"][0]["what"].as_str().expect("text").contains("[31m"),
        "{value:#}"
    );
}

#[test]
fn the_machine() {
    let dir = Dir::new();
    let output = Tool::new(&["doctor"]).current_dir(dir.path()).run();
    output.assert_plain();
    let json = Tool::new(&["doctor", "--json"]).current_dir(dir.path()).run();
    let value = parse(&json);
    assert_eq!(json.status.code(), output.status.code());
    let would_attach = value["would_attach"].as_bool().expect("a truth value");
    assert_eq!(json.status.code(), Some(i32::from(!would_attach)));
    let names: Vec<String> = statuses(&value).into_iter().map(|(name, _)| name).collect();
    for name in ["kernel", "yama", "writing", "memfd", "seccomp", "container", "control"] {
        assert!(names.contains(&name.to_owned()), "{name}: {names:?}");
        output.assert_says(name);
    }
    if process::is_root() {
        output.assert_code(0).assert_says("attach can work");
    }
    assert!(
        output.stdout.lines().all(|line| line.chars().count() <= 80),
        "{}",
        output.describe()
    );
    assert_eq!(dir.names(), [""; 0], "a file was left");
}

/// Every number in the JSON says what it counts.
#[test]
fn numbers_have_units() {
    let Some(python) = interpreter() else { return };
    let target = Target::spawn(&python, "quiet.py", &[]);
    let value = parse(
        &Tool::new(&["doctor", &target.pid_text(), "--json"])
            .current_dir(target.dir.path())
            .succeed(),
    );
    let mut seen = 0;
    for check in value["checks"].as_array().expect("checks") {
        for (name, number) in check["facts"].as_object().expect("facts") {
            assert!(
                number.is_u64() && ["_count", "_bytes", "_ns"].iter().any(|unit| name.ends_with(unit)),
                "{name}"
            );
            seen += 1;
        }
    }
    assert!(seen >= 4, "{value:#}");
}

#[test]
fn usage_errors() {
    for arguments in [
        &["doctor", "--repair"][..],
        &["doctor", "many"],
        &["doctor", "0"],
        &["status", "-1"],
    ] {
        Tool::new(arguments).run().assert_code(2);
    }
    for command in ["doctor", "status"] {
        Tool::new(&[command, "--help"])
            .succeed()
            .assert_says("Examples:")
            .assert_says(&format!("memray {command} 4242"));
    }
}
