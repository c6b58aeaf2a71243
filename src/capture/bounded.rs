//! Lists and maps out of JSON that anybody may have written, within a budget: `{},` takes three bytes there and forty in
//! memory. What does not fit is left out, not refused; texts are not counted, being no longer than their JSON.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::fmt;
use std::marker::PhantomData;

use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};

thread_local! {
    /// Bytes that may still be taken.
    static LEFT: Cell<usize> = const { Cell::new(0) };
}

/// Calls `parse`, all of whose lists and maps share the budget.
pub fn within<T>(budget_bytes: usize, parse: impl FnOnce() -> T) -> T {
    LEFT.set(budget_bytes);
    let parsed = parse();
    LEFT.set(0);
    parsed
}

/// Whether there was so much left.
fn take(bytes: usize) -> bool {
    let left = LEFT.get().checked_sub(bytes);
    left.map(|left| LEFT.set(left)).is_some()
}

/// A list that takes no more than is left.
struct List<T>(Vec<T>);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for List<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Items<T>(PhantomData<T>);
        impl<'de, T: Deserialize<'de>> Visitor<'de> for Items<T> {
            type Value = List<T>;

            fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
                out.write_str("a list")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<List<T>, A::Error> {
                let mut list = Vec::new();
                loop {
                    if list.len() == list.capacity() {
                        // The old room is given back once what was in it has moved.
                        let (old, new) = (list.capacity(), (2 * list.capacity()).max(1));
                        if !take(new * size_of::<T>()) {
                            break;
                        }
                        list.reserve_exact(new - old);
                        LEFT.set(LEFT.get() + old * size_of::<T>());
                    }
                    match items.next_element()? {
                        Some(item) => list.push(item),
                        None => return Ok(List(list)),
                    }
                }
                while items.next_element::<IgnoredAny>()?.is_some() {}
                Ok(List(list))
            }
        }
        deserializer.deserialize_seq(Items(PhantomData))
    }
}

/// A map that takes no more than is left.
struct Map<K, V>(BTreeMap<K, V>);

impl<'de, K: Deserialize<'de> + Ord, V: Deserialize<'de>> Deserialize<'de> for Map<K, V> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Entries<K, V>(PhantomData<(K, V)>);
        impl<'de, K: Deserialize<'de> + Ord, V: Deserialize<'de>> Visitor<'de> for Entries<K, V> {
            type Value = Map<K, V>;

            fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
                out.write_str("a map")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Map<K, V>, A::Error> {
                let mut map = BTreeMap::new();
                // Nodes are half full at least, and hold eleven; the first one is there for a single entry.
                let entry_bytes = 2 * (size_of::<K>() + size_of::<V>()) + 16;
                let is_there_room = |map: &BTreeMap<K, V>| {
                    let first = if map.is_empty() { 11 } else { 1 };
                    take(first * entry_bytes)
                };
                while is_there_room(&map) {
                    match entries.next_entry()? {
                        Some((key, value)) => drop(map.insert(key, value)),
                        None => return Ok(Map(map)),
                    }
                }
                while entries.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
                Ok(Map(map))
            }
        }
        deserializer.deserialize_map(Entries(PhantomData))
    }
}

pub fn list<'de, D: Deserializer<'de>, T: Deserialize<'de>>(deserializer: D) -> Result<Vec<T>, D::Error> {
    Ok(List::deserialize(deserializer)?.0)
}

pub fn lists<'de, D: Deserializer<'de>, T: Deserialize<'de>>(deserializer: D) -> Result<Vec<Vec<T>>, D::Error> {
    let lists = List::<List<T>>::deserialize(deserializer)?.0;
    // In place: they lie in memory as those without a name do.
    Ok(lists.into_iter().map(|list| list.0).collect())
}

pub fn optional_list<'de, D: Deserializer<'de>, T: Deserialize<'de>>(
    deserializer: D,
) -> Result<Option<Vec<T>>, D::Error> {
    Ok(Option::<List<T>>::deserialize(deserializer)?.map(|list| list.0))
}

pub fn map<'de, D, K, V>(deserializer: D) -> Result<BTreeMap<K, V>, D::Error>
where
    D: Deserializer<'de>,
    K: Deserialize<'de> + Ord,
    V: Deserialize<'de>,
{
    Ok(Map::deserialize(deserializer)?.0)
}

pub fn optional_map<'de, D, K, V>(deserializer: D) -> Result<Option<BTreeMap<K, V>>, D::Error>
where
    D: Deserializer<'de>,
    K: Deserialize<'de> + Ord,
    V: Deserialize<'de>,
{
    Ok(Option::<Map<K, V>>::deserialize(deserializer)?.map(|map| map.0))
}
