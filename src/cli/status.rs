//! `memray status`: the sessions that there are.

use super::StatusArgs;
use super::doctor::error_object;
use super::failure::Failure;
use super::say::print;
use crate::report::{self, Line, Mark};
use crate::session::{self, Listed, State};
use crate::ui::{self, escape::printable, format};
use serde_json::{Value, json};
use std::process::ExitCode;
use std::time::{SystemTime, UNIX_EPOCH};

/// Version of the JSON: changes only when a field changes its meaning.
const SCHEMA: u32 = 1;

/// Exit status: 1 for a process without a session, or of which none can be told; else 0.
pub fn status(args: &StatusArgs) -> Result<ExitCode, Failure> {
    let sessions = session::sessions(args.pid);
    if args.json {
        let listed: Vec<Value> = sessions.as_deref().unwrap_or_default().iter().map(object).collect();
        let is_missing = sessions.is_err() || (args.pid.is_some() && listed.is_empty());
        let obstacle = sessions.as_ref().err().map(error_object);
        let object = json!({
            "schema": SCHEMA,
            "version": env!("CARGO_PKG_VERSION"),
            "sessions": listed,
            "obstacle": obstacle,
        });
        let text = serde_json::to_string_pretty(&object).unwrap_or_default();
        print(format!("{text}\n").as_bytes());
        return Ok(ExitCode::from(u8::from(is_missing)));
    }
    let listed = sessions.map_err(|error| {
        let of = args.pid.map_or(String::new(), |pid| format!(" of {pid}"));
        Failure::new(format!("cannot tell the status{of}: {error}"), error.fix())
    })?;
    match args.pid {
        Some(pid) if listed.is_empty() => {
            let error = session::Error::NoSession;
            let fix = format!("memray attach {pid}");
            return Err(Failure::new(format!("no session on {pid}: {error}"), Some(fix)));
        }
        None if listed.is_empty() => print(b"no sessions\n"),
        _ => print(&text(&listed)),
    }
    Ok(ExitCode::SUCCESS)
}

fn text(listed: &[Listed]) -> Vec<u8> {
    let mut out = Vec::new();
    for (number, session) in listed.iter().enumerate() {
        if number > 0 {
            out.push(b'\n');
        }
        let name = printable(&session.target_name);
        out.extend(format!("{} {name}", session.target_pid).trim_end().as_bytes());
        out.push(b'\n');
        // A vector takes everything.
        let _ = report::checklist(&lines(session), ui::width(), ui::use_color(), &mut out);
    }
    out
}

fn lines(session: &Listed) -> Vec<Line> {
    let line = |name: &str, text: String| Line {
        mark: Mark::None,
        name: name.to_owned(),
        text,
        fixes: Vec::new(),
    };
    let pid = session.target_pid;
    let (state, fix) = match session.state {
        State::Live => ("live", None),
        State::LiveUnguarded => (
            "live; its guardian is dead, so nobody repairs at once if memray is killed",
            None,
        ),
        State::BeingRepaired => ("its collector is dead; the guardian is putting the process back", None),
        State::Orphaned => (
            "orphaned: collector and guardian are dead; the hooks stand, and pass through",
            Some(format!("memray detach {pid}")),
        ),
        State::Unreadable => (
            "its collector is dead; whether the process was put back can't be seen from here",
            Some(format!("sudo memray detach {pid}")),
        ),
        State::Inherited => (
            "no session of its own: hooks inherited from a tracked parent, which pass through",
            Some(format!("memray detach {pid}")),
        ),
    };
    let mut lines = vec![Line {
        fixes: fix.into_iter().collect(),
        ..line("state", state.to_owned())
    }];
    if session.is_elsewhere {
        lines.push(line(
            "where",
            "in another container, whose process ids these are".to_owned(),
        ));
    }
    let ago = now_ms().saturating_sub(session.started_ms) as f64 / 1e3;
    let since = session::clock_text(session.started_ms);
    lines.push(line("since", format!("{since}, {} ago", format::seconds(ago))));
    let guardian = session
        .guardian_pid
        .map_or(String::new(), |pid| format!(", guardian {pid}"));
    lines.push(line(
        "owner",
        format!("{}, memray pid {}{guardian}", session.owner_name, session.collector_pid),
    ));
    if let Some(progress) = &session.progress {
        let allocations = format::counted(progress.allocations_count, "allocation");
        let frees = format::counted(progress.frees_count, "free");
        let live = format::bytes_short(progress.live_bytes);
        lines.push(line(
            "events",
            format!("{allocations}, {frees}; live since attach {live}"),
        ));
        if let Some(silence_ms) = progress.silence_ms() {
            let silence = format::seconds(silence_ms as f64 / 1e3);
            lines.push(line(
                "heard",
                format!("{silence} ago: its collector is stopped, held up or dead"),
            ));
        }
        let lost_count = progress.losses.total_count();
        lines.push(line(
            "losses",
            match lost_count {
                0 => "none".to_owned(),
                _ => format!("{} not recorded", format::counted(lost_count, "event")),
            },
        ));
    }
    let written = session.progress.map_or(String::new(), |progress| {
        format!(", {}", format::bytes_short(progress.written_bytes))
    });
    lines.push(line("capture", format!("{}{written}", session.capture)));
    if matches!(session.state, State::Live | State::LiveUnguarded) && !session.is_elsewhere {
        lines.push(line("end it", format!("memray detach {pid}")));
    }
    lines
}

fn object(session: &Listed) -> Value {
    let state = match session.state {
        State::Live => "live",
        State::LiveUnguarded => "live_unguarded",
        State::BeingRepaired => "being_repaired",
        State::Orphaned => "orphaned",
        State::Unreadable => "unreadable",
        State::Inherited => "inherited",
    };
    let progress = session.progress.as_ref();
    let losses = progress.map(|progress| progress.losses);
    json!({
        "pid": session.target_pid,
        "name": session.target_name,
        "state": state,
        "is_in_other_pid_namespace": session.is_elsewhere,
        "owner_uid": session.owner_uid,
        "owner_name": session.owner_name,
        "collector_pid": session.collector_pid,
        "guardian_pid": session.guardian_pid,
        "started_ms": session.started_ms,
        "updated_ms": progress.map(|it| it.updated_ms),
        "capture": session.capture,
        "written_bytes": progress.map(|it| it.written_bytes),
        "allocations_count": progress.map(|it| it.allocations_count),
        "frees_count": progress.map(|it| it.frees_count),
        "live_bytes": progress.map(|it| it.live_bytes),
        "lost_count": losses.map(|it| it.total_count()),
        "lost_allocations_count": losses.map(|it| it.allocations_count),
        "lost_frees_count": losses.map(|it| it.frees_count),
        "lost_definitions_count": losses.map(|it| it.definitions_count),
        "lost_unknown_count": losses.map(|it| it.unknown_count),
    })
}

fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
