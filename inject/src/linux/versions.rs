//! Versions of symbols: which one an image asks for, and which one another offers.
//!
//! A version is compared by the hash of its name, as the dynamic linker does first.

use super::modules::{Module, u16_at, u32_at};
use super::process::Process;

/// Files and versions of one image that are looked at.
const ENTRIES_MAX: usize = 4096;
/// Indices of `Elf64_Versym` without a name: local and global.
const NAMELESS_MAX: u16 = 1;
const HIDDEN: u16 = 0x8000;

/// Whether what `user` asks for under a symbol's index is what `provider` offers under another: also where either
/// names no version.
pub fn agree(process: &Process, user: &Module, asked: u32, provider: &Module, offered: u32) -> bool {
    let Some(asked) = version_index(process, user, asked).filter(|index| *index > NAMELESS_MAX) else {
        return true;
    };
    if provider.tables.versions_defined == 0 {
        return true;
    }
    let Some(offered) = version_index(process, provider, offered) else {
        return true;
    };
    let needed = needed_hash(process, user, asked).or_else(|| defined_hash(process, user, asked));
    needed.is_some() && needed == defined_hash(process, provider, offered)
}

fn version_index(process: &Process, module: &Module, symbol: u32) -> Option<u16> {
    let table = module.tables.symbol_versions;
    if table == 0 {
        return None;
    }
    let word = module.table_u16(process, table + 2 * u64::from(symbol))?;
    Some(word & !HIDDEN)
}

/// In the list of lists of what the image needs: `Elf64_Verneed`, `Elf64_Vernaux`.
fn needed_hash(process: &Process, module: &Module, index: u16) -> Option<u32> {
    let mut file = module.tables.versions_needed;
    for _ in 0..ENTRIES_MAX {
        if file == 0 {
            return None;
        }
        let head = module.read_table_vec(process, file, 16)?;
        let mut version = file + u64::from(u32_at(&head, 8)?);
        for _ in 0..u16_at(&head, 2)? {
            let entry = module.read_table_vec(process, version, 16)?;
            if u16_at(&entry, 6)? & !HIDDEN == index {
                return u32_at(&entry, 0);
            }
            version += u64::from(u32_at(&entry, 12)?);
        }
        let next = u64::from(u32_at(&head, 12)?);
        file = if next == 0 { 0 } else { file + next };
    }
    None
}

/// In the list of what the image defines: `Elf64_Verdef`.
fn defined_hash(process: &Process, module: &Module, index: u16) -> Option<u32> {
    let mut at = module.tables.versions_defined;
    for _ in 0..ENTRIES_MAX {
        if at == 0 {
            return None;
        }
        let entry = module.read_table_vec(process, at, 20)?;
        if u16_at(&entry, 4)? == index {
            return u32_at(&entry, 8);
        }
        let next = u64::from(u32_at(&entry, 16)?);
        at = if next == 0 { 0 } else { at + next };
    }
    None
}
