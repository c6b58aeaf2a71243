//! Targets in namespaces and containers, tracked from outside and from inside. `scripts/container_lab` sets up what
//! the containers are made of.

use crate::support::podman::{Container, podman};
use crate::support::snapshot::{Mapping, Snapshot, maps};
use crate::support::{ContainerFiles, Dir, Target, Tool, interpreters, process, skip, skip_optional, test_file, tool};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// What an attach leaves: the landing, and address space.
const LEFT_BYTES_MAX: u64 = 17 << 20;

/// Whether a program is there, and does what it is asked for as a trial.
fn can(program: &str, trial: &[&str]) -> bool {
    let status = Command::new(program)
        .args(trial)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    status.is_ok_and(|status| status.success())
}

/// The process at the end of a chain of wrappers.
fn innermost(pid: u32) -> u32 {
    let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    match children.split_whitespace().next() {
        Some(child) => innermost(child.parse().expect("a process id")),
        None => pid,
    }
}

/// A wrapper's command line that ends with the target's: its script as an argument, since there may be no file.
fn wrapped(program: &str, wrapper: &[&str], python: &Path) -> Target {
    let script = std::fs::read_to_string(test_file("targets/limited.py")).expect("read the target's script");
    let mut command = Command::new(program);
    command.args(wrapper).arg(python).args(["-c", &script, "nothing"]);
    Target::start(Dir::new(), command)
}

fn recorded(capture: &str) -> usize {
    let records = Tool::new(&["parse", capture]).succeed();
    records
        .stdout
        .lines()
        .filter(|line| line.contains(" size=123457 "))
        .count()
}

/// A window from outside, by the process id that is seen there.
fn tracked_from_outside(target: &mut Target, pid: u32) {
    target.ask("go", "done");
    let before = Snapshot::take(pid);
    let pid_text = pid.to_string();
    let capture = target.dir.file("capture.bin");
    Tool::new(&["attach", &pid_text, "-q", "-o", &capture]).succeed();
    target.ask("go", "done");
    Tool::new(&["detach", &pid_text]).succeed();
    assert_eq!(recorded(&capture), 50);
    let owner = std::fs::metadata(&capture).expect("the capture").uid();
    assert_eq!(owner, nix::unistd::geteuid().as_raw(), "whose capture it is");
    let after = Snapshot::take(pid);
    assert_eq!(before.fds, after.fds, "file descriptors");
    assert_eq!(before.threads, after.threads, "threads");
    assert_eq!(before.signals, after.signals, "signals and tracer");
    let (added, _) = before.maps_changed(&after);
    let added_bytes: u64 = added.iter().map(Mapping::bytes).sum();
    assert!(added_bytes <= LEFT_BYTES_MAX, "{added:#?}");
    target.ask("go", "done");
}

/// The interpreter for namespaces that keep the file system: one that every user may read.
fn python() -> Option<PathBuf> {
    let python = interpreters::system().or_else(interpreters::any);
    if python.is_none() {
        skip("no interpreter");
    }
    python.map(|python| python.path)
}

fn with_unshare(arguments: &[&str]) {
    let Some(python) = python() else { return };
    let mut trial = arguments.to_vec();
    trial.push("true");
    if !can("unshare", &trial) {
        return skip_optional("unshare", "needs root (or unprivileged user namespaces) and util-linux");
    }
    let mut target = wrapped("unshare", arguments, &python);
    let pid = innermost(target.pid());
    tracked_from_outside(&mut target, pid);
    assert!(target.finish().success());
}

#[test]
fn own_mount_pid_network_and_ipc_namespaces() {
    with_unshare(&[
        "--mount",
        "--pid",
        "--net",
        "--uts",
        "--ipc",
        "--fork",
        "--kill-child",
        "--mount-proc",
    ]);
}

#[test]
fn own_user_namespace() {
    with_unshare(&["--user", "--map-root-user", "--pid", "--fork", "--kill-child"]);
}

/// Makes a root of its own that cannot be written, with nothing in it but the system's programs, and goes there.
const OWN_ROOT: &str = r#"
root=$1; shift
mount -t tmpfs none "$root" && cd "$root" || exit 1
for directory in /bin /lib /lib64 /etc /usr; do
    if [ -L "$directory" ]; then
        cp -P "$directory" . || exit 1
    elif [ -d "$directory" ]; then
        mkdir ".$directory" && mount --rbind "$directory" ".$directory" && mount -o remount,ro,bind ".$directory" || exit 1
    fi
done
mkdir proc tmp && mount -t proc proc proc && mount -t tmpfs none tmp && mount -o remount,ro "$root" || exit 1
exec chroot . "$@"
"#;

/// As in a container of an image of its own, by what every Linux has: neither memray nor the capture is in its view, and
/// no file of its is written.
#[test]
fn own_root() {
    let Some(python) = interpreters::system() else { return };
    if !process::is_root() {
        return skip_optional("a root of its own", "takes root");
    }
    let dir = Dir::new();
    let root = dir.file("root");
    std::fs::create_dir(&root).expect("make a directory");
    let namespaces = ["--mount", "--pid", "--net", "--uts", "--ipc", "--fork", "--kill-child"];
    let mut wrapper = namespaces.to_vec();
    wrapper.extend(["sh", "-c", OWN_ROOT, "sh", &root]);
    let mut target = wrapped("unshare", &wrapper, &python.path);
    let pid = innermost(target.pid());
    target.ask("go", "done");
    assert!(!Path::new(&format!("/proc/{pid}/root/{}", tool::binary().display())).exists());
    let files = ContainerFiles::of(pid);
    tracked_from_outside(&mut target, pid);
    files.assert_untouched(pid);
    assert!(target.finish().success());
}

fn with_bwrap(arguments: &[&str]) {
    let Some(python) = python() else { return };
    let mut wrapper = vec![
        "--ro-bind",
        "/",
        "/",
        "--dev",
        "/dev",
        "--tmpfs",
        "/tmp",
        "--die-with-parent",
    ];
    wrapper.extend(arguments);
    let mut trial = wrapper.clone();
    trial.push("true");
    if !can("bwrap", &trial) {
        return skip_optional("bubblewrap", "apt-get install -y bubblewrap");
    }
    let mut target = wrapped("bwrap", &wrapper, &python);
    let pid = innermost(target.pid());
    tracked_from_outside(&mut target, pid);
    assert!(target.finish().success());
}

#[test]
fn read_only_root() {
    with_bwrap(&["--proc", "/proc", "--unshare-pid", "--unshare-net", "--unshare-ipc"]);
}

#[test]
fn user_namespace_of_a_sandbox() {
    with_bwrap(&[
        "--proc",
        "/proc",
        "--unshare-all",
        "--unshare-user",
        "--uid",
        "1000",
        "--gid",
        "1000",
    ]);
}

#[test]
fn no_proc_in_the_container() {
    with_bwrap(&["--tmpfs", "/proc", "--unshare-all"]);
}

/// memray itself where there is no /proc: says so.
#[test]
fn no_proc_for_memray() {
    let binary = tool::binary().to_str().expect("UTF-8");
    let arguments = ["--ro-bind", "/", "/", "--tmpfs", "/proc", binary, "attach", "1"];
    if !can("bwrap", &["--ro-bind", "/", "/", "true"]) {
        return skip_optional("bubblewrap", "apt-get install -y bubblewrap");
    }
    let output = Tool::program("bwrap".into(), &arguments).run();
    output.assert_refusal().assert_says("/proc is not mounted");
}

/// Both ways in: from the host, and by `podman exec`.
fn in_a_container(name: &str, options: &[&str]) {
    let Some(container) = Container::start(name, options) else {
        return;
    };
    let pid = container.pid();
    let Container { mut target, .. } = container;
    target.ask("go", "done");
    let files = ContainerFiles::of(pid);
    tracked_from_outside(&mut target, pid);
    files.assert_untouched(pid);
    assert!(target.finish().success());

    let Some(mut container) = Container::start(&format!("{name}-inside"), options) else {
        return;
    };
    container
        .memray(&["attach", "1", "-q", "-o", "/tmp/capture.bin"])
        .succeed();
    container.target.ask("go", "done");
    container.memray(&["detach", "1"]).succeed();
    let records = container.memray(&["parse", "/tmp/capture.bin"]).succeed();
    let found = records
        .stdout
        .lines()
        .filter(|line| line.contains(" size=123457 "))
        .count();
    assert_eq!(found, 50, "{}", records.describe());
    container.target.ask("go", "done");
    assert!(container.target.finish().success());
}

#[test]
fn podman_as_it_is() {
    in_a_container("plain", &["--memory=256m", "--pids-limit=100"]);
}

/// The container's init is root's, the program and memray are not.
#[test]
fn podman_with_roots_init() {
    let Some(mut container) = Container::start("init", &[]) else {
        return;
    };
    let podman = podman(&container.lab);
    let mut all: Vec<&str> = podman
        .get_args()
        .map(|argument| argument.to_str().expect("UTF-8"))
        .collect();
    let script = std::fs::read_to_string(test_file("targets/seccomp.py")).expect("read the script");
    let write = format!("cat >/tmp/seccomp.py <<'END'\n{script}\nEND\n");
    let run = "exec python3.13 /tmp/seccomp.py none + /memray /tmp/capture.bin";
    let both = format!("{write}{run}");
    all.extend(["exec", "--user", "1234:1234", &container.name, "sh", "-c", &both]);
    Tool::program("podman".into(), &all).succeed();
    let records = container.memray(&["parse", "/tmp/capture.bin"]).succeed();
    let found = records.stdout.lines().filter(|line| line.contains(" size=123457 "));
    assert_eq!(found.count(), 50, "{}", records.describe());
    container.target.ask("go", "done");
    assert!(container.target.finish().success());
}

#[test]
fn podman_read_only_as_a_user() {
    in_a_container("user", &["--read-only", "--user", "1234:1234"]);
}

#[test]
fn podman_without_capabilities() {
    in_a_container("caps", &["--cap-drop=all", "--security-opt", "no-new-privileges"]);
}

#[test]
fn podman_with_a_user_namespace() {
    in_a_container("uidmap", &["--uidmap", "0:100000:65536"]);
}

/// With 8 MB left in the container there is room from outside, and none from inside, where the ring counts too.
#[test]
fn podman_with_little_memory() {
    let Some(mut container) = Container::start("memory", &["--memory=24m"]) else {
        return;
    };
    let refused = container.memray(&["attach", "1", "-q", "-o", "/tmp/capture.bin"]).run();
    refused
        .assert_refusal()
        .assert_says("cgroup is nearly full")
        .assert_says("outside of its container");
    let pid = container.pid();
    assert!(!maps(pid).is_empty());
    tracked_from_outside(&mut container.target, pid);
    assert!(container.target.finish().success());
}
