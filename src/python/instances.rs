//! Attributes of instances of Python classes, read from outside.

use super::layout::{InstanceDict, Layout};
use super::memory::{Memory, at, is_pointer, u64_in};
use super::objects::{Entries, is_ascii_string, items_of_dict};

/// `Py_TPFLAGS_MANAGED_DICT`: the dict hangs on words before the object.
const MANAGED_DICT_FLAG: u64 = 1 << 4;
/// `Py_TPFLAGS_INLINE_VALUES`, from 3.13.
const INLINE_VALUES_FLAG: u64 = 1 << 2;
/// Larger objects than any class makes.
const BASICSIZE_MAX: u64 = 1 << 20;

/// The value of the attribute with an ASCII name in an instance's own dict.
pub(super) fn attribute(memory: &dyn Memory, layout: &Layout, object: u64, name: &str) -> Option<u64> {
    if !is_pointer(object) {
        return None;
    }
    let word = |address: u64| memory.u64(address).ok();
    let kind = word(at(object, layout.object.ob_type)).filter(|&kind| is_pointer(kind))?;
    let flags = word(at(kind, layout.object.type_flags))?;
    let before = |words: u64| word(object.wrapping_sub(8 * words));
    let of_dict = |dict: u64| in_dict(memory, layout, dict, name);
    let of_values = |cached_keys: u32, values: u64| {
        let index = index_of(memory, layout, word(at(kind, cached_keys))?, name)?;
        word(values.wrapping_add(8 * index as u64)).filter(|&value| value != 0)
    };
    if flags & MANAGED_DICT_FLAG == 0 || layout.instance.dict == InstanceDict::Offset {
        let offset = word(at(kind, layout.instance.type_dictoffset))?;
        return match offset {
            1..BASICSIZE_MAX => of_dict(word(object.wrapping_add(offset))?),
            _ => None,
        };
    }
    match layout.instance.dict {
        InstanceDict::Offset => None,
        InstanceDict::TwoPointers { cached_keys } => match before(3)? {
            0 => of_values(cached_keys, before(4)?),
            dict => of_dict(dict),
        },
        // The lowest bit tells values, whose address is one more.
        InstanceDict::Tagged { cached_keys } => match before(3)? {
            values if values & 1 == 1 => of_values(cached_keys, values.wrapping_add(1)),
            dict => of_dict(dict),
        },
        InstanceDict::Inline {
            cached_keys,
            type_basicsize,
        } => {
            let dict = before(3)?;
            if dict != 0 || flags & INLINE_VALUES_FLAG == 0 {
                return of_dict(dict);
            }
            let size = word(at(kind, type_basicsize)).filter(|&size| size < BASICSIZE_MAX)?;
            of_values(cached_keys, at(object.wrapping_add(size), layout.instance.values))
        }
    }
}

/// The value of an ASCII key in a dict of either kind of table.
fn in_dict(memory: &dyn Memory, layout: &Layout, dict: u64, name: &str) -> Option<u64> {
    let word = |address: u64| memory.u64(address).ok();
    let values = word(at(dict, layout.dict.values))?;
    if values == 0 {
        return super::objects::dict_value(memory, layout, dict, name);
    }
    let index = index_of(memory, layout, word(at(dict, layout.dict.keys))?, name)?;
    word(at(values, layout.instance.values).wrapping_add(8 * index as u64)).filter(|&value| value != 0)
}

/// Which of a table's keys the ASCII string `name` is.
fn index_of(memory: &dyn Memory, layout: &Layout, keys: u64, name: &str) -> Option<usize> {
    /// More attributes than keys are shared for (30).
    const SHARED_KEYS_MAX: usize = 64;
    let entries = Entries::read(memory, keys, layout).filter(|entries| entries.count <= SHARED_KEYS_MAX)?;
    let bytes = entries.bytes(memory)?;
    let mut entries = bytes
        .chunks_exact(entries.entry_bytes)
        .map(|entry| u64_in(entry, entries.key_at));
    entries.position(|key| key.is_some_and(|key| is_ascii_string(memory, layout, key, name)))
}

/// The entries of a dict whose keys are small whole numbers: (number, value).
pub(super) fn numbered(memory: &dyn Memory, layout: &Layout, dict: u64) -> Option<Vec<(u64, u64)>> {
    /// `hash()` of a smaller number is the number.
    const HASH_MODULUS: u64 = (1 << 61) - 1;
    let entries = items_of_dict(memory, layout, dict)?;
    // Of another kind where every key is a str.
    if entries.key_at != 8 {
        return (entries.count == 0).then(Vec::new);
    }
    let bytes = entries.bytes(memory)?;
    let numbers = bytes.chunks_exact(entries.entry_bytes).filter_map(|entry| {
        let (hash, value) = (u64_in(entry, 0)?, u64_in(entry, entries.key_at + 8)?);
        (value != 0 && hash < HASH_MODULUS).then_some((hash, value))
    });
    Some(numbers.collect())
}
