//! Everything about a process that a tracker could leave different.

use goblin::elf::Elf;
use goblin::elf::header::ET_EXEC;
use goblin::elf::program_header::PT_GNU_RELRO;
use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::os::unix::fs::FileExt;

/// A line of `/proc/PID/maps`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Mapping {
    pub start: u64,
    pub end: u64,
    pub permissions: String,
    pub offset: u64,
    pub inode: u64,
    pub path: String,
}

impl Mapping {
    pub fn bytes(&self) -> u64 {
        self.end - self.start
    }

    /// Neither a file nor the kernel's.
    pub fn is_anonymous(&self) -> bool {
        self.inode == 0 && self.path.is_empty()
    }
}

/// A process at one moment. Take it while the process does nothing.
#[derive(Debug)]
pub struct Snapshot {
    pub maps: BTreeSet<Mapping>,
    /// Number → what it refers to.
    pub fds: BTreeMap<String, String>,
    /// Kernel thread ids and names.
    pub threads: BTreeSet<(String, String)>,
    /// `module section` → the bytes of every section that holds slots, and of all of RELRO.
    pub slots: BTreeMap<String, Vec<u8>>,
    pub rss_kb: u64,
    /// Lines of `/proc/PID/status` about signals, which a careless ptrace changes.
    pub signals: Vec<String>,
}

impl Snapshot {
    pub fn take(pid: u32) -> Self {
        let maps = maps(pid);
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("the target's status");
        let rss = status
            .lines()
            .find_map(|line| line.strip_prefix("VmRSS:"))
            .expect("VmRSS");
        let rss_kb = rss
            .split_whitespace()
            .next()
            .and_then(|text| text.parse().ok())
            .expect("VmRSS is a number");
        let signals = [
            "SigQ:",
            "SigPnd:",
            "ShdPnd:",
            "SigBlk:",
            "SigIgn:",
            "SigCgt:",
            "TracerPid:",
            "Seccomp:",
        ];
        let signals = status
            .lines()
            .filter(|line| signals.iter().any(|name| line.starts_with(name)));
        Self {
            fds: links(&format!("/proc/{pid}/fd")),
            threads: threads(pid),
            slots: slots(pid, &maps),
            rss_kb,
            signals: signals.map(str::to_owned).collect(),
            maps: maps.into_iter().collect(),
        }
    }

    /// Everything but mappings and RSS must be equal.
    pub fn assert_same_but_maps(&self, after: &Self) {
        assert_eq!(self.fds, after.fds, "file descriptors");
        assert_eq!(self.threads, after.threads, "threads");
        assert_eq!(self.signals, after.signals, "signals and tracer");
        assert!(!self.slots.is_empty());
        let names = |snapshot: &Self| snapshot.slots.keys().cloned().collect::<Vec<_>>();
        assert_eq!(names(self), names(after), "modules");
        for (name, before) in &self.slots {
            let words = before.chunks(8).zip(after.slots[name].chunks(8));
            let differing = words
                .enumerate()
                .find(|(_, (a, b))| a != b && !self.was_bound_lazily(name, a, b));
            assert_eq!(
                differing.map(|(index, _)| index * 8),
                None,
                "{name} differs at this offset"
            );
        }
    }

    /// Whether the program itself had a slot bound meanwhile: from a stub of the module's own to a function in
    /// some file.
    fn was_bound_lazily(&self, name: &str, before: &[u8], after: &[u8]) -> bool {
        let holder = |word: &[u8]| {
            let address = u64::from_le_bytes(word.try_into().ok()?);
            let holds = |map: &&Mapping| map.permissions.contains('x') && (map.start..map.end).contains(&address);
            self.maps.iter().find(holds)
        };
        let stub = holder(before).is_some_and(|map| !map.path.is_empty() && name.starts_with(&map.path));
        stub && holder(after).is_some_and(|map| map.inode != 0)
    }

    /// Mappings that are only in the other one, and only in this one.
    pub fn maps_changed(&self, after: &Self) -> (Vec<Mapping>, Vec<Mapping>) {
        let added = after.maps.difference(&self.maps).cloned().collect();
        (added, self.maps.difference(&after.maps).cloned().collect())
    }
}

pub fn maps(pid: u32) -> Vec<Mapping> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/maps")).expect("the target's maps");
    text.lines().map(parse_mapping).collect()
}

fn parse_mapping(line: &str) -> Mapping {
    let mut fields = line.split_whitespace();
    let mut next = || fields.next().unwrap_or("");
    let (range, permissions, offset, _device, inode) = (next(), next(), next(), next(), next());
    let (start, end) = range.split_once('-').expect("a range");
    let hex = |text: &str| u64::from_str_radix(text, 16).expect("hexadecimal");
    let path = line.find(['/', '[']).map_or("", |at| &line[at..]);
    Mapping {
        start: hex(start),
        end: hex(end),
        permissions: permissions.to_owned(),
        offset: hex(offset),
        inode: inode.parse().expect("an inode"),
        path: path.to_owned(),
    }
}

fn links(directory: &str) -> BTreeMap<String, String> {
    let entries = std::fs::read_dir(directory).expect("the target's descriptors");
    let entries = entries.map(|entry| entry.expect("a directory entry"));
    let link = |path| std::fs::read_link(path).map_or("?".to_owned(), |link| link.to_string_lossy().into_owned());
    entries
        .map(|entry| (entry.file_name().to_string_lossy().into_owned(), link(entry.path())))
        .collect()
}

fn threads(pid: u32) -> BTreeSet<(String, String)> {
    let entries = std::fs::read_dir(format!("/proc/{pid}/task")).expect("the target's threads");
    let name = |path: std::path::PathBuf| std::fs::read_to_string(path.join("comm")).unwrap_or_default();
    entries
        .map(|entry| entry.expect("a directory entry"))
        .map(|entry| (entry.file_name().to_string_lossy().into_owned(), name(entry.path())))
        .collect()
}

/// The bytes of `.got`, `.got.plt` and all of RELRO, of every module, from the target's memory.
fn slots(pid: u32, maps: &[Mapping]) -> BTreeMap<String, Vec<u8>> {
    let memory = File::open(format!("/proc/{pid}/mem")).expect("the target's memory");
    let mut found = BTreeMap::new();
    for mapping in maps.iter().filter(|mapping| mapping.inode != 0 && mapping.offset == 0) {
        let Ok(bytes) = std::fs::read(&mapping.path) else {
            continue;
        };
        let Ok(elf) = Elf::parse(&bytes) else { continue };
        let bias = if elf.header.e_type == ET_EXEC { 0 } else { mapping.start };
        let mut read = |name: &str, address: u64, length: u64| {
            let mut content = vec![0; usize::try_from(length).expect("a section fits in memory")];
            if memory.read_exact_at(&mut content, bias + address).is_ok() {
                found.insert(format!("{} {name}", mapping.path), content);
            }
        };
        for section in &elf.section_headers {
            let name = elf.shdr_strtab.get_at(section.sh_name).unwrap_or("");
            if matches!(name, ".got" | ".got.plt") {
                read(name, section.sh_addr, section.sh_size);
            }
        }
        for header in elf
            .program_headers
            .iter()
            .filter(|header| header.p_type == PT_GNU_RELRO)
        {
            read("RELRO", header.p_vaddr, header.p_memsz);
        }
    }
    found
}
