//! Deep stacks: what a thread remembers of its last walk, so that the next one need not follow the same pointers again.
//!
//! A walk of 200 frames is a chain of 200 loads, each of which waits for the one before, and as many code objects. Most
//! often all but the innermost few frames are what they were. So a thread keeps a [`Path`]: of each frame where it
//! lies, what a walk reads of it, and the sum of its term and those of all frames further out. A walk follows pointers
//! until it meets an address in the path, and from there on only compares.
//!
//! Why the answer is exact. Everything that a walk reads of a frame is compared, or follows from what is compared; and
//! everything that identifies its code object, once for each. What is equal would be walked to the same frames, and the
//! sums belong to these since they were written together (`is_written`). That an address is used again, by the same
//! function for another caller say, so makes no difference.
//!
//! What follows, from 3.11 on, where a frame has the address of its instruction: its code object. The address lies within
//! the object (`add_up` looks), no two live objects overlap, and the one in the path was seen to live, and to be what it
//! was, with another frame in the same comparison. And so whether the frame is a shim: the interpreter gives its shims
//! code of their own (the trampoline on 3.12, None later), which no function's frame has. Frames that are shims are
//! compared with their owner.
//!
//! Why the loads are safe. An address from the path is followed only after the `previous` of a frame that is live was
//! seen to hold the same (hazard 14), by way of a register: what becomes of the path meanwhile is of no matter. The
//! processor does not wait for the comparison: the next address comes from the path, so the loads of many frames are
//! under way at once. That is the gain.

use crate::code::{identity, is_identical, term, term_seldom};
use crate::load::{byte, half, word};
use crate::session::Session;
use crate::terms::{Identified, Terms};
use crate::walk::{FINALIZING_CHECK_FRAMES, Frame, Link, Walk, code_of, is_code, is_finalizing, is_object};
use core::sync::atomic::Ordering::{AcqRel, Relaxed};
use core::sync::atomic::{AtomicU64, compiler_fence};
use wire::NONE;
use wire::config::PythonLayout;
use wire::path::{PATH_CODES, PATH_FRAMES, PATH_HINTS, PATH_REFUSED, PATHS, Path, PathCode, PathFrame, PathWords};
use wire::region::ThreadEntry;

/// A stack of fewer frames is as cheap to walk.
pub const PATH_FRAMES_MIN: u64 = 4;
/// So many frames are walked one by one before the path is rebuilt to have them: less often than it costs.
const DEBT_FRAMES_MAX: u64 = 32;

/// Places in which a code object's number is looked for.
const CODE_PROBES: usize = 4;

/// How far a comparison came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Compared {
    /// To the end of the chain.
    All,
    /// To the frame with this number, which is live and is not as it was.
    UpTo(usize),
    Finalizing,
}

/// The path of the thread that is recording.
pub struct PathOfThread<'a> {
    path: *mut Path,
    layout: &'a PythonLayout,
    places: Places,
}

/// Where the words lie that are compared of a frame, see [`PathWords`].
#[derive(Clone, Copy)]
struct Places {
    previous: u32,
    second: u32,
    third: u32,
}

/// What [`PathWords::third`] is.
const NO_THIRD: u8 = 0;
const BYTE_THIRD: u8 = 1;
const HALF_THIRD: u8 = 2;

impl Places {
    #[inline(always)]
    fn of(layout: &PythonLayout) -> Self {
        let is_number = layout.code_instructions == NONE;
        Places {
            previous: layout.frame_previous,
            second: if is_number {
                layout.frame_code
            } else {
                layout.frame_instr
            },
            third: if is_number {
                layout.frame_instr
            } else {
                layout.frame_is_entry
            },
        }
    }

    /// The third word of a frame.
    ///
    /// # Safety
    /// `address` is a frame of this thread, `THIRD` what its version has.
    #[inline(always)]
    unsafe fn third<const THIRD: u8>(&self, address: u64) -> u32 {
        let at = address + self.third as u64;
        // SAFETY: the caller's promise.
        unsafe {
            match THIRD {
                BYTE_THIRD => byte(at) as u32,
                HALF_THIRD => half(at),
                _ => 0,
            }
        }
    }
}

/// One of the constants above.
#[inline(always)]
fn third_of(layout: &PythonLayout) -> u8 {
    if layout.code_instructions == NONE {
        HALF_THIRD
    } else if layout.frame_is_entry != NONE {
        BYTE_THIRD
    } else {
        NO_THIRD
    }
}

/// Who owns a frame; 0 where frames have no owner.
///
/// # Safety
/// `address` is a frame of this thread.
#[inline(always)]
unsafe fn owner_of(layout: &PythonLayout, address: u64) -> u32 {
    if layout.frame_owner == NONE {
        return 0;
    }
    // SAFETY: the caller's promise.
    unsafe { byte(address + layout.frame_owner as u64) as u32 }
}

/// Whether a frame's instruction, where that is an address, lies within its code object, so that the one tells the other.
///
/// # Safety
/// `address` is a frame of this thread that holds the code object `code`.
#[inline(always)]
unsafe fn is_told_by_instruction(layout: &PythonLayout, address: u64, code: u64) -> bool {
    /// Of `PyVarObject`: the number of instructions, in units of two bytes.
    const SIZE_FROM_TYPE: u64 = 8;
    // SAFETY: the caller's promise.
    let (instruction, units) = unsafe {
        (
            word(address + layout.frame_instr as u64),
            word(code + layout.object_type as u64 + SIZE_FROM_TYPE),
        )
    };
    let bytes = (units.min(u32::MAX as u64) * 2) + layout.code_instructions as u64;
    instruction.wrapping_sub(code) < bytes
}

impl<'a> PathOfThread<'a> {
    /// The path of the thread with this entry, if it has one and nobody is writing it.
    #[inline(always)]
    pub fn find(session: &Session<'a>, entry: &ThreadEntry) -> Option<Self> {
        let number = entry.path.load(Relaxed);
        if number == 0 || number == PATH_REFUSED {
            return None;
        }
        let layout = &session.config.python;
        let path = PathOfThread {
            path: session.path(number as usize - 1),
            layout,
            places: Places::of(layout),
        };
        (path.is_written().load(Relaxed) == 0).then_some(path)
    }

    #[inline(always)]
    fn is_written(&self) -> &'a AtomicU64 {
        // SAFETY: a word of the region, which stays mapped, aligned.
        unsafe { AtomicU64::from_ptr(&raw mut (*self.path).is_written) }
    }

    #[inline(always)]
    fn len(&self) -> usize {
        // SAFETY: as above.
        (unsafe { word(&raw const (*self.path).len as u64) } as usize).min(PATH_FRAMES)
    }

    /// A frame of the path; number 0 is the end of the chain.
    #[inline(always)]
    fn frame(&self, number: usize) -> *mut PathFrame {
        // SAFETY: every caller's number is at most PATH_FRAMES, and the array has one more.
        unsafe { (&raw mut (*self.path).frames).cast::<PathFrame>().add(number) }
    }

    /// What is compared of that frame.
    #[inline(always)]
    fn words(&self, number: usize) -> *mut PathWords {
        // SAFETY: as above.
        unsafe { (&raw mut (*self.path).words).cast::<PathWords>().add(number) }
    }

    #[inline(always)]
    fn address(&self, number: usize) -> u64 {
        // SAFETY: a word of the region, which stays mapped, aligned.
        unsafe { word(&raw const (*self.frame(number)).address as u64) }
    }

    #[inline(always)]
    fn frame_hint(&self, address: u64) -> *mut u16 {
        // SAFETY: masked to the array.
        unsafe { (&raw mut (*self.path).frame_hints).cast::<u16>().add(hint_of(address)) }
    }

    /// The places in which a code object's number is looked for, one after the other.
    fn code_hints(&self, code: u64) -> [*mut u16; CODE_PROBES] {
        // SAFETY: masked to the array.
        core::array::from_fn(|probe| unsafe {
            (&raw mut (*self.path).code_hints)
                .cast::<u16>()
                .add(hint_of(code) ^ probe)
        })
    }

    /// A code object of the path; number 0 is none.
    #[inline(always)]
    fn code(&self, number: u16) -> *mut PathCode {
        let number = (number as usize).min(PATH_CODES);
        // SAFETY: at most PATH_CODES, and the array has one more.
        unsafe { (&raw mut (*self.path).codes).cast::<PathCode>().add(number) }
    }

    /// The number of the frame in the path that lies at this address; 0 if there is none.
    #[inline(always)]
    fn number_of(&self, address: u64, expected: usize, len: usize) -> usize {
        if self.address(expected) == address {
            return expected;
        }
        // SAFETY: a place in the region; only this thread writes it.
        let number = unsafe { self.frame_hint(address).read_volatile() } as usize;
        if number <= len && self.address(number) == address {
            number
        } else {
            0
        }
    }

    /// The stack that begins with this frame. None: the chain is broken.
    ///
    /// # Safety
    /// `innermost` was found in this hook, by this layout.
    #[inline(never)]
    pub unsafe fn identify(&self, innermost: u64) -> Option<Identified> {
        // SAFETY: the caller's promise.
        let mut walk = unsafe { Walk::new(self.layout, innermost) };
        let mut terms = Terms::default();
        let len = self.len();
        let (mut expected, mut walked, mut changed) = (len, 0u64, 0);
        let known = loop {
            // Frames that were compared already, and were as before, up to one that was not.
            if changed > 0 {
                changed -= 1;
            } else {
                let address = walk.address();
                // Not for the end of the chain, which a path of zeros would seem to know.
                let number = if is_object(address) {
                    self.number_of(address, expected, len)
                } else {
                    0
                };
                if number > 0 {
                    // SAFETY: the frame at which the walk stands is live.
                    match unsafe { self.compare(number, address) } {
                        Compared::All => break number,
                        Compared::UpTo(different) => {
                            changed = number - different;
                            expected = different.saturating_sub(1);
                        }
                        Compared::Finalizing => return None,
                    }
                }
            }
            match walk.link() {
                // SAFETY: a code object of the walk.
                Link::Frame(frame) => terms.add(unsafe { term(self.layout, frame) }),
                Link::Shim | Link::NoCode => {}
                Link::End => break 0,
                Link::Broken => return None,
            }
            walked += 1;
        };
        // SAFETY: at most PATH_FRAMES.
        let outer = unsafe { self.identified(known) };
        if walked == 0 {
            return Some(outer);
        }
        if known < PATH_FRAMES && self.is_worth_a_rebuild(walked) {
            // SAFETY: the caller's promise.
            unsafe { self.rebuild(innermost, known, walked) };
        }
        Some(terms.behind(outer))
    }

    /// The frame with this number and all further out.
    ///
    /// # Safety
    /// `number` is at most [`PATH_FRAMES`].
    #[inline(always)]
    unsafe fn identified(&self, number: usize) -> Identified {
        let frame = self.frame(number);
        // SAFETY: words of the region, which stays mapped, aligned.
        unsafe {
            Identified {
                sum: word(&raw const (*frame).sum as u64),
                frames: half(&raw const (*frame).counted as u64) as u64,
            }
        }
    }

    #[inline(always)]
    fn is_worth_a_rebuild(&self, walked: u64) -> bool {
        // SAFETY: a word of the region that only this thread writes.
        unsafe {
            let debt = &raw mut (*self.path).debt;
            let now = debt.read_volatile().wrapping_add(walked);
            debt.write_volatile(now);
            now >= DEBT_FRAMES_MAX
        }
    }

    /// Compares the frame with this number, from 1, which the path says to lie at `address`, and all further out.
    ///
    /// # Safety
    /// A live frame lies at `address`.
    #[inline(always)]
    unsafe fn compare(&self, number: usize, address: u64) -> Compared {
        // SAFETY: the caller's promise.
        unsafe {
            match third_of(self.layout) {
                BYTE_THIRD => self.compare_as::<BYTE_THIRD>(number, address),
                HALF_THIRD => self.compare_as::<HALF_THIRD>(number, address),
                _ => self.compare_as::<NO_THIRD>(number, address),
            }
        }
    }

    /// Not inlined: the loop wants every register.
    ///
    /// # Safety
    /// As [`Self::compare`].
    #[inline(never)]
    unsafe fn compare_as<const THIRD: u8>(&self, mut number: usize, mut address: u64) -> Compared {
        // In registers, not read again after each load of what others could change.
        let places = self.places;
        // SAFETY: the frame at `address` is live: the first one by the caller's promise, and each further one since the
        // frame before holds this very value, which was loaded once and is not 0. All else lies in the region: `words`
        // goes down to `last`, which is not above it.
        unsafe {
            loop {
                let mut words = self.words(number).cast_const();
                let special = (half(&raw const (*words).special as u64) as usize).clamp(1, number);
                let last = self.words(special).cast_const();
                let outer = loop {
                    let outer = word(&raw const (*words).previous as u64);
                    if word(address + places.previous as u64) != outer
                        || word(address + places.second as u64) != word(&raw const (*words).second as u64)
                        || (THIRD != NO_THIRD
                            && places.third::<THIRD>(address) != half(&raw const (*words).third as u64))
                    {
                        return Compared::UpTo(self.number(words));
                    }
                    if words == last {
                        break outer;
                    }
                    // Nowhere but at the path's end, unless the path has turned to zeros.
                    if outer == 0 {
                        return Compared::UpTo(self.number(words));
                    }
                    address = outer;
                    words = words.sub(1);
                };
                if !self.is_as_special(address, special) {
                    return Compared::UpTo(special);
                }
                if special == 1 && outer == 0 {
                    return Compared::All;
                }
                let is_looked_at = (special as u32).is_multiple_of(FINALIZING_CHECK_FRAMES);
                if is_looked_at && is_finalizing(self.layout) {
                    return Compared::Finalizing;
                }
                // The end of the chain elsewhere than at the path's: no path.
                if outer == 0 || special == 1 {
                    return Compared::UpTo(special);
                }
                address = outer;
                number = special - 1;
            }
        }
    }

    /// The number of a frame of the path, from 1.
    #[inline(always)]
    fn number(&self, words: *const PathWords) -> usize {
        (words as usize - self.words(0) as usize) / size_of::<PathWords>()
    }

    /// Whether the frame at `address`, whose words are those of this special one, has its code object if that is noted with
    /// it; else, its owner.
    ///
    /// # Safety
    /// `address` is a frame of this thread; `number` is at most [`PATH_FRAMES`].
    #[inline(always)]
    unsafe fn is_as_special(&self, address: u64, number: usize) -> bool {
        let frame = self.frame(number).cast_const();
        // SAFETY: the caller's promise, and words of the region. The frame holds the object, which is only followed as a
        // code object once it is known to be one.
        unsafe {
            let known = word(&raw const (*frame).code as u64);
            if known == 0 {
                return owner_of(self.layout, address) == half(&raw const (*frame).owner as u64);
            }
            let code = code_of(self.layout, address);
            code == known && is_code(self.layout, code) && self.is_the_same(code, frame)
        }
    }

    /// Whether this code object is what it was, by its version if it has one.
    ///
    /// # Safety
    /// `code` is a code object that a frame of this thread holds; `frame` is one of the path.
    #[inline(always)]
    unsafe fn is_the_same(&self, code: u64, frame: *const PathFrame) -> bool {
        // SAFETY: the caller's promise, and words of the region.
        unsafe {
            if self.layout.code_version != NONE {
                let version = half(code + self.layout.code_version as u64);
                if version != 0 {
                    return version == half(&raw const (*frame).version as u64)
                        && word(code + self.layout.code_name as u64) == word(&raw const (*frame).name as u64);
                }
            }
            is_identical(
                self.layout,
                code,
                self.code((&raw const (*frame).code_number).read_volatile()),
            )
        }
    }

    /// Writes the `walked` innermost frames into the path, behind the `known` ones, as far as there is room.
    ///
    /// # Safety
    /// As [`Self::identify`], and what was walked there is what is walked now.
    #[cold]
    #[inline(never)]
    unsafe fn rebuild(&self, innermost: u64, known: usize, walked: u64) {
        let layout = self.layout;
        let total = known + walked as usize;
        self.is_written().store(1, Relaxed);
        // A signal handler on this thread sees the mark before anything that it protects.
        compiler_fence(AcqRel);
        // SAFETY: the caller's promise; frames of the path that this thread alone writes, numbers within it.
        unsafe {
            let mut walk = Walk::new(layout, innermost);
            let mut room = total.min(PATH_FRAMES);
            for number in (known + 1..=total).rev() {
                let address = walk.address();
                let (position, counted) = match walk.link_seldom() {
                    Link::Frame(frame) => (frame.position as u64, 1),
                    Link::Shim => (0, 0),
                    // Whether it still has none is not compared: the path ends before it.
                    Link::NoCode => {
                        room = room.min(number - 1);
                        continue;
                    }
                    Link::End | Link::Broken => {
                        room = known;
                        break;
                    }
                };
                if number > PATH_FRAMES {
                    continue;
                }
                let (places, third) = (self.places, third_of(layout));
                self.words(number).write(PathWords {
                    previous: word(address + places.previous as u64),
                    second: word(address + places.second as u64),
                    third: match third {
                        BYTE_THIRD => places.third::<BYTE_THIRD>(address),
                        HALF_THIRD => places.third::<HALF_THIRD>(address),
                        _ => 0,
                    },
                    special: 0,
                });
                self.frame(number).write(PathFrame {
                    address,
                    sum: position,
                    counted,
                    owner: owner_of(layout, address),
                    ..PathFrame::default()
                });
            }
            let added = (known + 1..=room).take_while(|&number| self.add_up(number)).count();
            (&raw mut (*self.path).len).write_volatile((known + added) as u64);
            (&raw mut (*self.path).debt).write_volatile(0);
        }
        compiler_fence(AcqRel);
        self.is_written().store(0, Relaxed);
    }

    /// Completes a frame in which the position stands for the sum, and whether it is a Python frame for their number.
    /// False: there are too many code objects.
    ///
    /// # Safety
    /// The frame and all further out are written, and live.
    unsafe fn add_up(&self, number: usize) -> bool {
        // SAFETY: numbers within the path, which this thread alone writes.
        unsafe {
            let (frame, outer) = (self.frame(number), self.frame(number - 1));
            let mut found = self.identified(number - 1);
            let is_python = (*frame).counted != 0;
            (*frame).codes_len = (*outer).codes_len;
            if is_python {
                let position = (*frame).sum as u32;
                let code = code_of(self.layout, (*frame).address);
                let mut own = Terms::default();
                own.add(term_seldom(self.layout, Frame { code, position }));
                found = own.behind(found);
                let is_told = self.layout.code_instructions == NONE
                    || is_told_by_instruction(self.layout, (*frame).address, code);
                if !is_told || !self.is_checked(code, (*outer).codes_len) {
                    if usize::from((*outer).codes_len) >= PATH_CODES {
                        return false;
                    }
                    let new = (*outer).codes_len + 1;
                    self.code(new).write(identity(self.layout, code));
                    let hints = self.code_hints(code);
                    let is_free = |hint: &&*mut u16| !(1..new).contains(&hint.read_volatile());
                    hints.iter().find(is_free).unwrap_or(&hints[0]).write_volatile(new);
                    let known = self.code(new);
                    (*frame).code = code;
                    (*frame).name = (*known).name;
                    (*frame).version = (*known).version as u32;
                    (*frame).code_number = new;
                    (*frame).codes_len = new;
                }
            }
            let is_special = !is_python
                || (*frame).code_number != 0
                || number == 1
                || (number as u32).is_multiple_of(FINALIZING_CHECK_FRAMES);
            (*self.words(number)).special = if is_special {
                number as u32
            } else {
                (*self.words(number - 1)).special
            };
            (*frame).sum = found.sum;
            (*frame).counted = found.frames as u32;
            self.frame_hint((*frame).address).write_volatile(number as u16);
        }
        true
    }

    /// Whether this code object is among the first `len`.
    ///
    /// # Safety
    /// As [`Self::add_up`].
    unsafe fn is_checked(&self, code: u64, len: u16) -> bool {
        // SAFETY: places in the region, which this thread alone writes.
        unsafe {
            self.code_hints(code).iter().any(|hint| {
                let number = hint.read_volatile();
                number != 0 && number <= len && (*self.code(number)).code == code
            })
        }
    }
}

/// Where the number of what lies at an address is looked for.
#[inline(always)]
fn hint_of(address: u64) -> usize {
    (address >> 4 ^ address >> 12) as usize % PATH_HINTS
}

/// Gives the thread with this entry a path, if there is one left.
#[cold]
#[inline(never)]
pub fn claim(session: &Session, entry: &ThreadEntry) {
    if entry.path.load(Relaxed) != 0 {
        return;
    }
    let free = (0..PATHS).find(|&number| {
        let owner = session.path_owner(number);
        // Acquire: what an earlier owner wrote comes before.
        owner.load(Relaxed) == 0 && owner.compare_exchange(0, 1, AcqRel, Relaxed).is_ok()
    });
    let Some(number) = free else {
        entry.path.store(PATH_REFUSED, Relaxed);
        return;
    };
    reset(session, number);
    entry.path.store(number as u32 + 1, Relaxed);
}

/// Makes a thread's path as if it was new: what its last owner was at is never finished.
#[cold]
pub fn forget(session: &Session, entry: &ThreadEntry) {
    let number = entry.path.load(Relaxed);
    if number != 0 && number != PATH_REFUSED {
        reset(session, number as usize - 1);
    }
}

fn reset(session: &Session, number: usize) {
    let path = session.path(number);
    // SAFETY: words of the region, which stays mapped, aligned; this thread alone writes them.
    unsafe {
        (&raw mut (*path).len).write_volatile(0);
        (&raw mut (*path).debt).write_volatile(0);
        (&raw mut (*path).is_written).write_volatile(0);
    }
}

#[cfg(all(test, not(loom)))]
mod tests;
