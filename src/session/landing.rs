//! The landing in the target: made once, recognised by its magic, reused by every later session.

use super::target;
use inject::{Mapping, Process, RemoteAddr};
use std::mem::offset_of;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use wire::config::Config;
use wire::landing::{
    JOURNAL_ENTRIES_MAX, JournalEntry, LandingHeader, MAGIC, PATH_BYTES_MAX, SESSION_LIVE, SESSION_NONE, SessionMark,
    VERSION,
};
use wire::{HOOK_COUNT, PAGE_BYTES};

/// Landings that one process may hold: one for each build of memray that ever attached.
const LANDINGS_MAX: usize = 16;

/// Where the ring's name as a memfd lies in the first page, behind the header.
pub const RING_NAME_OFFSET: u64 = PAGE_BYTES - 64;
const RING_NAME: &[u8] = b"memray\0";

/// Mappings beyond this size are not searched.
const MAPPING_BYTES_MAX: u64 = 16 << 20;

/// No address of a process lies above, with the largest page tables there are.
const ADDRESS_MAX: u64 = 1 << 56;
/// More than any journal and region take.
const RESERVATION_BYTES_MAX: u64 = 1 << 32;

/// A landing found in, or about to be put into, the target.
#[derive(Clone, Copy)]
pub struct Landing {
    pub base: u64,
    pub header: LandingHeader,
}

/// What a landing's session mark says.
#[derive(Clone, Debug)]
pub struct Owner {
    pub pid: i32,
    pub start_ticks: u64,
    pub pid_namespace: u64,
    pub uid: u32,
    pub started_ms: u64,
    pub path: PathBuf,
    /// The mark was copied by a fork: the session is the parent's.
    pub is_inherited: bool,
}

impl Landing {
    /// All landings of a process whose version is known, by the magic at the start of its small anonymous
    /// read-only mappings.
    pub fn find_all(process: &Process, maps: &[Mapping]) -> Vec<Self> {
        // Every page: the kernel merges neighbouring mappings of one kind, so a landing may begin inside one.
        maps.iter()
            .filter(|map| map.is_anonymous() && map.is_readable() && !map.is_writable())
            .filter(|map| map.end - map.start <= MAPPING_BYTES_MAX)
            .flat_map(|map| (map.start..map.end).step_by(PAGE_BYTES as usize))
            .filter_map(|page| Self::read(process, page))
            .take(LANDINGS_MAX)
            .collect()
    }

    /// The one of an earlier attach by this build of memray, unless a pointer to a hook that the program copied then would
    /// now lead to another function.
    pub fn of_image(process: &Process, landings: &[Self], image_digest: u64, reals: [u64; HOOK_COUNT]) -> Option<Self> {
        let leads_to_the_same = |landing: &&Self| {
            let differs = |(old, new): (u64, u64)| old != 0 && new != 0 && old != new;
            let old = landing.reals(process);
            old.is_ok_and(|old| !old.into_iter().zip(reals).any(differs))
        };
        let mut landings = landings.iter().filter(|it| it.header.image_digest == image_digest);
        landings.find(leads_to_the_same).copied()
    }

    fn read(process: &Process, base: u64) -> Option<Self> {
        let mut magic = [0; MAGIC.len()];
        read_insisting(process, base, &mut magic)?;
        if magic != MAGIC {
            return None;
        }
        let mut bytes = [0; size_of::<LandingHeader>()];
        read_insisting(process, base, &mut bytes)?;
        let header = decode(&bytes);
        let is_known = header.version == VERSION && header.header_bytes as usize == bytes.len();
        (is_known && is_plausible(base, &header)).then_some(Self { base, header })
    }

    /// Reads the header again.
    pub fn refresh(&mut self, process: &Process) -> bool {
        match Self::read(process, self.base) {
            Some(landing) => {
                *self = landing;
                true
            }
            None => false,
        }
    }

    /// Writes the whole header: only while nobody else can be reading it as a session's mark.
    pub fn write(&self, process: &Process) -> Result<(), inject::Error> {
        process.write(RemoteAddr(self.base), &encode(&self.header))
    }

    /// Writes one word of the header, at `offset_of!(LandingHeader, …)`.
    fn write_field(&self, process: &Process, offset: usize, value: u64) -> Result<(), inject::Error> {
        process.write_word(RemoteAddr(self.base + offset as u64), value)
    }

    /// Says what every hook does from now on: one of `wire::landing::FLAG_…`.
    pub fn set_flag(&self, process: &Process, flag: u64) -> Result<(), inject::Error> {
        process.write_word(RemoteAddr(self.base + self.header.flag_offset), flag)
    }

    pub fn is_on(&self, process: &Process) -> Result<bool, inject::Error> {
        Ok(process.read_u64(RemoteAddr(self.base + self.header.flag_offset))? != 0)
    }

    pub fn set_reservation(&mut self, process: &Process, journal: u64, bytes: u64) -> Result<(), inject::Error> {
        self.header.journal = journal;
        self.header.reservation_bytes = bytes;
        self.header.reservation_tainted = 0;
        self.write_field(process, offset_of!(LandingHeader, reservation_tainted), 0)?;
        self.write_field(process, offset_of!(LandingHeader, reservation_bytes), bytes)?;
        self.write_field(process, offset_of!(LandingHeader, journal), journal)
    }

    pub fn taint_reservation(&mut self, process: &Process) -> Result<(), inject::Error> {
        self.header.reservation_tainted = 1;
        self.write_field(process, offset_of!(LandingHeader, reservation_tainted), 1)
    }

    /// Whether a thread may still write into the reservation that an earlier session had.
    pub fn is_tainted(&self) -> bool {
        self.header.reservation_tainted != 0
    }

    /// Nobody will.
    pub fn cleanse_reservation(&mut self, process: &Process) -> Result<(), inject::Error> {
        self.header.reservation_tainted = 0;
        self.write_field(process, offset_of!(LandingHeader, reservation_tainted), 0)
    }

    pub fn set_journal_count(&mut self, process: &Process, count: u64) -> Result<(), inject::Error> {
        self.header.journal_count = count;
        self.write_field(process, offset_of!(LandingHeader, journal_count), count)
    }

    /// The real functions that its hooks jump to.
    pub fn reals(&self, process: &Process) -> Result<[u64; HOOK_COUNT], inject::Error> {
        let at = self.base + self.header.config_offset + offset_of!(Config, real) as u64;
        let bytes = process.read_vec(RemoteAddr(at), 8 * HOOK_COUNT)?;
        let mut words = bytes.as_chunks().0.iter().map(|word| u64::from_le_bytes(*word));
        Ok(std::array::from_fn(|_| words.next().unwrap_or(0)))
    }

    /// Says that the image is complete, so that later sessions may use it.
    pub fn seal(&mut self, process: &Process, image_digest: u64) -> Result<(), inject::Error> {
        self.header.image_digest = image_digest;
        self.write_field(process, offset_of!(LandingHeader, image_digest), image_digest)
    }

    /// Whether its image was never completed.
    pub fn is_unsealed(&self) -> bool {
        self.header.image_digest == 0
    }

    /// Takes the session mark away: the very last step of a detach or repair.
    pub fn end_session(&mut self, process: &Process) -> Result<(), inject::Error> {
        self.header.session.state = SESSION_NONE;
        let offset = offset_of!(LandingHeader, session) + offset_of!(SessionMark, state);
        self.write_field(process, offset, SESSION_NONE)
    }

    /// Writes a new landing's first page: header, session mark, the ring's name. One write to one page: dying in it
    /// leaves all or nothing.
    pub fn put(&mut self, process: &Process, mark: SessionMark) -> Result<(), inject::Error> {
        self.header.generation = 1;
        self.header.session = SessionMark {
            state: SESSION_LIVE,
            ..mark
        };
        let mut page = encode(&self.header);
        page.resize(RING_NAME_OFFSET as usize, 0);
        page.extend_from_slice(RING_NAME);
        process.write(RemoteAddr(self.base), &page)
    }

    /// Puts the session mark, its state word last.
    pub fn begin_session(&mut self, process: &Process, mark: SessionMark) -> Result<(), inject::Error> {
        self.header.generation += 1;
        self.header.session = SessionMark {
            state: SESSION_NONE,
            ..mark
        };
        self.write(process)?;
        self.header.session.state = SESSION_LIVE;
        let offset = offset_of!(LandingHeader, session) + offset_of!(SessionMark, state);
        self.write_field(process, offset, SESSION_LIVE)
    }

    /// Who tracks this process now, according to the mark.
    pub fn owner(&self, process: &Process) -> Option<Owner> {
        // Most processes have no mark.
        (self.header.session.state == SESSION_LIVE)
            .then(|| self.owner_of(Bearer::of(process)))
            .flatten()
    }

    fn owner_of(&self, bearer: Bearer) -> Option<Owner> {
        let mark = &self.header.session;
        (mark.state == SESSION_LIVE).then(|| {
            let path = &mark.path[..(mark.path_bytes as usize).min(PATH_BYTES_MAX)];
            Owner {
                pid: mark.owner_pid as i32,
                start_ticks: mark.owner_start_ticks,
                pid_namespace: mark.owner_pid_namespace,
                uid: mark.owner_uid as u32,
                is_inherited: !bearer.is_named_by(mark),
                started_ms: mark.started_ms,
                path: PathBuf::from(std::ffi::OsStr::from_bytes(path)),
            }
        })
    }

    /// The journal's valid entries.
    pub fn journal(&self, process: &Process) -> Result<Vec<JournalEntry>, inject::Error> {
        let count = (self.header.journal_count as usize).min(JOURNAL_ENTRIES_MAX);
        let mut bytes = vec![0; count * size_of::<JournalEntry>()];
        process.read(RemoteAddr(self.header.journal), &mut bytes)?;
        let word = |entry: &[u8], at: usize| u64::from_le_bytes(entry[at..at + 8].try_into().expect("eight bytes"));
        Ok(bytes
            .chunks_exact(size_of::<JournalEntry>())
            .map(|entry| JournalEntry {
                slot: word(entry, 0),
                old: word(entry, 8),
                new: word(entry, 16),
                real: word(entry, 24),
            })
            .collect())
    }

    /// Replaces one of the valid entries. Whoever repairs meanwhile finds the old one, the new one or none.
    pub fn rewrite_journal(&self, process: &Process, place: usize, entry: &JournalEntry) -> Result<(), inject::Error> {
        let at = self.header.journal + (place * size_of::<JournalEntry>()) as u64;
        process.write_word(RemoteAddr(at), 0)?;
        for (index, word) in [entry.old, entry.new, entry.real].into_iter().enumerate() {
            process.write_word(RemoteAddr(at + 8 * (index as u64 + 1)), word)?;
        }
        process.write_word(RemoteAddr(at), entry.slot)
    }

    /// Appends entries, then makes them valid: before any of their slots is written (hazard 27).
    pub fn append_journal(&mut self, process: &Process, entries: &[JournalEntry]) -> Result<(), inject::Error> {
        let count = self.header.journal_count as usize;
        assert!(
            count + entries.len() <= JOURNAL_ENTRIES_MAX,
            "the caller checks the journal's room"
        );
        let bytes: Vec<u8> = entries
            .iter()
            .flat_map(|entry| [entry.slot, entry.old, entry.new, entry.real])
            .flat_map(u64::to_le_bytes)
            .collect();
        let at = self.header.journal + (count * size_of::<JournalEntry>()) as u64;
        process.write(RemoteAddr(at), &bytes)?;
        self.set_journal_count(process, (count + entries.len()) as u64)
    }
}

/// Reads twice if it must: a landing that is overlooked is a session that is overlooked.
fn read_insisting(process: &Process, base: u64, buffer: &mut [u8]) -> Option<()> {
    let first = process.read(RemoteAddr(base), buffer);
    first.or_else(|_| process.read(RemoteAddr(base), buffer)).ok()
}

/// The process that holds a mark.
#[derive(Clone, Copy)]
pub struct Bearer {
    start_ticks: u64,
    /// As the process sees itself: the same for every observer.
    inner_pid: u32,
}

impl Bearer {
    pub fn of(process: &Process) -> Self {
        Self {
            start_ticks: process.start_ticks(),
            inner_pid: target::inner_pid(process.pid()).unwrap_or(0),
        }
    }

    /// Whether the mark was made for this process, and not for one that it was forked from.
    fn is_named_by(self, mark: &SessionMark) -> bool {
        let pid = (mark.owner_uid >> 32) as u32;
        let is_same_pid = pid == self.inner_pid || pid == 0 || self.inner_pid == 0;
        mark.target_start_ticks == self.start_ticks && is_same_pid
    }
}

/// The mark of a session whose owner is this process.
pub fn own_mark(bearer: Bearer, started_ms: i64, capture: &Path) -> SessionMark {
    let bytes = capture.as_os_str().as_bytes();
    let used = bytes.len().min(PATH_BYTES_MAX);
    let mut path = [0; PATH_BYTES_MAX];
    path[..used].copy_from_slice(&bytes[..used]);
    SessionMark {
        state: SESSION_NONE,
        owner_pid: u64::from(std::process::id()),
        owner_start_ticks: target::own_start_ticks(),
        owner_pid_namespace: target::own_pid_namespace(),
        owner_uid: u64::from(bearer.inner_pid) << 32 | u64::from(nix::unistd::getuid().as_raw()),
        target_start_ticks: bearer.start_ticks,
        started_ms: started_ms as u64,
        path_bytes: used as u64,
        path,
    }
}

/// A header for a landing that was just mapped, zero where the session fills it in.
pub fn new_header(landing_bytes: u64) -> LandingHeader {
    LandingHeader {
        magic: MAGIC,
        version: VERSION,
        header_bytes: size_of::<LandingHeader>() as u32,
        landing_bytes,
        image_offset: PAGE_BYTES,
        image_digest: 0,
        flag_offset: 0,
        config_offset: 0,
        text_start: 0,
        text_end: 0,
        journal: 0,
        reservation_bytes: 0,
        generation: 0,
        journal_count: 0,
        reservation_tainted: 0,
        session: SessionMark {
            state: SESSION_NONE,
            owner_pid: 0,
            owner_start_ticks: 0,
            owner_pid_namespace: 0,
            owner_uid: 0,
            target_start_ticks: 0,
            started_ms: 0,
            path_bytes: 0,
            path: [0; PATH_BYTES_MAX],
        },
    }
}

/// Whether a header can be one of ours. It lies in the target, which may have written it itself or over it; what cannot be
/// true is no landing, and the rest of this program calculates with it.
fn is_plausible(base: u64, header: &LandingHeader) -> bool {
    let is_inside = |offset: u64, bytes: u64| {
        offset.is_multiple_of(8) && offset.checked_add(bytes).is_some_and(|end| end <= header.landing_bytes)
    };
    let text_inside = header.text_start >= base
        && header.text_start <= header.text_end
        && is_inside((header.text_end - base) & !7, 0);
    let journal_end = header.journal.checked_add(header.reservation_bytes);
    base.checked_add(header.landing_bytes)
        .is_some_and(|end| end <= ADDRESS_MAX)
        && header.landing_bytes <= MAPPING_BYTES_MAX
        && header.landing_bytes >= PAGE_BYTES
        && header.landing_bytes.is_multiple_of(PAGE_BYTES)
        && is_inside(header.image_offset, 0)
        && is_inside(header.flag_offset, 8)
        && is_inside(header.config_offset, size_of::<wire::config::Config>() as u64)
        && text_inside
        && journal_end.is_some_and(|end| end <= ADDRESS_MAX)
        && header.journal.is_multiple_of(PAGE_BYTES)
        && header.reservation_bytes <= RESERVATION_BYTES_MAX
        && header.journal_count as usize <= JOURNAL_ENTRIES_MAX
}

/// The header's words after magic, version and header_bytes, in order; the path follows.
fn encode(header: &LandingHeader) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(size_of::<LandingHeader>());
    bytes.extend_from_slice(&header.magic);
    bytes.extend_from_slice(&header.version.to_le_bytes());
    bytes.extend_from_slice(&header.header_bytes.to_le_bytes());
    let session = &header.session;
    for word in [
        header.landing_bytes,
        header.image_offset,
        header.image_digest,
        header.flag_offset,
        header.config_offset,
        header.text_start,
        header.text_end,
        header.journal,
        header.reservation_bytes,
        header.generation,
        header.journal_count,
        header.reservation_tainted,
        session.state,
        session.owner_pid,
        session.owner_start_ticks,
        session.owner_pid_namespace,
        session.owner_uid,
        session.target_start_ticks,
        session.started_ms,
        session.path_bytes,
    ] {
        bytes.extend_from_slice(&word.to_le_bytes());
    }
    bytes.extend_from_slice(&session.path);
    bytes
}

fn decode(bytes: &[u8; size_of::<LandingHeader>()]) -> LandingHeader {
    let word = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"));
    let half = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"));
    let session = offset_of!(LandingHeader, session);
    let mut path = [0; PATH_BYTES_MAX];
    path.copy_from_slice(&bytes[session + offset_of!(SessionMark, path)..]);
    LandingHeader {
        magic: MAGIC,
        version: half(offset_of!(LandingHeader, version)),
        header_bytes: half(offset_of!(LandingHeader, header_bytes)),
        landing_bytes: word(offset_of!(LandingHeader, landing_bytes)),
        image_offset: word(offset_of!(LandingHeader, image_offset)),
        image_digest: word(offset_of!(LandingHeader, image_digest)),
        flag_offset: word(offset_of!(LandingHeader, flag_offset)),
        config_offset: word(offset_of!(LandingHeader, config_offset)),
        text_start: word(offset_of!(LandingHeader, text_start)),
        text_end: word(offset_of!(LandingHeader, text_end)),
        journal: word(offset_of!(LandingHeader, journal)),
        reservation_bytes: word(offset_of!(LandingHeader, reservation_bytes)),
        generation: word(offset_of!(LandingHeader, generation)),
        journal_count: word(offset_of!(LandingHeader, journal_count)),
        reservation_tainted: word(offset_of!(LandingHeader, reservation_tainted)),
        session: SessionMark {
            state: word(session + offset_of!(SessionMark, state)),
            owner_pid: word(session + offset_of!(SessionMark, owner_pid)),
            owner_start_ticks: word(session + offset_of!(SessionMark, owner_start_ticks)),
            owner_pid_namespace: word(session + offset_of!(SessionMark, owner_pid_namespace)),
            owner_uid: word(session + offset_of!(SessionMark, owner_uid)),
            target_start_ticks: word(session + offset_of!(SessionMark, target_start_ticks)),
            started_ms: word(session + offset_of!(SessionMark, started_ms)),
            path_bytes: word(session + offset_of!(SessionMark, path_bytes)),
            path,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_survives_encoding() {
        let mut header = new_header(0x9000);
        header.flag_offset = 0x2000;
        header.journal = 0x7f00_0000_0000;
        header.reservation_tainted = 1;
        let bearer = |start_ticks, inner_pid| Bearer { start_ticks, inner_pid };
        header.session = own_mark(bearer(99, 7), 1_700_000_000_000, Path::new("/tmp/ä b.bin"));
        header.session.state = SESSION_LIVE;
        let encoded: [u8; size_of::<LandingHeader>()] = encode(&header).try_into().expect("as long as the struct");
        let decoded = Landing {
            base: 0,
            header: decode(&encoded),
        };
        assert_eq!(encode(&decoded.header), encoded);
        let owner = decoded.owner_of(bearer(99, 7)).expect("the mark is live");
        assert_eq!(owner.pid, std::process::id() as i32);
        assert_eq!(owner.path, Path::new("/tmp/ä b.bin"));
        assert!(!owner.is_inherited);
        assert_eq!(owner.uid, nix::unistd::getuid().as_raw());
        // A child, which started later, or within the same clock tick.
        for child in [bearer(100, 8), bearer(99, 8)] {
            assert!(decoded.owner_of(child).expect("the mark is live").is_inherited);
        }
        assert!(decoded.is_unsealed());
    }

    #[test]
    fn a_header_that_cannot_be_true_is_no_landing() {
        const BASE: u64 = 0x7f00_0000_0000;
        let sound = |change: &dyn Fn(&mut LandingHeader)| {
            let mut header = new_header(0x9000);
            (header.flag_offset, header.config_offset) = (0x3000, 0x4000);
            (header.text_start, header.text_end) = (BASE + 0x1000, BASE + 0x2345);
            (header.journal, header.reservation_bytes) = (0x7e00_0000_0000, 0xa0_0000);
            change(&mut header);
            is_plausible(BASE, &header)
        };
        assert!(sound(&|_| ()));
        for value in [
            u64::MAX,
            u64::MAX - 7,
            1 << 63,
            1 << 56,
            1 << 40,
            BASE - 8,
            0x9001,
            0x1_0000_0000_0001,
        ] {
            assert!(!sound(&|header| header.landing_bytes = value), "{value:#x}");
            assert!(!sound(&|header| header.image_offset = value), "{value:#x}");
            assert!(!sound(&|header| header.flag_offset = value), "{value:#x}");
            assert!(!sound(&|header| header.config_offset = value), "{value:#x}");
            assert!(!sound(&|header| header.text_start = value), "{value:#x}");
            assert!(!sound(&|header| header.text_end = value), "{value:#x}");
            assert!(!sound(&|header| header.journal = value | 1), "{value:#x}");
            assert!(
                !sound(&|header| header.reservation_bytes = value | 1 << 33),
                "{value:#x}"
            );
            assert!(!sound(&|header| header.journal_count = value), "{value:#x}");
        }
    }
}
