//! Containers of podman's; `scripts/container_lab` sets up what they are made of.

use super::{Dir, Target, Tool, process, skip_optional, test_file, tool};
use std::path::{Path, PathBuf};
use std::process::Command;

/// A container of podman's on the small Debian of `scripts/container_lab`.
pub struct Container {
    pub lab: PathBuf,
    pub name: String,
    pub target: Target,
}

impl Container {
    pub fn start(name: &str, options: &[&str]) -> Option<Self> {
        let lab = Path::new(env!("CARGO_TARGET_TMPDIR")).with_file_name("lab");
        let root = lab.join("trixie");
        if !process::is_root() || !root.join(".complete").exists() {
            skip_optional("podman", "set it up with: sudo scripts/container_lab");
            return None;
        }
        let name = format!("memray-test-{name}-{}", std::process::id());
        let mut command = run(&lab);
        command.args(["--interactive", "--name", &name]).args(options);
        let script = std::fs::read_to_string(test_file("targets/limited.py")).expect("read the target's script");
        // A layer of its own above the root, but under user namespaces, where that would be nobody's.
        let layer = if options.iter().any(|option| option.starts_with("--uidmap")) {
            ""
        } else {
            ":O"
        };
        command.arg("--rootfs").arg(format!("{}{layer}", root.display()));
        command.args(["/usr/bin/python3.13", "-c", &script, "nothing"]);
        let target = Target::start(Dir::new(), command);
        Some(Self { lab, name, target })
    }

    /// The init's process id outside.
    pub fn pid(&self) -> u32 {
        let output = podman(&self.lab)
            .args(["inspect", "--format", "{{.State.Pid}}", &self.name])
            .output()
            .expect("podman inspect");
        let text = String::from_utf8_lossy(&output.stdout).trim().to_owned();
        text.parse().unwrap_or_else(|_| panic!("no process id: {text:?}"))
    }

    /// `memray ARGUMENTS` in a container beside it that sees its processes, with `directory` at /out.
    pub fn beside(&self, options: &[&str], directory: &Path, arguments: &[&str]) -> Tool {
        let mut command = run(&self.lab);
        let volume = format!("{}:/out", directory.display());
        command.args(["--pid", &format!("container:{}", self.name), "--volume", &volume]);
        command.args(options).arg("--rootfs");
        command.arg(format!("{}:O", self.lab.join("trixie").display()));
        command.arg("/memray").args(arguments);
        as_tool(&command)
    }

    /// `memray ARGUMENTS` in the container.
    pub fn memray(&self, arguments: &[&str]) -> Tool {
        let mut command = podman(&self.lab);
        command.args(["exec", self.name.as_str(), "/memray"]).args(arguments);
        as_tool(&command)
    }
}

fn as_tool(command: &Command) -> Tool {
    let arguments = command.get_args().map(|it| it.to_str().expect("UTF-8"));
    Tool::program(command.get_program().into(), &arguments.collect::<Vec<_>>())
}

/// A container that leaves nothing behind and has memray in it.
fn run(lab: &Path) -> Command {
    let mut command = podman(lab);
    command.args(["run", "--rm", "--network=none", "--tmpfs", "/tmp"]);
    // The service's limits are this machine's, which runc may not raise.
    command.args(["--ulimit", "nofile=4096:20000", "--ulimit", "nproc=1000:10000"]);
    let volume = format!("{}:/memray:ro", tool::binary().display());
    command.args(["--volume", &volume]);
    command
}

/// A command of podman's, with all that it keeps below `lab`.
pub fn podman(lab: &Path) -> Command {
    let mut command = Command::new("podman");
    for (option, directory) in [("--root", "pod/root"), ("--runroot", "pod/run")] {
        command.arg(option).arg(lab.join(directory));
    }
    command.args([
        "--cgroup-manager=cgroupfs",
        "--storage-driver=vfs",
        "--events-backend=file",
    ]);
    command.args(["--log-level=error", "--runtime", "runc"]);
    command
}
