//! What upstream's format has no place for, as JSON in an LZ4 skippable frame behind the end that upstream's
//! reader sees: after the LZ4 frame's end mark, or after a raw file's TRAILER.
//!
//! ```text
//! 50 2a 4d 18 · u32 payload bytes · "memrayAX" · u32 version · JSON · u32 payload bytes · "memrayAX"
//! ```
//!
//! The closing copy lets a reader find it from the file's end without walking the blocks.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::token::SKIPPABLE_MAGIC;

/// Version of the fields below. Unknown fields are ignored and missing ones have defaults, so it changes only
/// when a field changes its meaning.
pub const APPENDIX_VERSION: u32 = 1;

/// Longest JSON that is written or read, in bytes.
pub const APPENDIX_BYTES_MAX: usize = 256 << 20;

const MARK: [u8; 8] = *b"memrayAX";
/// Skippable magic and length, mark, version.
const FRONT_BYTES: usize = 20;
/// Length and mark.
pub const BACK_BYTES: usize = 12;

/// Facts about the window, known when it ends.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Appendix {
    pub version: u32,
    pub losses: Losses,
    /// Frees of blocks that are older than the window.
    pub old_frees: OldFrees,
    /// In a file of places: of each place in their order what of it is young, bytes and blocks. `None` where ages are
    /// not known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub young: Option<Vec<(u64, u64)>>,
    /// In order of time.
    pub samples: Vec<Sample>,
    pub cgroup_limit_bytes: Option<u64>,
    /// How long each stop of a thread of the target took, in microseconds.
    pub pause_us: Vec<u64>,
    /// Milliseconds since the epoch.
    pub attached_ms: i64,
    pub detached_ms: i64,
    /// How the target ended, if it did within the window.
    pub target_end: Option<String>,
    /// What ended the window, where it was neither its time nor somebody's wish nor the target's end.
    pub window_end: Option<String>,
    /// Name and version of what recorded.
    pub tool: String,
    /// Address space that stays in the target.
    pub left_over_bytes: u64,
    /// The names behind native frames.
    pub native: Option<NativeSymbols>,
    /// Threads: number in the records, kernel id as the target sees it, last name. Of several that one after another
    /// took the same place the last.
    pub threads: Vec<(u64, u32, String)>,
    /// Children that were followed, and their captures.
    pub children: Vec<(i32, String)>,
    /// Qualified names of code objects, by code id.
    pub qualnames: Option<BTreeMap<u64, String>>,
    /// Lines of source code, by file as frames name it.
    pub sources: BTreeMap<String, SourceFile>,
}

/// Lines of a file of the target, as it was when the window ended: those that occur in stacks, and some around them.
/// Nobody vouches for what stands in them.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct SourceFile {
    /// It was written after the process was started, which may run what stood there before.
    pub is_newer: bool,
    /// By number, from 1.
    pub lines: BTreeMap<u32, String>,
}

/// Native symbols, taken at the end of the window from the files that were mapped.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct NativeSymbols {
    /// Functions and files, each once. An empty function is an unknown one.
    pub names: Vec<String>,
    /// What an address is in, functions that were inlined there included, innermost first: numbers of function and file
    /// among the names, and line.
    pub places: Vec<Vec<[u32; 3]>>,
    /// Of each place in their order: number of its module's path among the names.
    pub modules: Vec<u32>,
    /// Of each native frame of the capture in its order: number of its place, from 1, or 0 where nothing is known.
    pub frames: Vec<u32>,
}

/// Events that were not recorded, by cause.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Losses {
    /// The ring was full.
    pub allocations_full: u64,
    pub frees_full: u64,
    pub outcomes_full: u64,
    pub definitions_full: u64,
    /// A hook was reached from within a hook.
    pub reentrant: u64,
    /// The thread table was full.
    pub no_thread_entry: u64,
    /// Reserved and never written.
    pub abandoned: u64,
    /// Written after the reader had given up on them.
    pub late_commits: u64,
    /// Ring slots taken out of use.
    pub dead_slots: u64,
    /// Modules that were used before they were hooked.
    pub modules_late: u64,
    /// Allocations whose stack definition was lost.
    pub stackless: u64,
    /// Frees that were not seen, found out by their address being allocated again.
    pub implied_frees: u64,
    /// Records that break the contract.
    pub corrupt: u64,
    /// Different native stacks whose outermost frame was not reached.
    pub native_stacks_cut: u64,
    /// Modules whose unwind tables found no room: native stacks end in them.
    pub native_modules_full: u64,
    /// Modules whose names were not looked up any more for want of time.
    pub native_modules_unnamed: u64,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct OldFrees {
    pub count: u64,
    /// Where sizes of blocks can be read.
    pub bytes: Option<u64>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Sample {
    /// Milliseconds since the epoch.
    pub time_ms: i64,
    pub rss_bytes: u64,
    /// The cgroup's usage less reclaimable cache.
    pub cgroup_bytes: Option<u64>,
}

/// The skippable frame, with [`APPENDIX_VERSION`] whatever `appendix` says. An appendix that is too large
/// loses its names and lines.
pub fn encode(appendix: &Appendix) -> Vec<u8> {
    let mut appendix = Appendix {
        version: APPENDIX_VERSION,
        ..appendix.clone()
    };
    let mut json = serde_json::to_vec(&appendix).unwrap_or_default();
    if json.len() > APPENDIX_BYTES_MAX {
        (appendix.qualnames, appendix.native) = (None, None);
        appendix.sources.clear();
        json = serde_json::to_vec(&appendix).unwrap_or_default();
    }
    let payload_bytes = (json.len() + 12 + BACK_BYTES) as u32;
    let mut out = Vec::with_capacity(json.len() + FRONT_BYTES + BACK_BYTES);
    out.extend_from_slice(&SKIPPABLE_MAGIC);
    out.extend_from_slice(&payload_bytes.to_le_bytes());
    out.extend_from_slice(&MARK);
    out.extend_from_slice(&APPENDIX_VERSION.to_le_bytes());
    out.extend_from_slice(&json);
    out.extend_from_slice(&payload_bytes.to_le_bytes());
    out.extend_from_slice(&MARK);
    out
}

/// Length of the whole skippable frame, if the file's last [`BACK_BYTES`] close one.
pub fn frame_bytes(back: &[u8]) -> Option<usize> {
    let (length, mark) = back.split_at_checked(4)?;
    let payload_bytes = u32::from_le_bytes(length.try_into().ok()?) as usize;
    let empty_bytes = 12 + BACK_BYTES;
    let is_plausible = (empty_bytes..=empty_bytes + APPENDIX_BYTES_MAX).contains(&payload_bytes);
    (mark == MARK && is_plausible).then_some(payload_bytes + 8)
}

/// Undoes [`encode`]; `None` for anything else, and for a version whose fields mean something else.
pub fn decode(frame: &[u8]) -> Option<Appendix> {
    let (front, rest) = frame.split_at_checked(FRONT_BYTES)?;
    let (json, back) = rest.split_at_checked(rest.len().checked_sub(BACK_BYTES)?)?;
    let version = u32::from_le_bytes(front[16..].try_into().ok()?);
    let framed = front[..4] == SKIPPABLE_MAGIC && front[4..8] == back[..4] && front[8..16] == MARK;
    if !framed || frame_bytes(back)? != frame.len() || version != APPENDIX_VERSION {
        return None;
    }
    serde_json::from_slice(json).ok()
}
