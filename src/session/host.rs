//! What `memray doctor` finds out about this machine, without any target.

use super::error::Error;
use super::findings::capture_place;
use super::preflight::{Check, Diagnosis, Found};
use super::{control, target};
use inject::{CAP_DAC_OVERRIDE, CAP_SYS_ADMIN, CAP_SYS_PTRACE, Container, Filtered, Obstacle, Surroundings, host};

/// pidfd_open is as old as this.
const KERNEL_MIN: (u32, u32) = (5, 3);

type Finding = Result<Option<Found>, Error>;

/// Makes every check.
pub fn diagnose_host() -> Diagnosis {
    let own = Surroundings::look();
    let check = |name, result| Check { name, result };
    Diagnosis {
        python_version: None,
        checks: vec![
            check("kernel", kernel()),
            check("/proc", proc(&own)),
            check("user", with_proc(&own, user)),
            check("container", container(&own)),
            check("ptrace", ptrace()),
            check("yama", with_proc(&own, yama)),
            check("seccomp", with_proc(&own, seccomp)),
            check("profile", profile()),
            check("pidfd", pidfd()),
            check("writing", with_proc(&own, |_| writing())),
            check("memfd", memfd()),
            check("process_vm", process_vm()),
            check("control", control_directory()),
            check("capture", capture_place("memray-PID.0.bin".into())),
        ],
    }
}

fn kernel() -> Finding {
    let Some((release, machine)) = host::kernel() else {
        return Ok(None);
    };
    let mut numbers = release
        .split(|c: char| !c.is_ascii_digit())
        .map(|part| part.parse::<u32>().unwrap_or(0));
    let version = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    if version < KERNEL_MIN {
        let (major, minor) = KERNEL_MIN;
        let what = format!("Linux {release} is too old");
        return Err(Error::Host(what, vec![format!("use Linux {major}.{minor} or newer")]));
    }
    Ok(Found::new(format!("Linux {release}, {machine}")))
}

fn proc(own: &Surroundings) -> Finding {
    if own.has_proc {
        Ok(Found::new("mounted"))
    } else {
        Err(Error::Obstacle(Obstacle::NoProc))
    }
}

/// What rests on /proc says nothing without it.
fn with_proc(own: &Surroundings, check: fn(&Surroundings) -> Finding) -> Finding {
    if own.has_proc { check(own) } else { Ok(None) }
}

fn user(own: &Surroundings) -> Finding {
    let name = target::user_name(own.uid);
    let has = |capability| if own.has(capability) { "with" } else { "without" };
    let mut text = format!(
        "{name} (uid {}), {} CAP_SYS_PTRACE, {} CAP_SYS_ADMIN",
        own.uid,
        has(CAP_SYS_PTRACE),
        has(CAP_SYS_ADMIN)
    );
    if !own.is_first_user_namespace {
        text.push_str("; in a user namespace of its own, where capabilities reach no further");
    }
    if own.has(CAP_SYS_PTRACE) && own.has(CAP_DAC_OVERRIDE) {
        return Ok(Found::new(text));
    }
    text.push_str(&format!("; attach works on processes of {name} alone"));
    let by = own.clone();
    // What attach would say of a process of root's.
    let uid = if own.is_root() { 1 } else { 0 };
    let others = if own.has(CAP_SYS_PTRACE) {
        Obstacle::FilesOfOtherUser { uid, by }
    } else {
        Obstacle::OtherUser { uid, by }
    };
    Ok(Found::less(text, others.fix()))
}

fn container(own: &Surroundings) -> Finding {
    Ok(Found::new(match &own.container {
        None => "none".to_owned(),
        Some(Container::Kubernetes { pod, namespace }) => match namespace {
            Some(namespace) => format!("Kubernetes, pod {pod} of namespace {namespace}"),
            None => format!("Kubernetes, pod {pod}"),
        },
        Some(Container::Docker { id: Some(id) }) => format!("Docker, {id}"),
        Some(Container::Docker { id: None }) => "Docker".to_owned(),
        Some(Container::Podman) => "Podman".to_owned(),
        Some(Container::Other) => "a PID namespace of its own".to_owned(),
    }))
}

fn ptrace() -> Finding {
    match host::ptrace_is_callable() {
        Ok(()) => Ok(Found::new("may be called")),
        Err(errno) => Err(Error::Borrow(inject::BorrowError::Refused(errno))),
    }
}

fn yama(own: &Surroundings) -> Finding {
    let Some(scope) = inject::yama_scope() else {
        return Ok(Found::new("not in force"));
    };
    let by = own.clone();
    let fix = Obstacle::Yama { scope, by: by.clone() }.fix();
    let text = format!("kernel.yama.ptrace_scope is {scope}");
    match scope {
        0 => Ok(Found::new(text)),
        3 => Err(Error::Obstacle(Obstacle::Yama { scope, by })),
        _ if own.has(CAP_SYS_PTRACE) => Ok(Found::new(format!("{text}, which CAP_SYS_PTRACE passes"))),
        1 => Ok(Found::less(
            format!("{text}: only descendants and who permits it can be attached to"),
            fix,
        )),
        _ => Err(Error::Obstacle(Obstacle::Yama { scope, by })),
    }
}

fn seccomp(own: &Surroundings) -> Finding {
    let fix = || Obstacle::Seccomp(Filtered::Unknown).fix();
    Ok(match own.seccomp_mode {
        0 if own.is_admin() => Found::new("memray has no filter, and may have those of a target suspended"),
        0 => Found::less(
            "memray has no filter; a target that has one is refused, since suspending it takes CAP_SYS_ADMIN",
            fix(),
        ),
        _ => Found::less("memray runs under a filter; a target with any other is refused", fix()),
    })
}

/// AppArmor's or SELinux's.
fn profile() -> Finding {
    let read = |path: &str| {
        std::fs::read_to_string(path)
            .ok()
            .map(|text| text.trim_matches(['\0', '\n']).to_owned())
    };
    let current = read("/proc/self/attr/current").filter(|text| !text.is_empty());
    let enforces = read("/sys/fs/selinux/enforce").as_deref() == Some("1");
    Ok(Found::new(match current {
        None => "no security module confines memray".to_owned(),
        Some(profile) if enforces => format!("SELinux enforces; memray runs as {profile}"),
        Some(profile) => profile,
    }))
}

fn pidfd() -> Finding {
    match host::pidfd_is_usable() {
        Ok(()) => Ok(Found::new("can be opened")),
        Err(error) => Err(Error::Inject(inject::Error::Proc {
            file: "(pidfd)",
            pid: std::process::id() as i32,
            error,
        })),
    }
}

fn writing() -> Finding {
    if !inject::words_are_written_whole() {
        return Err(Error::TornWords);
    }
    if !inject::read_only_pages_can_be_written() {
        return Err(Error::ReadOnlyPages);
    }
    let Ok(time) = host::word_write_time() else {
        return Err(Error::TornWords);
    };
    let nanoseconds = time.as_nanos() as u64;
    let found = Found::new(format!("words are written as a whole, each in {nanoseconds} ns"));
    Ok(found.map(|found| Found {
        facts: vec![("word_write_ns", nanoseconds)],
        ..found
    }))
}

fn memfd() -> Finding {
    if let Err(errno) = host::memfd_is_usable() {
        return Err(Error::Host(
            format!("memfd_create fails: {}", errno.desc()),
            vec!["allow memfd_create in the seccomp profile that memray runs under".to_owned()],
        ));
    }
    let noexec = std::fs::read_to_string("/proc/sys/vm/memfd_noexec").unwrap_or_default();
    Ok(Found::new(match noexec.trim() {
        "" => "can be made and sized".to_owned(),
        level => format!("can be made and sized; vm.memfd_noexec is {level}, which does not matter"),
    }))
}

fn process_vm() -> Finding {
    Ok(match host::process_vm_is_usable() {
        Ok(()) => Found::new("may be called; memray does without"),
        Err(errno) => Found::new(format!("refused ({}); memray does without", errno.desc())),
    })
}

fn control_directory() -> Finding {
    Ok(match control::Directory::own_path() {
        Ok(path) => Found::new(format!("sessions are listed in {}", path.display())),
        Err(error) => Found::less(
            format!("sessions cannot be listed without their PID: {error}"),
            Some("set XDG_RUNTIME_DIR to a directory of yours with mode 0700".to_owned()),
        ),
    })
}
