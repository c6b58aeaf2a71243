//! Targets, names and files that are out to harm the tool, the user or somebody else: none of it works, and the target
//! lives on where it is not its own doing.

use crate::support::process::{is_root, stat_field};
use crate::support::tool::binary;
use crate::support::{
    Dir, Interpreter, Output, Target, Tool, eventually, interpreters, skip, skip_optional, test_file,
};
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

/// More than any honest window takes of the tool's address space: 4 GiB, in the unit of `ulimit -v`.
const TOOL_ADDRESSES_KIB: &str = "4194304";

fn python() -> Option<Interpreter> {
    let python = interpreters::any();
    if python.is_none() {
        skip("no interpreter");
    }
    python
}

/// The tool with a limit on its memory.
fn limited(arguments: &[&str]) -> Tool {
    let script = format!("ulimit -v {TOOL_ADDRESSES_KIB}; exec \"$0\" \"$@\"");
    let mut words = vec!["-c", &script, binary().to_str().expect("cargo's paths are UTF-8")];
    words.extend(arguments);
    Tool::program("/bin/sh".into(), &words)
}

/// Neither stream holds anything that acts on a terminal.
fn assert_harmless(output: &Output) {
    let acts = |c: char| {
        (c.is_control() && c != '\n')
            || matches!(c, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
    };
    assert!(!output.all().contains(acts), "{}", output.describe().escape_debug());
}

#[test]
fn force_replaces_regular_files_of_the_callers_own_and_nothing_else() {
    let Some(python) = python() else { return };
    let target = Target::spawn(&python, "quiet.py", &[]);
    let (dir, pid) = (Dir::new(), target.pid_text());
    let attach = |name: &str, more: &[&str]| {
        let path = dir.file(name);
        let mut arguments = vec!["attach", &pid, "-q", "-o", &path, "--duration", "0.05"];
        arguments.extend(more);
        Tool::new(&arguments).run()
    };
    let victim = dir.file("victim");
    std::fs::write(&victim, "precious").expect("write the victim");
    std::fs::set_permissions(&victim, std::fs::Permissions::from_mode(0o644)).expect("open it to all");
    symlink(&victim, dir.file("link")).expect("make a link");
    symlink(dir.file("nowhere"), dir.file("dangling")).expect("make a dangling link");
    std::fs::hard_link(&victim, dir.file("twin")).expect("make a second name");
    nix::unistd::mkfifo(Path::new(&dir.file("fifo")), nix::sys::stat::Mode::S_IRWXU).expect("make a pipe");
    std::fs::create_dir(dir.file("directory")).expect("make a directory");
    symlink(dir.path(), dir.file("parent")).expect("link the directory itself");

    for (name, cause) in [
        ("link", "symbolic link"),
        ("dangling", "symbolic link"),
        ("fifo", "no regular file"),
        ("directory", "directory"),
    ] {
        attach(name, &["-f"]).assert_refusal().assert_says(cause);
        attach(name, &[]).assert_refusal().assert_says("exists");
    }
    assert!(
        !Path::new(&dir.file("nowhere")).exists(),
        "a dangling link was followed"
    );

    // The other name keeps what it has; the new file is nobody's but the caller's.
    attach("twin", &["-f"]).assert_code(0);
    assert_eq!(std::fs::read_to_string(&victim).expect("the victim"), "precious");
    let replaced = std::fs::metadata(dir.file("twin")).expect("the capture");
    assert_eq!((replaced.mode() & 0o7777, replaced.nlink()), (0o100600 & 0o7777, 1));
    attach("victim", &["-f"]).assert_code(0);
    assert_eq!(std::fs::metadata(&victim).expect("the capture").mode() & 0o7777, 0o600);

    // A directory may be reached by any way.
    attach("parent/through-a-link", &[]).assert_code(0);
    assert!(Path::new(&dir.file("through-a-link")).is_file());
    target.assert_free();
}

#[test]
fn under_sudo_captures_belong_to_the_caller_and_other_users_files_are_left_alone() {
    const CALLER: u32 = 65_534;
    if !is_root() {
        return skip_optional("root", "only root can create files of other users");
    }
    let Some(python) = python() else { return };
    let target = Target::spawn(&python, "quiet.py", &[]);
    let (dir, pid) = (Dir::new(), target.pid_text());
    let attach = |name: &str| {
        let path = dir.file(name);
        Tool::new(&["attach", &pid, "-q", "-f", "-o", &path, "--duration", "0.05"])
            .env("SUDO_UID", &CALLER.to_string())
            .env("SUDO_GID", &CALLER.to_string())
            .run()
    };
    for _ in 0..2 {
        // The second time it replaces the caller's.
        attach("caller").assert_code(0);
        let made = std::fs::metadata(dir.file("caller")).expect("the capture");
        assert_eq!((made.uid(), made.gid(), made.mode() & 0o7777), (CALLER, CALLER, 0o600));
    }
    std::fs::write(dir.file("other"), "precious").expect("write a file");
    std::os::unix::fs::chown(dir.file("other"), Some(1234), Some(1234)).expect("give it away");
    attach("other").assert_refusal().assert_says("belongs to another user");
    assert_eq!(
        std::fs::read_to_string(dir.file("other")).expect("the file"),
        "precious"
    );
}

#[test]
fn names_of_the_targets_choice_never_steer_the_terminal() {
    let Some(python) = python() else { return };
    let dir = Dir::new();
    // A directory, a script and arguments with everything in them that a path can hold.
    let evil = "e\x1b[2J\x07\n\r\u{202e}\u{2066}\u{9b}31m";
    let place = dir.path().join(evil);
    std::fs::create_dir(&place).expect("make the directory");
    let script = place.join(format!("{evil}.py"));
    std::fs::copy(test_file("targets/evil_names.py"), &script).expect("copy the target");
    let mut command = Command::new(&python.path);
    command.arg(&script).arg(evil);
    let target = Target::start(dir, command);
    let pid = target.pid_text();
    let capture = target.dir.file(&format!("{evil}.bin"));

    let answer = Tool::new(&["attach", &pid, "-v", "-o", &capture, "--duration", "1"]).succeed();
    assert_harmless(&answer);
    answer.assert_says("\\x1b[2J").assert_says("\\u{202e}");
    for arguments in [
        &["summary", &capture][..],
        &["summary", "--leaks", &capture],
        &["parse", &capture],
        &["doctor", &pid],
    ] {
        let output = Tool::new(arguments).env("COLUMNS", "300").run();
        assert_harmless(&output);
        assert!(
            arguments[0] == "doctor" || output.stdout.contains("\\x1b[2J"),
            "{}",
            output.describe()
        );
    }
    // A file that is none, a second attach, the answer of a detach.
    let broken = target.dir.file(&format!("{evil}.broken"));
    std::fs::write(&broken, "nothing").expect("write a file");
    assert_harmless(&Tool::new(&["summary", &broken]).run());
    assert_harmless(&Tool::new(&["attach", &pid, "-f", "-o", &capture]).succeed());
    let busy = Tool::new(&["attach", &pid, "-o", &broken]).run();
    busy.assert_refusal();
    assert_harmless(&busy);
    assert_harmless(&Tool::new(&["status", &pid]).run());
    let detached = Tool::new(&["detach", &pid]).succeed();
    assert_harmless(&detached);
    detached.assert_says("\\x1b[2J");
    target.assert_free();
}

#[test]
fn the_environment_of_the_target_is_never_stored() {
    const SECRET: &str = "hunter2-correct-horse";
    let Some(python) = python() else { return };
    let mut command = Command::new(&python.path);
    command
        .arg(test_file("targets").join("service.py"))
        .env("DATABASE_PASSWORD", SECRET);
    let target = Target::start(Dir::new(), command);
    let (pid, capture) = (target.pid_text(), target.dir.file("out.bin"));
    Tool::new(&["attach", &pid, "--no-compress", "-o", &capture, "--duration", "0.5"]).succeed();
    let bytes = std::fs::read(&capture).expect("read the capture");
    let holds = |text: &str| bytes.windows(text.len()).any(|window| window == text.as_bytes());
    assert!(holds("service.py"), "names can be found in the capture");
    assert!(
        !holds(SECRET) && !holds("DATABASE_PASSWORD"),
        "the environment is in the capture"
    );
}

#[test]
fn only_its_owner_and_root_end_a_session() {
    const USER: u32 = 65_534;
    let Some(python) = interpreters::system() else { return };
    if !is_root() {
        return skip_optional("root", "a session of one user on another's process needs root");
    }
    // Where the built program cannot be reached by everybody, another user gets a copy.
    let dir = Dir::new();
    std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o755)).expect("open the directory");
    let copy = dir.path().join("memray");
    std::fs::copy(binary(), &copy).expect("copy the program");
    let mut command = Command::new(&python.path);
    command
        .args(["-c", "import os, time; os.write(1, b'ready\\n'); time.sleep(1000)"])
        .uid(USER)
        .gid(USER);
    let target = Target::start(Dir::new(), command);
    let (pid, capture) = (target.pid_text(), dir.file("out.bin"));
    Tool::new(&["attach", &pid, "-o", &capture]).succeed();
    let mut other = Command::new(&copy);
    other
        .args(["detach", &pid])
        .uid(USER)
        .gid(USER)
        .current_dir("/")
        .stdin(Stdio::null());
    let refused = other.output().expect("run as another user");
    let says = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert_eq!(refused.status.code(), Some(1), "{says}");
    assert!(says.contains("root") && says.contains("fix: "), "{says}");
    Tool::new(&["status", &pid]).succeed();
    Tool::new(&["detach", &pid]).succeed().assert_says("out.bin");
    target.assert_free();
}

/// A process of ours that has nothing to do with the target.
struct Bystander(std::process::Child);

impl Bystander {
    fn new() -> Self {
        let child = Command::new("sleep")
            .arg("1000")
            .stdin(Stdio::null())
            .spawn()
            .expect("start sleep");
        Self(child)
    }

    fn start_ticks(&self) -> String {
        eventually("sleep runs", Duration::from_secs(30), || {
            let name = std::fs::read_to_string(format!("/proc/{}/comm", self.0.id())).ok()?;
            (name.trim() == "sleep").then_some(())
        });
        stat_field(self.0.id(), 22).expect("its start time")
    }

    fn assert_alive(&mut self) {
        assert_eq!(
            self.0.try_wait().expect("look at sleep"),
            None,
            "a process that has nothing to do with it was ended"
        );
    }
}

impl Drop for Bystander {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_mark_that_names_somebody_else_ends_nobody() {
    let Some(python) = python() else { return };
    // What the journal says, and where the slots of its entries lie.
    for journal in ["none", "wild", "own"] {
        let mut bystander = Bystander::new();
        let owner = [bystander.0.id().to_string(), bystander.start_ticks()];
        let target = Target::spawn(&python, "fake_landing.py", &[journal, &owner[0], &owner[1]]);
        let pid = target.pid_text();
        let output = limited(&["detach", &pid]).run();
        assert!(matches!(output.status.code(), Some(0 | 1)), "{}", output.describe());
        assert!(!output.stderr.contains("panicked"), "{}", output.describe());
        bystander.assert_alive();
        target.assert_free();
        // And an attach gets by it.
        let capture = target.dir.file("out.bin");
        let attached = limited(&["attach", &pid, "-q", "-o", &capture, "--duration", "0.1"]).run();
        assert!(matches!(attached.status.code(), Some(0 | 1)), "{}", attached.describe());
        assert!(!attached.stderr.contains("panicked"), "{}", attached.describe());
        bystander.assert_alive();
        target.assert_free();
    }
}

#[test]
fn a_target_that_writes_into_the_ring_harms_nobody() {
    let Some(python) = python() else { return };
    for seed in ["1", "2", "3"] {
        let mut target = Target::spawn(&python, "scribble.py", &[seed]);
        let (pid, capture) = (target.pid_text(), target.dir.file("out.bin"));
        let output = limited(&["attach", &pid, "-o", &capture, "--duration", "1.5"]).run();
        assert!(matches!(output.status.code(), Some(0 | 1)), "{}", output.describe());
        assert!(!output.stderr.contains("panicked"), "{}", output.describe());
        let said = target.ask("end", "scribbled");
        let counts: Vec<u64> = said.split(' ').map(|count| count.parse().expect("a count")).collect();
        assert!(counts[0] > 0, "the ring was never found: {said}");
        assert_eq!(counts[1], 0, "the ring's memory could be cut off under the tool");
        let size = std::fs::metadata(&capture).map_or(0, |metadata| metadata.len());
        assert!(size < 2 << 30, "{size} bytes of capture");
        for arguments in [&["summary", &capture][..], &["summary", "--leaks", &capture]] {
            let read = limited(arguments).run();
            assert!(matches!(read.status.code(), Some(0 | 1)), "{}", read.describe());
            assert!(!read.stderr.contains("panicked"), "{}", read.describe());
        }
        target.assert_free();
    }
}

#[test]
fn a_target_with_thousands_of_odd_mappings_is_attached_to() {
    let Some(python) = python() else { return };
    let target = Target::spawn(&python, "many_mappings.py", &["30000"]);
    let (pid, capture) = (target.pid_text(), target.dir.file("out.bin"));
    let output = limited(&["attach", &pid, "-q", "-o", &capture, "--duration", "0.1"]).run();
    output.assert_code(0);
    target.assert_free();
}
