//! What we are and where we run: what may be asked of the kernel, and what a user can change about it.

use std::path::Path;

/// Numbers of `linux/capability.h`, as bits.
pub const CAP_DAC_OVERRIDE: u64 = 1 << 1;
pub const CAP_SETUID: u64 = 1 << 7;
pub const CAP_SYS_PTRACE: u64 = 1 << 19;
pub const CAP_SYS_ADMIN: u64 = 1 << 21;

/// What runs the container that we are in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Container {
    Kubernetes {
        /// The pod's name, which is its host name.
        pod: String,
        namespace: Option<String>,
    },
    Docker {
        /// The container's id, where the host name is that.
        id: Option<String>,
    },
    Podman,
    /// Something that has PID namespaces.
    Other,
}

/// This process and its place.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Surroundings {
    /// Effective user and group id: file access and ptrace go by these (as file system ids).
    pub uid: u32,
    pub gid: u32,
    pub effective_capabilities: u64,
    pub permitted_capabilities: u64,
    /// 0 none, 1 strict, 2 filters.
    pub seccomp_mode: u32,
    /// Whether our user namespace is the machine's own, in which capabilities are what they say.
    pub is_first_user_namespace: bool,
    pub container: Option<Container>,
    /// Whether /proc is there at all.
    pub has_proc: bool,
}

impl Surroundings {
    pub fn look() -> Self {
        let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
        let capabilities = |name: &str| {
            let value = status.lines().find_map(|line| line.strip_prefix(name));
            value.map_or(0, |value| u64::from_str_radix(value.trim(), 16).unwrap_or(0))
        };
        Self {
            uid: nix::unistd::geteuid().as_raw(),
            gid: nix::unistd::getegid().as_raw(),
            effective_capabilities: capabilities("CapEff:"),
            permitted_capabilities: capabilities("CapPrm:"),
            seccomp_mode: status
                .lines()
                .find_map(|line| line.strip_prefix("Seccomp:")?.trim().parse().ok())
                .unwrap_or(0),
            is_first_user_namespace: is_first("user"),
            container: container(),
            has_proc: !status.is_empty(),
        }
    }

    /// Whether a capability is in effect.
    pub fn has(&self, capability: u64) -> bool {
        self.effective_capabilities & capability != 0
    }

    /// Whether it is what the kernel asks of who has filters suspended.
    pub fn is_admin(&self) -> bool {
        self.is_first_user_namespace && self.has(CAP_SYS_ADMIN)
    }

    pub fn is_root(&self) -> bool {
        self.uid == 0
    }
}

/// Whether our namespace of this kind is the machine's first, by the inode numbers of `linux/proc_ns.h`.
fn is_first(kind: &str) -> bool {
    use std::os::unix::fs::MetadataExt;
    let first = match kind {
        "user" => 0xefff_fffd,
        _ => 0xefff_fffc,
    };
    std::fs::metadata(format!("/proc/self/ns/{kind}")).is_ok_and(|metadata| metadata.ino() == first)
}

fn container() -> Option<Container> {
    const SERVICE_ACCOUNT: &str = "/var/run/secrets/kubernetes.io/serviceaccount";
    let exists = |path: &str| Path::new(path).exists();
    if std::env::var_os("KUBERNETES_SERVICE_HOST").is_some() || exists(SERVICE_ACCOUNT) {
        let namespace = std::fs::read_to_string(format!("{SERVICE_ACCOUNT}/namespace")).ok();
        return Some(Container::Kubernetes {
            pod: host_name().unwrap_or_else(|| "POD".to_owned()),
            namespace: namespace
                .map(|text| text.trim().to_owned())
                .filter(|text| is_word(text)),
        });
    }
    if exists("/.dockerenv") {
        let is_id = |name: &String| name.len() == 12 && name.bytes().all(|byte| byte.is_ascii_hexdigit());
        return Some(Container::Docker {
            id: host_name().filter(is_id),
        });
    }
    if exists("/run/.containerenv") {
        return Some(Container::Podman);
    }
    (!is_first("pid")).then_some(Container::Other)
}

fn host_name() -> Option<String> {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").ok()?;
    Some(name.trim().to_owned()).filter(|name| is_word(name))
}

/// Whether a text can stand in a command as it is.
fn is_word(text: &str) -> bool {
    !text.is_empty()
        && text
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"-._".contains(&byte))
}
