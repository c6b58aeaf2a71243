//! The Python frames of the thread that allocates, by loads alone: no call, no lock, no GIL.
//!
//! Why the chain holds still: a thread walks its own frames, from inside a C call that they made, so none of them
//! can return meanwhile. Code objects are held by their frames, strings and tables by their code objects.
//! Other threads may change what a code object counts or caches, never what is read here.
//!
//! Every load from memory that is not ours (hazard 19):
//!
//! | what | by whom | why it is mapped |
//! |---|---|---|
//! | `FS:0`, `struct pthread`.tid | `arch`, [`crate::thread`] | libc's thread descriptor lives as long as its thread |
//! | `struct pthread`, the inline pthread-specific values | [`thread_state`] | the same; the tool proved the offset for every thread |
//! | a thread-local variable of the interpreter (3.15) | [`thread_state`] | in the static block below `struct pthread`, where the tool found it in every thread |
//! | the second-level block of pthread-specific values | [`thread_state`] | libc allocates it on first use and keeps it until the thread ends; null is checked |
//! | `PyThreadState`.thread_id, .frame or .cframe | [`thread_state`], [`innermost`] | freed only by its own thread, or at finalisation, which is checked first; a state of another thread is refused |
//! | `_PyRuntime`'s finalizing word | [`is_finalizing`] | data of the interpreter's module, which is never unloaded while its threads run |
//! | `_PyCFrame`.current_frame | [`innermost`] | lies on this thread's C stack, below a function that has not returned |
//! | frame: owner, code, instruction, entry mark, previous | [`Walk`], [`crate::path`] | see above; a frame in a data-stack chunk keeps its chunk |
//! | `ob_type` of what a frame calls its code | [`Walk`] | an object that the frame holds; nothing else of it is read unless the type is the code type |
//! | code object: names, first line, version, line table, size | [`crate::code`], [`crate::path`] | held by its frame |
//! | str: state, length, characters; bytes: size, content | [`crate::code`] | held by the code object; only compact strings, whose characters follow the header |
//! | `struct pthread`, start and size of the thread's stack | [`crate::callers`] | libc's thread descriptor; the tool proved the offset |
//! | return addresses and saved RBPs on the stack | [`crate::callers`] | between a stack pointer in use and an end that is known to belong to the same mapping |
//! | the eight bytes before the end of a short line table | [`crate::code`] | a bytes object's header precedes its content |
//! | the chunk header before a block (glibc) | [`crate::hooks`] | glibc's free and realloc read it themselves |
//! | `*memptr` of posix_memalign | [`crate::hooks`] | the real function has just written it |

use crate::load::{byte, half, word};
use core::mem::size_of;
use wire::NONE;
use wire::config::PythonLayout;
use wire::ring::{FRAME_ENTRY, FRAME_OFFSET_BIAS};

/// Longest chain that is followed, in frames.
pub const FRAMES_MAX: u32 = 100_000;
/// How many frames are followed between two looks at the finalizing word.
pub const FINALIZING_CHECK_FRAMES: u32 = 64;

/// What a reference may carry in an address' lowest bits (`_PyStackRef`, from 3.14).
const TAG: u64 = 3;

/// What the walk found next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    Frame(Frame),
    /// The outermost frame was the last.
    End,
    /// The interpreter is finalising, or the chain is longer than any stack can be.
    Broken,
}

/// What a link of the chain of frames is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Link {
    Frame(Frame),
    /// A shim on the C stack.
    Shim,
    /// It has no code object.
    NoCode,
    /// As [`Step::End`] and [`Step::Broken`].
    End,
    Broken,
}

impl Link {
    /// None: it is passed over.
    #[inline(always)]
    fn step(self) -> Option<Step> {
        match self {
            Link::Frame(frame) => Some(Step::Frame(frame)),
            Link::Shim | Link::NoCode => None,
            Link::End => Some(Step::End),
            Link::Broken => Some(Step::Broken),
        }
    }
}

/// A Python frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame {
    /// Address of the code object.
    pub code: u64,
    /// The second field of a frame in the ring: offset and entry mark, see [`wire::ring::FRAME_BYTES`].
    pub position: u32,
}

/// Where a walk starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    /// This thread runs no Python.
    Empty,
    /// Walking is not safe now.
    Unsafe,
    /// Address of the innermost frame.
    Frame(u64),
}

/// Whether the runtime is finalising: it then frees other threads' states while daemon threads still run (hazard 15).
///
/// # Safety
/// `layout.finalizing` is 0 or the address of that word of a loaded interpreter.
#[inline(always)]
pub unsafe fn is_finalizing(layout: &PythonLayout) -> bool {
    // SAFETY: the caller's promise.
    layout.finalizing != 0 && unsafe { word(layout.finalizing) } != 0
}

/// The `PyThreadState` that is bound to the thread with this thread pointer; 0 if there is none.
///
/// # Safety
/// `layout` was proven for this process, and `thread_pointer` is the calling thread's.
#[inline(always)]
unsafe fn thread_state(layout: &PythonLayout, thread_pointer: u64) -> u64 {
    // SAFETY: the table in the module's head; null is checked before it is followed.
    unsafe {
        let value = word(thread_pointer.wrapping_add_signed(layout.tstate_offset.cast_signed() as i64));
        if layout.tstate_second == NONE || value == 0 {
            value
        } else {
            word(value + layout.tstate_second as u64)
        }
    }
}

/// Finds the innermost frame of the calling thread.
///
/// # Safety
/// `layout` was proven for this process, and `thread_pointer` is the calling thread's.
#[inline(always)]
pub unsafe fn innermost(layout: &PythonLayout, thread_pointer: u64) -> Start {
    // SAFETY: the table in the module's head; finalisation is checked before the thread state is followed, and
    // each pointer for null.
    unsafe {
        if is_finalizing(layout) {
            return Start::Unsafe;
        }
        let state = thread_state(layout, thread_pointer);
        if state == 0 {
            return Start::Empty;
        }
        if !is_object(state) || word(state + layout.tstate_thread_id as u64) != thread_pointer {
            return Start::Unsafe;
        }
        let mut frame = word(state + layout.tstate_frame as u64);
        if layout.cframe_frame != NONE && frame != 0 {
            frame = word(frame + layout.cframe_frame as u64);
        }
        if frame == 0 { Start::Empty } else { Start::Frame(frame) }
    }
}

/// What every object pointer is: not null, and a multiple of 8.
#[inline(always)]
pub fn is_object(address: u64) -> bool {
    address != 0 && address.is_multiple_of(size_of::<u64>() as u64)
}

/// The address of what a frame calls its code.
///
/// # Safety
/// `frame` is a frame of this thread, and `layout` was proven for this process.
#[inline(always)]
pub unsafe fn code_of(layout: &PythonLayout, frame: u64) -> u64 {
    // SAFETY: the caller's promise.
    unsafe { word(frame + layout.frame_code as u64) & !TAG }
}

/// Whether what a frame calls its code is a code object.
///
/// # Safety
/// `code` is null or an object that a frame of this thread holds, and `layout` was proven for this process.
#[inline(always)]
pub unsafe fn is_code(layout: &PythonLayout, code: u64) -> bool {
    // SAFETY: the caller's promise.
    is_object(code) && unsafe { word(code + layout.object_type as u64) } == layout.code_type
}

/// A walk from an innermost frame outwards. The same frames come out each time it is made.
#[derive(Clone)]
pub struct Walk<'a> {
    layout: &'a PythonLayout,
    /// The frame to look at next; 0 at the end.
    frame: u64,
    /// Owner of that frame, where frames have one.
    owner: u32,
    visited: u32,
}

impl<'a> Walk<'a> {
    /// # Safety
    /// `layout` was proven for this process, and `frame` came from [`innermost`] within the same hook: no Python has
    /// run on this thread since.
    #[inline(always)]
    pub unsafe fn new(layout: &'a PythonLayout, frame: u64) -> Self {
        let mut walk = Walk {
            layout,
            frame: 0,
            owner: 0,
            visited: 0,
        };
        // SAFETY: the caller's promise.
        unsafe { walk.go_to(frame) };
        walk
    }

    /// The next frame outwards; C-stack shims and whatever has no code object are passed over.
    #[inline(always)]
    pub fn step(&mut self) -> Step {
        loop {
            if let Some(step) = self.link().step() {
                return step;
            }
        }
    }

    /// [`Self::step`] where new stacks are sent: not inlined, since the text stays in the tracee.
    #[inline(never)]
    pub fn step_seldom(&mut self) -> Step {
        loop {
            if let Some(step) = self.link_seldom().step() {
                return step;
            }
        }
    }

    /// [`Self::link`], likewise.
    #[inline(never)]
    pub fn link_seldom(&mut self) -> Link {
        self.link()
    }

    /// The address of what [`Self::link`] looks at next; 0 at the end.
    #[inline(always)]
    pub fn address(&self) -> u64 {
        self.frame
    }

    /// The next link of the chain, whatever it is.
    #[inline(always)]
    pub fn link(&mut self) -> Link {
        let layout = self.layout;
        if !is_object(self.frame) {
            return if self.frame == 0 { Link::End } else { Link::Broken };
        }
        if self.visited >= FRAMES_MAX {
            return Link::Broken;
        }
        // SAFETY: `new` was promised a proven layout.
        if self.visited % FINALIZING_CHECK_FRAMES == FINALIZING_CHECK_FRAMES - 1 && unsafe { is_finalizing(layout) } {
            return Link::Broken;
        }
        self.visited += 1;
        let (frame, owner) = (self.frame, self.owner);
        // SAFETY: the table in the module's head: a frame of this thread, and the object that it holds.
        let code = unsafe {
            self.go_to(word(frame + layout.frame_previous as u64));
            if owner >= layout.owner_shim_min {
                return Link::Shim;
            }
            let code = code_of(layout, frame);
            if !is_code(layout, code) {
                return Link::NoCode;
            }
            code
        };
        // SAFETY: `frame` and `code` as above.
        let position = unsafe { self.offset(frame, code) | if self.is_entry(frame) { FRAME_ENTRY } else { 0 } };
        Link::Frame(Frame { code, position })
    }

    /// # Safety
    /// `frame` is 0 or a frame of this thread.
    #[inline(always)]
    unsafe fn go_to(&mut self, frame: u64) {
        self.frame = frame;
        if self.layout.frame_owner != NONE && frame != 0 {
            // SAFETY: the caller's promise.
            self.owner = unsafe { byte(frame + self.layout.frame_owner as u64) } as u32;
        }
    }

    /// The biased offset of the instruction, in 31 bits. Whatever lies before the first instruction means "not started".
    ///
    /// # Safety
    /// `frame` is a frame of this thread and `code` its code object.
    #[inline(always)]
    unsafe fn offset(&self, frame: u64, code: u64) -> u32 {
        const OFFSET_MAX: i64 = (FRAME_ENTRY - 1) as i64 - FRAME_OFFSET_BIAS as i64;
        let layout = self.layout;
        // SAFETY: the caller's promise.
        let offset = unsafe {
            if layout.code_instructions == NONE {
                half(frame + layout.frame_instr as u64) as i32 as i64
            } else {
                let first = code + layout.code_instructions as u64;
                word(frame + layout.frame_instr as u64).wrapping_sub(first) as i64
            }
        };
        let known = if (0..=OFFSET_MAX).contains(&offset) { offset } else { -1 };
        (known + FRAME_OFFSET_BIAS as i64) as u32
    }

    /// Whether C code entered the interpreter with this frame. Looks at where the walk stands now, one further out.
    ///
    /// # Safety
    /// `frame` is a frame of this thread.
    #[inline(always)]
    unsafe fn is_entry(&self, frame: u64) -> bool {
        if self.layout.frame_owner == NONE {
            // Up to 3.10 every call of a Python function is a call of the evaluation loop.
            true
        } else if self.layout.frame_is_entry != NONE {
            // SAFETY: the caller's promise.
            unsafe { byte(frame + self.layout.frame_is_entry as u64) != 0 }
        } else {
            self.frame == 0 || self.owner >= self.layout.owner_shim_min
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests;
