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

/// Exit status: 0 if attach would work, else 1.
pub fn doctor(args: &DoctorArgs) -> Result<ExitCode, Failure> {
    let has_repaired = match args.pid {
        Some(pid) if args.repair => session::repair_left_overs(pid)
            .map_err(|error| Failure::new(format!("cannot repair {pid}: {error}"), error.fix()))?,
        _ => false,
    };
    let diagnosis = match args.pid {
        Some(pid) => session::diagnose(pid),
        None => session::diagnose_host(),
    };
    if args.json {
        let text = serde_json::to_string_pretty(&object(args, &diagnosis, has_repaired)).unwrap_or_default();
        print(format!("{text}\n").as_bytes());
    } else {
        print(&text(args, &diagnosis, has_repaired)?);
    }
    Ok(ExitCode::from(u8::from(diagnosis.obstacle().is_some())))
}

fn text(args: &DoctorArgs, diagnosis: &Diagnosis, has_repaired: bool) -> Result<Vec<u8>, Failure> {
    let mut out = Vec::new();
    // Where an obstacle hides what there is, the list says so.
    let is_seen = diagnosis
        .checks
        .iter()
        .any(|check| check.name == "session" && !matches!(check.result, Ok(None)));
    if let Some(pid) = args.pid.filter(|_| args.repair && is_seen) {
        let what = if has_repaired {
            "cleaned up what a killed memray or a tracked parent had left in"
        } else {
            "nothing to repair in"
        };
        out.extend(format!("{what} {pid}\n").into_bytes());
    }
    let lines: Vec<Line> = diagnosis.checks.iter().map(line).collect();
    report::checklist(&lines, ui::width(), ui::use_color(), &mut out)
        .map_err(|error| Failure::new(format!("cannot print: {error}"), None))?;
    let is_good = diagnosis.obstacle().is_none();
    let verdict = match args.pid {
        Some(pid) if is_good => format!("attach would work: memray attach {pid}"),
        Some(pid) => format!("attach to {pid} would be refused"),
        None if is_good => "attach can work on this machine; a process: memray doctor PID".to_owned(),
        None => "attach cannot work on this machine".to_owned(),
    };
    out.extend(format!("{verdict}\n").into_bytes());
    Ok(out)
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

fn object(args: &DoctorArgs, diagnosis: &Diagnosis, has_repaired: bool) -> Value {
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
        "has_repaired": has_repaired,
        "obstacle": obstacle,
        "checks": checks,
    })
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
