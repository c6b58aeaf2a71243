//! `memray attach` to several processes at once: a collector and a capture each, one answer for all.

use super::AttachArgs;
use super::failure::Failure;
use super::reports::{leaks_of, samples_of};
use super::say::{answer, note, print};
use crate::analyze::{Evidence, LineTable, verdict};
use crate::report::{self, ManyAnswer, Member};
use crate::session::{self, PythonProcess, Signals};
use crate::ui::{self, format};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};
use std::ffi::OsString;
use std::io::Read;
use std::path::PathBuf;
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

/// Each takes two processes and a ring.
const TARGETS_MAX: usize = 64;
/// How often it is looked which windows have ended, and how they do.
const LOOK_EVERY: Duration = Duration::from_millis(10);
const TELL_EVERY: Duration = Duration::from_secs(1);
/// Rows of the merged table.
const ANSWER_ROWS: usize = 15;

/// One of the processes.
struct Target {
    pid: i32,
    name: String,
    collector: Option<Child>,
    /// Where its window writes; `None` where it did not open.
    path: Option<PathBuf>,
    has_failed: bool,
}

/// Exit status 1 if any failed, after all are done.
pub fn attach_many(args: &AttachArgs, pids: &[i32]) -> Result<ExitCode, Failure> {
    if pids.len() > TARGETS_MAX {
        let what = format!(
            "{} processes are more than the {TARGETS_MAX} that are tracked at once",
            pids.len()
        );
        return Err(Failure::new(
            what,
            Some("name some of them, or those below one process: --children PID".to_owned()),
        ));
    }
    if args.window.output.as_ref().is_some_and(|path| path.starts_with("/dev")) {
        let what = "several processes need a file each, which no device is".to_owned();
        return Err(Failure::new(
            what,
            Some("leave out -o, or name what the files' names begin with".to_owned()),
        ));
    }
    let in_background =
        args.background || (args.window.output.is_some() && args.window.duration.is_none() && !args.foreground);
    let signals = Signals::block().map_err(|error| Failure::new(format!("cannot block signals: {error}"), None))?;
    let mut targets: Vec<Target> = pids.iter().map(|&pid| Target::new(pid)).collect();
    if !args.window.quiet {
        for target in &targets {
            note(format_args!("target {} {}", target.pid, target.name));
        }
    }
    for target in &mut targets {
        target.start(args, in_background);
    }
    for target in &mut targets {
        target.hear();
    }
    if in_background {
        let live = |target: &&Target| !target.has_failed;
        if args.json {
            print_json("tracking", targets.iter().map(Target::object).collect(), None);
        } else if !args.window.quiet {
            for target in targets.iter().filter(live) {
                let path = target.path.as_deref().unwrap_or("".as_ref());
                answer(format_args!(
                    "tracking {} in the background, writing {}",
                    target.pid,
                    path.display()
                ));
            }
            let numbers: Vec<String> = targets.iter().filter(live).map(|it| it.pid.to_string()).collect();
            if !numbers.is_empty() {
                answer(format_args!("end them with: memray detach {}", numbers.join(" ")));
            }
        }
        return Ok(code(&targets));
    }
    wait(&mut targets, args, &signals);
    write_answer(&targets, args)?;
    Ok(code(&targets))
}

fn code(targets: &[Target]) -> ExitCode {
    ExitCode::from(u8::from(targets.iter().any(|target| target.has_failed)))
}

/// Until all windows are over; a signal ends all of them.
fn wait(targets: &mut [Target], args: &AttachArgs, signals: &Signals) {
    let progress = ui::ManyProgress::new(args.window.quiet, targets.len());
    let started = Instant::now();
    let mut next_tell = started;
    while targets.iter().any(|target| target.collector.is_some()) {
        let is_over = signals.take().is_some();
        for target in targets.iter_mut() {
            let Some(collector) = &mut target.collector else {
                continue;
            };
            if is_over {
                // Not collected yet, so the number is still its own.
                let _ = kill(Pid::from_raw(collector.id() as i32), Signal::SIGTERM);
            }
            if let Ok(Some(status)) = collector.try_wait() {
                target.has_failed |= !status.success();
                target.collector = None;
            }
        }
        if progress.is_shown() && Instant::now() >= next_tell {
            let sessions = session::sessions(None).unwrap_or_default();
            for (index, target) in targets.iter().enumerate() {
                let state = sessions
                    .iter()
                    .find(|it| it.target_pid == target.pid)
                    .and_then(|it| it.progress);
                progress.update(index, &target.line(state.as_ref(), started.elapsed()));
            }
            next_tell = Instant::now() + TELL_EVERY;
        }
        std::thread::sleep(LOOK_EVERY);
    }
}

impl Target {
    fn new(pid: i32) -> Self {
        let process = PythonProcess::look_at(pid);
        Self {
            pid,
            name: process.map_or("(no Python)".to_owned(), |it| {
                format!("{} {}", format::bytes_short(it.rss_bytes), it.command())
            }),
            collector: None,
            path: None,
            has_failed: false,
        }
    }

    fn start(&mut self, args: &AttachArgs, in_background: bool) {
        let mut command = Command::new("/proc/self/exe");
        command.args(["attach", &self.pid.to_string(), "--collector", "--json"]);
        command.args(args.window.for_another());
        if !in_background {
            // Its warnings are for this terminal, and it ends with us.
            command.args(["--runner", "--quiet", "--follower", &std::process::id().to_string()]);
        }
        if let Some(output) = &args.window.output {
            let mut name = OsString::from(output);
            name.push(format!(".{}", self.pid));
            command.arg("-o").arg(name);
        }
        match command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn() {
            Ok(collector) => self.collector = Some(collector),
            Err(error) => {
                note(format_args!(
                    "cannot attach to {}: no memray can be started: {error}",
                    self.pid
                ));
                self.has_failed = true;
            }
        }
    }

    /// Waits until its window is open. One that fails says why itself.
    fn hear(&mut self) {
        let Some(collector) = &mut self.collector else { return };
        let mut said = String::new();
        if let Some(mut stdout) = collector.stdout.take() {
            let _ = stdout.read_to_string(&mut said);
        }
        let said: Value = serde_json::from_str(&said).unwrap_or_default();
        self.path = said["path"].as_str().map(PathBuf::from);
        if self.path.is_none() {
            let _ = collector.wait();
            self.collector = None;
            self.has_failed = true;
        }
    }

    fn line(&self, state: Option<&session::Progress>, elapsed: Duration) -> String {
        let pid = self.pid;
        let elapsed = format::seconds(elapsed.as_secs_f64().round());
        match (state, &self.collector) {
            (_, None) if self.has_failed => format!("{pid} · failed"),
            (_, None) => format!("{pid} · done"),
            (None, _) => format!("{pid} · {elapsed}"),
            (Some(state), _) => format!(
                "{pid} · {elapsed} · live since attach {} · {} · {} lost",
                format::bytes_short(state.live_bytes),
                format::counted(state.allocations_count, "allocation"),
                format::count(state.losses.total_count()),
            ),
        }
    }

    fn object(&self) -> Value {
        json!({
            "pid": self.pid,
            "path": self.path.as_ref().map(|path| path.to_string_lossy()),
            "has_failed": self.has_failed,
        })
    }
}

/// The merged answer, from the captures.
fn write_answer(targets: &[Target], args: &AttachArgs) -> Result<(), Failure> {
    let mut merged = LineTable::default();
    let mut members = Vec::new();
    for target in targets.iter().filter(|target| !target.has_failed) {
        let Some(path) = &target.path else { continue };
        let (lines, _) = leaks_of(path)?;
        let (samples, cgroup_limit_bytes) = samples_of(path)?;
        let verdict = verdict(&Evidence {
            samples: &samples,
            cgroup_limit_bytes,
            tracked_live_bytes: lines.total_bytes,
            ..Evidence::default()
        });
        members.push(Member {
            pid: target.pid,
            path: path.to_string_lossy().into_owned(),
            live_bytes: lines.total_bytes,
            blocks_count: lines.total_blocks,
            trend: verdict.trend,
        });
        merged.merge(lines);
    }
    let answer = ManyAnswer {
        members: &members,
        leaks: &merged,
    };
    if args.json {
        let mut objects: Vec<Value> = Vec::new();
        for target in targets {
            let mut object = target.object();
            if let Some(member) = members.iter().find(|member| member.pid == target.pid) {
                object["total_bytes"] = json!(member.live_bytes);
                object["blocks_count"] = json!(member.blocks_count);
                object["trend"] = report::trend_object(member.trend);
            }
            objects.push(object);
        }
        print_json("ended", objects, Some(report::leaks_object(&merged)));
        return Ok(());
    }
    if members.is_empty() {
        return Ok(());
    }
    let options = report::LeaksOptions {
        max_rows: ANSWER_ROWS,
        color: ui::use_color(),
    };
    let mut text = Vec::new();
    // A vector takes everything.
    let _ = report::many_answer(&answer, &options, ui::width(), &mut text);
    print(&text);
    Ok(())
}

fn print_json(state: &str, processes: Vec<Value>, leaks: Option<Value>) {
    let object = json!({
        "schema": report::SCHEMA,
        "report": "attach",
        "state": state,
        "processes": processes,
        "leaks": leaks,
    });
    let text = serde_json::to_string_pretty(&object).unwrap_or_default();
    print(format!("{text}\n").as_bytes());
}
