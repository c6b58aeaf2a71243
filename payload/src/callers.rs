//! The native frames of the thread that allocates, by the tool's tables ([`wire::native`]) and loads alone.
//!
//! Why no load can fault, whatever the tables say. The stack pointer with which a walk starts is in use, so its page is
//! mapped. The walk reads only between it and an *end* that belongs to the same mapping for certain:
//! - on the stack that libc gave this thread, where that begins at or below the stack pointer: the thread's own
//!   descriptor, which lies at its top. libc keeps all of it mapped until the thread has ended;
//! - on the main thread's stack: its end, as the kernel gave it. The kernel keeps that in one piece;
//! - on any other stack (of a coroutine, of a signal handler): the end of the page.
//!
//! Each frame must lie above the one before, so that a walk ends; frames are counted besides. A signal frame leads to
//! the stack that was interrupted, which must be one of the first two kinds.
//!
//! Greenlets need nothing of their own: they take turns on their thread's stack.

use crate::load::word;
use crate::mix::SALT;
use core::sync::atomic::AtomicU64;
use core::sync::atomic::Ordering::{Acquire, Relaxed};
use wire::config::NativePlace;
use wire::native::{
    CACHE_BITS, CACHE_ENTRIES, CACHE_OFFSET, Current, INDEX_BUFFERS, INDEX_OFFSET, MODULES_MAX, NATIVE_FRAMES_MAX,
    NativeHeader, NativeModule, ROWS_OFFSET, RULE_BITS, Row, Rule,
};
use wire::{NONE, PAGE_BYTES};

/// User addresses have so many bits, unless a program asks for more.
const ADDRESS_BITS: u32 = 47;
/// Low bits of the generation in an entry of the cache.
const GENERATION_MASK: u64 = 15;
/// What is left of a mixed address once its high bits have chosen a pair of entries.
const TAG_BITS: u32 = ADDRESS_BITS - (CACHE_BITS - 1);

const _: () = assert!(TAG_BITS + RULE_BITS + GENERATION_MASK.count_ones() == 64);

/// Where a frame stands: the address it goes on at once its callee returns, its stack pointer then, and RBP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Registers {
    pub pc: u64,
    pub sp: u64,
    pub bp: u64,
}

/// The tables as one walk sees them.
#[derive(Clone, Copy)]
pub struct Tables<'a> {
    header: &'a NativeHeader,
    base: *const u8,
    rows_count: u64,
    current: Current,
}

impl<'a> Tables<'a> {
    /// # Safety
    /// `place.tables` is the address of tables with `place.rows_count` rows that stay mapped (or are replaced in place
    /// by other writable memory) for good.
    #[inline(always)]
    pub unsafe fn at(place: &NativePlace) -> Self {
        let base = place.tables as *const u8;
        // SAFETY: the caller's promise; the header is made of atomics.
        let header = unsafe { &*base.cast::<NativeHeader>() };
        Tables {
            header,
            base,
            rows_count: place.rows_count as u64,
            // Acquire: matched by the tool's release after it wrote the index.
            current: Current::unpack(header.current.load(Acquire)),
        }
    }

    #[cfg(feature = "native")]
    pub fn header(&self) -> &'a NativeHeader {
        self.header
    }

    #[inline(always)]
    fn cache(&self, entry: u64) -> &'a AtomicU64 {
        // SAFETY: masked to the cache, which `at` was promised.
        unsafe {
            &*self
                .base
                .add(CACHE_OFFSET as usize)
                .cast::<AtomicU64>()
                .add(entry as usize % CACHE_ENTRIES)
        }
    }

    /// The rule of the call that returns to this address.
    #[inline(always)]
    fn rule(&self, pc: u64) -> Rule {
        if pc >> ADDRESS_BITS != 0 {
            return Rule::NONE;
        }
        // A bijection of 47-bit numbers: no two addresses share pair and tag. Pairs, since two addresses of one stack that
        // pushed each other out would be looked up at every event.
        let mixed = pc.wrapping_mul(SALT[1] | 1) & ((1 << ADDRESS_BITS) - 1);
        let (first, second) = (
            self.cache(mixed >> TAG_BITS << 1),
            self.cache(mixed >> TAG_BITS << 1 | 1),
        );
        let mark = mixed << (64 - TAG_BITS) | (self.current.generation as u64 & GENERATION_MASK) << RULE_BITS;
        let cached = first.load(Relaxed);
        if cached >> RULE_BITS == mark >> RULE_BITS {
            return Rule(cached as u32 & ((1 << RULE_BITS) - 1));
        }
        let other = second.load(Relaxed);
        if other >> RULE_BITS == mark >> RULE_BITS {
            return Rule(other as u32 & ((1 << RULE_BITS) - 1));
        }
        let rule = self.look_up(pc.wrapping_sub(1));
        // The older of the two goes.
        second.store(cached, Relaxed);
        first.store(mark | rule.0 as u64 & ((1 << RULE_BITS) - 1), Relaxed);
        rule
    }

    #[cold]
    #[inline(never)]
    fn look_up(&self, address: u64) -> Rule {
        let buffer = self.current.buffer as usize % INDEX_BUFFERS;
        let count = (self.current.modules_count as u64).min(MODULES_MAX as u64);
        // SAFETY: the buffer's number is taken modulo theirs, so the pointer is inside the tables.
        let modules = unsafe {
            self.base
                .add(INDEX_OFFSET as usize)
                .cast::<NativeModule>()
                .add(buffer * MODULES_MAX)
        };
        // SAFETY: `place` is below `count`, which is at most the number of modules in a buffer.
        let module = |place: u64| unsafe { &*modules.add(place as usize) };
        let Some(place) = last_where(count, |place| module(place).start.load(Relaxed) <= address) else {
            return Rule::NONE;
        };
        let module = module(place);
        let (start, rows) = (module.start.load(Relaxed), module.rows.load(Relaxed));
        let (first, count) = (rows & u32::MAX as u64, rows >> 32);
        if address >= module.end.load(Relaxed) || address < start || first + count > self.rows_count {
            return Rule::NONE;
        }
        // SAFETY: `first + place` is below `first + count`, which was checked.
        let row = |place: u64| unsafe {
            (*self
                .base
                .add(ROWS_OFFSET as usize)
                .cast::<Row>()
                .add((first + place) as usize))
            .load(Relaxed)
        };
        let distance = address - start;
        match last_where(count, |place| row(place) >> 32 <= distance) {
            Some(place) => Rule(row(place) as u32 & ((1 << RULE_BITS) - 1)),
            None => Rule::NONE,
        }
    }
}

/// The last of `count` places at which the condition holds; it holds up to some place and not beyond.
#[inline(always)]
fn last_where(count: u64, holds: impl Fn(u64) -> bool) -> Option<u64> {
    let (mut low, mut high) = (0, count);
    while low < high {
        let middle = low + (high - low) / 2;
        if holds(middle) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    low.checked_sub(1)
}

/// What the walk found next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// A return address.
    Frame(u64),
    /// The outermost frame was the last.
    End,
    /// There is no rule for the last frame, or it leads out of the stack.
    Cut,
}

/// A walk from a frame outwards.
#[derive(Clone)]
pub struct Callers<'a> {
    tables: Tables<'a>,
    place: &'a NativePlace,
    thread_pointer: u64,
    registers: Registers,
    /// Reads stay below.
    end: u64,
    visited: u32,
    is_cut: bool,
}

impl<'a> Callers<'a> {
    /// # Safety
    /// `registers.sp` is a stack pointer of this thread, of a frame that has not returned; `thread_pointer` is the
    /// thread's own, and `place.stack_block` was proven for this process.
    #[inline(always)]
    pub unsafe fn new(tables: Tables<'a>, place: &'a NativePlace, thread_pointer: u64, registers: Registers) -> Self {
        let mut callers = Callers {
            tables,
            place,
            thread_pointer,
            registers,
            end: 0,
            visited: 0,
            is_cut: false,
        };
        // What follows the page that the stack pointer is on may be anything.
        callers.end = callers
            .stack_end(registers.sp)
            .unwrap_or((registers.sp | (PAGE_BYTES - 1)).wrapping_add(1));
        callers
    }

    /// The next frame outwards.
    #[inline(always)]
    pub fn step(&mut self) -> Step {
        let pc = self.registers.pc;
        if pc == 0 {
            return if self.is_cut { Step::Cut } else { Step::End };
        }
        self.visited += 1;
        let next = if self.visited < NATIVE_FRAMES_MAX {
            self.caller(self.tables.rule(pc))
        } else {
            None
        };
        self.registers = next.unwrap_or_else(|| {
            self.is_cut = true;
            Registers { pc: 0, sp: 0, bp: 0 }
        });
        Step::Frame(pc)
    }

    /// The caller's registers; its `pc` is 0 where there is none. `None`: the walk can't go on.
    #[inline(always)]
    fn caller(&mut self, rule: Rule) -> Option<Registers> {
        let Registers { sp, bp, .. } = self.registers;
        let distance = rule.words() as u64 * 8;
        let cfa = match rule.kind() {
            Rule::KIND_RSP => sp.wrapping_add(distance),
            Rule::KIND_RBP => bp.wrapping_add(distance),
            Rule::KIND_SPECIAL => return self.special(rule),
            _ => return None,
        };
        self.caller_above(cfa, rule)
    }

    /// The caller of a frame with this CFA.
    #[inline(always)]
    fn caller_above(&self, cfa: u64, rule: Rule) -> Option<Registers> {
        let bp = match rule.rbp() {
            Rule::RBP_UNCHANGED => self.registers.bp,
            Rule::RBP_AT_RBP => self.read(self.registers.bp)?,
            words => {
                let at = cfa.wrapping_sub(words as u64 * 8);
                // A signal came between `leave` and `ret`: compilers do not say that the register has it again.
                if at < self.registers.sp {
                    self.registers.bp
                } else {
                    self.read(at)?
                }
            }
        };
        // Above the stack pointer, or it could not be read.
        let pc = self.read(cfa.wrapping_sub(8))?;
        Some(Registers { pc, sp: cfa, bp })
    }

    #[cold]
    #[inline(never)]
    fn special(&mut self, rule: Rule) -> Option<Registers> {
        /// Where the kernel's `ucontext` has the interrupted registers.
        const UCONTEXT_RBP: u64 = 120;
        const UCONTEXT_RSP: u64 = 160;
        const UCONTEXT_RIP: u64 = 168;
        /// In an entry of 16 bytes the index has been pushed from here on.
        const PLT_PUSHED: u64 = 11;
        let Registers { pc, sp, bp } = self.registers;
        let (which, operand) = (rule.words() & 15, (rule.words() >> 4) as u64);
        match which {
            Rule::SPECIAL_END => Some(Registers { pc: 0, sp, bp }),
            Rule::SPECIAL_PLT => {
                let is_pushed = pc.wrapping_sub(1) % 16 >= PLT_PUSHED;
                self.caller_above(sp.wrapping_add(8 + 8 * is_pushed as u64), rule)
            }
            Rule::SPECIAL_SIGNAL => {
                let registers = Registers {
                    // Interrupted, not calling: the rule is that of the address itself.
                    pc: self.read(sp + UCONTEXT_RIP)?.wrapping_add(1),
                    sp: self.read(sp + UCONTEXT_RSP)?,
                    bp: self.read(sp + UCONTEXT_RBP)?,
                };
                if registers.sp <= sp || registers.sp >= self.end {
                    self.end = self.stack_end(registers.sp)?;
                }
                Some(registers)
            }
            Rule::SPECIAL_REALIGNED => {
                let cfa = self.read(bp.wrapping_sub(operand * 8))?;
                self.caller_above(cfa, rule)
            }
            _ => None,
        }
    }

    /// A word of the stack.
    #[inline(always)]
    fn read(&self, address: u64) -> Option<u64> {
        let is_on_stack = address >= self.registers.sp && address < self.end.wrapping_sub(7);
        // SAFETY: between a stack pointer in use and the end of its mapping, see the module's head.
        (is_on_stack && address.is_multiple_of(8)).then(|| unsafe { word(address) })
    }

    /// The end of the known stack that this stack pointer is on.
    #[inline(always)]
    fn stack_end(&self, sp: u64) -> Option<u64> {
        if self.place.stack_block != NONE {
            let at = self.thread_pointer.wrapping_add(self.place.stack_block as u64);
            // SAFETY: two words of libc's descriptor of this thread; the tool proved the offset.
            let (start, bytes) = unsafe { (word(at), word(at.wrapping_add(8))) };
            // The main thread's start is 0.
            let is_around = start != 0 && self.thread_pointer.wrapping_sub(start) < bytes;
            if is_around && (start..self.thread_pointer).contains(&sp) {
                return Some(self.thread_pointer);
            }
        }
        let header = self.tables.header;
        let (low, high) = (
            header.main_stack_low.load(Relaxed),
            header.main_stack_high.load(Relaxed),
        );
        (low != 0 && (low..high).contains(&sp)).then_some(high)
    }
}

#[cfg(test)]
mod tests;
