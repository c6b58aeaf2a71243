//! Processes of a container, tracked from a container beside it that shares its processes (a sidecar, `kubectl debug
//! --target`), or from inside, by somebody with no more rights than that takes. With `unshare` wherever tests run as
//! root, and with podman where that is.

use crate::support::podman::Container;
use crate::support::snapshot::Snapshot;
use crate::support::{Dir, Output, Target, Tool, eventually, interpreters, process, skip_optional, test_file, tool};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

const ALL: [&str; 0] = [];
const NOBODY: [&str; 3] = ["--reuid=65534", "--regid=65534", "--clear-groups"];
const SYS_PTRACE: [&str; 2] = ["--bounding-set=-all,+sys_ptrace", "--inh-caps=-all,+sys_ptrace"];

fn recorded(capture: &str) -> usize {
    let records = Tool::new(&["parse", capture]).succeed();
    let rows = records.stdout.lines().filter(|line| line.contains(" size=123457 "));
    rows.count()
}

/// Where memray runs.
#[derive(Clone, Copy, Debug)]
enum Place {
    /// In its namespaces of processes and mounts.
    Inside,
    /// In its namespace of processes, with mounts of its own.
    Beside,
}

/// A process that is the first one of its container, which is made of namespaces alone.
struct Init {
    target: Target,
    /// Its process id outside.
    pid: u32,
    dir: Dir,
    python: PathBuf,
    memray: String,
}

impl Init {
    /// A script of tests/targets, with these privileges; `None` where there is no container to be made.
    fn start(privileges: &[&str], script: &str, kind: &str) -> Option<Self> {
        let python = interpreters::system()?.path;
        let can = |program: &str| Command::new(program).arg("--version").output().is_ok();
        if !process::is_root() || !["unshare", "nsenter", "setpriv"].into_iter().all(can) {
            skip_optional("namespaces", "take root, and: apt-get install util-linux");
            return None;
        }
        let dir = Dir::new();
        let memray = dir.file("memray");
        std::fs::copy(tool::binary(), &memray).expect("copy the program");
        for path in [dir.path(), memray.as_ref()] {
            std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o777)).expect("open it to everybody");
        }
        let script = std::fs::read_to_string(test_file("targets").join(script)).expect("read the target's script");
        let mut command = Command::new("unshare");
        command.args([
            "--mount",
            "--pid",
            "--net",
            "--ipc",
            "--fork",
            "--kill-child",
            "--mount-proc",
            "setpriv",
        ]);
        command
            .args(privileges)
            .arg("--")
            .arg(&python)
            .args(["-c", &script, kind]);
        let target = Target::start(Dir::new(), command);
        let children = std::fs::read_to_string(format!("/proc/{0}/task/{0}/children", target.pid()));
        let pid = children.expect("its children").trim().parse().expect("one child");
        Some(Self {
            target,
            pid,
            dir,
            python,
            memray,
        })
    }

    /// `memray ARGUMENTS` there, with these privileges, and below what a prefix makes of itself.
    fn memray(&self, place: Place, privileges: &[&str], prefix: &[&str], arguments: &[&str]) -> Tool {
        let pid = self.pid.to_string();
        let mut all = vec!["--target", &pid, "--pid"];
        match place {
            Place::Inside => all.push("--mount"),
            Place::Beside => all.extend(["unshare", "--mount-proc"]),
        }
        all.push("setpriv");
        all.extend(privileges);
        all.push("--");
        all.extend(prefix);
        all.push(&self.memray);
        all.extend(arguments);
        Tool::program("nsenter".into(), &all).current_dir(self.dir.path())
    }

    fn works(mut self, place: Place, privileges: &[&str]) {
        self.target.ask("go", "done");
        let before = Snapshot::take(self.pid);
        let capture = self.dir.file("capture.bin");
        self.memray(place, privileges, &[], &["attach", "1", "-q", "-o", &capture])
            .succeed();
        self.target.ask("go", "done");
        self.memray(place, privileges, &[], &["detach", "1"]).succeed();
        assert_eq!(recorded(&capture), 50, "{place:?} {privileges:?}");
        let owner = std::fs::metadata(&capture).expect("the capture").uid();
        let is_nobody = privileges == NOBODY.as_slice();
        assert_eq!(owner, if is_nobody { 65534 } else { 0 }, "whose capture it is");
        before.assert_same_but_maps(&Snapshot::take(self.pid));
        self.target.ask("go", "done");
        assert!(self.target.finish().success());
    }

    fn refused(mut self, place: Place, privileges: &[&str], prefix: &[&str]) -> Output {
        self.target.ask("go", "done");
        let before = Snapshot::take(self.pid);
        let output = self
            .memray(place, privileges, prefix, &["attach", "1", "--duration", "1"])
            .run();
        output.assert_refusal().assert_plain();
        let after = Snapshot::take(self.pid);
        before.assert_same_but_maps(&after);
        assert_eq!(before.maps_changed(&after), (vec![], vec![]));
        self.target.ask("go", "done");
        assert!(self.target.finish().success());
        output
    }
}

const PLACES: [Place; 2] = [Place::Inside, Place::Beside];

#[test]
fn root() {
    for place in PLACES {
        let Some(init) = Init::start(&NOBODY, "limited.py", "nothing") else {
            return;
        };
        init.works(place, &ALL);
    }
}

/// For a process that has more capabilities than memray.
#[test]
fn only_the_capability_to_trace() {
    for place in PLACES {
        let Some(init) = Init::start(&ALL, "limited.py", "nothing") else {
            return;
        };
        init.works(place, &SYS_PTRACE);
    }
}

/// Another user's files in /proc are closed to it, whatever it may trace.
#[test]
fn only_the_capability_to_trace_and_another_user() {
    for place in PLACES {
        let Some(init) = Init::start(&NOBODY, "limited.py", "nothing") else {
            return;
        };
        let output = init.refused(place, &SYS_PTRACE, &[]);
        output.assert_says("uid 65534").assert_says("not CAP_DAC_OVERRIDE");
    }
}

#[test]
fn only_the_processes_own_user() {
    for place in PLACES {
        let Some(init) = Init::start(&NOBODY, "limited.py", "nothing") else {
            return;
        };
        init.works(place, &NOBODY);
    }
}

/// As many filters as the container has, but others.
#[test]
fn filters_of_another_container() {
    let Some(init) = Init::start(&ALL, "seccomp.py", "harmless") else {
        return;
    };
    let python = init.python.to_str().expect("UTF-8").to_owned();
    let script = test_file("targets/seccomp.py");
    let filtered = [python.as_str(), script.to_str().expect("UTF-8"), "harmless"];
    let output = init.refused(Place::Beside, &ALL, &filtered);
    output.assert_says("seccomp filter that could kill it");
}

/// podman's sidecars: (the process' container, the sidecar, what it is told; nothing where it works).
const SIDECARS: [(&[&str], &[&str], &str); 6] = [
    (&[], &["--privileged"], ""),
    (&[], &["--cap-add", "SYS_PTRACE"], "seccomp filter"),
    (
        &["--security-opt", "seccomp=unconfined"],
        &["--cap-add", "SYS_PTRACE"],
        "",
    ),
    (&["--security-opt", "seccomp=unconfined"], &["--user", "1234:1234"], ""),
    (
        &["--security-opt", "seccomp=unconfined"],
        &["--cap-drop", "all", "--cap-add", "SYS_PTRACE"],
        "not CAP_DAC_OVERRIDE",
    ),
    (
        &["--security-opt", "seccomp=unconfined"],
        &[],
        "another user (uid 1234)",
    ),
];

#[test]
fn podmans_sidecars() {
    for (index, (container, sidecar, refusal)) in SIDECARS.into_iter().enumerate() {
        let mut options = vec!["--user", "1234:1234"];
        options.extend(container);
        let Some(mut container) = Container::start(&format!("sidecar-{index}"), &options) else {
            return;
        };
        let pid = container.pid();
        let dir = Dir::new();
        std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o777)).expect("open it to everybody");
        container.target.ask("go", "done");
        let before = Snapshot::take(pid);
        let arguments = ["attach", "1", "-q", "-o", "/out/capture.bin", "--duration", "4"];
        let attach = container.beside(sidecar, dir.path(), &arguments);
        if refusal.is_empty() {
            let attach = attach.spawn();
            eventually("the window is open", Duration::from_secs(60), || {
                let status = Tool::new(&["status", &pid.to_string()]).run();
                let says = |word: &str| status.stdout.contains(word);
                // Its figures are not in view from here.
                (says("state    live") && says("in another container")).then_some(())
            });
            container.target.ask("go", "done");
            attach.wait().assert_code(0);
            assert_eq!(recorded(&dir.file("capture.bin")), 50, "{sidecar:?}");
        } else {
            attach.run().assert_refusal().assert_says(refusal);
        }
        before.assert_same_but_maps(&Snapshot::take(pid));
        container.target.ask("go", "done");
        assert!(container.target.finish().success());
    }
}
