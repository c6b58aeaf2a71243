//! At the end of a window: the names behind its native frames, from the files that the target had mapped, which are
//! still open here.

use crate::capture::NativeSymbols;
use crate::symbolize::{NativeFrame, Source, symbolize};
use inject::Module;
use rustc_hash::FxHashMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// No module is begun after this long; what is left has no names.
const SYMBOLIZE_MAX: Duration = Duration::from_secs(60);
const THREADS_MAX: usize = 4;

/// How long debug information may be fetched from elsewhere.
const FETCH_MAX: Duration = Duration::from_secs(60);

/// A return address and in which epoch it was met: the modules' places are those of that epoch.
pub type Place = (u64, u32);

/// A module, and what is wanted of it: addresses in its file, and the places that they stand for.
type Work<'a> = (&'a Module, Vec<(u64, Place)>);

/// What was found.
pub struct Named {
    pub symbols: NativeSymbols,
    /// Modules that there was no time for.
    pub unnamed_modules: u64,
}

/// Names of frames. `frames` are those of the capture in their order; `epochs` lists the modules of each epoch.
/// `fetch`: debug information that is not here, too.
pub fn name_frames(pid: i32, frames: &[Place], epochs: &[Vec<Module>], fetch: bool) -> Named {
    let mut places: Vec<Place> = frames.to_vec();
    places.sort_unstable();
    places.dedup();
    // The same file mapped at several places is read once.
    let mut by_file: FxHashMap<(u64, (u32, u32)), Work> = FxHashMap::default();
    for &place in &places {
        let modules = epochs.get(place.1 as usize).map_or(&[][..], Vec::as_slice);
        // The call, not what follows it.
        let call = place.0.wrapping_sub(1);
        if let Some(module) = modules.iter().find(|module| module.contains(call)) {
            let entry = by_file
                .entry((module.inode, module.device))
                .or_insert((module, Vec::new()));
            entry.1.push((call.wrapping_sub(module.bias), place));
        }
    }
    let directories = [
        PathBuf::from(format!("/proc/{pid}/root/usr/lib/debug")),
        // A build id says what a file is, wherever it lies.
        PathBuf::from("/usr/lib/debug"),
    ];
    let work: Vec<Work> = by_file.into_values().collect();
    let mut table = Table::default();
    let unnamed_modules = AtomicU64::new(0);
    for (place, named, module) in resolve_all(&work, &directories, fetch, &unnamed_modules) {
        table.enter(place, &named, module);
    }
    Named {
        symbols: table.finish(frames),
        unnamed_modules: unnamed_modules.into_inner(),
    }
}

/// Names of what each place is in, and the path of its module.
fn resolve_all<'a>(
    work: &[Work<'a>],
    directories: &[PathBuf],
    fetch: bool,
    unnamed_modules: &AtomicU64,
) -> Vec<(Place, Vec<NativeFrame>, &'a str)> {
    let fetch_until = fetch.then(|| Instant::now() + FETCH_MAX);
    let until = fetch_until.unwrap_or_else(|| Instant::now() + SYMBOLIZE_MAX);
    let next = AtomicUsize::new(0);
    let take = || {
        let mut done = Vec::new();
        while let Some(&(module, ref wanted)) = work.get(next.fetch_add(1, Ordering::Relaxed)) {
            let addresses: Vec<u64> = wanted.iter().map(|(address, _)| *address).collect();
            let has_time = Instant::now() < until;
            unnamed_modules.fetch_add(u64::from(!has_time), Ordering::Relaxed);
            let file = module.file().filter(|_| has_time);
            let named = match file {
                Some(file) => {
                    let path = &module.path;
                    let debug_directories = directories;
                    let source = Source {
                        file,
                        path,
                        debug_directories,
                        fetch_until,
                    };
                    symbolize(&source, &addresses)
                }
                None => vec![vec![unknown(&module.path)]; addresses.len()],
            };
            let places = wanted.iter().map(|(_, place)| *place);
            done.extend(
                places
                    .zip(named)
                    .map(|(place, named)| (place, named, module.path.as_str())),
            );
        }
        done
    };
    let threads = std::thread::available_parallelism()
        .map_or(1, usize::from)
        .min(THREADS_MAX);
    std::thread::scope(|scope| {
        let others: Vec<_> = (0..threads.min(work.len()))
            .filter_map(|_| std::thread::Builder::new().spawn_scoped(scope, take).ok())
            .collect();
        // A file that makes a library panic costs its thread's names, not the capture.
        let mut all: Vec<_> = others
            .into_iter()
            .filter_map(|thread| thread.join().ok())
            .flatten()
            .collect();
        if threads == 0 || all.is_empty() {
            all.extend(take());
        }
        all
    })
}

fn unknown(path: &str) -> NativeFrame {
    NativeFrame {
        function: String::new(),
        file: path.to_owned(),
        line: 0,
    }
}

/// The symbols while they are put together: each name once.
#[derive(Default)]
struct Table {
    symbols: NativeSymbols,
    names: FxHashMap<String, u32>,
    places: FxHashMap<Place, u32>,
}

impl Table {
    fn enter(&mut self, place: Place, frames: &[NativeFrame], module: &str) {
        let named = frames
            .iter()
            .map(|frame| [self.name(&frame.function), self.name(&frame.file), frame.line])
            .collect();
        self.symbols.places.push(named);
        let module = self.name(module);
        self.symbols.modules.push(module);
        self.places.insert(place, self.symbols.places.len() as u32);
    }

    fn name(&mut self, name: &str) -> u32 {
        if let Some(&number) = self.names.get(name) {
            return number;
        }
        let number = self.symbols.names.len() as u32;
        self.symbols.names.push(name.to_owned());
        self.names.insert(name.to_owned(), number);
        number
    }

    fn finish(mut self, frames: &[Place]) -> NativeSymbols {
        let place_of = |place: &Place| self.places.get(place).copied().unwrap_or(0);
        self.symbols.frames = frames.iter().map(place_of).collect();
        self.symbols
    }
}
