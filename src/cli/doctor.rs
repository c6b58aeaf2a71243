//! `memray doctor`: would attach work, and if not, what helps.

use super::DoctorArgs;
use super::failure::Failure;
use super::say::print;
use crate::report::{self, Line, Mark};
use crate::session::{self, Check, Diagnosis};
use crate::ui;
use serde_json::{Map, Value, json};
use std::process::ExitCode;

/// Version of the JSON: changes only when a field changes its meaning.
const SCHEMA: u32 = 1;

/// Exit status: 0 if attach would work, else 1; also 1 if what was to be repaired could not be.
pub fn doctor(args: &DoctorArgs) -> ExitCode {
    let repair = match args.pid {
        Some(pid) if args.repair => session::repair_left_overs(pid),
        _ => Ok(false),
    };
    if let (Some(pid), Err(error)) = (args.pid, &repair) {
        Failure::new(format!("cannot repair {pid}: {error}"), error.fix()).print();
    }
    let diagnosis = match args.pid {
        Some(pid) => session::diagnose(pid),
        None => session::diagnose_host(),
    };
    if args.json {
        let text = serde_json::to_string_pretty(&object(args, &diagnosis, &repair)).unwrap_or_default();
        print(format!("{text}\n").as_bytes());
    } else {
        print(&text(args, &diagnosis, &repair));
    }
    ExitCode::from(u8::from(diagnosis.obstacle().is_some() || repair.is_err()))
}

fn text(args: &DoctorArgs, diagnosis: &Diagnosis, repair: &Result<bool, session::Error>) -> Vec<u8> {
    let mut out = Vec::new();
    // Where an obstacle hides what there is, the list says so.
    let is_seen = diagnosis
        .checks
        .iter()
        .any(|check| check.name == "session" && !matches!(check.result, Ok(None)));
    if let (Some(pid), Ok(has_repaired), true) = (args.pid, repair, args.repair && is_seen) {
        let what = match has_repaired {
            true => "cleaned up what a killed memray or a tracked parent had left in",
            false => "nothing to repair in",
        };
        out.extend(format!("{what} {pid}\n").into_bytes());
    }
    let lines: Vec<Line> = diagnosis.checks.iter().map(line).collect();
    // A vector takes everything.
    let _ = report::checklist(&lines, ui::width(), ui::use_color(), &mut out);
    let is_good = diagnosis.obstacle().is_none();
    let verdict = match args.pid {
        Some(pid) if is_good => format!("attach would work: memray attach {pid}"),
        Some(pid) => format!("attach to {pid} would be refused"),
        None if is_good => "attach can work on this machine; a process: memray doctor PID".to_owned(),
        None => "attach cannot work on this machine".to_owned(),
    };
    out.extend(format!("{verdict}\n").into_bytes());
    out
}

fn line(check: &Check) -> Line {
    let name = check.name.to_owned();
    match &check.result {
        Ok(Some(found)) => Line {
            mark: if found.is_less { Mark::Note } else { Mark::Good },
            name,
            text: found.text.clone(),
            fixes: found.fix.iter().cloned().collect(),
        },
        Ok(None) => Line {
            mark: Mark::Unseen,
            name,
            text: "cannot be seen for the obstacle above".to_owned(),
            fixes: Vec::new(),
        },
        Err(error) => Line {
            mark: Mark::Bad,
            name,
            text: error.to_string(),
            fixes: error.fixes(),
        },
    }
}

fn object(args: &DoctorArgs, diagnosis: &Diagnosis, repair: &Result<bool, session::Error>) -> Value {
    let checks: Vec<Value> = diagnosis.checks.iter().map(check_object).collect();
    let obstacle = diagnosis.checks.iter().find_map(|check| {
        let error = check.result.as_ref().err()?;
        Some(json!({"check": check.name, "what": error.to_string(), "fix": error.fix()}))
    });
    json!({
        "schema": SCHEMA,
        "version": env!("CARGO_PKG_VERSION"),
        "pid": args.pid,
        "would_attach": obstacle.is_none(),
        "has_repaired": matches!(repair, Ok(true)),
        "repair_error": repair.as_ref().err().map(error_object),
        "obstacle": obstacle,
        "checks": checks,
    })
}

/// What is in the way, and what helps.
pub fn error_object(error: &session::Error) -> Value {
    json!({"what": error.to_string(), "fix": error.fix()})
}

fn check_object(check: &Check) -> Value {
    let (status, what, fixes, facts) = match &check.result {
        Ok(Some(found)) => (
            if found.is_less { "note" } else { "ok" },
            Some(found.text.clone()),
            found.fix.iter().cloned().collect(),
            found.facts.as_slice(),
        ),
        Ok(None) => ("unseen", None, Vec::new(), &[][..]),
        Err(error) => ("obstacle", Some(error.to_string()), error.fixes(), &[][..]),
    };
    let facts: Map<String, Value> = facts
        .iter()
        .map(|&(name, value)| (name.to_owned(), json!(value)))
        .collect();
    json!({"name": check.name, "status": status, "what": what, "fixes": fixes, "facts": facts})
}
