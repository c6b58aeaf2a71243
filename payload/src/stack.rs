//! Which stack is this: its id, and its definition where the tool does not know it.
//!
//! Three walks over the same frames instead of one with a scratch array: the first makes the id and is all that
//! happens for a known stack; the others run once for each new one.

use crate::code::{self, code_id};
use crate::path::{self, PATH_FRAMES_MIN, PathOfThread};
use crate::session::count;
use crate::terms::{Identified, Terms};
use crate::thread::Recording;
use crate::walk::{Frame, Start, Step, Walk, innermost};
use core::sync::atomic::Ordering::Relaxed;
use wire::config::PythonLayout;
use wire::ring::{Kind, STACK_EMPTY, STACK_PIECE_SLOTS_MAX, STACK_UNKNOWN};

/// Frames in one continuation slot: twice 12 bytes.
const FRAMES_PER_SLOT: u64 = 2;

/// The stack id of an event of this thread, now. If the tool was not sent its definition before, it is sent now; should
/// that fail, it is tried again at the next event with this stack.
#[cfg(not(feature = "native"))]
#[inline]
pub fn id_here(thread: &Recording) -> u64 {
    if !thread.session.walks {
        return STACK_EMPTY;
    }
    let layout = &thread.session.config.python;
    // SAFETY: the tool sets `enabled` only with a layout that it proved; the thread pointer is this thread's own.
    let innermost = match unsafe { innermost(layout, thread.thread_pointer) } {
        Start::Empty => return STACK_EMPTY,
        Start::Unsafe => return STACK_UNKNOWN,
        Start::Frame(frame) => frame,
    };
    let Some(found) = identify(thread, innermost) else {
        return STACK_UNKNOWN;
    };
    if found.frames == 0 {
        return STACK_EMPTY;
    }
    let id = found.id();
    if !thread.session.sent_stacks().contains(id) {
        define(thread, id, innermost, found.frames);
    }
    id
}

#[cfg(feature = "native")]
pub use crate::native::id_here;

/// A Python stack that may have to be sent.
#[cfg(feature = "native")]
#[derive(Clone, Copy)]
pub struct PythonStack {
    pub id: u64,
    innermost: u64,
    /// 0 where the id needs no definition.
    frames: u64,
}

#[cfg(feature = "native")]
impl PythonStack {
    /// That of this thread, now.
    #[inline(always)]
    pub fn here(thread: &Recording) -> Self {
        let without = |id| PythonStack {
            id,
            innermost: 0,
            frames: 0,
        };
        if !thread.session.walks {
            return without(STACK_EMPTY);
        }
        let layout = &thread.session.config.python;
        // SAFETY: the tool sets `enabled` only with a layout that it proved; the thread pointer is this thread's own.
        let innermost = match unsafe { innermost(layout, thread.thread_pointer) } {
            Start::Empty => return without(STACK_EMPTY),
            Start::Unsafe => return without(STACK_UNKNOWN),
            Start::Frame(frame) => frame,
        };
        match identify(thread, innermost) {
            None => without(STACK_UNKNOWN),
            Some(Identified { frames: 0, .. }) => without(STACK_EMPTY),
            Some(found) => PythonStack {
                id: found.id(),
                innermost,
                frames: found.frames,
            },
        }
    }

    /// Sees to it that the tool has the definition. False: it was tried in vain.
    pub fn send(self, thread: &Recording) -> bool {
        let sent = thread.session.sent_stacks();
        if self.frames != 0 && !sent.contains(self.id) {
            define(thread, self.id, self.innermost, self.frames);
        }
        self.frames == 0 || sent.contains(self.id)
    }
}

/// First walk: what identifies the stack. Where the thread has a path, what that knows is not walked.
#[inline(always)]
fn identify(thread: &Recording, innermost: u64) -> Option<Identified> {
    let layout = &thread.session.config.python;
    if let Some(path) = PathOfThread::find(thread.session, thread.entry) {
        // SAFETY: `innermost` was found in this hook, by this layout.
        return unsafe { path.identify(innermost) };
    }
    // SAFETY: as above.
    let mut walk = unsafe { Walk::new(layout, innermost) };
    let mut terms = Terms::default();
    let found = loop {
        match walk.step() {
            // SAFETY: a code object of the walk.
            Step::Frame(frame) => terms.add(unsafe { code::term(layout, frame) }),
            Step::End => break terms.behind(Identified::EMPTY),
            Step::Broken => return None,
        }
    };
    if found.frames >= PATH_FRAMES_MIN && thread.entry.path.load(Relaxed) == 0 {
        path::claim(thread.session, thread.entry);
    }
    Some(found)
}

/// Second and third walk: the code objects that the tool does not know, then the stack.
#[cold]
#[inline(never)]
fn define(thread: &Recording, id: u64, innermost: u64, frames: u64) {
    // A stack whose code is unknown would be worth nothing, and once noted as sent its code would not be sent again.
    if send_codes(thread, innermost) && send_stack(thread, id, innermost, frames) {
        thread.session.sent_stacks().insert(id);
    }
}

fn send_codes(thread: &Recording, innermost: u64) -> bool {
    let layout = &thread.session.config.python;
    let (sent, ring) = (thread.session.sent_codes(), thread.session.ring());
    // SAFETY: `innermost` was found in this hook, by this layout.
    let mut walk = unsafe { Walk::new(layout, innermost) };
    loop {
        let frame = match walk.step_seldom() {
            Step::Frame(frame) => frame,
            Step::End => return true,
            Step::Broken => return false,
        };
        // SAFETY: a code object of the walk.
        let id = unsafe { code_id(layout, frame.code) };
        if sent.contains(id) {
            continue;
        }
        // SAFETY: as above.
        if !unsafe { code::send(layout, ring, thread.index, id, frame.code) } {
            count(&thread.session.header().losses.definitions_full);
            return false;
        }
        sent.insert(id);
    }
}

fn send_stack(thread: &Recording, id: u64, innermost: u64, frames: u64) -> bool {
    let layout = &thread.session.config.python;
    // SAFETY: `innermost` was found in this hook, by this layout.
    let mut walk = unsafe { Walk::new(layout, innermost) };
    send_in_pieces::<FRAMES_PER_SLOT>(thread, Kind::Stack, id, frames, |body, count| {
        let mut whole = true;
        for half in 0..count {
            match walk.step_seldom() {
                Step::Frame(frame) => pack(layout, body, half, frame),
                // Finalisation began between two walks.
                Step::End | Step::Broken => whole = false,
            }
        }
        whole
    })
}

/// Sends a stack's definition, in as many records as it takes. `fill` puts so many of its next frames, at most
/// `FRAMES_PER_SLOT`, into the body of a slot, and says whether there were as many. False if it did not come out whole,
/// which is counted.
#[inline(always)]
pub fn send_in_pieces<const FRAMES_PER_SLOT: u64>(
    thread: &Recording,
    kind: Kind,
    id: u64,
    frames: u64,
    mut fill: impl FnMut(&mut [u64; 3], u64) -> bool,
) -> bool {
    let ring = thread.session.ring();
    let slots_max = ring.record_slots_max().min(STACK_PIECE_SLOTS_MAX as u64);
    let frames_per_piece = slots_max.saturating_sub(1) * FRAMES_PER_SLOT;
    let mut first_frame = 0;
    let mut whole = frames_per_piece > 0;
    while whole && first_frame < frames {
        let count_here = (frames - first_frame).min(frames_per_piece);
        let slots = count_here.div_ceil(FRAMES_PER_SLOT);
        let Some(first) = ring.reserve_seldom(1 + slots) else {
            whole = false;
            break;
        };
        for slot in 0..slots {
            let mut body = [0; 3];
            whole &= fill(&mut body, FRAMES_PER_SLOT.min(count_here - slot * FRAMES_PER_SLOT));
            whole &= ring.commit_seldom(first.wrapping_add(1 + slot), thread.index, Kind::Continuation, 0, body);
        }
        // The head last, so that what did not come out whole is no stack at all.
        let head = if whole { kind } else { Kind::Pad };
        let extent = first_frame | count_here << 32;
        whole &= ring.commit_seldom(first, thread.index, head, 0, [id, extent, frames]);
        first_frame += count_here;
    }
    if !whole {
        count(&thread.session.header().losses.definitions_full);
    }
    whole
}

/// Puts a frame into the first or second half of a continuation's body.
#[inline(always)]
fn pack(layout: &PythonLayout, body: &mut [u64; 3], half: u64, frame: Frame) {
    // SAFETY: a code object of the walk.
    let id = unsafe { code_id(layout, frame.code) };
    if half == 0 {
        body[0] = id;
        body[1] = frame.position as u64;
    } else {
        body[1] |= id << 32;
        body[2] = id >> 32 | (frame.position as u64) << 32;
    }
}

#[cfg(all(test, not(loom)))]
mod tests;
