//! What checks found, in words.

use super::error::Error;
use super::landing::Landing;
use super::limits::Room;
use super::output::OutputError;
use super::preflight::Found;
use super::repair::{self, Claim};
use crate::ui;
use inject::{Facts, Process};
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;

/// Whether a capture can be created in the current directory: a file without a name, gone as soon as it is closed.
pub fn capture_place(name: PathBuf) -> Result<Option<Found>, Error> {
    let directory = std::env::current_dir();
    let directory = directory.map_err(|error| Error::Output(OutputError::Directory(".".into(), error)))?;
    let mut options = std::fs::OpenOptions::new();
    options.write(true).mode(0o600).custom_flags(libc::O_TMPFILE);
    match options.open(&directory) {
        Ok(_) => {}
        // A file system that knows no such files.
        Err(error) if matches!(error.raw_os_error(), Some(libc::EOPNOTSUPP | libc::EISDIR)) => {
            nix::unistd::access(&directory, nix::unistd::AccessFlags::W_OK)
                .map_err(|errno| Error::Output(OutputError::Create(name.clone(), errno.into())))?;
        }
        Err(error) => return Err(Error::Output(OutputError::Create(name, error))),
    }
    let room = std::fs::File::open(&directory)
        .ok()
        .and_then(|it| Room::look(&it, None));
    room.map_or(Ok(()), |room| room.check(&directory.join(name)))?;
    let free_bytes = room.map_or(0, |room| room.free_bytes);
    let (place, free) = (directory.display(), ui::format::bytes_short(free_bytes));
    Ok(Some(Found {
        text: format!("{place} is writable, {free} free"),
        facts: vec![("free_bytes", free_bytes)],
        ..Found::default()
    }))
}

/// Why the kernel lets us.
pub fn permission(facts: &Facts) -> String {
    let own = &facts.surroundings;
    let mut text = if own.has(inject::CAP_SYS_PTRACE) {
        "permitted by CAP_SYS_PTRACE".to_owned()
    } else {
        "permitted: it is of the same user".to_owned()
    };
    if let Some(scope @ 1..) = facts.yama_scope {
        text.push_str(&format!("; kernel.yama.ptrace_scope is {scope}"));
    }
    text
}

/// `12: 1 running, 11 asleep`.
pub fn threads(facts: &Facts) -> String {
    let names = [
        ("R", "running"),
        ("SI", "asleep"),
        ("D", "asleep uninterruptibly"),
        ("T", "stopped"),
        ("t", "stopped by a tracer"),
        ("ZXx", "ended"),
    ];
    let counts = names.iter().filter_map(|(letters, name)| {
        let states = facts.thread_states.iter();
        let count = states.filter(|&&state| letters.contains(state)).count();
        (count > 0).then(|| format!("{count} {name}"))
    });
    let counts: Vec<String> = counts.collect();
    let looked_at = facts.thread_states.len();
    let first = if facts.threads_count > looked_at {
        format!("{}, of the first {looked_at}", facts.threads_count)
    } else {
        facts.threads_count.to_string()
    };
    format!("{first}: {}", counts.join(", "))
}

/// What the marks in the target say.
pub fn sessions(process: &Process, landings: &[Landing]) -> Result<Option<Found>, Error> {
    let pid = process.pid();
    let fix = Some(format!(
        "memray detach {pid} (attach does the same, and memray doctor {pid} --repair)"
    ));
    let claims: Vec<_> = landings.iter().map(|landing| repair::claim(process, landing)).collect();
    // Attach repairs the dead ones and refuses for one that lives, in whatever order they are found.
    if let Some(Claim::Live(owner)) = claims.iter().flatten().find(|claim| matches!(claim, Claim::Live(_))) {
        return Err(repair::busy(process, owner.clone()));
    }
    match claims.into_iter().flatten().next() {
        Some(Claim::Inherited(_)) => {
            let text = "none; it inherited the marks of a session from its parent";
            Ok(Found::less(text, fix))
        }
        Some(Claim::Dead(owner) | Claim::Live(owner)) => {
            let text = format!(
                "none; a memray that was killed (pid {}) left its marks, and its capture up to then is {}",
                owner.pid,
                owner.path.display()
            );
            Ok(Found::less(text, fix))
        }
        None => {
            let bytes = |landing: &Landing| {
                landing
                    .header
                    .landing_bytes
                    .saturating_add(landing.header.reservation_bytes)
            };
            let left_over_bytes = landings.iter().map(bytes).fold(0, u64::saturating_add);
            let used_again = if left_over_bytes > 0 {
                "; what an earlier one left is used again"
            } else {
                ""
            };
            Ok(Some(Found {
                text: format!("none{used_again}"),
                facts: vec![("left_over_bytes", left_over_bytes)],
                ..Found::default()
            }))
        }
    }
}
