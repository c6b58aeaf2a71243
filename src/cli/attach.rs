//! `memray attach`, `memray detach` and the hidden guardian.

use super::failure::Failure;
use super::live::{Live, check_screen};
use super::many;
use super::reports::leaks_of;
use super::run::look_at;
use super::say::{answer, note};
use super::{AttachArgs, DetachArgs};
use crate::analyze::{Evidence, loss_causes, verdict};
use crate::session::{self, End, Ended, Family, Session, Signals};
use crate::{report, ui};
use nix::sys::signal::Signal;
use serde_json::json;
use std::io::{Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::process::{Command, ExitCode, Stdio, exit};
use std::time::Duration;

pub fn attach(args: AttachArgs) -> Result<ExitCode, Failure> {
    match args.targets.only() {
        Some(pid) => attach_one(args, pid).map(|()| ExitCode::SUCCESS),
        None if args.live => Err(Failure::new(
            "--live shows one process".to_owned(),
            Some("memray attach PID PID -o FILE, then memray live PID in a terminal for each".to_owned()),
        )),
        None => many::attach_many(&args, &args.targets.resolve()?),
    }
}

fn attach_one(args: AttachArgs, pid: i32) -> Result<(), Failure> {
    if args.window.verbose > 0 {
        args.window.note_idle_flags();
        if args.method.is_some() {
            note("--method changes nothing: no debugger is involved");
        }
    }
    let in_background = args.collector
        || args.background
        || (args.window.output.is_some() && args.window.duration.is_none() && !args.foreground);
    let in_background = in_background && !args.live;
    let is_live = is_live(&args)?;
    if in_background && !args.collector {
        return start_collector();
    }
    let failed = |error: session::Error| Failure::new(format!("cannot attach to {pid}: {error}"), error.fix());
    // A session of its own, so that neither a closed terminal nor a Ctrl-C in it reaches the collector.
    if args.collector
        && let Err(error) = nix::unistd::setsid()
    {
        note(format_args!(
            "warning: the collector stays in this terminal's session: {error}"
        ));
    }
    let signals = Signals::block().map_err(|error| Failure::new(format!("cannot block signals: {error}"), None))?;
    if let Some(parent) = args.follower {
        // Whose children nobody follows any more are not tracked without end.
        let _ = nix::sys::prctl::set_pdeathsig(Signal::SIGTERM);
        if nix::unistd::getppid().as_raw() != parent {
            return Ok(());
        }
    }
    let options = session::Options {
        pid,
        output: args.window.output.clone(),
        force: args.window.force,
        compress: !args.window.no_compress,
        duration: args.window.duration,
        aggregate: args.window.aggregate,
        follow: (args.window.follow_fork || args.window.follow_exec).then(|| session::FollowOptions {
            exec: args.window.follow_exec,
            base: args.follow_base.clone(),
            arguments: args.window.for_children(),
        }),
        limits: session::Limits {
            until_rss_bytes: args.window.until_rss,
            max_size_bytes: args.window.max_size,
            keep_free_bytes: args.window.keep_free,
        },
        native: args.window.native,
        debuginfod: args.window.debuginfod,
        trace_python_allocators: args.window.trace_python_allocators,
    };
    let mut session = Session::start(&options).map_err(failed)?;
    for note_text in session.notes() {
        if !args.window.quiet {
            note(note_text);
        }
    }
    if args.window.verbose > 0 {
        for line in session.details() {
            note(line);
        }
    }
    if args.collector {
        if !announce_background(&args, pid, session.path()) {
            // Whoever started this was ended meanwhile: nobody would know of the window.
            let _ = session.finish(End::Signal(Signal::SIGHUP), false);
            if args.runner {
                // Nor is there anybody to let the program begin, which waits for that.
                let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), Signal::SIGKILL);
            }
            return Ok(());
        }
    } else if !args.window.quiet {
        let until = match args.window.duration {
            Some(duration) => format!("for {}", ui::format::seconds(duration.as_secs_f64())),
            None => "until Ctrl-C".to_owned(),
        };
        note(format_args!(
            "tracking {} {until}, writing {}",
            pid,
            session.path().display()
        ));
    }
    let watched = match is_live.then(|| Live::open(&mut session, pid)) {
        None => None,
        Some(Ok(live)) => Some(live.run(&mut session, &signals)),
        Some(Err(failure)) => {
            // Nobody would see the window.
            let _ = session.finish(End::Signal(Signal::SIGHUP), false);
            return Err(failure);
        }
    };
    let progress = ui::Progress::new(args.window.quiet || args.collector);
    let mut is_awaiting = args.awaited;
    let end = watched.unwrap_or_else(|| {
        session.run(&signals, |session, state| {
            progress.update(state);
            if is_awaiting && session.was_joined() {
                is_awaiting = false;
                let_go_of_stdout();
            }
            None
        })
    });
    progress.say("detaching");
    let mut ended = session.finish(end, true).map_err(|error| {
        Failure::new(
            format!("the window on {} did not end cleanly: {error}", pid),
            error.fix(),
        )
    })?;
    progress.say("waiting for children's windows");
    let family = ended.outlast(&signals);
    drop(progress);
    for warning in &ended.warnings {
        note(warning);
    }
    if args.runner && !args.watched && !args.window.quiet {
        say_written(&ended);
    }
    if args.collector {
        return Ok(());
    }
    if args.window.verbose > 0 {
        note(format_args!(
            "detached; stopped one thread for {} µs in all",
            ended.appendix.pause_us.iter().sum::<u64>()
        ));
    }
    let format = if args.json {
        Format::Json
    } else {
        Format::Text {
            width: ui::width(),
            color: ui::use_color(),
        }
    };
    let path = ended.path.clone();
    let is_gone = ended.kept.is_none() && !path.exists();
    print_answer(ended, family, pid, format, &signals)?;
    // The answer needs no file, the user may.
    if is_gone {
        return Err(Failure::new(
            format!("the capture is gone: {} was removed in the window", path.display()),
            Some("attach again, with -o in a place that stays".to_owned()),
        ));
    }
    Ok(())
}

/// What there is now that a program's window is over, in a few lines: its terminal is not ours.
fn say_written(ended: &Ended) {
    if let Some(end) = &ended.appendix.window_end {
        note(format_args!("the window ended: {end}"));
    }
    let losses = loss_causes(&ended.appendix.losses);
    let head = report::Head {
        losses: &losses,
        ..report::Head::default()
    };
    let lost = match head.lost_count() {
        0 => "nothing was lost".to_owned(),
        count => format!("{} could not be recorded", ui::format::counted(count, "event")),
    };
    if ended.kept.is_none() {
        note(format_args!("wrote {}; {lost}", ended.path.display()));
        note(look_at(&ended.path));
    }
}

/// Whether the window is watched: where that is asked for, or nothing is but to attach, from a terminal.
fn is_live(args: &AttachArgs) -> Result<bool, Failure> {
    if args.live {
        check_screen()?;
    }
    let has_a_plan =
        args.window.output.is_some() || args.window.duration.is_some() || args.foreground || args.background;
    let is_plain = !has_a_plan && !args.collector && !args.json && !args.window.quiet;
    Ok(args.live || (is_plain && ui::can_show_screens()))
}

/// How the answer is printed.
#[derive(Clone, Copy)]
enum Format {
    Text { width: usize, color: bool },
    Json,
}

/// Rows of the table after a window.
const ANSWER_ROWS: usize = 15;

/// Prints the answer; a second Ctrl-C while it is worked out skips it.
fn print_answer(
    ended: Ended,
    family: Option<Family>,
    pid: i32,
    format: Format,
    signals: &Signals,
) -> Result<(), Failure> {
    // The capture is complete, whatever happens here.
    let look_later = ended.kept.is_none().then(|| {
        let capture = ui::escape::shell_word(ended.path.as_os_str().as_bytes());
        format!("memray summary --leaks {capture}")
    });
    let failed = |why: String| Failure::new(format!("cannot work out the answer: {why}"), look_later.clone());
    let worker = std::thread::Builder::new().spawn(move || {
        let mut text = Vec::new();
        write_answer(&ended, family, pid, format, &mut text).map(|()| text)
    });
    let worker = worker.map_err(|error| failed(error.to_string()))?;
    while !worker.is_finished() {
        if signals.take().is_some() {
            exit(0);
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    let text = worker
        .join()
        .map_err(|_| failed("it met something unforeseen in the capture".to_owned()))??;
    // Written by a thread, since a reader that does not read must not keep Ctrl-C from ending this.
    let writer = std::thread::Builder::new().spawn(move || {
        let mut stdout = std::io::stdout();
        // A closed pipe is the reader's wish, no failure.
        let _ = stdout.write_all(&text).and_then(|()| stdout.flush());
    });
    let writer = writer.map_err(|error| failed(error.to_string()))?;
    while !writer.is_finished() {
        if signals.take().is_some() {
            exit(0);
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    Ok(())
}

fn write_answer(
    ended: &Ended,
    family: Option<Family>,
    pid: i32,
    format: Format,
    out: &mut Vec<u8>,
) -> Result<(), Failure> {
    // From what the collector knows, not from the file: that may be large, or gone.
    let in_memory = ended.live.as_ref().or(ended.kept.as_ref()).map(session::Kept::path);
    let capture = ui::escape::shell_word(ended.path.as_os_str().as_bytes());
    let (lines, mut capture_object) = leaks_of(in_memory.as_ref().unwrap_or(&ended.path))?;
    let appendix = &ended.appendix;
    let verdict = verdict(&Evidence {
        samples: &appendix.samples,
        cgroup_limit_bytes: appendix.cgroup_limit_bytes,
        tracked_live_bytes: lines.total_bytes,
        old_frees_count: appendix.old_frees.count,
        old_frees_bytes: appendix.old_frees.bytes,
    });
    let children = family.map(|family| report::Children {
        followed: family
            .followed
            .iter()
            .map(|(pid, path)| (*pid, printable_path(path)))
            .collect(),
        missed_count: family.missed_count,
        refused: family.refused,
    });
    // The table has native lines where they were recorded.
    let look_at = format!("{}{capture}", if appendix.native.is_some() { "--native " } else { "" });
    let answer = report::Answer {
        leaks: &lines,
        verdict: &verdict,
        head: report::Head {
            window_end: appendix.window_end.as_deref(),
            losses: &loss_causes(&appendix.losses),
            // Part of the sum that the answer prints.
            old_frees: None,
        },
        children: children.as_ref(),
        target_end: ended.target_end,
        oom_kills_count: ended.oom_kills,
        pauses_us: &appendix.pause_us,
        left_over_bytes: appendix.left_over_bytes,
        capture: ended.kept.is_none().then_some(&look_at),
        small_objects_command: Some(&format!("memray attach --trace-python-allocators {pid}")),
    };
    match format {
        Format::Text { width, color } => {
            let options = report::LeaksOptions {
                max_rows: ANSWER_ROWS,
                color,
            };
            report::answer(&answer, &options, width, out)
        }
        Format::Json => {
            if ended.live.is_some() {
                // It is of sums; the capture is not.
                capture_object["is_aggregated"] = json!(false);
            }
            // Where nothing was kept there is no path to look at.
            capture_object["path"] = json!(ended.kept.is_none().then(|| ended.path.to_string_lossy()));
            let found = report::answer_object(&answer);
            report::write_json("attach", ("capture", capture_object), found, out)
        }
    }
    .map_err(|error| Failure::new(format!("cannot print: {error}"), None))
}

fn printable_path(path: &Path) -> String {
    ui::escape::printable_bytes(path.as_os_str().as_bytes()).into_owned()
}

/// Starts this program again as the collector and waits until it is live or has failed.
fn start_collector() -> Result<(), Failure> {
    let mut child = Command::new("/proc/self/exe")
        .args(["attach", "--collector"])
        .args(std::env::args_os().skip(2))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .map_err(|error| Failure::new(format!("cannot start the collector: {error}"), None))?;
    let mut said = String::new();
    if let Some(mut stdout) = child.stdout.take() {
        let _ = stdout.read_to_string(&mut said);
    }
    if said.is_empty() {
        // It failed and has said why on standard error, which it shares with us.
        let code = child.wait().ok().and_then(|status| status.code()).unwrap_or(1);
        exit(code.max(1));
    }
    // With -q the collector says a bare newline, which only tells that it is live.
    let _ = std::io::stdout().write_all(said.trim_start().as_bytes());
    Ok(())
}

/// Says that tracking is live, and lets go of the terminal. False if nobody is there to be told.
fn announce_background(args: &AttachArgs, pid: i32, path: &Path) -> bool {
    let until = args.window.duration.map_or(String::new(), |duration| {
        format!(" for {}", ui::format::seconds(duration.as_secs_f64()))
    });
    let is_told = if args.json {
        let object = json!({
            "schema": report::SCHEMA,
            "report": "attach",
            "state": "tracking",
            "pid": pid,
            "path": path.to_string_lossy(),
            "duration_ms": args.window.duration.map(|duration| duration.as_millis() as u64),
        });
        let text = serde_json::to_string_pretty(&object).unwrap_or_default();
        writeln!(std::io::stdout(), "{text}").is_ok()
    } else if args.window.quiet {
        writeln!(std::io::stdout()).is_ok()
    } else {
        answer(format_args!(
            "tracking {pid}{until} in the background, writing {}",
            path.display()
        )) && answer(format_args!("end it with: memray detach {pid}"))
    };
    if let Some(null) = null() {
        let _ = nix::unistd::dup2_stdin(&null);
        // Of a program that memray runs the terminal is still there.
        if !args.runner || args.watched {
            let _ = nix::unistd::dup2_stderr(&null);
        }
    }
    if !args.awaited {
        let_go_of_stdout();
    }
    is_told
}

fn null() -> Option<std::fs::File> {
    std::fs::File::options().read(true).write(true).open("/dev/null").ok()
}

/// Its end is what the command waits for that started this process, and whoever waits for that command must not wait for
/// this one.
fn let_go_of_stdout() {
    if let Some(null) = null() {
        let _ = nix::unistd::dup2_stdout(&null);
    }
}

pub fn detach(args: &DetachArgs) -> Result<ExitCode, Failure> {
    if args.verbose > 0 && args.method.is_some() {
        note("--method changes nothing: no debugger is involved");
    }
    let mut pids = match args.targets.only() {
        Some(pid) => vec![pid],
        None => args.targets.resolve()?,
    };
    if args.targets.pids.is_empty() {
        // Of those that a name or a tree stands for, it is about those that are tracked.
        let sessions = session::sessions(None).unwrap_or_default();
        pids.retain(|pid| sessions.iter().any(|it| it.target_pid == *pid));
        if pids.is_empty() {
            let what = "none of these processes is being tracked".to_owned();
            return Err(Failure::new(
                what,
                Some("memray status, which lists those that are".to_owned()),
            ));
        }
    }
    let mut has_failed = false;
    for pid in pids {
        match session::detach(pid) {
            Ok(said) => drop(answer(said)),
            Err(error) => {
                Failure::new(format!("cannot detach from {pid}: {error}"), error.fix()).print();
                has_failed = true;
            }
        }
    }
    Ok(ExitCode::from(u8::from(has_failed)))
}
