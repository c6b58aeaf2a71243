//! What is printed when a window ends: what is still live, whether memory grows, and how sure that is.

use serde_json::{Value, json};
use std::fmt;
use std::io::{self, Write};

use super::children::Children;
use super::head::{Head, head};
use super::leaks::{LeaksOptions, leaks, leaks_object};
use super::table::wrap;
use super::text::Text;
use crate::analyze::{Basis, Limit, LineTable, Rate, Reconcile, Trend, Verdict};
use crate::ui::format;

/// From this part of what is still live on, arenas need an explanation.
const ARENAS_SHARE_MIN: f64 = 0.2;
/// An unexplained remainder needs a word if it is both this part of the larger side and this many bytes.
const UNEXPLAINED_SHARE_MIN: f64 = 0.25;
const UNEXPLAINED_BYTES_MIN: u64 = 1_000_000;

/// How the target ended, if it did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TargetEnd {
    Exited {
        status: i32,
    },
    Killed {
        signal: i32,
    },
    /// It runs another program now (exec), whose memory is another.
    Executed,
    /// It is gone, and only its parent was told how.
    Unknown,
}

impl fmt::Display for TargetEnd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Exited { status } => write!(f, "it exited with status {status}"),
            Self::Killed { signal } => match nix::sys::signal::Signal::try_from(signal) {
                Ok(name) => write!(f, "it was killed by signal {signal} ({name})"),
                Err(_) => write!(f, "it was killed by signal {signal}"),
            },
            Self::Executed => write!(f, "it became another program (exec)"),
            Self::Unknown => write!(f, "how is known only to its parent process"),
        }
    }
}

/// Everything that a window brought.
#[derive(Clone, Copy, Debug)]
pub struct Answer<'a> {
    pub leaks: &'a LineTable,
    pub verdict: &'a Verdict,
    pub head: Head<'a>,
    /// `None` if children were not followed.
    pub children: Option<&'a Children>,
    /// `None` if the target lives on.
    pub target_end: Option<TargetEnd>,
    /// How many processes of the target's cgroup the kernel killed for want of memory within the window.
    pub oom_kills_count: u64,
    /// How long each stop of a thread of the target took, in microseconds.
    pub pauses_us: &'a [u64],
    /// Address space that stays in the target, inert; 0 where nothing does.
    pub left_over_bytes: u64,
    /// The capture, as it is typed on a command line with the flags that this table takes, where one is kept.
    pub capture: Option<&'a str>,
    /// A command that shows small objects one by one, where there is one.
    pub small_objects_command: Option<&'a str>,
}

/// Writes what the figures lack, the table of what is still live, then the verdict. Without colour no control code is written.
pub fn answer(answer: &Answer<'_>, options: &LeaksOptions, width: usize, out: &mut impl Write) -> io::Result<()> {
    head(&answer.head, width, options.color, out)?;
    leaks(answer.leaks, options, width, out)?;
    writeln!(out)?;
    let mut text = Text::new(width, options.color, out);
    if let Some(end) = answer.target_end {
        text.say("The target ended:", &format!("{end}."))?;
    }
    if answer.oom_kills_count > 0 {
        let count = format::count(answer.oom_kills_count);
        let processes = if answer.oom_kills_count == 1 {
            "process"
        } else {
            "processes"
        };
        text.say(
            "Out of memory:",
            &format!("the kernel killed {count} {processes} of the target's cgroup meanwhile."),
        )?;
    }
    write_trend(answer.verdict, &mut text)?;
    write_turnover(answer.verdict, &mut text)?;
    if let Some(limit) = &answer.verdict.limit {
        write_limit(limit, &mut text)?;
    }
    if let Some(reconcile) = &answer.verdict.reconcile {
        write_reconcile(reconcile, &mut text)?;
    }
    write_arenas(answer, &mut text)?;
    if !answer.head.has_losses() {
        text.say("", "Nothing was lost: every allocation and free was recorded.")?;
    }
    write_pauses(answer.pauses_us, &mut text)?;
    if answer.left_over_bytes > 0 {
        let left_over = format::bytes_short(answer.left_over_bytes);
        text.say(
            "",
            &format!("{left_over} of address space stay in the target, unused; the next attach reuses them."),
        )?;
    }
    if let Some(children) = answer.children {
        children.write(&mut text)?;
    }
    match answer.capture {
        Some(capture) => text.command("More lines:", &format!("memray summary --leaks -r 50 {capture}")),
        None => Ok(()),
    }
}

/// The answer as JSON.
pub fn answer_object(answer: &Answer<'_>) -> Value {
    let verdict = answer.verdict;
    let limit = verdict.limit.as_ref().map(|limit| {
        json!({
            "limit_bytes": limit.limit_bytes,
            "used_bytes": limit.used_bytes,
            "left_ms": limit.seconds.map(|seconds| (seconds * 1e3) as u64),
        })
    });
    let reconcile = verdict.reconcile.as_ref().map(|reconcile| {
        json!({
            "rss_grew_bytes": reconcile.rss_grew_bytes,
            "tracked_live_bytes": reconcile.tracked_live_bytes,
            "old_frees_count": reconcile.old_frees_count,
            "old_frees_bytes": reconcile.old_frees_bytes,
            "unexplained_bytes": reconcile.unexplained_bytes,
        })
    });
    json!({
        "state": "ended",
        "verdict": {
            "trend": trend_object(verdict.trend),
            "basis": match verdict.basis { Basis::Rss => "rss", Basis::Cgroup => "cgroup" },
            "cgroup_trend": verdict.cgroup_trend.map(trend_object),
            "limit": limit,
            "reconcile": reconcile,
            "is_turnover": verdict.is_turnover(),
        },
        "target_end": answer.target_end.map(|end| end.to_string()),
        "oom_kills_count": answer.oom_kills_count,
        "pauses_us": answer.pauses_us,
        "left_over_bytes": answer.left_over_bytes,
        "children": answer.children.map(Children::object),
        "leaks": leaks_object(answer.leaks),
    })
}

pub fn trend_object(trend: Trend) -> Value {
    let moving = |direction: &str, rate: Rate| {
        json!({
            "direction": direction,
            "bytes_per_second": rate.bytes_per_second.round() as u64,
            "error_bytes_per_second": rate.error_bytes_per_second.round() as u64,
        })
    };
    match trend {
        Trend::Growing(rate) => moving("growing", rate),
        Trend::Shrinking(rate) => moving("shrinking", rate),
        Trend::Flat { settled_bytes } => json!({"direction": "flat", "settled_bytes": settled_bytes}),
        Trend::TooShort => json!({"direction": "too_short"}),
    }
}

pub fn per_second(rate: &Rate) -> String {
    let speed = format::bytes_short(rate.bytes_per_second.round() as u64);
    let error = format::bytes_short(rate.error_bytes_per_second.round() as u64);
    format!("{speed}/s (give or take {error}/s)")
}

fn write_trend(verdict: &Verdict, text: &mut Text<'_, impl Write>) -> io::Result<()> {
    let subject = match verdict.basis {
        Basis::Rss => "resident memory (RSS)",
        Basis::Cgroup => "memory of the whole cgroup, not of this process alone,",
    };
    match verdict.trend {
        Trend::Growing(rate) => text.say("Growing:", &format!("{subject} rises by {}.", per_second(&rate)))?,
        Trend::Shrinking(rate) => text.say("Shrinking:", &format!("{subject} falls by {}.", per_second(&rate)))?,
        Trend::Flat { settled_bytes: 0 } => {
            text.say("Flat:", &format!("{subject} shows no trend beyond its ups and downs."))?;
        }
        Trend::Flat { settled_bytes } => {
            let verb = if settled_bytes > 0 { "rose" } else { "fell" };
            let bytes = format::bytes_short(settled_bytes.unsigned_abs());
            text.say(
                "Flat:",
                &format!("{subject} {verb} by {bytes} early on and then stayed."),
            )?;
        }
        Trend::TooShort => {
            text.say(
                "Too short to tell:",
                "a trend needs a longer window, such as --duration 30.",
            )?;
        }
    }
    if let (Basis::Rss, Some(Trend::Growing(rate))) = (verdict.basis, verdict.cgroup_trend) {
        text.say(
            "",
            &format!("The whole cgroup's memory rises by {}.", per_second(&rate)),
        )?;
    }
    Ok(())
}

/// Where memory stands still, what is live only took the place of what was freed.
fn write_turnover(verdict: &Verdict, text: &mut Text<'_, impl Write>) -> io::Result<()> {
    if !verdict.is_turnover() {
        return Ok(());
    }
    text.say(
        "",
        "What is still live took the place of older blocks that were freed meanwhile: a turnover, not a leak.",
    )
}

fn write_limit(limit: &Limit, text: &mut Text<'_, impl Write>) -> io::Result<()> {
    let (used, limit_bytes) = (
        format::bytes_short(limit.used_bytes),
        format::bytes_short(limit.limit_bytes),
    );
    match limit.seconds {
        Some(seconds) => {
            let time = format::seconds(seconds);
            text.say(
                "Time to the cgroup limit:",
                &format!("{time} at this rate; {used} of {limit_bytes} are used."),
            )
        }
        None => text.say("Cgroup limit:", &format!("{used} of {limit_bytes} are used.")),
    }
}

/// One line that adds up, then what its words mean.
fn write_reconcile(reconcile: &Reconcile, text: &mut Text<'_, impl Write>) -> io::Result<()> {
    let grew = format::bytes_signed(reconcile.rss_grew_bytes);
    let live = format::bytes_short(reconcile.tracked_live_bytes);
    let freed = reconcile
        .old_frees_bytes
        .map_or("of unknown size".to_owned(), format::bytes_short);
    let sign = if reconcile.unexplained_bytes < 0 { '-' } else { '+' };
    let unexplained = format::bytes_short(reconcile.unexplained_bytes.unsigned_abs());
    let line = format!("RSS grew {grew} = tracked live {live} - old frees {freed} {sign} unexplained {unexplained}");
    text.say("", &line)?;
    let count = format::counted(reconcile.old_frees_count, "block");
    let meaning =
        format!("Tracked live: allocated since attach, not freed. Old frees: {count} from before attach, freed since.");
    writeln!(
        text.out,
        "  {}",
        wrap(&meaning, text.width.saturating_sub(2)).join("\n  ")
    )?;
    let larger = reconcile
        .rss_grew_bytes
        .unsigned_abs()
        .max(reconcile.tracked_live_bytes);
    let unexplained = reconcile.unexplained_bytes.unsigned_abs();
    if unexplained < UNEXPLAINED_BYTES_MIN || format::share(unexplained, larger) < UNEXPLAINED_SHARE_MIN {
        return Ok(());
    }
    let why = if reconcile.unexplained_bytes > 0 {
        "Unexplained: taken by other means than the tracked functions, or gaps between blocks."
    } else {
        "Unexplained: blocks not written to yet, or placed where memory was already resident."
    };
    writeln!(text.out, "  {}", wrap(why, text.width.saturating_sub(2)).join("\n  "))
}

fn write_arenas(answer: &Answer<'_>, text: &mut Text<'_, impl Write>) -> io::Result<()> {
    let table = answer.leaks;
    if table.arenas == 0 || format::share(table.arenas_bytes(), table.total_bytes) < ARENAS_SHARE_MIN {
        return Ok(());
    }
    let (bytes, each) = (
        format::bytes_short(table.arenas_bytes()),
        format::bytes_short(table.arena_bytes),
    );
    let arenas = format::counted(table.arenas, "arena");
    text.say(
        "Small objects:",
        &format!(
            "{bytes} of it are {arenas} of {each} (pymalloc), where Python keeps objects of up to 512 bytes \
             (small dicts, strings, instances). The line shown is the one that needed one more arena, so a line with many arenas makes many small objects."
        ),
    )?;
    match answer.small_objects_command {
        Some(command) => text.command("  To see them one by one:", command),
        None => Ok(()),
    }
}

fn write_pauses(pauses_us: &[u64], text: &mut Text<'_, impl Write>) -> io::Result<()> {
    let total = format::microseconds(pauses_us.iter().fold(0, |sum, us| u64::saturating_add(sum, *us)));
    let longest = format::microseconds(pauses_us.iter().copied().max().unwrap_or(0));
    match pauses_us.len() {
        0 => Ok(()),
        1 => text.say("", &format!("One thread of the target was paused once, for {total}.")),
        count => text.say(
            "",
            &format!("One thread of the target was paused {count} times, for {total} in all, at most {longest}."),
        ),
    }
}

#[cfg(test)]
#[path = "answer_tests.rs"]
mod tests;
