//! Upstream's memray, the independent reader.

use super::{Output, Tool, root, skip, test_file};
use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::OnceLock;

/// Its interpreter, or a skip.
pub fn python() -> Option<PathBuf> {
    static FOUND: OnceLock<Option<PathBuf>> = OnceLock::new();
    let found = FOUND.get_or_init(|| {
        if let Some(path) = std::env::var_os("MEMRAY_TEST_UPSTREAM") {
            return Some(PathBuf::from(path));
        }
        // Where `scripts/upstream_reader` puts it.
        let target = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("../upstream-1.20.0/bin/python");
        target.exists().then_some(target)
    });
    if found.is_none() {
        let script = root().join("scripts/upstream_reader");
        skip(&format!(
            "upstream's reader is not set up; {} does it",
            script.display()
        ));
    }
    found.clone()
}

/// `python -m memray ARGUMENTS`.
pub fn memray(python: PathBuf, arguments: &[&str]) -> Tool {
    let mut all = vec!["-m", "memray"];
    all.extend(arguments);
    Tool::program(python, &all).env("PYTHONDONTWRITEBYTECODE", "1")
}

/// Runs a script of `tests/upstream`.
pub fn script(python: PathBuf, name: &str, arguments: &[&str]) -> Output {
    let path = test_file("upstream").join(name);
    let mut all = vec![path.to_str().expect("the repository's path is UTF-8")];
    all.extend(arguments);
    Tool::program(python, &all)
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .succeed()
}

/// Allocator ids of the capture format.
pub const PYMALLOC_FREE: u64 = 1;
pub const FREE: u64 = 5;
pub const MMAP: u64 = 14;
pub const MUNMAP: u64 = 15;

/// One allocation or deallocation, as upstream's reader gives it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    pub tid: u64,
    pub address: u64,
    pub size: u64,
    pub allocator: u64,
    /// Leaf first; see `dump.py`. Empty for deallocations.
    pub stack: String,
}

impl Record {
    pub fn is_allocation(&self) -> bool {
        ![PYMALLOC_FREE, FREE, MUNMAP].contains(&self.allocator)
    }
}

/// A whole capture.
#[derive(Debug, Default)]
pub struct Dump {
    pub meta: HashMap<String, String>,
    pub records: Vec<Record>,
    /// Stack → bytes and blocks.
    pub leaks: HashMap<String, (u64, u64)>,
    pub high_water: HashMap<String, (u64, u64)>,
}

impl Dump {
    /// Reads a capture with upstream's reader.
    pub fn read(python: PathBuf, capture: &str) -> Self {
        let output = script(python, "dump.py", &[capture]);
        assert_eq!(output.stderr, "", "upstream's reader complains\n{}", output.command);
        let mut dump = Self::default();
        for line in output.stdout.split('\n').filter(|line| !line.is_empty()) {
            let fields: Vec<&str> = line.split('\t').collect();
            let number = |index: usize| -> u64 { fields[index].parse().unwrap_or_else(|_| panic!("{line:?}")) };
            match fields[0] {
                "meta" => {
                    dump.meta.insert(fields[1].to_owned(), fields[2].to_owned());
                }
                "rec" => dump.records.push(Record {
                    tid: number(1),
                    address: number(2),
                    size: number(3),
                    allocator: number(4),
                    stack: fields[5].to_owned(),
                }),
                kind => {
                    let map = if kind == "leak" {
                        &mut dump.leaks
                    } else {
                        &mut dump.high_water
                    };
                    // Records of one stack may differ in what a stack doesn't show.
                    let entry = map.entry(fields[3].to_owned()).or_default();
                    entry.0 += number(1);
                    entry.1 += number(2);
                }
            }
        }
        dump
    }

    /// No address may be allocated twice without a free in between.
    pub fn assert_no_address_twice_alive(&self) {
        let mut alive: HashMap<u64, &Record> = HashMap::new();
        for record in &self.records {
            if [PYMALLOC_FREE, FREE].contains(&record.allocator) {
                alive.remove(&record.address);
            } else if record.is_allocation() && record.allocator != MMAP {
                let before = alive.insert(record.address, record);
                assert!(before.is_none(), "twice alive: {record:?} over {before:?}");
            }
        }
    }
}
