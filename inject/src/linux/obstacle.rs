//! Why a process can't be attached to, and what to type in the very situation that was found.

use super::seccomp::Filtered;
use super::surroundings::{CAP_SETUID, CAP_SYS_PTRACE, Container, Surroundings};
use std::fmt;

/// One cause, as it was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Obstacle {
    /// /proc is not mounted where we run.
    NoProc,
    NoSuchProcess {
        pid: i32,
    },
    /// It exists, and /proc is mounted so that it is not shown.
    Hidden {
        pid: i32,
    },
    Zombie {
        pid: i32,
    },
    KernelThread,
    Oneself,
    Traced {
        by: i32,
        name: String,
    },
    NotThisArchitecture,
    ShadowStack,
    Uninterruptible,
    Frozen,
    Vforking,
    Seccomp(Filtered),
    Yama {
        scope: u32,
        by: Surroundings,
    },
    OtherUser {
        uid: u32,
        by: Surroundings,
    },
    /// It could be traced, but its files in /proc can't be opened.
    FilesOfOtherUser {
        uid: u32,
        by: Surroundings,
    },
    OtherGroup {
        by: Surroundings,
    },
    UserNamespace,
    NotDumpable {
        by: Surroundings,
    },
    /// It has capabilities that we have not.
    MoreCapable {
        by: Surroundings,
    },
    Refused {
        errno: i32,
        by: Surroundings,
    },
}

/// Of a process that is stopped by its cgroup.
pub const FROZEN: &str = "its cgroup is frozen: none of its threads can make a step";
pub const FROZEN_FIX: &str = "thaw it first: docker unpause, podman unpause or systemctl thaw";

impl fmt::Display for Obstacle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoProc => f.write_str("/proc is not mounted here, so no process can be seen"),
            Self::NoSuchProcess { pid } => write!(f, "there is no process {pid}"),
            Self::Hidden { pid } => write!(f, "process {pid} is hidden: /proc is mounted with hidepid"),
            Self::Zombie { .. } => f.write_str("it is a zombie: it has ended, and its parent has not collected it"),
            Self::KernelThread => f.write_str("it is a thread of the kernel"),
            Self::Oneself => f.write_str("it is this very process"),
            Self::Traced { by, name } => write!(f, "process {by} ({name}) is already tracing it"),
            Self::NotThisArchitecture => f.write_str("it is not a 64-bit process of this machine's architecture"),
            Self::ShadowStack => {
                f.write_str("it runs with a user shadow stack, which borrowing a thread would violate")
            }
            Self::Uninterruptible => f.write_str("all of its threads sleep uninterruptibly (D state)"),
            Self::Frozen => f.write_str(FROZEN),
            Self::Vforking => {
                f.write_str("it waits for a child (vfork, posix_spawn) that has not executed its program yet")
            }
            Self::Seccomp(filtered) => write!(f, "{filtered}"),
            Self::Yama { scope, .. } => write!(f, "ptrace is refused; kernel.yama.ptrace_scope is {scope}"),
            Self::OtherUser { uid, by } => {
                write!(f, "ptrace is refused; the process belongs to another user (uid {uid})")?;
                // Root is not used to being refused.
                f.write_str(if by.is_root() {
                    ", and CAP_SYS_PTRACE is missing"
                } else {
                    ""
                })
            }
            Self::FilesOfOtherUser { uid, .. } => write!(
                f,
                "its memory can't be opened: the process belongs to another user (uid {uid}), and memray has \
                 CAP_SYS_PTRACE but not CAP_DAC_OVERRIDE"
            ),
            Self::OtherGroup { .. } => f.write_str("ptrace is refused; the process runs with other group ids"),
            Self::UserNamespace => f.write_str("ptrace is refused; the process lives in another user namespace"),
            Self::NotDumpable { .. } => f.write_str("ptrace is refused; the process has made itself non-dumpable"),
            Self::MoreCapable { .. } => {
                f.write_str("ptrace is refused; the process has capabilities that memray has not")
            }
            Self::Refused { errno, by } => {
                let errno = nix::errno::Errno::from_raw(*errno);
                let (despite, by_what) = if by.has(CAP_SYS_PTRACE) {
                    ("memray has CAP_SYS_PTRACE", "its user namespace or a security module")
                } else {
                    ("the process is of the same user", "a security module")
                };
                write!(
                    f,
                    "ptrace is refused with {errno:?} although {despite}; {by_what} may forbid it"
                )
            }
        }
    }
}

impl Obstacle {
    /// What to type or change, in one line.
    pub fn fix(&self) -> Option<String> {
        self.fixes().into_iter().next()
    }

    /// All that helps, the best first, each in one line.
    pub fn fixes(&self) -> Vec<String> {
        let one = |text: &str| vec![text.to_owned()];
        match self {
            Self::NoProc => one("mount -t proc proc /proc, or run memray on the host as root"),
            Self::NoSuchProcess { .. } | Self::KernelThread | Self::Oneself => {
                one("check the number with: ps -e -o pid,args")
            }
            Self::Hidden { .. } => one("run memray as root, or as the user of the process"),
            Self::Zombie { pid } => vec![format!("find its parent with: ps -o ppid= -p {pid}")],
            Self::Traced { by, .. } => vec![format!("end the other tracer first: kill {by}")],
            Self::NotThisArchitecture => one("use a memray built for its architecture"),
            Self::ShadowStack => one("start it without: GLIBC_TUNABLES=glibc.cpu.x86_shstk=off"),
            Self::Uninterruptible => one("try again when its disk or network file system answers"),
            Self::Frozen => one(FROZEN_FIX),
            Self::Vforking => one("try again when that child has done so, or has ended"),
            Self::Seccomp(Filtered::Strict) => one(Filtered::Strict.fix()),
            Self::Seccomp(filtered) => {
                let by = Surroundings::look();
                let mut fixes = vec![filtered.fix().to_owned()];
                fixes.extend(without_filters(&by));
                fixes
            }
            Self::UserNamespace => one("run memray as root outside of containers, or inside the same one"),
            Self::Yama { scope: 3, .. } => one("none before a reboot: this scope forbids ptrace to everybody"),
            Self::Yama { scope, by } => {
                let mut fixes = with_capability(by, None);
                let sysctl = "sudo sysctl kernel.yama.ptrace_scope=0";
                if by.container.is_none() {
                    fixes[0] = format!("run memray as root (sudo), or: {sysctl}");
                } else {
                    fixes.push(format!("on the host: {sysctl}"));
                }
                if *scope == 1 {
                    fixes.push("or let the program permit it: prctl(PR_SET_PTRACER, PR_SET_PTRACER_ANY)".to_owned());
                }
                fixes
            }
            Self::OtherUser { uid, by } => with_capability(by, Some(*uid)),
            Self::FilesOfOtherUser { uid, by } => {
                let more = match by.container {
                    None => "give memray CAP_DAC_OVERRIDE, too",
                    Some(Container::Kubernetes { .. }) => {
                        r#"or in its manifest: securityContext: {capabilities: {add: ["SYS_PTRACE", "DAC_OVERRIDE"]}}"#
                    }
                    Some(_) => "or start the container with --cap-add=SYS_PTRACE --cap-add=DAC_OVERRIDE",
                };
                let as_its_user = as_user(by, *uid).map(|command| format!("run memray as its user: {command}"));
                as_its_user.into_iter().chain([more.to_owned()]).collect()
            }
            Self::OtherGroup { by } | Self::NotDumpable { by } | Self::MoreCapable { by } => with_capability(by, None),
            Self::Refused { by, .. } => {
                let mut fixes = vec![
                    "run memray as root on the host, outside of containers and profiles (AppArmor, SELinux)".to_owned(),
                ];
                if by.container.is_none() {
                    fixes.push("look for the denial: sudo dmesg | grep -i -e apparmor -e avc".to_owned());
                    fixes.push("SELinux: sudo setsebool deny_ptrace 0".to_owned());
                }
                fixes
            }
        }
    }
}

/// How to get CAP_SYS_PTRACE where we are, or to do without by being the process' user.
fn with_capability(by: &Surroundings, uid: Option<u32>) -> Vec<String> {
    let security_context = r#"in its manifest: securityContext: {capabilities: {add: ["SYS_PTRACE"]}}"#;
    let mut fixes = match &by.container {
        Some(Container::Kubernetes { .. }) => vec![
            format!("from outside: {}", debug_command(by, "general")),
            security_context.to_owned(),
        ],
        Some(Container::Docker { id }) => {
            let id = id.as_deref().unwrap_or("CONTAINER");
            vec![
                format!("from outside: docker exec -it -u root --privileged {id} memray …"),
                "or start the container with --cap-add=SYS_PTRACE".to_owned(),
            ]
        }
        Some(Container::Podman) => vec![
            "from outside: podman exec -it -u root --privileged CONTAINER memray …".to_owned(),
            "or start the container with --cap-add=SYS_PTRACE".to_owned(),
        ],
        Some(Container::Other) => vec![
            "start the container with --cap-add=SYS_PTRACE, or run memray on the host as root".to_owned(),
            format!("Kubernetes: {}", debug_command(by, "general")),
            security_context.to_owned(),
        ],
        None if by.is_root() => vec!["give memray CAP_SYS_PTRACE, which this root lacks".to_owned()],
        None => vec!["run memray as root (sudo), or in a container with --cap-add=SYS_PTRACE".to_owned()],
    };
    if let Some(uid) = uid {
        fixes.extend(as_user(by, uid).map(|command| format!("or become its user: {command}")));
    }
    fixes
}

/// How to run memray as another user where we are; `None` where nothing can be typed for that.
fn as_user(by: &Surroundings, uid: u32) -> Option<String> {
    if by.has(CAP_SETUID) {
        return Some(format!("setpriv --reuid={uid} --regid={uid} --clear-groups memray …"));
    }
    if !by.is_root() {
        return Some(format!("sudo -u '#{uid}' memray …"));
    }
    // This root can't change users where it is.
    match &by.container {
        Some(Container::Docker { id }) => {
            let id = id.as_deref().unwrap_or("CONTAINER");
            Some(format!("docker exec -it -u {uid} {id} memray …"))
        }
        Some(Container::Podman) => Some(format!("podman exec -it -u {uid} CONTAINER memray …")),
        _ => None,
    }
}

/// How to run memray in or beside the container that we are in so that the kernel passes over a process' filters.
fn without_filters(by: &Surroundings) -> Vec<String> {
    let beside = |runtime: &str| {
        vec![
            format!("or inside the process' own container: {runtime} exec -it CONTAINER memray …"),
            format!("or beside it: {runtime} run --privileged --pid=container:CONTAINER IMAGE memray …"),
        ]
    };
    match by.container {
        Some(Container::Docker { .. }) => beside("docker"),
        Some(Container::Podman) => beside("podman"),
        Some(Container::Kubernetes { .. }) => vec![format!("from outside: {}", debug_command(by, "sysadmin"))],
        Some(Container::Other) => vec![format!("Kubernetes, from outside: {}", debug_command(by, "sysadmin"))],
        None => Vec::new(),
    }
}

/// An ephemeral container beside the target's, with the capabilities of a profile of kubectl's.
fn debug_command(by: &Surroundings, profile: &str) -> String {
    let (pod, namespace) = match &by.container {
        Some(Container::Kubernetes { pod, namespace }) => (pod.as_str(), namespace.as_deref()),
        _ => ("POD", None),
    };
    let namespace = namespace.map_or(String::new(), |namespace| format!(" -n {namespace}"));
    format!("kubectl debug -it {pod}{namespace} --image=IMAGE --target=CONTAINER --profile={profile}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn by(container: Option<Container>, uid: u32) -> Surroundings {
        Surroundings {
            container,
            uid,
            effective_capabilities: if uid == 0 { CAP_SETUID } else { 0 },
            ..Surroundings::default()
        }
    }

    #[test]
    fn fixes_are_those_of_the_place() {
        let refused = |container, own_uid| Obstacle::OtherUser {
            uid: 1000,
            by: by(container, own_uid),
        };
        let pod = Container::Kubernetes {
            pod: "web-7d9".to_owned(),
            namespace: Some("shop".to_owned()),
        };
        let id = Some("0123456789ab".to_owned());
        for (obstacle, wanted) in [
            (refused(None, 1001), "run memray as root (sudo)"),
            (refused(None, 1001), "sudo -u '#1000' memray"),
            (refused(None, 0), "CAP_SYS_PTRACE"),
            (refused(Some(Container::Docker { id }), 0), "--privileged 0123456789ab"),
            (refused(Some(Container::Docker { id: None }), 0), "--cap-add=SYS_PTRACE"),
            (refused(Some(Container::Podman), 0), "podman exec"),
            (
                refused(Some(pod.clone()), 0),
                "kubectl debug -it web-7d9 -n shop --image=IMAGE --target=CONTAINER --profile=general",
            ),
            (refused(Some(pod), 0), r#"{capabilities: {add: ["SYS_PTRACE"]}}"#),
            (refused(Some(Container::Other), 0), "setpriv --reuid=1000"),
        ] {
            let fixes = obstacle.fixes();
            assert!(fixes.iter().any(|fix| fix.contains(wanted)), "{wanted}: {fixes:#?}");
            assert!(fixes.iter().all(|fix| !fix.contains('\n')));
        }
    }

    /// Who has few capabilities can't become another user by setpriv.
    #[test]
    fn a_user_is_become_from_outside() {
        for (container, capabilities, wanted) in [
            (Some(Container::Podman), 0, "podman exec -it -u 1000 CONTAINER memray"),
            (
                Some(Container::Docker { id: None }),
                0,
                "docker exec -it -u 1000 CONTAINER memray",
            ),
            (Some(Container::Podman), CAP_SETUID, "setpriv --reuid=1000"),
            (None, 0, "CAP_DAC_OVERRIDE"),
            (Some(Container::Other), 0, "--cap-add=DAC_OVERRIDE"),
        ] {
            let by = Surroundings {
                effective_capabilities: CAP_SYS_PTRACE | capabilities,
                ..by(container, 0)
            };
            let obstacle = Obstacle::FilesOfOtherUser { uid: 1000, by };
            let fixes = obstacle.fixes().join("\n");
            assert!(fixes.contains(wanted), "{wanted}: {fixes}");
            assert_eq!(fixes.contains("setpriv"), capabilities != 0, "{fixes}");
        }
    }

    #[test]
    fn yama_is_changed_on_the_host() {
        let fixes = |scope, container| {
            Obstacle::Yama {
                scope,
                by: by(container, 1000),
            }
            .fixes()
            .join("\n")
        };
        assert!(fixes(1, None).starts_with("run memray as root (sudo), or: sudo sysctl"));
        assert!(fixes(1, None).contains("PR_SET_PTRACER"));
        assert!(!fixes(2, None).contains("PR_SET_PTRACER"));
        assert!(fixes(1, Some(Container::Podman)).contains("on the host: sudo sysctl"));
        assert!(!fixes(3, None).contains("sysctl"));
    }
}
