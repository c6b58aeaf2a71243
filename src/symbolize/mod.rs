//! Addresses in a module's file to names, inlined functions, files and lines: by its debug information, or that which
//! another file with the same build id holds, or else by its symbol tables. Knows files, not the target.

mod debug_info;
mod debuginfod;
mod symbols;

pub use debuginfod::obstacle as debuginfod_obstacle;

use debug_info::DebugInfo;
use object::{Object, ReadCache};
use std::fs::File;
use std::path::PathBuf;
use std::time::Instant;
use symbols::Symbols;

/// A function that an address is in, or that was inlined there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NativeFrame {
    pub function: String,
    /// The module's own path where the source is not known.
    pub file: String,
    /// 0 where unknown.
    pub line: u32,
}

/// A module's file, open.
pub struct Source<'a> {
    pub file: File,
    /// As the target sees it.
    pub path: &'a str,
    /// Directories like `/usr/lib/debug` that may have debug information by build id, nearest first.
    pub debug_directories: &'a [PathBuf],
    /// Until when what they lack may be fetched from elsewhere.
    pub fetch_until: Option<Instant>,
}

/// What each address (in the file, of an instruction within the call) is in, innermost first. An address that nothing
/// is known of has one frame without a name.
pub fn symbolize(source: &Source, addresses: &[u64]) -> Vec<Vec<NativeFrame>> {
    let unknown = || NativeFrame {
        function: String::new(),
        file: source.path.to_owned(),
        line: 0,
    };
    let cache = ReadCache::new(&source.file);
    let Ok(elf) = object::File::parse(&cache) else {
        return addresses.iter().map(|_| vec![unknown()]).collect();
    };
    let own = DebugInfo::of(&elf);
    // Debian's packages with debug information have the symbols, too.
    let other_file = match own {
        Some(_) => None,
        None => elf.build_id().ok().flatten().and_then(|id| debug_file(source, id)),
    };
    let other_cache = other_file.as_ref().map(ReadCache::new);
    let other = other_cache.as_ref().and_then(|cache| object::File::parse(cache).ok());
    let debug_info = own.or_else(|| other.as_ref().and_then(DebugInfo::of));
    let context = debug_info.as_ref().and_then(DebugInfo::context);
    let mut symbols = Symbols::of(&elf);
    if let Some(other) = &other {
        symbols.add(other);
    }
    addresses
        .iter()
        .map(|&address| {
            let mut frames = context
                .as_ref()
                .map_or_else(Vec::new, |context| debug_info::frames(context, address, source.path));
            let by_symbol = || symbols.name(address);
            match frames.last_mut() {
                // Assembly has lines and no function.
                Some(outermost) if outermost.function.is_empty() => {
                    outermost.function = by_symbol().unwrap_or_default();
                }
                Some(_) => {}
                None => frames.push(NativeFrame {
                    function: by_symbol().unwrap_or_default(),
                    ..unknown()
                }),
            }
            frames
        })
        .collect()
}

/// `<directory>/.build-id/ab/cdef….debug`, or what a server has.
fn debug_file(source: &Source, build_id: &[u8]) -> Option<File> {
    let hex = build_id_hex(build_id)?;
    let name = format!(".build-id/{}/{}.debug", &hex[..2], &hex[2..]);
    let is_it = |file: &File| {
        let cache = ReadCache::new(file);
        let found = object::File::parse(&cache);
        found.is_ok_and(|elf| elf.build_id().ok().flatten() == Some(build_id))
    };
    let places = source.debug_directories.iter();
    let mut here = places
        .map(|directory| directory.join(&name))
        // Not a pipe, which would block, nor a device.
        .filter(|path| path.is_file())
        .filter_map(|path| File::open(path).ok());
    let fetch = || debuginfod::fetch(build_id, source.fetch_until?).filter(is_it);
    here.find(is_it).or_else(fetch)
}

/// `None` for what is no build id.
fn build_id_hex(build_id: &[u8]) -> Option<String> {
    const BYTES_MAX: usize = 64;
    let is_plausible = (2..=BYTES_MAX).contains(&build_id.len());
    is_plausible.then(|| build_id.iter().map(|byte| format!("{byte:02x}")).collect())
}

#[cfg(test)]
mod tests;
