//! GOT slots: found in every module, journalled, pointed at our hooks; looked at again whenever modules
//! change, because a new module wants hooking and ld.so's lazy binding can overwrite a hook.

use super::error::Error;
use super::landing::Landing;
use super::payload::Image;
use inject::{Binding, Mapping, Module, Originals, Process, RemoteAddr, Slot};
use rustc_hash::FxHashSet;
use std::ops::Range;
use wire::landing::{JOURNAL_ENTRIES_MAX, JournalEntry};
use wire::{HOOK_COUNT, HOOKED_SYMBOLS, Hook};

/// Everything that is, or is to be, hooked.
pub struct Hooks {
    names: Vec<&'static str>,
    originals: Originals,
    modules: Vec<Module>,
    /// The slots of each module, by the same index.
    slots: Vec<Vec<Slot>>,
    /// Absolute addresses of the payload's hooks, by [`Hook`].
    hooks: [u64; HOOK_COUNT],
    ours: Vec<Range<u64>>,
    /// Slots whose journal entry stands, with the value that it would put back.
    journalled: FxHashSet<(u64, u64)>,
    hooked_count: usize,
    /// Slots left alone because they hold another function than the rest.
    different_count: usize,
}

impl Hooks {
    /// Reads the target's modules and decides which functions the hooks stand for. Writes nothing.
    pub fn survey(process: &Process, maps: &[Mapping], landings: &[Landing]) -> Self {
        let mut hooks = Self {
            names: HOOKED_SYMBOLS.iter().map(|(name, _)| *name).collect(),
            originals: Originals::default(),
            modules: Vec::new(),
            slots: Vec::new(),
            hooks: [0; HOOK_COUNT],
            ours: landings
                .iter()
                .map(|landing| landing.header.text_start..landing.header.text_end)
                .collect(),
            journalled: FxHashSet::default(),
            hooked_count: 0,
            different_count: 0,
        };
        hooks.read_modules(process, maps);
        let slots: Vec<(usize, Slot)> = hooks
            .slots
            .iter()
            .enumerate()
            .flat_map(|(index, slots)| slots.iter().map(move |slot| (index, *slot)))
            .collect();
        hooks.originals = Originals::find(process, &hooks.modules, &slots, &hooks.names, &hooks.ours);
        hooks
    }

    /// Refuses a target in which nobody calls malloc and free through a slot.
    pub fn require_allocator(&self) -> Result<(), Error> {
        let is_known = self.real(Hook::Malloc).is_some() && self.real(Hook::Free).is_some();
        if is_known { Ok(()) } else { Err(Error::NothingToHook) }
    }

    /// Slots that are or could be hooked.
    pub fn slots_count(&self) -> usize {
        self.slots.iter().map(Vec::len).sum()
    }

    pub fn modules(&self) -> &[Module] {
        &self.modules
    }

    /// The functions that the hooks stand for, 0 where no module imports one.
    pub fn reals(&self) -> [u64; HOOK_COUNT] {
        let mut reals = [0; HOOK_COUNT];
        for (index, (_, hook)) in HOOKED_SYMBOLS.iter().enumerate() {
            if reals[*hook as usize] == 0 {
                reals[*hook as usize] = self.originals.function(index).unwrap_or(0);
            }
        }
        reals
    }

    /// The function that one hook stands for.
    pub fn real(&self, hook: Hook) -> Option<u64> {
        Some(self.reals()[hook as usize]).filter(|&address| address != 0)
    }

    /// Whether a hook's function is the C library's own.
    pub fn is_from_glibc(&self, process: &Process, hook: Hook) -> bool {
        self.real(hook)
            .and_then(|address| self.holder(address))
            .is_some_and(|module| {
                // musl has no such symbol version namespace, and no gnu_get_libc_version.
                module.symbol(process, "gnu_get_libc_version").is_some()
            })
    }

    /// Where the payload's hooks are in the target.
    pub fn set_addresses(&mut self, image: &Image, landing: &Landing) {
        let base = landing.base + landing.header.image_offset;
        self.hooks = image.hook_offsets.map(|offset| base + offset);
        let text = landing.header.text_start..landing.header.text_end;
        if !self.ours.contains(&text) {
            self.ours.push(text);
        }
    }

    /// Points every slot that holds an original, or is still to be bound to it, at its hook. Also hooks what was
    /// loaded since the last time, and what lazy binding has overwritten.
    pub fn install(&mut self, process: &Process, landing: &mut Landing) -> Result<(), Error> {
        let provider = self.allocator_module(process);
        let mut entries = Vec::new();
        self.different_count = 0;
        for (index, (module, slots)) in self.modules.iter().zip(&self.slots).enumerate() {
            // An allocator's own calls (jemalloc's mmap) are part of the allocation that is recorded; the
            // dynamic linker's slots are its own affair.
            if provider == Some(module.start) || inject::is_dynamic_linker(module) {
                continue;
            }
            for slot in slots {
                let Some(real) = self.originals.function(slot.name) else {
                    continue;
                };
                let Ok(value) = process.read_u64(RemoteAddr(slot.address)) else {
                    continue;
                };
                let hook = self.hooks[HOOKED_SYMBOLS[slot.name].1 as usize];
                if value == hook {
                    continue;
                }
                match inject::binding(process, &self.modules, index, slot, value, &self.names, &self.ours) {
                    Binding::Bound(address) if address == real => {}
                    Binding::Lazy => {}
                    Binding::Bound(_) => {
                        self.different_count += 1;
                        continue;
                    }
                    Binding::Ours | Binding::Unknown => continue,
                }
                entries.push(JournalEntry {
                    slot: slot.address,
                    old: value,
                    new: hook,
                    real,
                });
            }
        }
        for module in &self.modules {
            module.forget_tables();
        }
        self.write(process, landing, &entries)
    }

    /// Looks for modules that came or went, then hooks what is to be hooked.
    pub fn refresh(&mut self, process: &Process, landing: &mut Landing) -> Result<(), Error> {
        let maps = process.maps()?;
        self.read_modules(process, &maps);
        self.install(process, landing)
    }

    /// What is hooked, in a sentence.
    pub fn describe(&self) -> String {
        let mut text = format!("hooked {} slots in {} modules", self.hooked_count, self.modules.len());
        if self.different_count > 0 {
            text.push_str(&format!(
                "; {} slots hold other functions and were left alone",
                self.different_count
            ));
        }
        text
    }

    /// The module whose code is at this address.
    pub fn holder(&self, address: u64) -> Option<&Module> {
        self.modules.iter().find(|module| module.executes(address))
    }

    /// The start of the module that provides malloc, if it is not the C library.
    fn allocator_module(&self, process: &Process) -> Option<u64> {
        let module = self.holder(self.real(Hook::Malloc)?)?;
        let is_libc = module.symbol(process, "__libc_start_main").is_some();
        // An executable with an allocator of its own has the program's slots too.
        (!is_libc && !module.is_program).then_some(module.start)
    }

    /// Keeps what is known of modules that are still there, reads those that are new.
    fn read_modules(&mut self, process: &Process, maps: &[Mapping]) {
        let known_slots = std::mem::take(&mut self.slots);
        let mut known: Vec<_> = std::mem::take(&mut self.modules).into_iter().zip(known_slots).collect();
        let starts: Vec<&Mapping> = inject::starts(maps).collect();
        let is_known = |map: &Mapping| known.iter().any(|(module, _)| module.is_same_as(map));
        let new: Vec<&Mapping> = starts.iter().copied().filter(|map| !is_known(map)).collect();
        let mut read = read_all(process, &new, &self.names);
        for map in starts {
            for found in [&mut known, &mut read] {
                if let Some(position) = found.iter().position(|(module, _)| module.is_same_as(map)) {
                    let (module, slots) = found.swap_remove(position);
                    self.modules.push(module);
                    self.slots.push(slots);
                    break;
                }
            }
        }
    }

    /// Journal first, then the slots, each only where it still holds what it held (hazards 4 and 27).
    fn write(&mut self, process: &Process, landing: &mut Landing, entries: &[JournalEntry]) -> Result<(), Error> {
        let new: Vec<JournalEntry> = entries
            .iter()
            .filter(|entry| !self.journalled.contains(&(entry.slot, entry.old)))
            .copied()
            .collect();
        let total = landing.header.journal_count as usize + new.len();
        if total > JOURNAL_ENTRIES_MAX {
            return Err(Error::TooManySlots(total));
        }
        if !new.is_empty() {
            landing.append_journal(process, &new)?;
            self.journalled.extend(new.iter().map(|entry| (entry.slot, entry.old)));
        }
        for entry in entries {
            // A slot that can't be written belongs to a module that is just being unloaded.
            if matches!(
                process.compare_and_write_word(RemoteAddr(entry.slot), entry.old, entry.new),
                Ok(true)
            ) {
                self.hooked_count += 1;
            }
        }
        Ok(())
    }
}

/// Reads modules and their slots, with several threads: most of it is waiting for the kernel.
fn read_all(process: &Process, maps: &[&Mapping], names: &[&str]) -> Vec<(Module, Vec<Slot>)> {
    /// Fewer modules than this are not worth a thread.
    const SHARE_MIN: usize = 16;
    const THREADS_MAX: usize = 4;
    let threads = std::thread::available_parallelism()
        .map_or(1, usize::from)
        .min(THREADS_MAX);
    let share = maps.len().div_ceil(threads).max(SHARE_MIN);
    let read = |maps: &[&Mapping]| -> Vec<(Module, Vec<Slot>)> {
        let modules = maps.iter().filter_map(|map| Module::read(process, map));
        modules
            .map(|module| {
                let slots = inject::slots(process, &module, names);
                (module, slots)
            })
            .collect()
    };
    let (own, others) = maps.split_at(share.min(maps.len()));
    std::thread::scope(|scope| {
        let others: Vec<_> = others.chunks(share).map(|maps| scope.spawn(|| read(maps))).collect();
        let mut modules = read(own);
        for other in others {
            modules.extend(other.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)));
        }
        modules
    })
}
