//! `memray ps`: the Python processes, and whether an attach to each would work.

use super::PsArgs;
use super::say::print;
use crate::session::{self, PythonProcess, pythons};
use crate::ui::{self, escape::printable, format};
use serde_json::{Value, json};
use std::process::ExitCode;
use std::sync::Mutex;

/// Version of the JSON: changes only when a field changes its meaning.
const SCHEMA: u32 = 1;
/// Processes that are looked at at the same time.
const LOOKERS_MAX: usize = 8;

/// A process and what doctor says of it.
struct Seen {
    process: PythonProcess,
    version: Option<String>,
    obstacle: Option<(String, Option<String>)>,
    is_tracked: bool,
}

/// Exit status 0 also where there is none.
pub fn ps(args: &PsArgs) -> ExitCode {
    let mut found = pythons();
    if let Some(name) = &args.name {
        found.retain(|process| process.is_named(name));
    }
    let seen = look(found);
    if args.json {
        let listed: Vec<Value> = seen.iter().map(object).collect();
        let object = json!({"schema": SCHEMA, "version": env!("CARGO_PKG_VERSION"), "processes": listed});
        let text = serde_json::to_string_pretty(&object).unwrap_or_default();
        print(format!("{text}\n").as_bytes());
    } else if seen.is_empty() {
        print(b"no Python processes\n");
    } else {
        print(text(&seen, ui::width()).as_bytes());
    }
    ExitCode::SUCCESS
}

fn look(found: Vec<PythonProcess>) -> Vec<Seen> {
    let tracked: Vec<i32> = session::sessions(None)
        .unwrap_or_default()
        .iter()
        .map(|it| it.target_pid)
        .collect();
    let lookers = found.len().min(LOOKERS_MAX);
    let queue = Mutex::new(found.into_iter());
    let seen = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..lookers {
            scope.spawn(|| {
                loop {
                    let next = queue.lock().ok().and_then(|mut queue| queue.next());
                    let Some(process) = next else { return };
                    let it = look_at(process, &tracked);
                    if let Ok(mut seen) = seen.lock() {
                        seen.push(it);
                    }
                }
            });
        }
    });
    let mut seen = seen.into_inner().unwrap_or_default();
    seen.sort_by_key(|it| it.process.pid);
    seen
}

fn look_at(process: PythonProcess, tracked: &[i32]) -> Seen {
    // Which touches nothing.
    let diagnosis = session::diagnose(process.pid);
    let obstacle = diagnosis.obstacle().map(|error| (error.to_string(), error.fix()));
    Seen {
        is_tracked: tracked.contains(&process.pid),
        version: diagnosis.python_version,
        obstacle,
        process,
    }
}

fn text(seen: &[Seen], width: usize) -> String {
    let verdict = |it: &Seen| match (&it.obstacle, it.is_tracked) {
        (_, true) => "tracked",
        (None, _) => "yes",
        (Some(_), _) => "NO",
    };
    let columns = |it: &Seen| {
        [
            it.process.pid.to_string(),
            format::bytes_short(it.process.rss_bytes),
            it.version.clone().unwrap_or_else(|| "?".to_owned()),
            format::seconds(it.process.uptime_seconds.round()),
            verdict(it).to_owned(),
        ]
    };
    let titles = ["PID", "RSS", "PYTHON", "UP", "ATTACH"].map(str::to_owned);
    let rows: Vec<[String; 5]> = [titles].into_iter().chain(seen.iter().map(columns)).collect();
    let widths: [usize; 5] =
        std::array::from_fn(|column| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0));
    let mut text = String::new();
    for (index, row) in rows.iter().enumerate() {
        let mut line = String::new();
        for (column, cell) in row.iter().enumerate() {
            let pad = " ".repeat(widths[column] - cell.chars().count());
            // Numbers to the right.
            line += &if column < 4 {
                format!("{pad}{cell}  ")
            } else {
                format!("{cell}{pad}  ")
            };
        }
        let left = width.saturating_sub(line.chars().count()).max(20);
        let command = match index.checked_sub(1) {
            None => "COMMAND".to_owned(),
            Some(index) => seen[index].process.command(),
        };
        line += &cut(&printable(&command), left);
        text += &format!("{}\n", line.trim_end());
    }
    for it in seen.iter().filter(|it| !it.is_tracked) {
        if let Some((what, _)) = &it.obstacle {
            text += &format!("{}: {}\n", it.process.pid, printable(what));
        }
    }
    if seen.iter().any(|it| it.obstacle.is_some() && !it.is_tracked) {
        text += "What helps: memray doctor PID\n";
    }
    text
}

/// The beginning of a text, in so many columns.
fn cut(text: &str, columns: usize) -> String {
    if text.chars().count() <= columns {
        return text.to_owned();
    }
    let kept: String = text.chars().take(columns.saturating_sub(1)).collect();
    format!("{kept}…")
}

fn object(it: &Seen) -> Value {
    let obstacle = it
        .obstacle
        .as_ref()
        .map(|(what, fix)| json!({"what": what, "fix": fix}));
    json!({
        "pid": it.process.pid,
        "uid": it.process.uid,
        "rss_bytes": it.process.rss_bytes,
        "python_version": it.version,
        "uptime_ms": (it.process.uptime_seconds * 1e3) as u64,
        "command_line": it.process.command(),
        "is_tracked": it.is_tracked,
        "would_attach": it.obstacle.is_none(),
        "obstacle": obstacle,
    })
}
