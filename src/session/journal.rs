//! The journal of hooked slots, as this session keeps it in the target (hazard 27): one entry a slot, so that a slot's
//! last entry is its only one, however often modules come and go at one address.

use super::error::Error;
use super::landing::Landing;
use inject::{Mapping, Module, Process};
use rustc_hash::FxHashMap;
use wire::landing::{JOURNAL_ENTRIES_MAX, JournalEntry};

/// A slot that is to be hooked, and the index of its module.
pub struct Wanted {
    pub module: usize,
    pub entry: JournalEntry,
}

/// What stands in the target's journal.
#[derive(Default)]
pub struct Journal {
    /// By the slot's address.
    entries: FxHashMap<u64, Kept>,
    /// Places of entries whose module is gone.
    free: Vec<usize>,
}

struct Kept {
    place: usize,
    entry: JournalEntry,
    module: Module,
}

/// An entry that says nothing: no slot is at address 0.
const NOTHING: JournalEntry = JournalEntry {
    slot: 0,
    old: 0,
    new: 0,
    real: 0,
};

impl Journal {
    /// Makes sure that each of these slots is journalled before it is written. None of them holds a hook of ours at this
    /// moment, so an entry that is changed word by word can't put anything back meanwhile.
    pub fn enter(
        &mut self,
        process: &Process,
        landing: &mut Landing,
        modules: &[Module],
        wanted: &[Wanted],
    ) -> Result<(), Error> {
        let mut new = Vec::new();
        for Wanted { module, entry } in wanted {
            if let Some(kept) = self.entries.get_mut(&entry.slot) {
                if kept.entry != *entry {
                    landing.rewrite_journal(process, kept.place, entry)?;
                    kept.entry = *entry;
                }
                kept.module = modules[*module].clone();
            } else if let Some(place) = self.free.pop() {
                landing.rewrite_journal(process, place, entry)?;
                self.keep(place, *entry, &modules[*module]);
            } else {
                new.push((*entry, &modules[*module]));
            }
        }
        let first = landing.header.journal_count as usize;
        let total = first + new.len();
        if total > JOURNAL_ENTRIES_MAX {
            return Err(Error::TooManySlots(total));
        }
        if !new.is_empty() {
            let entries: Vec<JournalEntry> = new.iter().map(|(entry, _)| *entry).collect();
            landing.append_journal(process, &entries)?;
        }
        for (place, (entry, module)) in (first..).zip(new) {
            self.keep(place, entry, module);
        }
        Ok(())
    }

    /// Blanks the entries of slots whose module is not there any more: what is mapped in its place is not ours.
    pub fn forget_unloaded(&mut self, process: &Process, landing: &mut Landing, maps: &[Mapping]) -> Result<(), Error> {
        let is_gone = |kept: &Kept| !kept.module.is_mapped_at(maps, kept.entry.slot);
        let gone: Vec<u64> = self
            .entries
            .values()
            .filter(|kept| is_gone(kept))
            .map(|kept| kept.entry.slot)
            .collect();
        for slot in gone {
            if let Some(kept) = self.entries.remove(&slot) {
                landing.rewrite_journal(process, kept.place, &NOTHING)?;
                self.free.push(kept.place);
            }
        }
        Ok(())
    }

    fn keep(&mut self, place: usize, entry: JournalEntry, module: &Module) {
        let module = module.clone();
        self.entries.insert(entry.slot, Kept { place, entry, module });
    }
}
