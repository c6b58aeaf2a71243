//! Which image of the process is CPython, of which version, and where its runtime structure is.

use std::ops::Range;

use super::allocators::AllocatorFunctions;
use super::debug_offsets::DebugOffsets;
use super::error::FindError;
use super::layout::Layout;
use super::machine_code;
use super::memory::{Image, Memory, at, is_pointer};
use super::version::Version;

/// How far into `_PyRuntime` the list of interpreters is looked for where it isn't where the table says.
const HEAD_SEARCH_BYTES: u32 = 4096;
/// The first thread may end between two reads.
const HEAD_TRIES: u32 = 16;
/// Longest version text that is looked at.
const VERSION_BYTES: usize = 32;

/// Exported where each object is in a list of all (`Py_TRACE_REFS`); from 3.13 that list is outside of the objects.
const TRACED_REFERENCES: &str = "_Py_AddToAllObjects";
const TRACED_REFERENCES_MINOR_MAX: u8 = 12;

/// A running CPython: everything that later steps need, independent of the images it was found in.
#[derive(Clone, Debug)]
pub struct Runtime {
    pub version: Version,
    /// The image that holds it, as the tracee names it.
    pub image_path: String,
    /// Address of `_PyRuntime`.
    pub address: u64,
    /// The version's table, with the places in `_PyRuntime` proven.
    pub layout: Layout,
    /// Where `PyCode_Type` may be. One address, but for an executable that has a copy of its own
    /// (R_X86_64_COPY) of the library's.
    pub(super) code_types: Vec<u64>,
    /// `PyGILState_GetThisThreadState`.
    pub(super) thread_state_accessor: Option<u64>,
    pub(super) allocator_functions: AllocatorFunctions,
    /// Executable segments of all images.
    pub(super) executable_ranges: Vec<Range<u64>>,
}

impl Runtime {
    /// The same where functions of the interpreter's tables may also lie in these ranges, which are no image's.
    pub fn with_code_in(mut self, ranges: impl IntoIterator<Item = Range<u64>>) -> Self {
        self.executable_ranges.extend(ranges);
        self
    }
}

/// Finds the one running CPython among the images of a process.
pub fn find<I: Image>(memory: &dyn Memory, images: &[I]) -> Result<Runtime, FindError> {
    let mut refusal = None;
    for image in images {
        let Some(address) = image.symbol("_PyRuntime") else {
            continue;
        };
        match inspect(memory, images, image, address) {
            Ok(runtime) => return Ok(runtime),
            // A second library that nobody initialised must not hide the reason of the first.
            Err(error @ FindError::NotInitialised { .. }) => {
                refusal.get_or_insert(error);
            }
            Err(error) => refusal = Some(error),
        }
    }
    Err(refusal.unwrap_or_else(|| not_cpython(memory, images)))
}

/// Why there is no `_PyRuntime`: PyPy, a CPython before 3.7, or no Python at all.
fn not_cpython<I: Image>(memory: &dyn Memory, images: &[I]) -> FindError {
    for image in images {
        let name = image.path().rsplit('/').next().unwrap_or_default();
        if name.starts_with("libpypy") || name.starts_with("pypy") {
            return FindError::PyPy {
                path: image.path().to_owned(),
            };
        }
    }
    for image in images {
        let Some(function) = image.symbol("Py_GetVersion") else {
            continue;
        };
        if let Some(version) = version_in_code(memory, function) {
            return FindError::UnsupportedVersion {
                version: version.to_string(),
            };
        }
        if let Some(named) = Version::of_file_name(image.path()) {
            let version = format!("{}.{}", named.major, named.minor);
            return FindError::UnsupportedVersion { version };
        }
    }
    FindError::NotPython
}

fn inspect<I: Image>(memory: &dyn Memory, images: &[I], image: &I, address: u64) -> Result<Runtime, FindError> {
    let debug_offsets = DebugOffsets::read(memory, address);
    let version = version_of(memory, image, debug_offsets.as_ref())?;
    let table = if version.major() == 3 {
        Layout::of(version.minor())
    } else {
        None
    };
    let Some(mut layout) = table else {
        return Err(FindError::UnsupportedVersion {
            version: version.to_string(),
        });
    };
    refuse_other_builds(image, version, debug_offsets.as_ref())?;
    if let Some(debug_offsets) = &debug_offsets {
        debug_offsets.refine(&mut layout);
    }
    locate(memory, image, version, address, &mut layout)?;
    Ok(Runtime {
        version,
        image_path: image.path().to_owned(),
        address,
        layout,
        code_types: images.iter().filter_map(|image| image.symbol("PyCode_Type")).collect(),
        thread_state_accessor: image.symbol("PyGILState_GetThisThreadState"),
        allocator_functions: AllocatorFunctions::of(image),
        executable_ranges: images.iter().flat_map(|i| i.executable_ranges().to_vec()).collect(),
    })
}

/// The version: from the table of 3.13, from `Py_Version` (3.11 and later), or from the text that
/// `Py_GetVersion` uses, which is then held against the file's name.
fn version_of<I: Image>(
    memory: &dyn Memory,
    image: &I,
    debug_offsets: Option<&DebugOffsets>,
) -> Result<Version, FindError> {
    if let Some(hex) = debug_offsets.and_then(DebugOffsets::version_hex) {
        return Ok(Version { hex });
    }
    if let Some(symbol) = image.symbol("Py_Version") {
        // `const unsigned long`.
        return Ok(Version {
            hex: memory.u64(symbol)? as u32,
        });
    }
    let found = image.symbol("Py_GetVersion").and_then(|it| version_in_code(memory, it));
    let named = Version::of_file_name(image.path());
    match (found, named) {
        (Some(found), Some(named)) if (found.major(), found.minor()) != (named.major, named.minor) => {
            Err(FindError::VersionConflict {
                in_memory: found.to_string(),
                in_name: format!("{}.{}", named.major, named.minor),
                path: image.path().to_owned(),
            })
        }
        (Some(found), _) => Ok(found),
        (None, _) => Err(FindError::UnknownVersion {
            path: image.path().to_owned(),
        }),
    }
}

/// `Py_GetVersion` refers to `PY_VERSION`, or to the buffer that begins with it.
fn version_in_code(memory: &dyn Memory, function: u64) -> Option<Version> {
    machine_code::references(memory, function)
        .into_iter()
        .find_map(|text| Version::parse(&memory.bytes_up_to(text, VERSION_BYTES)))
}

fn refuse_other_builds<I: Image>(
    image: &I,
    version: Version,
    debug_offsets: Option<&DebugOffsets>,
) -> Result<(), FindError> {
    let flags = Version::of_file_name(image.path()).map_or("", |named| named.flags);
    if debug_offsets.is_some_and(DebugOffsets::is_free_threaded) || flags.contains('t') {
        return Err(FindError::FreeThreaded {
            version: version.to_string(),
        });
    }
    if version.minor() <= TRACED_REFERENCES_MINOR_MAX && image.symbol(TRACED_REFERENCES).is_some() {
        return Err(FindError::TracedReferences {
            version: version.to_string(),
        });
    }
    Ok(())
}

/// Proves where `_PyRuntime` has its list of interpreters and its finalising word, and that an interpreter
/// is running.
fn locate<I: Image>(
    memory: &dyn Memory,
    image: &I,
    version: Version,
    address: u64,
    layout: &mut Layout,
) -> Result<(), FindError> {
    // What the interpreter's own accessor reads beats the table.
    let accessor = image
        .symbol("_Py_IsFinalizing")
        .or_else(|| image.symbol("Py_IsFinalizing"));
    let decoded = accessor.and_then(|it| machine_code::field_read_by(memory, it, address));
    if let Some(offset) = decoded {
        layout.runtime.finalizing = offset;
    }
    if memory.u64(at(address, layout.runtime.finalizing))? != 0 && decoded.is_some() {
        return Err(FindError::Finalising);
    }
    let in_table = layout.runtime.interpreters_head;
    let found = (0..HEAD_TRIES)
        .map(|_| in_table)
        .chain((8..HEAD_SEARCH_BYTES).step_by(8))
        .find(|&offset| is_interpreter_list(memory, address, offset, layout));
    let Some(head) = found else {
        return Err(if memory.u64(at(address, in_table))? == 0 {
            FindError::NotInitialised {
                path: image.path().to_owned(),
            }
        } else {
            FindError::Layout {
                version: version.to_string(),
                check: "no word of _PyRuntime leads to an interpreter whose thread leads back",
            }
        });
    };
    layout.runtime.interpreters_head = head;
    if decoded.is_none() {
        // The two are members of one structure and move together.
        layout.runtime.finalizing = (layout.runtime.finalizing + head).saturating_sub(in_table);
        if memory.u64(at(address, layout.runtime.finalizing))? != 0 {
            return Err(FindError::Finalising);
        }
    }
    Ok(())
}

/// Whether the word at `offset` points to an interpreter: its first thread points back to it.
fn is_interpreter_list(memory: &dyn Memory, address: u64, offset: u32, layout: &Layout) -> bool {
    let word = |address: u64| memory.u64(address).ok();
    let pointer = |address: u64| word(address).filter(|&it| is_pointer(it));
    let Some(interpreter) = pointer(at(address, offset)) else {
        return false;
    };
    let Some(thread) = pointer(at(interpreter, layout.interpreter.threads_head)) else {
        return false;
    };
    word(at(thread, layout.thread.interp)) == Some(interpreter)
}
