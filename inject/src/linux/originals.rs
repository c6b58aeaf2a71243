//! Which function a slot stands for (hazards 1–3): never a lazy stub, never a PLT entry, never a hook of the
//! caller's, never another module's function of the same name.

use super::link_maps::LinkMaps;
use super::modules::Module;
use super::process::Process;
use super::slots::{Relocation, Slot};
use super::symbols::Symbol;
use super::versions;
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
    /// Nothing that can be called, or nothing that can be understood, or what the program put there itself: to be
    /// left alone.
    Unknown,
}

/// The functions behind the wanted names.
#[derive(Clone, Debug, Default)]
pub struct Originals {
    /// By name index.
    functions: Vec<Option<u64>>,
}

impl Originals {
    /// The function behind a name.
    pub fn function(&self, name: usize) -> Option<u64> {
        self.functions.get(name).copied().flatten()
    }
}

/// What is known of the images of a process; the slices are indexed alike.
#[derive(Clone, Copy)]
pub struct Images<'a> {
    pub process: &'a Process,
    pub modules: &'a [Module],
    /// What each module defines of the wanted names, by name index.
    pub definitions: &'a [Vec<Option<Symbol>>],
    /// `None` where the dynamic linker's list can't be read.
    pub link_maps: Option<&'a LinkMaps>,
    pub names: &'a [&'a str],
    /// Ranges of the caller's own code.
    pub ours: &'a [Range<u64>],
}

/// What a module defines of the wanted names.
pub fn definitions(process: &Process, module: &Module, names: &[&str]) -> Vec<Option<Symbol>> {
    names.iter().map(|name| module.symbol(process, name)).collect()
}

impl Images<'_> {
    /// Whether a module is one of the program's, rather than in a namespace with a C library of its own.
    pub fn is_of_program(&self, module: usize) -> bool {
        self.link_maps.is_none_or(|maps| maps.contains(&self.modules[module]))
    }

    /// Decides for each name by what most of the program's modules are bound to; where nobody is, by what the dynamic
    /// linker would bind, if there is no doubt about it.
    pub fn originals(&self, slots: &[Vec<Slot>]) -> Originals {
        let mut votes: Vec<HashMap<u64, usize>> = vec![HashMap::new(); self.names.len()];
        for (module, slots) in slots.iter().enumerate() {
            if !self.is_of_program(module) {
                continue;
            }
            for slot in slots {
                if let Binding::Bound(address) = self.binding(module, slot, slot.value) {
                    *votes[slot.name].entry(address).or_default() += 1;
                }
            }
        }
        let decide = |(name, votes): (usize, &HashMap<u64, usize>)| {
            let most = votes
                .iter()
                .max_by_key(|(address, count)| (**count, std::cmp::Reverse(**address)));
            most.map(|(&address, _)| address)
                .or_else(|| self.first_definition(name))
        };
        Originals {
            functions: votes.iter().enumerate().map(decide).collect(),
        }
    }

    /// What `value`, read from a slot of a module, stands for.
    pub fn binding(&self, module: usize, slot: &Slot, value: u64) -> Binding {
        if self.ours.iter().any(|range| range.contains(&value)) {
            return Binding::Ours;
        }
        let Some(holder) = self.modules.iter().position(|module| module.executes(value)) else {
            return Binding::Unknown;
        };
        let is_definition =
            self.definitions[holder][slot.name].is_some_and(|symbol| !symbol.is_ifunc && symbol.address == value);
        if holder == module && !is_definition {
            return if self.is_stub(module, slot, value) {
                Binding::Lazy
            } else {
                Binding::Unknown
            };
        }
        // A PLT entry of a program linked without PIC, which stands for the function as its canonical address.
        let program = &self.modules[holder];
        let is_canonical =
            program.is_program && program.taken_address(self.process, self.names[slot.name]) == Some(value);
        if is_definition || !is_canonical {
            return Binding::Bound(value);
        }
        // The program's own slot knows the function; if that isn't bound yet, neither is this one.
        let own = super::slots::slots(self.process, program, &[self.names[slot.name]]);
        own.iter()
            .filter_map(|slot| self.process.read_u64(RemoteAddr(slot.address)).ok())
            .find(|value| !program.executes(*value) && self.modules.iter().any(|module| module.executes(*value)))
            .map_or(Binding::Lazy, Binding::Bound)
    }

    /// Whether a slot that is not bound yet will be bound to this function and to no other of the same name. Where
    /// that is not certain, calling it would free another allocator's block.
    pub fn will_be_bound_to(&self, module: usize, slot: &Slot, function: u64) -> bool {
        let is_it = |symbol: &Symbol| !symbol.is_ifunc && symbol.address == function;
        let mut definers = self.definers(slot.name);
        let Some((first, symbol)) = definers.next() else {
            return false;
        };
        if definers.next().is_none() {
            return is_it(&symbol) && self.is_of_program(first);
        }
        let Some(maps) = self.link_maps else { return false };
        let Some((provider, symbol)) = self.definers(slot.name).find(|(_, symbol)| is_it(symbol)) else {
            return false;
        };
        let (user, provider) = (&self.modules[module], &self.modules[provider]);
        maps.begins_with_program(self.process, user)
            && maps.contains(provider)
            && versions::agree(self.process, user, slot.symbol, provider, symbol.index)
    }

    /// Whether a slot's value is the stub that will have it bound. A slot of any other kind that leads into its own
    /// module was changed by the program, which may choose its own functions for pointers that it initialised with
    /// these.
    fn is_stub(&self, module: usize, slot: &Slot, value: u64) -> bool {
        const ENDBR64: [u8; 4] = [0xf3, 0x0f, 0x1e, 0xfa];
        const PUSH: u8 = 0x68;
        let module = &self.modules[module];
        if slot.relocation != Relocation::JumpSlot {
            return false;
        }
        if let Some(word) = module.file_word(slot.address) {
            return word.wrapping_add(module.bias) == value;
        }
        // Without the file: the stub pushes its number and jumps to the resolver.
        let mut code = [0; 5];
        module.read_table(self.process, value, &mut code).is_some()
            && (code[0] == PUSH || (code[..4] == ENDBR64 && code[4] == PUSH))
    }

    /// Modules that define a name. The dynamic linker of an old glibc has a minimal malloc of its own, which nobody is
    /// bound to once the C library is there.
    fn definers(&self, name: usize) -> impl Iterator<Item = (usize, Symbol)> {
        let modules = self.modules.iter().zip(self.definitions).enumerate();
        modules
            .filter(|(_, (module, _))| !is_dynamic_linker(module))
            .filter_map(move |(index, (_, definitions))| Some((index, definitions[name]?)))
    }

    /// The definition of a name that comes first in the program's scope, unless it is chosen at run time.
    fn first_definition(&self, name: usize) -> Option<u64> {
        let of_program: Vec<_> = self.definers(name).filter(|it| self.is_of_program(it.0)).collect();
        let symbol = match (&of_program[..], self.link_maps) {
            ([], _) => return None,
            ([(_, only)], _) => *only,
            (_, None) => return None,
            (several, Some(maps)) => {
                let order = |module: usize| maps.order(&self.modules[module]).unwrap_or(usize::MAX);
                let &(first, symbol) = several.iter().min_by_key(|(module, _)| order(*module))?;
                // What comes after the C library may have been loaded outside of the scope; a version of its own would
                // be passed over.
                let libc = self.modules.iter().position(|module| self.is_libc(module))?;
                let is_certain = first == libc || self.modules[first].tables.versions_defined == 0;
                (order(first) <= order(libc) && is_certain).then_some(symbol)?
            }
        };
        (!symbol.is_ifunc).then_some(symbol.address)
    }

    fn is_libc(&self, module: &Module) -> bool {
        let defines = || module.symbol(self.process, "__libc_start_main").is_some();
        self.link_maps.is_some_and(|maps| maps.contains(module)) && defines()
    }
}

/// The dynamic linker defines a minimal malloc of its own in old glibc, and its slots are its own affair.
pub fn is_dynamic_linker(module: &Module) -> bool {
    let name = module.path.rsplit('/').next().unwrap_or_default();
    name.starts_with("ld-linux") || name.starts_with("ld-musl") || name.starts_with("ld-2.") || name == "ld.so"
}
