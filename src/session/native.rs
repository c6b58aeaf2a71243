//! What `--native` adds to a window: tables for the unwinder of every module, and the modules' segments in the capture.

use super::error::Error;
use super::hooking::Hooks;
use super::native_symbols::{Named, name_frames};
use crate::capture::{Losses, ModuleSegments};
use crate::collect::{Collector, IndexedModule, NativeTables, Recorder, RowsPlace};
use crate::unwind::{Rows, rows};
use inject::{Mapping, Module, Process, RemoteAddr};
use rustc_hash::FxHashMap;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::atomic::Ordering;
use wire::native::native_bytes;
use wire::region::region_bytes;
use wire::ring::RING_SLOTS;
use wire::{NONE, PAGE_BYTES, config::NativePlace};

/// Rows that there is room for besides those of the modules at hand: for modules that are loaded later.
const ROWS_SPARE: usize = 1 << 19;
/// Most rows: 512 MiB of address space.
const ROWS_MAX: usize = 64 << 20;
/// What lies between the main thread's stack and the mapping below it, at least (the kernel's `stack_guard_gap`).
const STACK_GAP_BYTES: u64 = 1 << 20;
/// A main stack is not taken to be longer.
const STACK_BYTES_MAX: u64 = 1 << 30;

/// Device, inode and first address in the file: by these a module's rows are known again.
type Identity = ((u32, u32), u64, u64);

/// Made before the target is touched.
pub struct Prepared {
    rows: FxHashMap<Identity, Rows>,
    rows_max: u32,
    stack_block: u32,
    vdso: Option<Module>,
}

impl Prepared {
    /// Reads the unwind tables of all modules, with several threads.
    pub fn make(process: &Process, modules: &[Module], maps: &[Mapping], thread_pointers: &[u64]) -> Self {
        // A signal may interrupt it, and its handler allocate.
        let vdso = Module::of_kernel(process, maps);
        let rows = rows_of_all(process, modules.iter().chain(&vdso).collect());
        let total: usize = rows.values().map(|rows| rows.words.len()).sum();
        let rows_max = (total + total / 2 + ROWS_SPARE).next_power_of_two().min(ROWS_MAX) as u32;
        Self {
            rows,
            rows_max,
            stack_block: stack_block_offset(process, modules, maps, thread_pointers).unwrap_or(NONE),
            vdso,
        }
    }

    /// What the tables take behind the region.
    pub fn bytes(&self) -> u64 {
        native_bytes(self.rows_max.into())
    }

    /// Whether the stacks of all threads can be walked to their end.
    pub fn knows_stacks(&self) -> bool {
        self.stack_block != NONE
    }
}

/// The native side of a live window.
pub struct Native {
    tables: NativeTables,
    /// Rows that were written; `None` where a module has none or they found no room.
    places: FxHashMap<Identity, Option<(RowsPlace, u64, u64)>>,
    place: NativePlace,
    /// Stays where it is. No file has it, so that the capture's memory maps lack it, as upstream's do.
    vdso: Option<Module>,
    /// As they were told last.
    known: Vec<Known>,
    /// The modules of each epoch, the last one's as they are now.
    epochs: Vec<Vec<Module>>,
    /// Modules whose rows found no room.
    full_modules: u64,
    /// Of the tables, by the target, as of the last look.
    touched_bytes: u64,
}

/// A module at its place.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Known {
    start: u64,
    end: u64,
    identity: Identity,
}

impl Native {
    /// Fills the tables in the memory that was just mapped at `region` in the target.
    pub fn start(
        pid: i32,
        prepared: Prepared,
        memory: &File,
        region: u64,
        text: std::ops::Range<u64>,
        maps: &[Mapping],
        modules: &[Module],
    ) -> Result<Self, Error> {
        let offset = region_bytes(RING_SLOTS);
        let tables =
            NativeTables::map(memory, offset, prepared.rows_max).map_err(|error| Error::Memfd("mapped", error))?;
        let mut native = Self {
            tables,
            places: FxHashMap::default(),
            place: NativePlace {
                tables: region + offset,
                text_start: text.start,
                text_end: text.end,
                stack_block: prepared.stack_block,
                rows_count: prepared.rows_max,
            },
            vdso: prepared.vdso,
            known: Vec::new(),
            epochs: vec![Vec::new()],
            full_modules: 0,
            touched_bytes: 0,
        };
        for (identity, rows) in &prepared.rows {
            native.keep(*identity, rows);
        }
        native.note_main_stack(maps, stack_limit_bytes(pid));
        native.publish(modules);
        Ok(native)
    }

    /// For the payload's configuration.
    pub fn place(&self) -> NativePlace {
        self.place
    }

    /// Takes up what was loaded and unloaded since the last time, in tables and capture.
    pub fn follow(&mut self, process: &Process, hooks: &Hooks, collector: &mut Collector) {
        self.touched_bytes = touched_bytes(
            process.pid(),
            self.place.tables,
            native_bytes(self.place.rows_count.into()),
        );
        let known: Vec<Known> = hooks.modules().iter().map(known).collect();
        if known == self.known {
            return;
        }
        if let Ok(maps) = process.maps() {
            self.note_main_stack(&maps, stack_limit_bytes(process.pid()));
        }
        let new = hooks.modules().iter();
        let new: Vec<&Module> = new
            .filter(|module| !self.places.contains_key(&identity(module)))
            .collect();
        for (identity, rows) in rows_of_all(process, new) {
            self.keep(identity, &rows);
        }
        if self.known.iter().any(|before| !known.contains(before)) {
            // Its addresses may come to mean something else: stacks are sent anew from here on.
            self.tables.header().epoch.fetch_add(1, Ordering::Relaxed);
            collector.begin_native_epoch();
            self.epochs.push(Vec::new());
        }
        self.publish(hooks.modules());
        self.write_segments(hooks.modules(), collector.recorder());
    }

    /// Where each module lies, for whoever resolves the addresses.
    pub fn write_segments(&self, modules: &[Module], recorder: &mut Recorder) {
        let modules: Vec<ModuleSegments> = modules
            .iter()
            .map(|module| ModuleSegments {
                filename: module.path.clone(),
                address: module.bias,
                segments: module.segments().collect(),
            })
            .collect();
        recorder.memory_map(&modules);
    }

    /// The names behind the capture's native frames. Takes its time: the target is free by then.
    pub fn symbols(&self, pid: i32, collector: &Collector, fetch: bool) -> Named {
        name_frames(pid, collector.native_frames(), &self.epochs, fetch)
    }

    /// Bytes of the tables that the target's RSS shows.
    pub fn touched_bytes(&self) -> u64 {
        self.touched_bytes
    }

    /// Adds what native stacks lack. The tables must still be there.
    pub fn count_losses(&self, losses: &mut Losses) {
        losses.native_stacks_cut = self.tables.header().cut_stacks.load(Ordering::Relaxed);
        losses.native_modules_full = self.full_modules;
    }

    fn keep(&mut self, identity: Identity, rows: &Rows) {
        let place = if rows.words.is_empty() {
            None
        } else {
            let place = self.tables.append(&rows.words);
            self.full_modules += u64::from(place.is_none());
            place.map(|place| (place, rows.start, rows.end))
        };
        self.places.insert(identity, place);
    }

    fn publish(&mut self, modules: &[Module]) {
        self.known = modules.iter().map(known).collect();
        if let Some(epoch) = self.epochs.last_mut() {
            *epoch = modules.iter().chain(&self.vdso).cloned().collect();
        }
        let indexed: Vec<IndexedModule> = modules
            .iter()
            .chain(&self.vdso)
            .filter_map(|module| {
                let (rows, start, end) = self.places.get(&identity(module)).copied().flatten()?;
                Some(IndexedModule {
                    start: start.wrapping_add(module.bias),
                    end: end.wrapping_add(module.bias),
                    rows,
                })
            })
            .collect();
        let left_out = self.tables.publish(&indexed);
        self.full_modules = self.full_modules.max(left_out as u64);
    }

    /// The main thread's stack: its end, and how far down it can grow as things are.
    fn note_main_stack(&mut self, maps: &[Mapping], stack_limit_bytes: Option<u64>) {
        let Some(position) = maps.iter().position(|map| map.path == "[stack]") else {
            return;
        };
        let below = position.checked_sub(1).map_or(0, |position| maps[position].end);
        let header = self.tables.header();
        // Nor further than it may; where there is no limit, the kernel puts other mappings anywhere.
        let room = stack_limit_bytes.unwrap_or(0).min(STACK_BYTES_MAX);
        let lowest = maps[position].end.saturating_sub(room).max(below + STACK_GAP_BYTES);
        let low = lowest.min(maps[position].start);
        header.main_stack_low.store(0, Ordering::Relaxed);
        header.main_stack_high.store(maps[position].end, Ordering::Relaxed);
        header.main_stack_low.store(low, Ordering::Relaxed);
    }
}

/// Bytes of a range of the target that its page tables have; 0 where that can't be seen.
fn touched_bytes(pid: i32, start: u64, bytes: u64) -> u64 {
    const ENTRY_BYTES: u64 = 8;
    const IS_PRESENT: u8 = 0x80;
    let Ok(pagemap) = File::open(format!("/proc/{pid}/pagemap")) else {
        return 0;
    };
    let mut entries = vec![0; (bytes / PAGE_BYTES * ENTRY_BYTES) as usize];
    if pagemap
        .read_exact_at(&mut entries, start / PAGE_BYTES * ENTRY_BYTES)
        .is_err()
    {
        return 0;
    }
    // The highest byte of each is the last.
    let present = entries.iter().skip(7).step_by(ENTRY_BYTES as usize);
    present.filter(|byte| **byte & IS_PRESENT != 0).count() as u64 * PAGE_BYTES
}

/// `RLIMIT_STACK`; `None` where there is no limit.
fn stack_limit_bytes(pid: i32) -> Option<u64> {
    let text = inject::proc_text(&format!("/proc/{pid}/limits")).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("Max stack size"))?;
    line.split_whitespace().next()?.parse().ok()
}

fn identity(module: &Module) -> Identity {
    (module.device, module.inode, module.start.wrapping_sub(module.bias))
}

fn known(module: &Module) -> Known {
    Known {
        start: module.start,
        end: module.end,
        identity: identity(module),
    }
}

/// The rows of these modules. Each thread takes the next module that nobody has taken.
fn rows_of_all(process: &Process, modules: Vec<&Module>) -> FxHashMap<Identity, Rows> {
    const THREADS_MAX: usize = 4;
    let next = std::sync::atomic::AtomicUsize::new(0);
    let work = || {
        let mut done = Vec::new();
        while let Some(module) = modules.get(next.fetch_add(1, Ordering::Relaxed)) {
            let table = module.frame_table(process);
            let rows = table.map_or_else(Rows::default, |table| rows(table.address, &table.bytes));
            done.push((identity(module), rows));
        }
        done
    };
    let threads = std::thread::available_parallelism()
        .map_or(1, usize::from)
        .min(THREADS_MAX);
    std::thread::scope(|scope| {
        let others: Vec<_> = (1..threads.min(modules.len()))
            .filter_map(|_| std::thread::Builder::new().spawn_scoped(scope, work).ok())
            .collect();
        let mut all: FxHashMap<Identity, Rows> = work().into_iter().collect();
        for other in others {
            all.extend(other.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)));
        }
        all
    })
}

/// Where glibc keeps start and size of a thread's stack in `struct pthread`; `None` unless exactly one place is right for
/// every thread. The main thread has no start there, and in place of the size the end of the stack as the kernel gave
/// it, which the dynamic linker exports as well.
fn stack_block_offset(process: &Process, modules: &[Module], maps: &[Mapping], pointers: &[u64]) -> Option<u32> {
    /// `struct pthread` is 0x900 bytes or so.
    const DESCRIPTOR_BYTES: usize = 0x900;
    let linker = modules.iter().find(|module| inject::is_dynamic_linker(module))?;
    let symbol = linker.symbol(process, "__libc_stack_end")?;
    let stack_end = process.read_u64(RemoteAddr(symbol.address)).ok()?;
    // In several pieces: its lowest page is a guard.
    let is_mapped = |start: u64, end: u64| {
        let above = maps.iter().filter(|map| start < map.end);
        let reached = above.fold(
            start,
            |reached, map| if map.start <= reached { map.end } else { reached },
        );
        reached >= end
    };
    let mut left: Option<Vec<usize>> = None;
    for &pointer in pointers {
        // One that has ended meanwhile says nothing.
        let Ok(descriptor) = process.read_vec(RemoteAddr(pointer), DESCRIPTOR_BYTES) else {
            continue;
        };
        let word = |at: usize| u64::from_le_bytes(descriptor[at..at + 8].try_into().expect("eight bytes"));
        let is_mains = |at: &usize| word(*at) == 0 && word(at + 8) == stack_end;
        let is_threads = |at: &usize| {
            let (start, bytes) = (word(*at), word(at + 8));
            let holds_descriptor = start.is_multiple_of(16) && pointer.checked_sub(start).is_some_and(|it| it < bytes);
            start != 0 && holds_descriptor && is_mapped(start, start.saturating_add(bytes))
        };
        let all = || (0..DESCRIPTOR_BYTES - 16).step_by(8);
        let mut places: Vec<usize> = all().filter(is_mains).collect();
        if places.is_empty() {
            places = all().filter(is_threads).collect();
        }
        if let Some(left) = left {
            places.retain(|at| left.contains(at));
        }
        left = Some(places);
    }
    match left?[..] {
        [only] => Some(only as u32),
        _ => None,
    }
}
