//! Python objects read from outside: str, bytes, list, tuple, dict, module. `None` for anything that is
//! not what was asked for, torn, or beyond a bound: nothing here is worth an error.

use super::layout::{DictKeys, Layout};
use super::memory::{Memory, at, is_pointer, u32_in, u64_in};

/// `tp_flags` of a type and its subtypes (`Py_TPFLAGS_…_SUBCLASS`).
const LIST_FLAG: u64 = 1 << 25;
const TUPLE_FLAG: u64 = 1 << 26;
const BYTES_FLAG: u64 = 1 << 27;
const UNICODE_FLAG: u64 = 1 << 28;
const DICT_FLAG: u64 = 1 << 29;

/// Characters of a string; longer ones are not names, paths or arguments that a header can hold.
const STRING_CHARS_MAX: u64 = 1 << 16;
/// Items of `sys.argv` and `sys.path`.
const ITEMS_MAX: u64 = 1 << 14;
/// Bytes of all strings of one list: the header's limit for one is less, and a list may name a long one many times.
const STRINGS_BYTES_MAX: usize = 1 << 20;
/// Entries of `sys.modules`, the largest dict that is read.
const DICT_ENTRIES_MAX: u64 = 1 << 17;
/// Bytes of a dict's index, as a power of two.
const DICT_LOG2_INDEX_MAX: u8 = 24;

fn has_flag(memory: &dyn Memory, layout: &Layout, object: u64, flag: u64) -> bool {
    is_pointer(object)
        && memory
            .u64(at(object, layout.object.ob_type))
            .and_then(|kind| memory.u64(at(kind, layout.object.type_flags)))
            .is_ok_and(|flags| flags & flag != 0)
}

/// The length of a bytes object.
pub(super) fn bytes_length(memory: &dyn Memory, layout: &Layout, object: u64) -> Option<u64> {
    if !has_flag(memory, layout, object, BYTES_FLAG) {
        return None;
    }
    memory.u64(at(object, layout.object.ob_size)).ok()
}

/// A compact str. Lone surrogates, as file names that are no UTF-8 have them, become U+FFFD.
pub(super) fn string(memory: &dyn Memory, layout: &Layout, object: u64) -> Option<String> {
    if !has_flag(memory, layout, object, UNICODE_FLAG) {
        return None;
    }
    let span = Span::read(memory, layout, object)?;
    let bytes = memory.bytes(span.data, span.chars * span.kind_bytes).ok()?;
    if span.ascii {
        return String::from_utf8(bytes).ok().filter(|text| text.is_ascii());
    }
    let units: Vec<u32> = match span.kind_bytes {
        1 => bytes.iter().map(|&byte| u32::from(byte)).collect(),
        2 => bytes
            .as_chunks::<2>()
            .0
            .iter()
            .map(|&it| u32::from(u16::from_le_bytes(it)))
            .collect(),
        _ => bytes
            .as_chunks::<4>()
            .0
            .iter()
            .map(|&it| u32::from_le_bytes(it))
            .collect(),
    };
    Some(
        units
            .into_iter()
            .map(|it| char::from_u32(it).unwrap_or('\u{fffd}'))
            .collect(),
    )
}

/// Where the characters of a compact string are.
struct Span {
    data: u64,
    chars: usize,
    /// Bytes of one character: 1, 2 or 4.
    kind_bytes: usize,
    ascii: bool,
}

impl Span {
    /// State bits: interned 0–1, kind 2–4, compact 5, ascii 6, ready 7 (up to 3.11).
    fn read(memory: &dyn Memory, layout: &Layout, object: u64) -> Option<Self> {
        let unicode = &layout.unicode;
        let chars = memory.u64(at(object, unicode.length)).ok()?;
        let state = memory.u32(at(object, unicode.state)).ok()?;
        let kind_bytes = state >> 2 & 7;
        let compact = state & 1 << 5 != 0;
        let ascii = state & 1 << 6 != 0;
        let ready = !unicode.has_ready_bit || state & 1 << 7 != 0;
        let sound = compact
            && ready
            && chars <= STRING_CHARS_MAX
            && matches!(kind_bytes, 1 | 2 | 4)
            && (!ascii || kind_bytes == 1);
        let data = if ascii {
            unicode.ascii_data
        } else {
            unicode.compact_data
        };
        sound.then(|| Self {
            data: at(object, data),
            chars: chars as usize,
            kind_bytes: kind_bytes as usize,
            ascii,
        })
    }
}

/// The items of a list or tuple.
pub(super) fn items(memory: &dyn Memory, layout: &Layout, object: u64) -> Option<Vec<u64>> {
    let object_layout = &layout.object;
    let data = if has_flag(memory, layout, object, LIST_FLAG) {
        memory.u64(at(object, object_layout.list_items)).ok()?
    } else if has_flag(memory, layout, object, TUPLE_FLAG) {
        at(object, object_layout.tuple_items)
    } else {
        return None;
    };
    let count = memory.u64(at(object, object_layout.ob_size)).ok()?;
    if count > ITEMS_MAX {
        return None;
    }
    let bytes = memory.bytes(data, count as usize * 8).ok()?;
    Some(
        bytes
            .as_chunks::<8>()
            .0
            .iter()
            .map(|&word| u64::from_le_bytes(word))
            .collect(),
    )
}

/// The strings of a list or tuple, up to a bound; other items are left out.
pub(super) fn strings(memory: &dyn Memory, layout: &Layout, object: u64) -> Option<Vec<String>> {
    let items = items(memory, layout, object)?;
    let mut bytes = 0;
    let strings = items.into_iter().filter_map(|item| string(memory, layout, item));
    Some(
        strings
            .take_while(|string| {
                bytes += string.len();
                bytes <= STRINGS_BYTES_MAX
            })
            .collect(),
    )
}

/// The dict of a module.
pub(super) fn module_dict(memory: &dyn Memory, layout: &Layout, module: u64) -> Option<u64> {
    if !is_pointer(module) {
        return None;
    }
    memory.u64(at(module, layout.object.module_dict)).ok()
}

/// The value of the ASCII key `wanted` in a dict with a combined table, as module dicts have.
pub(super) fn dict_value(memory: &dyn Memory, layout: &Layout, dict: u64, wanted: &str) -> Option<u64> {
    if !has_flag(memory, layout, dict, DICT_FLAG) || memory.u64(at(dict, layout.dict.values)) != Ok(0) {
        return None;
    }
    let entries = Entries::read(memory, memory.u64(at(dict, layout.dict.keys)).ok()?, layout)?;
    let bytes = entries.bytes(memory)?;
    bytes.chunks_exact(entries.entry_bytes).find_map(|entry| {
        let key = u64_in(entry, entries.key_at)?;
        let value = u64_in(entry, entries.key_at + 8)?;
        // Deleted entries have no value.
        (value != 0 && is_ascii_string(memory, layout, key, wanted)).then_some(value)
    })
}

/// The entries of a dict with a combined table.
pub(super) fn items_of_dict(memory: &dyn Memory, layout: &Layout, dict: u64) -> Option<Entries> {
    if !has_flag(memory, layout, dict, DICT_FLAG) || memory.u64(at(dict, layout.dict.values)) != Ok(0) {
        return None;
    }
    Entries::read(memory, memory.u64(at(dict, layout.dict.keys)).ok()?, layout)
}

/// The entries of a dict's table, in the order of insertion.
pub(super) struct Entries {
    address: u64,
    pub count: usize,
    pub entry_bytes: usize,
    /// Position of the key in an entry; the value follows it.
    pub key_at: usize,
}

impl Entries {
    /// All of them, as they lie in memory.
    pub fn bytes(&self, memory: &dyn Memory) -> Option<Vec<u8>> {
        memory.bytes(self.address, self.count * self.entry_bytes).ok()
    }

    pub fn read(memory: &dyn Memory, keys: u64, layout: &Layout) -> Option<Self> {
        let (index_bytes, nentries, indices, entry_bytes, key_at) = match layout.dict.table {
            DictKeys::Sized {
                size,
                nentries,
                indices,
            } => {
                let size = memory.u64(at(keys, size)).ok()?;
                let width = match size {
                    0..=0xff => 1,
                    0x100..=0xffff => 2,
                    0x1_0000..=0xffff_ffff => 4,
                    _ => return None,
                };
                (size * width, nentries, indices, 24, 8)
            }
            DictKeys::Log2 {
                log2_index_bytes,
                kind,
                nentries,
                indices,
            } => {
                let log2 = memory.u8(at(keys, log2_index_bytes)).ok()?;
                if log2 > DICT_LOG2_INDEX_MAX {
                    return None;
                }
                // 0: any keys, with their hashes. 1: strings, which hold their own. 2: those that instances share.
                match memory.u8(at(keys, kind)).ok()? {
                    0 => (1 << log2, nentries, indices, 24, 8),
                    1 | 2 => (1 << log2, nentries, indices, 16, 0),
                    _ => return None,
                }
            }
        };
        let count = memory.u64(at(keys, nentries)).ok()?;
        (count <= DICT_ENTRIES_MAX && index_bytes <= 1 << DICT_LOG2_INDEX_MAX).then(|| Self {
            address: at(keys, indices).wrapping_add(index_bytes),
            count: count as usize,
            entry_bytes,
            key_at,
        })
    }
}

/// Whether `object` is the ASCII string `wanted`: one read, since a dict of modules has thousands of keys.
pub(super) fn is_ascii_string(memory: &dyn Memory, layout: &Layout, object: u64, wanted: &str) -> bool {
    let unicode = &layout.unicode;
    let data = unicode.ascii_data as usize;
    if !is_pointer(object) {
        return false;
    }
    // A shorter string may end where its mapping ends; then it isn't the one.
    let Ok(bytes) = memory.bytes(object, data + wanted.len()) else {
        return false;
    };
    u64_in(&bytes, unicode.length as usize) == Some(wanted.len() as u64)
        && u32_in(&bytes, unicode.state as usize).is_some_and(|state| state & 0x7c == 0x64)
        && bytes[data..] == *wanted.as_bytes()
}
