//! Which function a slot stands for (hazards 1–3): never a lazy stub, never a PLT entry, never a hook of the
//! caller's.

use super::modules::Module;
use super::process::Process;
use super::slots::Slot;
use crate::address::RemoteAddr;
use std::collections::HashMap;
use std::ops::Range;

/// What a slot holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Binding {
    /// The function at this address.
    Bound(u64),
    /// Not bound yet: the first call through it will be.
    Lazy,
    /// A value in one of the caller's own ranges.
    Ours,
    /// Nothing that can be called, or nothing that can be understood: to be left alone.
    Unknown,
}

/// The functions behind the wanted names.
#[derive(Clone, Debug, Default)]
pub struct Originals {
    /// By name index.
    functions: Vec<Option<u64>>,
}

impl Originals {
    /// Decides for each name by what most modules are bound to; where nobody is, by what the dynamic linker
    /// would bind, if there is no doubt about it.
    pub fn find(
        process: &Process,
        modules: &[Module],
        slots: &[(usize, Slot)],
        names: &[&str],
        ours: &[Range<u64>],
    ) -> Self {
        let mut votes: Vec<HashMap<u64, usize>> = vec![HashMap::new(); names.len()];
        for (module, slot) in slots {
            if let Binding::Bound(address) = binding(process, modules, *module, slot, slot.value, names, ours) {
                *votes[slot.name].entry(address).or_default() += 1;
            }
        }
        let functions = votes
            .iter()
            .zip(names)
            .map(|(votes, name)| {
                let most = votes
                    .iter()
                    .max_by_key(|(address, count)| (**count, std::cmp::Reverse(**address)));
                most.map(|(&address, _)| address)
                    .or_else(|| would_bind(process, modules, name))
            })
            .collect();
        Self { functions }
    }

    /// The function behind a name.
    pub fn function(&self, name: usize) -> Option<u64> {
        self.functions.get(name).copied().flatten()
    }
}

/// What `value`, read from a slot of `modules[module]`, stands for.
pub fn binding(
    process: &Process,
    modules: &[Module],
    module: usize,
    slot: &Slot,
    value: u64,
    names: &[&str],
    ours: &[Range<u64>],
) -> Binding {
    if ours.iter().any(|range| range.contains(&value)) {
        return Binding::Ours;
    }
    let Some(holder) = modules.iter().position(|module| module.executes(value)) else {
        return Binding::Unknown;
    };
    let defines = |module: &Module| {
        module
            .symbol(process, names[slot.name])
            .is_some_and(|symbol| !symbol.is_ifunc && symbol.address == value)
    };
    if holder == module {
        // Its own code: its own definition, or the stub that will have it bound.
        return if defines(&modules[holder]) {
            Binding::Bound(value)
        } else {
            Binding::Lazy
        };
    }
    if !modules[holder].is_program || defines(&modules[holder]) {
        return Binding::Bound(value);
    }
    // A PLT entry of a program linked without PIC, which stands for the function as its canonical address.
    // The program's own slot knows the function; if that isn't bound yet, neither is this one.
    let program = &modules[holder];
    let own = super::slots::slots(process, program, &[names[slot.name]]);
    own.iter()
        .filter_map(|slot| process.read_u64(RemoteAddr(slot.address)).ok())
        .find(|value| !program.executes(*value) && modules.iter().any(|module| module.executes(*value)))
        .map_or(Binding::Lazy, Binding::Bound)
}

/// The one definition of a name, if there is exactly one and it isn't chosen at run time.
fn would_bind(process: &Process, modules: &[Module], name: &str) -> Option<u64> {
    let mut definitions = modules
        .iter()
        .filter(|module| !is_dynamic_linker(module))
        .filter_map(|module| module.symbol(process, name));
    let first = definitions.next()?;
    (definitions.next().is_none() && !first.is_ifunc).then_some(first.address)
}

/// The dynamic linker defines a minimal malloc of its own in old glibc, and its slots are its own affair.
pub fn is_dynamic_linker(module: &Module) -> bool {
    let name = module.path.rsplit('/').next().unwrap_or_default();
    name.starts_with("ld-linux") || name.starts_with("ld-musl") || name.starts_with("ld-2.") || name == "ld.so"
}
