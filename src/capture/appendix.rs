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

use super::bounded;
use super::token::SKIPPABLE_MAGIC;

/// Version of the fields below. Unknown fields are ignored and missing ones have defaults, so it changes only
/// when a field changes its meaning.
pub const APPENDIX_VERSION: u32 = 1;

/// Longest JSON that is written or read, in bytes.
pub const APPENDIX_BYTES_MAX: usize = 256 << 20;

/// What lists and maps of one that is read may take, texts aside: what is behind is left out. Lines of source code are the
/// last of them.
const COLLECTIONS_BYTES_MAX: usize = 15 << 20;

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
    #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "bounded::optional_list")]
    pub young: Option<Vec<(u64, u64)>>,
    /// In order of time.
    #[serde(deserialize_with = "bounded::list")]
    pub samples: Vec<Sample>,
    pub cgroup_limit_bytes: Option<u64>,
    /// How long each stop of a thread of the target took, in microseconds.
    #[serde(deserialize_with = "bounded::list")]
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
    #[serde(deserialize_with = "bounded::list")]
    pub threads: Vec<(u64, u32, String)>,
    /// Children that were followed, and their captures.
    #[serde(deserialize_with = "bounded::list")]
    pub children: Vec<(i32, String)>,
    /// Qualified names of code objects, by code id.
    #[serde(deserialize_with = "bounded::optional_map")]
    pub qualnames: Option<BTreeMap<u64, String>>,
    /// Lines of source code, by file as frames name it.
    #[serde(deserialize_with = "bounded::map")]
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
    #[serde(deserialize_with = "bounded::map")]
    pub lines: BTreeMap<u32, String>,
}

/// Native symbols, taken at the end of the window from the files that were mapped.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct NativeSymbols {
    /// Functions and files, each once. An empty function is an unknown one.
    #[serde(deserialize_with = "bounded::list")]
    pub names: Vec<String>,
    /// What an address is in, functions that were inlined there included, innermost first: numbers of function and file
    /// among the names, and line.
    #[serde(deserialize_with = "bounded::lists")]
    pub places: Vec<Vec<[u32; 3]>>,
    /// Of each place in their order: number of its module's path among the names.
    #[serde(deserialize_with = "bounded::list")]
    pub modules: Vec<u32>,
    /// Of each native frame of the capture in its order: number of its place, from 1, or 0 where nothing is known.
    #[serde(deserialize_with = "bounded::list")]
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
    bounded::within(COLLECTIONS_BYTES_MAX, || serde_json::from_slice(json)).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decoded(json: &str) -> Appendix {
        let payload_bytes = (json.len() + 12 + BACK_BYTES) as u32;
        let length = payload_bytes.to_le_bytes();
        let version = APPENDIX_VERSION.to_le_bytes();
        let frame = [
            &SKIPPABLE_MAGIC[..],
            &length,
            &MARK,
            &version,
            json.as_bytes(),
            &length,
            &MARK,
        ]
        .concat();
        decode(&frame).unwrap_or_else(|| panic!("not read: {}", &json[..60.min(json.len())]))
    }

    /// What its lists and maps take at least.
    fn collections_bytes(appendix: &Appendix) -> usize {
        fn list<T>(list: &Vec<T>) -> usize {
            list.capacity() * size_of::<T>()
        }
        fn map<K, V>(map: &BTreeMap<K, V>) -> usize {
            map.len() * (size_of::<K>() + size_of::<V>())
        }
        let native = appendix.native.clone().unwrap_or_default();
        let lines: usize = appendix.sources.values().map(|file| map(&file.lines)).sum();
        let places: usize = native.places.iter().map(list).sum();
        list(&appendix.samples)
            + list(&appendix.pause_us)
            + list(&appendix.threads)
            + list(&appendix.children)
            + appendix.young.as_ref().map_or(0, list)
            + appendix.qualnames.as_ref().map_or(0, map)
            + map(&appendix.sources)
            + lines
            + list(&native.names)
            + list(&native.places)
            + places
            + list(&native.modules)
            + list(&native.frames)
    }

    #[test]
    fn however_little_an_element_takes_in_a_file_lists_are_bounded_in_memory() {
        const COUNT: usize = 3_000_000;
        let list = |element: &str| format!("[{}{element}]", format!("{element},").repeat(COUNT / element.len()));
        let keys = |value: &str| {
            let entries: Vec<String> = (1..COUNT / 12).map(|key| format!("\"{key}\":{value}")).collect();
            format!("{{{}}}", entries.join(","))
        };
        for (json, is_read) in [
            (format!(r#"{{"samples":{},"tool":"x"}}"#, list("{}")), true),
            (format!(r#"{{"children":{},"tool":"x"}}"#, list(r#"[1,""]"#)), true),
            (format!(r#"{{"threads":{},"tool":"x"}}"#, list(r#"[1,1,""]"#)), true),
            (format!(r#"{{"young":{},"tool":"x"}}"#, list("[0,0]")), true),
            (format!(r#"{{"native":{{"places":{}}},"tool":"x"}}"#, list("[]")), true),
            (
                format!(r#"{{"native":{{"places":{}}},"tool":"x"}}"#, list("[[0,0,0]]")),
                true,
            ),
            (
                format!(r#"{{"native":{{"names":{}}},"tool":"x"}}"#, list(r#""""#)),
                true,
            ),
            (format!(r#"{{"qualnames":{},"tool":"x"}}"#, keys(r#""""#)), true),
            (format!(r#"{{"sources":{},"tool":"x"}}"#, keys("{}")), true),
            (
                format!(r#"{{"sources":{},"tool":"x"}}"#, keys(r#"{"lines":{"1":""}}"#)),
                true,
            ),
            (r#"{"tool":"x"}"#.to_owned(), false),
        ] {
            let appendix = decoded(&json);
            let bytes = collections_bytes(&appendix);
            assert!(
                bytes <= COLLECTIONS_BYTES_MAX,
                "{bytes} of {}",
                &json[..40.min(json.len())]
            );
            assert_eq!(bytes > 1 << 20, is_read, "{}", &json[..40.min(json.len())]);
            // What is behind is read all the same.
            assert_eq!(appendix.tool, "x");
        }
    }
}
