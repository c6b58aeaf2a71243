//! In the image for native stacks alone, since an event pays for this whether or not stacks are walked.
//!
//! Which native stack is this: its id together with that of the Python stack, and its definition where the tool does
//! not know it. As with Python stacks the frames are walked again where they are sent, instead of being kept.

use crate::arch;
use crate::callers::{Callers, Registers, Step, Tables};
use crate::load::word;
use crate::mix::{SALT, fold, id_from};
use crate::ring::Outcome;
use crate::session::{count, is_on};
use crate::stack::{PythonStack, send_in_pieces};
use crate::thread::Recording;
use core::sync::atomic::Ordering::Relaxed;
use wire::config::NativePlace;
use wire::ring::Kind;

/// Return addresses in one continuation slot.
const FRAMES_PER_SLOT: u64 = 3;
/// More calls than there are between a hook's entry and here.
const OWN_FRAMES_MAX: u32 = 32;

/// The id of this event's stacks, both of them. What the tool does not know is sent, as in [`crate::stack::id_here`].
#[inline(never)]
pub fn id_here(thread: &Recording) -> u64 {
    let python = PythonStack::here(thread);
    let place = &thread.session.config.native;
    let sent = thread.session.sent_stacks();
    let native = Native::here(thread, place);
    let id = match native {
        None => python.id,
        Some(ref native) => id_from(fold(python.id ^ SALT[4], native.id ^ SALT[5])),
    };
    if sent.contains(id) {
        return id;
    }
    if !python.send(thread) {
        return id;
    }
    let Some(native) = native else { return id };
    if !sent.contains(native.id) && !native.send(thread) {
        return id;
    }
    match thread
        .session
        .ring()
        .write_seldom(thread.index, Kind::StackPair, [id, python.id, native.id])
    {
        Outcome::Written => sent.insert(id),
        Outcome::Full => count(&thread.session.header().losses.definitions_full),
        Outcome::Late => {}
    }
    id
}

/// The native stack of this thread, now.
struct Native<'a> {
    id: u64,
    frames: u64,
    start: Callers<'a>,
}

impl<'a> Native<'a> {
    #[inline(always)]
    fn here(thread: &Recording<'a>, place: &'a NativePlace) -> Option<Self> {
        let registers = caller_of_hook(place)?;
        // SAFETY: the tool gives the address of tables that stay mapped, and proved the offset; the registers are those
        // of the function that called the hook.
        let (tables, start) = unsafe {
            let tables = Tables::at(place);
            (tables, Callers::new(tables, place, thread.thread_pointer, registers))
        };
        let mut walk = start.clone();
        let (mut hash, mut frames) = (SALT[6], 0);
        let is_cut = loop {
            match walk.step() {
                Step::Frame(pc) => {
                    hash = fold(hash ^ pc, SALT[7]);
                    frames += 1;
                }
                Step::End => break false,
                Step::Cut => break true,
            }
        };
        let epoch = tables.header().epoch.load(Relaxed);
        let id = id_from(fold(hash ^ frames << 1 ^ is_cut as u64, epoch ^ SALT[2]));
        (frames != 0).then_some(Native { id, frames, start })
    }

    #[cold]
    #[inline(never)]
    fn send(&self, thread: &Recording) -> bool {
        let mut walk = self.start.clone();
        let is_sent =
            send_in_pieces::<FRAMES_PER_SLOT>(thread, Kind::NativeStack, self.id, self.frames, |body, count| {
                let mut whole = true;
                for to in body.iter_mut().take(count as usize) {
                    match walk.step() {
                        Step::Frame(pc) => *to = pc,
                        // The tables changed between two walks.
                        Step::End | Step::Cut => whole = false,
                    }
                }
                whole
            });
        if !is_sent {
            return false;
        }
        if walk.step() == Step::Cut && is_on() {
            // SAFETY: as in `here`.
            let tables = unsafe { Tables::at(&thread.session.config.native) };
            tables.header().cut_stacks.fetch_add(1, Relaxed);
        }
        thread.session.sent_stacks().insert(self.id);
        true
    }
}

/// The registers of the program's function that called the hook, as they will be when the hook returns to it. Every
/// function of the payload keeps a frame pointer, and the hooks' entries only jump.
#[inline(always)]
fn caller_of_hook(place: &NativePlace) -> Option<Registers> {
    let mut frame = arch::frame_pointer();
    for _ in 0..OWN_FRAMES_MAX {
        // SAFETY: the frame of a function of ours that has not returned: the caller's RBP, then the return address.
        let (bp, pc) = unsafe { (word(frame), word(frame + 8)) };
        if !(place.text_start..place.text_end).contains(&pc) {
            return Some(Registers { pc, sp: frame + 16, bp });
        }
        frame = bp;
    }
    None
}
