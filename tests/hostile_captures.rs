//! Captures that somebody has cut, altered or made up, in every report: each ends, with what came before the damage or
//! with one line and its fix, and none steers the terminal.

use crate::support::{Dir, Target, Tool, interpreters};

/// A small capture of each kind.
fn captures() -> Option<Vec<Vec<u8>>> {
    let python = interpreters::any()?;
    let mut target = Target::spawn(&python, "keeper.py", &[]);
    let (dir, pid) = (Dir::new(), target.pid_text());
    let mut captures = Vec::new();
    for (name, more) in [
        ("raw", &["--no-compress"][..]),
        ("compressed", &[]),
        ("aggregated", &["--aggregate", "--no-compress"]),
        ("native", &["--native", "--no-compress"]),
    ] {
        let path = dir.file(name);
        let all = [&["attach", &pid, "-q", "-o", &path], more].concat();
        Tool::new(&all).succeed();
        target.ask("keep", "done");
        Tool::new(&["detach", &pid]).succeed();
        captures.push(std::fs::read(&path).expect("the capture"));
    }
    Some(captures)
}

/// The same for anybody's seed.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = (self.0)
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % bound.max(1)
    }

    /// Cut, some bytes altered, a piece twice or missing, or another appendix.
    fn damage(&mut self, whole: &[u8]) -> Vec<u8> {
        let mut bytes = whole.to_vec();
        match self.below(5) {
            0 => bytes.truncate(self.below(whole.len())),
            1 => {
                for _ in 0..=self.below(8) {
                    let at = self.below(bytes.len());
                    bytes[at] = self.below(256) as u8;
                }
            }
            2 => {
                let (from, length) = (self.below(bytes.len()), self.below(200));
                let to = (from + length).min(bytes.len());
                let piece = bytes[from..to].to_vec();
                bytes.splice(from..from, piece);
            }
            3 => {
                let (from, length) = (self.below(bytes.len()), self.below(200));
                bytes.drain(from..(from + length).min(bytes.len()));
            }
            _ => {
                // Behind the header, where names and places are.
                let at = bytes.len() / 2 + self.below(bytes.len() / 2);
                for byte in bytes.iter_mut().skip(at).take(40) {
                    *byte = self.below(256) as u8;
                }
            }
        }
        bytes
    }
}

const REPORTS: [&[&str]; 16] = [
    &["summary"],
    &["summary", "--threads", "--by-line", "--json"],
    &["summary", "--temporary-allocations"],
    &["leaks"],
    &["growth"],
    &["growth", "--json"],
    &["tree", "--leaks"],
    &["tree", "--json"],
    &["table"],
    &["stats"],
    &["parse"],
    &["parse", "--json"],
    &["flamegraph", "-o", "-"],
    &["flamegraph", "--temporal", "-o", "-"],
    &["transform", "pprof", "-o", "-"],
    &["transform", "speedscope", "-o", "-"],
];

/// Bytes, of which a profile may hold any.
const BINARY: &str = "pprof";

#[test]
fn every_report_survives_every_damage() {
    let Some(captures) = captures() else { return };
    let dir = Dir::new();
    let path = dir.file("hostile.bin");
    let mut random = Random(0x5eed);
    for round in 0..48 {
        let whole = &captures[round % captures.len()];
        std::fs::write(&path, random.damage(whole)).expect("write the capture");
        for report in REPORTS {
            if report.contains(&BINARY) {
                let to = dir.file("profile");
                let output = Tool::new(&["transform", "pprof", "-f", "-o", &to, &path]).run();
                assert!(
                    matches!(output.status.code(), Some(0 | 1)),
                    "round {round}: {}",
                    output.describe()
                );
                continue;
            }
            let output = Tool::new(&[report, &[&path]].concat()).env("COLUMNS", "100").run();
            let all = output.all();
            assert!(
                matches!(output.status.code(), Some(0 | 1)) && !all.contains("panicked"),
                "round {round}: {}",
                output.describe()
            );
            let acts = |c: char| c.is_control() && !"\n\t".contains(c);
            assert!(
                !all.contains(acts),
                "round {round}: {}",
                output.describe().escape_debug()
            );
            if output.status.code() == Some(1) {
                output.assert_refusal();
            } else if report.contains(&"--json") {
                let object: serde_json::Value = serde_json::from_str(&output.stdout).expect("one JSON object");
                assert_eq!(object["schema"], 1, "round {round}: {}", output.describe());
            }
        }
        let output = Tool::new(&["diff", &path, &path]).run();
        assert!(
            matches!(output.status.code(), Some(0 | 1)),
            "round {round}: {}",
            output.describe()
        );
        assert!(
            !output.all().contains("panicked"),
            "round {round}: {}",
            output.describe()
        );
    }
}
