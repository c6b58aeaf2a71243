//! GOT slots: found in every module, journalled, pointed at our hooks; looked at again whenever modules
//! change, because a new module wants hooking and ld.so's lazy binding can overwrite a hook.

use super::error::Error;
use super::exchange::{Direction, exchange};
use super::journal::{Journal, Wanted};
use super::landing::Landing;
use super::payload::Image;
use super::python_allocators::PythonAllocators;
use crate::python::TablesError;
use inject::{
    Binding, BorrowOptions, Images, LinkMaps, Mapping, Module, Originals, Pause, Process, RemoteAddr, Slot, Symbol,
};
use std::ops::Range;
use std::time::{Duration, Instant};
use wire::landing::{JOURNAL_ENTRIES_MAX, JournalEntry};
use wire::{HOOK_COUNT, HOOKED_SYMBOLS, Hook};

/// Everything that is, or is to be, hooked.
pub struct Hooks {
    names: Vec<&'static str>,
    originals: Originals,
    modules: Vec<Module>,
    /// The slots of each module, by the same index.
    slots: Vec<Vec<Slot>>,
    /// What each module defines of the names, by the same index.
    definitions: Vec<Vec<Option<Symbol>>>,
    link_maps: Option<LinkMaps>,
    /// Absolute addresses of the payload's hooks, by [`Hook`].
    hooks: [u64; HOOK_COUNT],
    ours: Vec<Range<u64>>,
    journal: Journal,
    /// Where Python's own allocators are followed, too.
    python: Option<PythonAllocators>,
    hooked_count: usize,
    /// Slots left alone because they hold, or may come to hold, another function than the rest.
    different_count: usize,
}

/// What is kept of a module.
type Known = (Module, Vec<Slot>, Vec<Option<Symbol>>);

impl Hooks {
    /// Reads the target's modules and decides which functions the hooks stand for. Writes nothing.
    pub fn survey(process: &Process, maps: &[Mapping], landings: &[Landing]) -> Self {
        let mut hooks = Self {
            names: HOOKED_SYMBOLS.iter().map(|(name, _)| *name).collect(),
            originals: Originals::default(),
            modules: Vec::new(),
            slots: Vec::new(),
            definitions: Vec::new(),
            link_maps: None,
            hooks: [0; HOOK_COUNT],
            ours: landings
                .iter()
                .map(|landing| landing.header.text_start..landing.header.text_end)
                .collect(),
            journal: Journal::default(),
            python: None,
            hooked_count: 0,
            different_count: 0,
        };
        hooks.read_modules(process, maps);
        if hooks.slots_count() > JOURNAL_ENTRIES_MAX {
            // To be refused: no need to find out what each of them holds.
            return hooks;
        }
        hooks.originals = hooks.images(process).originals(&hooks.slots);
        hooks
    }

    /// Refuses a target in which nobody calls malloc and free through a slot.
    pub fn require_allocator(&self) -> Result<(), Error> {
        if self.slots_count() > JOURNAL_ENTRIES_MAX {
            return Err(Error::TooManySlots(self.slots_count()));
        }
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
        if let Some(python) = &self.python {
            python.add_reals(&mut reals);
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
        // They call realloc or free through libc's own slot, which is hooked.
        let passing_on = [Hook::Reallocarray, Hook::FreeSized, Hook::FreeAlignedSized]
            .map(|hook| self.is_from_glibc(process, hook).then_some(hook));
        let mut wanted = Vec::new();
        let mut different_count = 0;
        let images = self.images(process);
        for (index, (module, slots)) in self.modules.iter().zip(&self.slots).enumerate() {
            // An allocator's own calls (jemalloc's mmap) are part of the allocation that is recorded; the
            // dynamic linker's slots are its own affair; another namespace has a C library of its own.
            if provider == Some(module.start) || inject::is_dynamic_linker(module) || !images.is_of_program(index) {
                continue;
            }
            for (slot, value) in slots.iter().zip(inject::values(process, slots)) {
                if passing_on.contains(&Some(HOOKED_SYMBOLS[slot.name].1)) {
                    continue;
                }
                let Some(real) = self.originals.function(slot.name) else {
                    continue;
                };
                let Some(value) = value else { continue };
                let hook = self.hooks[HOOKED_SYMBOLS[slot.name].1 as usize];
                if value == hook {
                    continue;
                }
                match images.binding(index, slot, value) {
                    Binding::Bound(address) if address == real => {}
                    Binding::Lazy if images.will_be_bound_to(index, slot, real) => {}
                    Binding::Bound(_) | Binding::Lazy => {
                        different_count += 1;
                        continue;
                    }
                    Binding::Ours | Binding::Unknown => continue,
                }
                wanted.push(Wanted {
                    module: index,
                    entry: JournalEntry {
                        slot: slot.address,
                        old: value,
                        new: hook,
                        real,
                    },
                });
            }
        }
        for module in &self.modules {
            module.forget_tables();
        }
        self.different_count = different_count;
        self.write(process, landing, wanted)
    }

    /// From now on Python's own allocators are to be hooked, too.
    pub fn follow_python(&mut self, python: PythonAllocators) {
        self.python = Some(python);
    }

    /// Points the functions of Python's allocators at their hooks, by a borrowed thread: once, before anything is live.
    pub fn install_python(
        &mut self,
        process: &Process,
        landing: &mut Landing,
        image: &Image,
        options: &BorrowOptions,
    ) -> Result<Option<Pause>, Error> {
        let Some(python) = &self.python else { return Ok(None) };
        let maps = process.maps()?;
        let mut wanted = Vec::new();
        for entry in python.entries(&self.hooks) {
            let holder = self.modules.iter().position(|it| it.is_mapped_at(&maps, entry.slot));
            let Some(module) = holder else {
                return Err(Error::Tables(TablesError::Elsewhere));
            };
            wanted.push(Wanted { module, entry });
        }
        self.journal.enter(process, landing, &self.modules, &wanted)?;
        self.hooked_count += wanted.len();
        exchange(process, &maps, landing, image, Direction::In, options)
    }

    /// What to say where the program has replaced allocators of Python's in the window.
    pub fn python_is_replaced(&self, process: &Process) -> Option<&'static str> {
        let is_replaced = self.python.as_ref()?.are_replaced(process, &self.hooks);
        is_replaced.then_some(
            "the program replaced Python's allocators in the window (tracemalloc, PyMem_SetAllocator): what they do since \
             is recorded as far as they call the earlier ones, or malloc",
        )
    }

    /// Looks for modules that came or went, then hooks what is to be hooked.
    pub fn refresh(&mut self, process: &Process, landing: &mut Landing) -> Result<(), Error> {
        let maps = process.maps()?;
        self.read_modules(process, &maps);
        self.journal.forget_unloaded(process, landing, &maps)?;
        self.install(process, landing)
    }

    /// Makes the journal hold only slots that are still those of the modules that were hooked: before it is used to
    /// put them back.
    pub fn forget_unloaded(&mut self, process: &Process, landing: &mut Landing, maps: &[Mapping]) -> Result<(), Error> {
        self.journal.forget_unloaded(process, landing, maps)
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
        let known_definitions = std::mem::take(&mut self.definitions);
        let modules = std::mem::take(&mut self.modules).into_iter();
        let with_slots = modules.zip(known_slots).zip(known_definitions);
        let mut known: Vec<Known> = with_slots
            .map(|((module, slots), definitions)| (module, slots, definitions))
            .filter(|(module, ..)| module.is_loaded(maps) && module.is_unchanged())
            .collect();
        let starts: Vec<&Mapping> = inject::starts(maps).collect();
        let is_known = |map: &Mapping| known.iter().any(|(module, ..)| module.is_same_as(map));
        let new: Vec<&Mapping> = starts.iter().copied().filter(|map| !is_known(map)).collect();
        let mut read = read_all(process, maps, &new, &self.names);
        for map in starts {
            for found in [&mut known, &mut read] {
                if let Some(position) = found.iter().position(|(module, ..)| module.is_same_as(map)) {
                    let (module, slots, definitions) = found.swap_remove(position);
                    self.modules.push(module);
                    self.slots.push(slots);
                    self.definitions.push(definitions);
                    break;
                }
            }
        }
        self.link_maps = LinkMaps::read(process, &self.modules);
    }

    fn images<'a>(&'a self, process: &'a Process) -> Images<'a> {
        Images {
            process,
            modules: &self.modules,
            definitions: &self.definitions,
            link_maps: self.link_maps.as_ref(),
            names: &self.names,
            ours: &self.ours,
        }
    }

    /// Journal first, then the slots, each only where it still holds what it held (hazards 4 and 27). The maps are
    /// read again: a module may have been unloaded while the others were looked at, and what is mapped in its place
    /// may hold the very same value.
    fn write(&mut self, process: &Process, landing: &mut Landing, mut wanted: Vec<Wanted>) -> Result<(), Error> {
        if wanted.is_empty() {
            return Ok(());
        }
        let maps = process.maps()?;
        wanted.retain(|it| self.modules[it.module].is_mapped_at(&maps, it.entry.slot));
        self.journal.enter(process, landing, &self.modules, &wanted)?;
        self.hooked_count += exchange_words(process, &wanted);
        Ok(())
    }
}

/// Points slots at their hooks where they still hold what they held, several threads at a time: the sooner it is done,
/// the less can change meanwhile. How many that were.
fn exchange_words(process: &Process, wanted: &[Wanted]) -> usize {
    /// Fewer slots than this are not worth a thread.
    const SHARE_MIN: usize = 128;
    let exchange = |share: &[Wanted]| {
        // A slot that can't be written belongs to a module that is just being unloaded.
        let is_done = |Wanted { entry, .. }: &&Wanted| {
            let written = process.compare_and_write_word(RemoteAddr(entry.slot), entry.old, entry.new);
            matches!(written, Ok(true))
        };
        share.iter().filter(is_done).count()
    };
    in_shares(wanted, SHARE_MIN, exchange).into_iter().sum()
}

/// Reads modules and their slots, with several threads: most of it is waiting for the kernel.
fn read_all(process: &Process, maps: &[Mapping], starts: &[&Mapping], names: &[&str]) -> Vec<Known> {
    /// Fewer modules than this are not worth a thread.
    const SHARE_MIN: usize = 16;
    // A thousand honest modules take a tenth of a second; tables that lie could be read for hours.
    const READING_MAX: Duration = Duration::from_secs(10);
    let until = Instant::now() + READING_MAX;
    let read = |starts: &[&Mapping]| -> Vec<Known> {
        let modules = starts
            .iter()
            .take_while(|_| Instant::now() < until)
            .filter_map(|map| Module::read(process, map));
        modules
            .filter(|module| module.is_loaded(maps))
            .map(|module| {
                let mut slots = inject::slots(process, &module, names);
                slots.retain(|slot| module.is_mapped_at(maps, slot.address));
                let definitions = inject::definitions(process, &module, names);
                (module, slots, definitions)
            })
            .collect()
    };
    in_shares(starts, SHARE_MIN, read).into_iter().flatten().collect()
}

/// What comes of a piece of work done in shares of at least `share_min` items, each by a thread of its own.
fn in_shares<T: Sync, R: Send>(items: &[T], share_min: usize, work: impl Fn(&[T]) -> R + Sync) -> Vec<R> {
    const THREADS_MAX: usize = 4;
    let threads = std::thread::available_parallelism()
        .map_or(1, usize::from)
        .min(THREADS_MAX);
    let share = items.len().div_ceil(threads).max(share_min);
    let (own, others) = items.split_at(share.min(items.len()));
    let work = &work;
    std::thread::scope(|scope| {
        let spawn = |items| std::thread::Builder::new().spawn_scoped(scope, move || work(items));
        let others: Vec<_> = others.chunks(share).map(|items| (items, spawn(items))).collect();
        let mut results = vec![work(own)];
        for (items, other) in others {
            // Where there can be no thread for them, they are done here.
            let result = other.map_or_else(|_| Ok(work(items)), |thread| thread.join());
            results.push(result.unwrap_or_else(|panic| std::panic::resume_unwind(panic)));
        }
        results
    })
}
