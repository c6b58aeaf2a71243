//! Deep stacks: what a thread remembers of its last walk, so that the next one need not follow the same pointers again.
//!
//! A walk of 200 frames is a chain of 200 loads, each of which waits for the one before, and as many code objects. Most
//! often all but the innermost few frames are what they were. So a thread keeps a [`Path`]: of each frame where it
//! lies, what a walk reads of it, and the sum of its term and those of all frames further out. A walk follows pointers
//! until it meets an address in the path, and from there on only compares.
//!
//! Why the answer is exact. Everything that a walk reads of a frame is compared: code, instruction, previous frame,
//! marks; and everything that identifies its code object, once for each. What is equal would be walked to the same
//! frames, and the sums belong to these since they were written together (`is_written`). That an address is used
//! again, by the same function for another caller say, so makes no difference.
//!
//! Why the loads are safe. An address from the path is followed only after the `previous` of a frame that is live was
//! seen to hold the same (hazard 14), by way of a register: what becomes of the path meanwhile is of no matter. The
//! processor does not wait for the comparison: the next address comes from the path, so the loads of many frames are
//! under way at once. That is the gain.

use crate::arch::Pair;
use crate::code::{identity, is_identical, term, term_seldom};
use crate::load::{half, word};
use crate::session::Session;
use crate::terms::{Identified, Terms};
use crate::walk::{FINALIZING_CHECK_FRAMES, Frame, Link, Walk, code_of, is_code, is_finalizing, is_object};
use core::sync::atomic::Ordering::{AcqRel, Relaxed};
use core::sync::atomic::{AtomicU64, compiler_fence};
use wire::NONE;
use wire::config::PythonLayout;
use wire::path::{PATH_CODES, PATH_FRAMES, PATH_HINTS, PATH_REFUSED, PATHS, Path, PathCode, PathFrame};
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

/// Where the words lie that are compared of a frame, see [`PathFrame::words`].
#[derive(Clone, Copy)]
struct Places {
    /// Two words side by side.
    pair: u32,
    /// The second of them is the frame before; else the first.
    is_previous_second: bool,
    others: [u32; 2],
    /// The bits of `others` that count.
    masks: [u64; 2],
}

impl Places {
    /// None: the words that a walk reads lie in no order that is known here. Then there are no paths.
    #[inline(always)]
    fn of(layout: &PythonLayout) -> Option<Self> {
        const WORD: u32 = size_of::<u64>() as u32;
        let (previous, code, instruction) = (layout.frame_previous, layout.frame_code, layout.frame_instr);
        let (mut marks, mut marks_mask) = (instruction, 0);
        if layout.frame_owner != NONE {
            let bits = |offset: u32| 0xff << (8 * (offset % WORD));
            marks = layout.frame_owner / WORD * WORD;
            marks_mask = bits(layout.frame_owner);
            if layout.frame_is_entry != NONE {
                if layout.frame_is_entry / WORD * WORD != marks {
                    return None;
                }
                marks_mask |= bits(layout.frame_is_entry);
            }
        }
        let is_int = layout.code_instructions == NONE;
        // Up to 3.10; the word behind an int is the frame's, too. From 3.12 on. 3.11.
        let (pair, is_previous_second, other, other_mask) = if code == previous.wrapping_add(WORD) {
            (
                previous,
                false,
                instruction,
                if is_int { u32::MAX as u64 } else { u64::MAX },
            )
        } else if previous == code.wrapping_add(WORD) {
            (code, true, instruction, if is_int { u32::MAX as u64 } else { u64::MAX })
        } else if instruction == previous.wrapping_add(WORD) && !is_int {
            (previous, false, code, u64::MAX)
        } else {
            return None;
        };
        [pair, other, marks]
            .iter()
            .all(|offset| offset.is_multiple_of(WORD))
            .then_some(Places {
                pair,
                is_previous_second,
                others: [other, marks],
                masks: [other_mask, marks_mask],
            })
    }

    /// The four words of a frame.
    ///
    /// # Safety
    /// `address` is a frame of this thread.
    #[inline(always)]
    unsafe fn load(&self, address: u64, mask: Pair) -> [Pair; 2] {
        let [other, marks] = self.others;
        // SAFETY: words of a live frame, which its own thread alone changes.
        unsafe {
            [
                Pair::load(address + self.pair as u64),
                Pair::gather(address + other as u64, address + marks as u64).and(mask),
            ]
        }
    }

    #[inline(always)]
    fn mask(&self) -> Pair {
        Pair::new(self.masks[0], self.masks[1])
    }
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
            places: Places::of(layout)?,
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
            if self.places.is_previous_second {
                self.compare_as::<true>(number, address)
            } else {
                self.compare_as::<false>(number, address)
            }
        }
    }

    /// Not inlined: the loop wants every register.
    ///
    /// # Safety
    /// As [`Self::compare`].
    #[inline(never)]
    unsafe fn compare_as<const IS_PREVIOUS_SECOND: bool>(&self, number: usize, mut address: u64) -> Compared {
        // In registers, not read again after each load of what others could change.
        let places = self.places;
        let mask = places.mask();
        let mut frame = self.frame(number).cast_const();
        loop {
            // SAFETY: the frame at `address` is live: the first one by the caller's promise, and each further one since
            // the frame before holds this very value, which was loaded once and is not 0. All else lies in the region:
            // the path's first frame is special, and nothing below it looks like frames of the chain.
            unsafe {
                let words = &raw const (*frame).words as u64;
                let known = [Pair::load_once(words), Pair::load_once(words + 16)];
                let outer = if IS_PREVIOUS_SECOND {
                    known[0].second()
                } else {
                    known[0].first()
                };
                if !Pair::are_equal(places.load(address, mask), known) {
                    return Compared::UpTo(self.number(frame));
                }
                if half(&raw const (*frame).is_special as u64) != 0 {
                    if !self.has_code(address, frame) {
                        return Compared::UpTo(self.number(frame));
                    }
                    if self.number(frame) == 1 && outer == 0 {
                        return Compared::All;
                    }
                    if is_finalizing(self.layout) {
                        return Compared::Finalizing;
                    }
                }
                // The end of the chain elsewhere than at the path's: no path.
                if outer == 0 || frame == self.frame(0) {
                    return Compared::UpTo(self.number(frame));
                }
                address = outer;
                frame = frame.sub(1);
            }
        }
    }

    /// The number of a frame of the path, from 1.
    #[inline(always)]
    fn number(&self, frame: *const PathFrame) -> usize {
        (frame as usize - self.frame(0) as usize) / size_of::<PathFrame>()
    }

    /// Whether the code object of the frame at `address` is that of `frame`, if that has one.
    ///
    /// # Safety
    /// `address` is a frame of this thread, `frame` one of the path.
    #[inline(never)]
    unsafe fn has_code(&self, address: u64, frame: *const PathFrame) -> bool {
        // SAFETY: the frame holds the object, which is only followed as a code object once it is known to be one.
        unsafe {
            let number = (&raw const (*frame).code_number).read_volatile();
            if number == 0 {
                return true;
            }
            let code = code_of(self.layout, address);
            is_code(self.layout, code) && is_identical(self.layout, code, self.code(number))
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
                let [first, second] = self.places.load(address, self.places.mask());
                self.frame(number).write(PathFrame {
                    words: [first.first(), first.second(), second.first(), second.second()],
                    address,
                    sum: position,
                    counted,
                    code_number: 0,
                    codes_len: 0,
                    is_special: 0,
                    _pad: 0,
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
            (*frame).codes_len = (*outer).codes_len;
            if (*frame).counted != 0 {
                let position = (*frame).sum as u32;
                let code = code_of(self.layout, (*frame).address);
                let mut own = Terms::default();
                own.add(term_seldom(self.layout, Frame { code, position }));
                found = own.behind(found);
                if !self.is_checked(code, (*outer).codes_len) {
                    if usize::from((*outer).codes_len) >= PATH_CODES {
                        return false;
                    }
                    let new = (*outer).codes_len + 1;
                    self.code(new).write(identity(self.layout, code));
                    let hints = self.code_hints(code);
                    let is_free = |hint: &&*mut u16| !(1..new).contains(&hint.read_volatile());
                    hints.iter().find(is_free).unwrap_or(&hints[0]).write_volatile(new);
                    (*frame).code_number = new;
                    (*frame).codes_len = new;
                }
            }
            let is_special =
                (*frame).code_number != 0 || number == 1 || (number as u32).is_multiple_of(FINALIZING_CHECK_FRAMES);
            (*frame).is_special = is_special as u32;
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
