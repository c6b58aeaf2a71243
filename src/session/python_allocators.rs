//! Python's own allocators (`--trace-python-allocators`): the functions in CPython's three tables, as slots.

use super::error::Error;
use super::landing::Landing;
use super::payload;
use super::target::TargetMemory;
use crate::python::{self, AllocatorTable, Runtime};
use inject::Process;
use wire::landing::JournalEntry;
use wire::{HOOK_COUNT, Hook, PYTHON_HOOKS};

/// The tables as they were found.
pub struct PythonAllocators {
    tables: [AllocatorTable; 3],
    functions: Vec<Function>,
}

/// One function of one table.
struct Function {
    hook: Hook,
    slot: u64,
    /// What the slot held.
    found: u64,
    /// The same, but for a hook that an earlier window left there, since the program put its old allocators back
    /// after the window (`tracemalloc.stop`): the function behind it (hazard 3).
    real: u64,
}

impl PythonAllocators {
    /// Finds and proves the tables. Writes nothing.
    pub fn find(process: &Process, runtime: Runtime, landings: &[Landing]) -> Result<Self, Error> {
        let texts = landings
            .iter()
            .map(|landing| landing.header.text_start..landing.header.text_end);
        let runtime = runtime.with_code_in(texts);
        let tables = python::allocator_tables(&TargetMemory::new(process), &runtime).map_err(Error::Tables)?;
        let mut functions = Vec::new();
        for (table, hooks) in tables.iter().zip(PYTHON_HOOKS) {
            for (function, hook) in hooks.into_iter().enumerate() {
                let found = table.functions[function];
                functions.push(Function {
                    hook,
                    slot: table.slot(function),
                    found,
                    real: real_behind(process, landings, hook, found)?,
                });
            }
        }
        Ok(Self { tables, functions })
    }

    /// The functions that the hooks stand for.
    pub fn add_reals(&self, reals: &mut [u64; HOOK_COUNT]) {
        for function in &self.functions {
            reals[function.hook as usize] = function.real;
        }
    }

    /// What is to be journalled and exchanged, given the addresses of our hooks.
    pub fn entries(&self, hooks: &[u64; HOOK_COUNT]) -> Vec<JournalEntry> {
        let entry = |function: &Function| {
            let new = hooks[function.hook as usize];
            // Where our hook stands already, the function behind it is put back at the end.
            let is_hooked = function.found == new;
            JournalEntry {
                slot: function.slot,
                old: if is_hooked { function.real } else { function.found },
                new,
                real: function.real,
            }
        };
        self.functions.iter().map(entry).collect()
    }

    /// Whether some table does not hold our hooks: the program has replaced an allocator.
    pub fn are_replaced(&self, process: &Process, hooks: &[u64; HOOK_COUNT]) -> bool {
        let memory = TargetMemory::new(process);
        self.tables.iter().zip(PYTHON_HOOKS).any(|(table, domain)| {
            let expected = domain.map(|hook| hooks[hook as usize]);
            let now = table.read_again(&memory);
            now.is_some_and(|now| now.functions != expected || now.context != table.context)
        })
    }
}

/// The function itself, or what the hook at its place stands for. A hook of another build is refused: two builds whose
/// hooks each took the other's for an original would lead to each other for ever.
fn real_behind(process: &Process, landings: &[Landing], hook: Hook, found: u64) -> Result<u64, Error> {
    let holds = |landing: &&Landing| (landing.header.text_start..landing.header.text_end).contains(&found);
    let Some(landing) = landings.iter().find(holds) else {
        return Ok(found);
    };
    let image = payload::image_of(landing.header.image_digest).ok_or(Error::ForeignHook)?;
    let its_hook = landing.base + landing.header.image_offset + image.hook_offsets[hook as usize];
    let real = landing.reals(process)?[hook as usize];
    if found != its_hook || real == 0 {
        return Err(Error::ForeignHook);
    }
    Ok(real)
}
