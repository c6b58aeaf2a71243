//! `stat` of a process or of one of its threads, proc_pid_stat(5).

use std::io;
use std::path::Path;

/// The fields from the third on: the second, a name, may contain anything.
pub struct Stat(String);

impl Stat {
    pub fn of_process(pid: i32) -> io::Result<Self> {
        Self::read(format!("/proc/{pid}/stat"))
    }

    pub fn of_thread(pid: i32, tid: i32) -> io::Result<Self> {
        Self::read(format!("/proc/{pid}/task/{tid}/stat"))
    }

    pub fn read(path: impl AsRef<Path>) -> io::Result<Self> {
        std::fs::read(path).map(|bytes| Self::parse(&bytes))
    }

    fn parse(bytes: &[u8]) -> Self {
        let text = String::from_utf8_lossy(bytes);
        Self(
            text.rsplit_once(") ")
                .map_or_else(String::new, |(_, rest)| rest.to_owned()),
        )
    }

    /// A letter: R running, S sleeping, D uninterruptible, T stopped, t traced, Z zombie, X dead, I idle.
    pub fn state(&self) -> Option<char> {
        self.0.chars().next()
    }

    /// Field `number` as the manual counts them: from 1, here at least 3.
    pub fn field(&self, number: usize) -> Option<&str> {
        self.0.split_ascii_whitespace().nth(number.checked_sub(3)?)
    }

    pub fn number(&self, number: usize) -> Option<u64> {
        self.field(number)?.parse().ok()
    }
}

/// Field `number` (from 1, at least 3) of a process; `None` where there is none.
pub fn stat_field(pid: i32, number: usize) -> Option<String> {
    Stat::of_process(pid).ok()?.field(number).map(str::to_owned)
}

/// Start time of a process.
pub fn start_ticks(pid: i32) -> Option<u64> {
    Stat::of_process(pid).ok()?.number(22)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_may_look_like_fields() {
        let stat = Stat::parse(b"7 (a) R 1 2 \xff) S 4 5 -6 7\n");
        assert_eq!((stat.state(), stat.field(3)), (Some('S'), Some("S")));
        assert_eq!(
            (stat.number(4), stat.number(6), stat.field(6)),
            (Some(4), None, Some("-6"))
        );
        assert_eq!((stat.field(8), stat.field(2)), (None, None));
        for cut in [&b""[..], b"7 (a", b"7 (a)"] {
            assert_eq!(Stat::parse(cut).state(), None);
        }
    }
}
