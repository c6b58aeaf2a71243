//! Lines of source code in captures: the target's own, and nobody else's.

use crate::support::{Dir, Target, Tool, appendix, interpreters, process, skip_optional, test_file};
use nix::sys::signal::Signal;
use nix::sys::stat::Mode;
use serde_json::Value;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::process::Command;

fn target() -> Option<Target> {
    let python = interpreters::any()?;
    Some(Target::spawn(&python, "source_lines.py", &[]))
}

/// A window in which these (line, path) run, and what it took of files.
fn sources(target: &mut Target, more: &[&str], run: &[(u32, &str)]) -> Value {
    let capture = target.dir.file("capture.bin");
    let pid = target.pid_text();
    let mut arguments = vec!["attach", &pid, "-q", "-f", "-o", &capture];
    arguments.extend(more);
    Tool::new(&arguments).succeed();
    for (line, path) in run {
        target.ask(&format!("run {line} {path}"), "done");
    }
    Tool::new(&["detach", &pid]).succeed();
    target.assert_free();
    appendix::read(&capture)["sources"].clone()
}

fn line(sources: &Value, file: &str, number: u32) -> Option<String> {
    sources[file]["lines"][number.to_string()].as_str().map(str::to_owned)
}

fn numbered(count: u32) -> String {
    (1..=count).map(|number| format!("line {number}\n")).collect()
}

#[test]
fn lines_that_occur_are_taken_with_those_around_them() {
    let Some(mut target) = target() else { return };
    let own = test_file("targets/source_lines.py");
    let own = own.to_str().expect("UTF-8").to_owned();
    let path = target.dir.file("module.py");
    std::fs::write(&path, numbered(1000)).expect("a file");
    let below = target.dir.path().join("below");
    std::fs::create_dir(&below).expect("a directory");
    std::fs::write(below.join("relative.py"), numbered(10)).expect("a file");
    for more in [&[][..], &["--aggregate"], &["--native"]] {
        let run = [
            (500, path.as_str()),
            (900, &path),
            (2000, &path),
            (2, "below/relative.py"),
            (1, "<string>"),
            (1, "/nowhere/at/all.py"),
        ];
        let sources = sources(&mut target, more, &run);
        assert_eq!(line(&sources, &path, 500).as_deref(), Some("line 500"));
        assert_eq!(line(&sources, &path, 897).as_deref(), Some("line 897"));
        let lines = sources[&path]["lines"].as_object().expect("lines");
        assert_eq!(lines.len(), 14, "{sources:#}");
        assert_eq!(sources[&path]["is_newer"], true);
        assert_eq!(line(&sources, "below/relative.py", 2).as_deref(), Some("line 2"));
        let caller = sources[&own]["lines"].as_object().expect("lines");
        assert!(
            caller.values().any(|line| line == "        run(*rest.split(\" \", 1))"),
            "{sources:#}"
        );
        assert_eq!(sources[&own]["is_newer"], false);
        for name in ["<string>", "/nowhere/at/all.py"] {
            assert!(sources.get(name).is_none(), "{sources:#}");
        }
    }
    assert!(target.finish().success());
}

#[test]
fn files_of_all_kinds_do_no_harm() {
    let Some(mut target) = target() else { return };
    let file = |target: &Target, name: &str, text: &[u8]| {
        let path = target.dir.file(name);
        std::fs::write(&path, text).expect("a file");
        path
    };
    let escapes = file(&target, "escapes.py", b"a\x1b]0;title\x07\x00b \xe2\x80\xae\xff\n");
    let one_line = file(&target, "one_line.py", &b"x".repeat(1 << 20));
    let pipe = target.dir.file("pipe.py");
    nix::unistd::mkfifo(pipe.as_str(), Mode::S_IRWXU).expect("a pipe");
    let huge = target.dir.file("huge.py");
    let sparse = std::fs::File::create(&huge).expect("a file");
    sparse.set_len(1 << 40).expect("a large file");
    let circle = target.dir.file("circle.py");
    symlink(&circle, &circle).expect("a link");
    let closed = file(&target, "last.py", &b"\n".repeat(2_000_000));
    let run = [
        (1, escapes.as_str()),
        (1, &one_line),
        (1, &pipe),
        (1, &huge),
        (1, &circle),
        (1_999_999, &closed),
        (1, "/dev/zero"),
        (1, "/dev/tty"),
        (1, "/proc/self/mem"),
        (1, "/proc/kmsg"),
        (1, "/"),
    ];
    let sources = sources(&mut target, &[], &run);
    assert_eq!(
        line(&sources, &escapes, 1).as_deref(),
        Some("a\u{fffd}]0;title\u{fffd}\u{fffd}b \u{202e}\u{fffd}")
    );
    let long = line(&sources, &one_line, 1).expect("a line");
    assert!(long.len() < 600 && long.ends_with('…'), "{}", long.len());
    assert_eq!(line(&sources, &closed, 1_999_999).as_deref(), Some(""));
    for name in [
        &pipe,
        &huge,
        &circle,
        "/dev/zero",
        "/dev/tty",
        "/proc/self/mem",
        "/proc/kmsg",
        "/",
    ] {
        assert!(sources.get(name).is_none(), "{name}: {sources:#}");
    }
    assert!(target.finish().success());
}

/// Opened when the window began.
#[test]
fn a_target_that_is_killed_has_its_lines() {
    let Some(mut target) = target() else { return };
    let path = target.dir.file("module.py");
    std::fs::write(&path, numbered(10)).expect("a file");
    let capture = target.dir.file("capture.bin");
    let pid = target.pid_text();
    let attach = Tool::new(&["attach", &pid, "-q", "--foreground", "-o", &capture]).spawn();
    target.wait_until_tracked();
    target.ask(&format!("run 5 {path}"), "done");
    target.signal(Signal::SIGKILL);
    attach.wait().assert_code(0);
    let sources = appendix::read(&capture)["sources"].clone();
    assert_eq!(line(&sources, &path, 5).as_deref(), Some("line 5"));
}

/// The same path is another file there, and a link leads nowhere else.
#[test]
fn another_root_has_files_of_its_own() {
    if !process::is_root() {
        return skip_optional("a root of its own", "needs root");
    }
    let Some(mut target) = target() else { return };
    let jail = target.dir.path().join("jail");
    std::fs::create_dir_all(jail.join("srv")).expect("a directory");
    let outside = target.dir.file("outside.py");
    std::fs::write(&outside, numbered(10)).expect("a file");
    std::fs::write(jail.join("srv/app.py"), "its own\n").expect("a file");
    symlink(&outside, jail.join("srv/absolute.py")).expect("a link");
    symlink("../../../../../../../../etc/passwd", jail.join("srv/up.py")).expect("a link");
    target.ask(&format!("chroot {}", jail.display()), "done");
    let run = [
        (1, "/srv/app.py"),
        (1, "srv/app.py"),
        (1, "/srv/absolute.py"),
        (1, "/srv/up.py"),
        (1, outside.as_str()),
        (1, "/etc/passwd"),
        (1, "../../../etc/passwd"),
    ];
    let sources = sources(&mut target, &[], &run);
    for path in ["/srv/app.py", "srv/app.py"] {
        assert_eq!(line(&sources, path, 1).as_deref(), Some("its own"), "{sources:#}");
    }
    let names: Vec<_> = sources.as_object().expect("sources").keys().collect();
    assert_eq!(names, ["/srv/app.py", "srv/app.py"]);
    assert!(target.finish().success());
}

/// Root's memray shows nobody what they may not read, whatever they call their code.
#[test]
fn a_target_gets_no_more_than_it_may_read() {
    let has_setpriv = Command::new("setpriv").arg("--version").output().is_ok();
    let (true, true, Some(python)) = (process::is_root(), has_setpriv, interpreters::system()) else {
        return skip_optional("privileges", "takes root, setpriv and /usr/bin/python3");
    };
    let dir = Dir::new();
    let place = |name: &str, mode: u32| {
        let path = dir.path().join(name);
        std::fs::write(&path, "a secret\n").expect("a file");
        std::fs::set_permissions(&path, PermissionsExt::from_mode(mode)).expect("a mode");
        path.to_str().expect("UTF-8").to_owned()
    };
    let (secret, open) = (place("secret.py", 0o600), place("open.py", 0o644));
    let inner = dir.path().join("inner");
    std::fs::create_dir(&inner).expect("a directory");
    let hidden = place("inner/hidden.py", 0o644);
    std::fs::set_permissions(&inner, PermissionsExt::from_mode(0o700)).expect("a mode");
    std::fs::set_permissions(dir.path(), PermissionsExt::from_mode(0o755)).expect("a mode");
    let script = std::fs::read_to_string(test_file("targets/source_lines.py")).expect("the script");
    let mut command = Command::new("setpriv");
    command
        .args(["--reuid=65534", "--regid=65534", "--clear-groups"])
        .arg(&python.path)
        .args(["-c", &script]);
    let mut target = Target::start(Dir::new(), command);
    let run = [(1, secret.as_str()), (1, &open), (1, &hidden), (1, "/etc/shadow")];
    let sources = sources(&mut target, &[], &run);
    assert_eq!(line(&sources, &open, 1).as_deref(), Some("a secret"));
    for name in [&secret, &hidden, "/etc/shadow"] {
        assert!(sources.get(name).is_none(), "{name}: {sources:#}");
    }
    assert!(target.finish().success());
}
