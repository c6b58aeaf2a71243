//! The dynamic linker's own list of what it has loaded, as it keeps it for debuggers (`r_debug`, `link_map`).
//!
//! It answers two questions about a module. Is it one of the program's, or does it live in a namespace of its own
//! (dlmopen), with a C library of its own? And where would a slot that is not bound yet be bound: in the program's
//! scope first, like nearly all, or in another (RTLD_DEEPBIND, DT_SYMBOLIC)? The second answer is in a private part
//! of glibc's `struct link_map`, whose place is recognised by its content; where it isn't, there is no answer.

use super::modules::{Module, u64_at};
use super::process::Process;
use crate::address::RemoteAddr;
use std::collections::HashMap;

const MODULES_MAX: usize = 1 << 16;
/// The public part of `struct link_map`: l_addr, l_name, l_ld, l_next, l_prev.
const PUBLIC_BYTES: usize = 40;
const DYNAMIC: usize = 16;
const NEXT: usize = 24;
/// How much of a link map is searched for the scope.
const LINK_MAP_BYTES: usize = 2048;
const SEARCH_STEP: usize = 256;
/// Scopes for which a link map has room in itself.
const SCOPES_IN_PLACE: u64 = 4;

/// The modules of the program's own namespace.
#[derive(Clone, Debug)]
pub struct LinkMaps {
    /// By the address of PT_DYNAMIC.
    maps: HashMap<u64, LinkMap>,
    /// Offset of `l_scope` in a link map, and the program's first scope.
    scope: Option<(u64, u64)>,
}

#[derive(Clone, Copy, Debug)]
struct LinkMap {
    address: u64,
    /// Place in the list: what the program was started with comes first, in the order of its scope.
    order: usize,
}

impl LinkMaps {
    /// Reads the list; `None` where no module leads to one that contains it.
    pub fn read(process: &Process, modules: &[Module]) -> Option<Self> {
        modules
            .iter()
            .filter(|module| module.tables.debug != 0)
            .find_map(|program| Self::from_program(process, program))
    }

    /// Whether a module is in the program's namespace.
    pub fn contains(&self, module: &Module) -> bool {
        self.maps.contains_key(&module.tables.dynamic)
    }

    /// Whether names that a module asks for are looked up in the program's scope first.
    pub fn begins_with_program(&self, process: &Process, module: &Module) -> bool {
        let Some((offset, program_scope)) = self.scope else {
            return false;
        };
        let link_map = self.maps.get(&module.tables.dynamic);
        link_map.is_some_and(|link_map| first_scope(process, link_map.address, offset) == Some(program_scope))
    }

    /// Where in the list a module is.
    pub(super) fn order(&self, module: &Module) -> Option<usize> {
        self.maps.get(&module.tables.dynamic).map(|link_map| link_map.order)
    }

    fn from_program(process: &Process, program: &Module) -> Option<Self> {
        let head = process
            .read_u64(RemoteAddr(program.tables.debug.checked_add(8)?))
            .ok()?;
        let mut maps = HashMap::new();
        let mut next = head;
        while next != 0 && maps.len() < MODULES_MAX {
            let entry = process.read_vec(RemoteAddr(next), PUBLIC_BYTES).ok()?;
            let link_map = LinkMap {
                address: next,
                order: maps.len(),
            };
            let is_new = maps.insert(u64_at(&entry, DYNAMIC)?, link_map).is_none();
            next = if is_new { u64_at(&entry, NEXT)? } else { 0 };
        }
        maps.contains_key(&program.tables.dynamic).then(|| Self {
            maps,
            scope: scope_of_program(process, head),
        })
    }
}

/// `l_scope_mem[4]`, `l_scope_max`, `l_scope` lie in this order in every glibc, and the program's `l_scope` points to
/// its `l_scope_mem`.
fn scope_of_program(process: &Process, head: u64) -> Option<(u64, u64)> {
    let mut bytes = vec![0; LINK_MAP_BYTES];
    // A link map near the end of the heap may be followed by nothing.
    while process.read(RemoteAddr(head), &mut bytes).is_err() {
        if bytes.len() <= SEARCH_STEP {
            return None;
        }
        bytes.truncate(bytes.len() - SEARCH_STEP);
    }
    let words: Vec<u64> = bytes.chunks_exact(8).filter_map(|word| u64_at(word, 0)).collect();
    let max = (SCOPES_IN_PLACE as usize..words.len() - 1).find(|&max| {
        let in_place = head + 8 * (max as u64 - SCOPES_IN_PLACE);
        words[max] == SCOPES_IN_PLACE && words[max + 1] == in_place
    })?;
    let offset = 8 * (max as u64 + 1);
    Some((offset, first_scope(process, head, offset)?))
}

fn first_scope(process: &Process, link_map: u64, offset: u64) -> Option<u64> {
    let scopes = process.read_u64(RemoteAddr(link_map.checked_add(offset)?)).ok()?;
    let first = process.read_u64(RemoteAddr(scopes)).ok()?;
    (first != 0).then_some(first)
}
