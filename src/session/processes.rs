//! Which Python processes there are, as anybody may see them: for lists, for names instead of numbers, and for a number
//! that means another process, or none. Touches none of them.

use super::target;
use inject::Stat;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// Processes that a piece of advice names.
const NAMED_MAX: usize = 3;
/// Characters of a command line in it.
const COMMAND_CHARS_MAX: usize = 60;
/// Levels and number of children that are looked at.
const FAMILY_MAX: usize = 10_000;
/// USER_HZ, which is 100 on every architecture that Linux calls by this interface.
const TICKS_PER_SECOND: f64 = 100.0;
/// Options of the interpreter that take the next word.
const OPTIONS_WITH_VALUE: [&str; 3] = ["-W", "-X", "--check-hash-based-pycs"];

/// A process that seems to run CPython.
#[derive(Clone, Debug)]
pub struct PythonProcess {
    pub pid: i32,
    pub uid: u32,
    /// Words of its command line, or the title that it gave itself.
    pub words: Vec<String>,
    pub rss_bytes: u64,
    pub uptime_seconds: f64,
}

impl PythonProcess {
    /// `None` where there is no such process, or it runs something else.
    pub fn look_at(pid: i32) -> Option<Self> {
        let uid = std::fs::metadata(format!("/proc/{pid}")).ok()?.uid();
        let words = words(pid);
        if words.is_empty() || target::is_this_program(pid) || !is_python(pid, &words) {
            return None;
        }
        let stat = Stat::of_process(pid).ok()?;
        let is_dead = stat.state().is_none_or(|state| matches!(state, 'Z' | 'X'));
        let (start_ticks, pages) = (stat.number(22)? as f64, stat.number(24)?);
        let uptime = std::fs::read_to_string("/proc/uptime").unwrap_or_default();
        let now: f64 = uptime.split_ascii_whitespace().next()?.parse().ok()?;
        (!is_dead).then(|| Self {
            pid,
            uid,
            words,
            rss_bytes: pages * wire::PAGE_BYTES,
            uptime_seconds: (now - start_ticks / TICKS_PER_SECOND).max(0.0),
        })
    }

    /// The command line as one would type it, without quotes.
    pub fn command(&self) -> String {
        self.words.join(" ").trim_end().to_owned()
    }

    /// Whether this is the name of its executable, its script, its module or its title.
    pub fn is_named(&self, name: &str) -> bool {
        let file = |path: &str| Path::new(path).file_name().map(|it| it.to_string_lossy().into_owned());
        let exe = std::fs::read_link(format!("/proc/{}/exe", self.pid)).ok();
        let exe = exe.and_then(|path| file(path.to_string_lossy().trim_end_matches(" (deleted)")));
        let first = self.words.first().map_or("", String::as_str);
        let title = first.split([' ', ':']).next().map(str::to_owned);
        let mut names = vec![exe, file(first), title];
        let mut rest = self.words.iter().skip(1).map(String::as_str);
        while let Some(word) = rest.next() {
            match word {
                "-m" => {
                    names.push(rest.next().map(str::to_owned));
                    break;
                }
                "-c" => break,
                _ if OPTIONS_WITH_VALUE.contains(&word) => drop(rest.next()),
                _ if word.starts_with('-') => {}
                script => {
                    names.extend([file(script), Some(script.to_owned())]);
                    break;
                }
            }
        }
        names.into_iter().flatten().any(|it| it == name)
    }
}

/// All of them, by number.
pub fn pythons() -> Vec<PythonProcess> {
    let mut pids = inject::processes().unwrap_or_default();
    pids.sort_unstable();
    pids.into_iter().filter_map(PythonProcess::look_at).collect()
}

/// A process and everybody who descends from it, that is: whose parents still live. The process itself first.
pub fn family(pid: i32) -> Vec<i32> {
    let mut found = vec![pid];
    let mut next = 0;
    while next < found.len() && found.len() < FAMILY_MAX {
        let mut children = inject::children(found[next]).unwrap_or_default();
        children.sort_unstable();
        children.retain(|child| !found.contains(child));
        found.extend(children);
        next += 1;
    }
    found
}

/// What helps somebody whose number is no process here: it may be a container's number for it.
pub fn advice_for_unknown(pid: i32) -> Option<String> {
    let short = |process: &PythonProcess| {
        let command: String = process.command().chars().take(COMMAND_CHARS_MAX).collect();
        format!("{} ({command})", process.pid)
    };
    let all = pythons();
    let elsewhere: Vec<String> = all
        .iter()
        .filter(|it| has_inner_number(it.pid, pid))
        .map(short)
        .collect();
    if !elsewhere.is_empty() {
        let named = elsewhere[..elsewhere.len().min(NAMED_MAX)].join(" or ");
        return Some(format!("in a container {pid} is what is here {named}: use that number"));
    }
    let named: Vec<String> = all.iter().map(short).take(NAMED_MAX).collect();
    let more = if all.len() > NAMED_MAX { ", …" } else { "" };
    (!named.is_empty()).then(|| {
        format!(
            "memray ps, which lists the Python processes: {}{more}",
            named.join(", ")
        )
    })
}

/// Whether a process is known by this number in a PID namespace below ours.
fn has_inner_number(pid: i32, number: i32) -> bool {
    let status = inject::proc_text(&format!("/proc/{pid}/status")).unwrap_or_default();
    let ids = status
        .lines()
        .find_map(|line| line.strip_prefix("NSpid:"))
        .unwrap_or("");
    let mut inner = ids.split_ascii_whitespace().skip(1);
    inner.any(|id| id.parse() == Ok(number))
}

fn words(pid: i32) -> Vec<String> {
    let bytes = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let end = bytes.iter().rposition(|&byte| byte != 0).map_or(0, |last| last + 1);
    let words = bytes[..end].split(|&byte| byte == 0);
    let words: Vec<String> = words.map(|word| String::from_utf8_lossy(word).into_owned()).collect();
    if end == 0 { Vec::new() } else { words }
}

/// By its executable's name or by a library of its; of another user's process, by what it calls itself.
fn is_python(pid: i32, words: &[String]) -> bool {
    let is_so_named = |name: &[u8]| name.starts_with(b"python") || name.starts_with(b"uwsgi");
    match std::fs::read_link(format!("/proc/{pid}/exe")) {
        Ok(path) => {
            path.file_name().is_some_and(|name| is_so_named(name.as_bytes()))
                || std::fs::read(format!("/proc/{pid}/maps"))
                    .is_ok_and(|maps| String::from_utf8_lossy(&maps).contains("/libpython"))
        }
        Err(_) => {
            let name = words.first().and_then(|word| Path::new(word).file_name());
            name.is_some_and(|name| is_so_named(name.as_bytes()))
        }
    }
}
