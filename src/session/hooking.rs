//! GOT slots: found in every module, journalled, pointed at our hooks; looked at again whenever modules
//! change, because a new module wants hooking and ld.so's lazy binding can overwrite a hook.

use super::error::Error;
use super::landing::Landing;
use inject::{Mapping, Module, Originals, Process, RemoteAddr, Slot, SlotVerdict};
use rustc_hash::FxHashSet;
use wire::landing::{JOURNAL_ENTRIES_MAX, JournalEntry};
use wire::{HOOK_COUNT, HOOKED_SYMBOLS, Hook};

/// Everything hooked so far.
pub struct Hooks {
    names: Vec<&'static str>,
    /// Absolute addresses of the payload's hooks, by [`Hook`].
    hooks: [u64; HOOK_COUNT],
    originals: Originals,
    modules: Vec<Module>,
    slots: Vec<Slot>,
    journalled: FxHashSet<u64>,
    /// Slots left alone because they are bound to another function than the rest.
    pub different_count: usize,
}

impl Hooks {
    /// Reads the target's modules and decides which functions the hooks stand for. Writes nothing.
    pub fn survey(process: &Process, maps: &[Mapping], landings: &[Landing]) -> Result<Self, Error> {
        let names: Vec<&'static str> = HOOKED_SYMBOLS.iter().map(|(name, _)| *name).collect();
        let modules = inject::modules(process, maps)?;
        let slots: Vec<Slot> = modules.iter().flat_map(|module| inject::slots(process, module, &names)).collect();
        let ours: Vec<_> = landings.iter().map(|landing| landing.header.text_start..landing.header.text_end).collect();
        let originals = inject::originals(process, &modules, &slots, &names, &ours);
        let hooks = Self {
            names,
            hooks: [0; HOOK_COUNT],
            originals,
            modules,
            slots,
            journalled: FxHashSet::default(),
            different_count: 0,
        };
        if hooks.real(Hook::Malloc).is_none() || hooks.real(Hook::Free).is_none() {
            return Err(Error::NothingToHook);
        }
        Ok(hooks)
    }

    pub fn modules(&self) -> &[Module] {
        &self.modules
    }

    /// The function that a hook stands for, if any module imports it.
    pub fn real(&self, hook: Hook) -> Option<u64> {
        HOOKED_SYMBOLS
            .iter()
            .enumerate()
            .filter(|(_, (_, of))| *of == hook)
            .find_map(|(index, _)| self.originals.function(index))
    }
}
