//! The names that Python gives its threads: `threading._active`, read from outside.

use super::describe::Module;
use super::find::Runtime;
use super::instances::{attribute, numbered};
use super::memory::Memory;
use super::objects::string;

/// Longer names are cut.
const NAME_CHARS_MAX: usize = 256;

/// Reads names; remembers where they are.
#[derive(Debug, Default)]
pub struct ThreadNames {
    /// The dict `threading._active`, which stays the same.
    active: Option<u64>,
}

impl ThreadNames {
    /// (`pthread_self()`, name) of those threads of the main interpreter that Python knows and `is_wanted` accepts.
    /// Nothing where `threading` was not imported, or is just being changed: ask again later.
    pub fn read(
        &mut self,
        memory: &dyn Memory,
        runtime: &Runtime,
        is_wanted: impl Fn(u64) -> bool,
    ) -> Vec<(u64, String)> {
        let layout = &runtime.layout;
        if self.active.is_none() {
            let threading = Module::sys(memory, runtime).and_then(|sys| sys.other("threading"));
            self.active = threading.and_then(|threading| threading.value("_active"));
        }
        let Some(threads) = self.active.and_then(|active| numbered(memory, layout, active)) else {
            // Perhaps the module was reloaded.
            self.active = None;
            return Vec::new();
        };
        let wanted = threads.into_iter().filter(|&(ident, _)| is_wanted(ident));
        let named = wanted.filter_map(|(ident, thread)| {
            let name = string(memory, layout, attribute(memory, layout, thread, "_name")?)?;
            Some((ident, name.chars().take(NAME_CHARS_MAX).collect()))
        });
        named.collect()
    }
}
