//! The general registers of a thread.

use crate::linux::waits::Call;

/// `struct user_regs_struct` of `asm/user_64.h`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Registers {
    pub r15: u64,
    pub r14: u64,
    pub r13: u64,
    pub r12: u64,
    pub rbp: u64,
    pub rbx: u64,
    pub r11: u64,
    pub r10: u64,
    pub r9: u64,
    pub r8: u64,
    pub rax: u64,
    pub rcx: u64,
    pub rdx: u64,
    pub rsi: u64,
    pub rdi: u64,
    pub orig_rax: u64,
    pub rip: u64,
    pub cs: u64,
    pub eflags: u64,
    pub rsp: u64,
    pub ss: u64,
    pub fs_base: u64,
    pub gs_base: u64,
    pub ds: u64,
    pub es: u64,
    pub fs: u64,
    pub gs: u64,
}

const _: () = assert!(size_of::<Registers>() == 27 * 8);

/// Trap flag and direction flag: a borrowed thread must neither trap nor copy backwards.
const FLAGS_CLEARED: u64 = 0x100 | 0x400;
/// A system call without effect.
const SYS_GETPID: u64 = 39;
/// `__USER_CS`.
const CODE_SEGMENT_64: u64 = 0x33;
/// Length of the `syscall` instruction.
const SYSCALL_BYTES: u64 = 2;
/// What an interrupted system call returns inside the kernel: ERESTARTSYS, ERESTARTNOINTR, ERESTARTNOHAND,
/// ERESTART_RESTARTBLOCK.
const RESTARTS: [i64; 4] = [-512, -513, -514, -516];
const EINTR: i64 = -4;

impl Registers {
    pub fn as_bytes(&self) -> &[u8] {
        // SAFETY: Registers is repr(C) and consists of u64 alone: no padding, every byte initialised.
        unsafe { std::slice::from_raw_parts((&raw const *self).cast(), size_of::<Self>()) }
    }

    pub fn as_bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: as above, and every bit pattern is a valid u64.
        unsafe { std::slice::from_raw_parts_mut((&raw mut *self).cast(), size_of::<Self>()) }
    }

    /// Whether the thread runs 64-bit code.
    pub fn is_64_bit(&self) -> bool {
        self.cs == CODE_SEGMENT_64
    }

    fn is_in_syscall(&self) -> bool {
        self.orig_rax as i64 >= 0
    }

    /// The system call that the thread is in, or is coming out of.
    pub fn call(&self) -> Option<Call> {
        self.is_in_syscall().then_some(Call {
            number: self.orig_rax as i64,
            arguments: [self.rdi, self.rsi, self.rdx, self.r10, self.r8, self.r9],
            stack_pointer: self.rsp,
        })
    }

    /// Whether the stop made a system call fail that the kernel does not restart by itself.
    pub fn was_interrupted_for_good(&self) -> bool {
        self.is_in_syscall() && self.rax as i64 == EINTR
    }

    /// The registers with which an interrupted system call is executed again from its start. For where the
    /// kernel can't do it: in a signal frame, and for calls that it lets fail with EINTR.
    pub fn reissued(&self) -> Self {
        let is_interrupted = RESTARTS.contains(&(self.rax as i64)) || self.rax as i64 == EINTR;
        if !self.is_in_syscall() || !is_interrupted {
            return *self;
        }
        Self {
            rax: self.orig_rax,
            rip: self.rip.wrapping_sub(SYSCALL_BYTES),
            orig_rax: u64::MAX,
            ..*self
        }
    }

    /// The borrowed state: about to execute the `syscall; ret` at `gadget`, on a stack whose next word is the
    /// way back. `orig_rax` −1 keeps the kernel from restarting the interrupted call here.
    pub fn borrowed(&self, gadget: u64, stack: u64) -> Self {
        Self {
            rip: gadget,
            rsp: stack,
            rax: SYS_GETPID,
            orig_rax: u64::MAX,
            eflags: self.eflags & !FLAGS_CLEARED,
            ..*self
        }
    }

    /// The borrowed state with a system call and its arguments.
    pub fn calling(&self, number: u64, arguments: [u64; 6]) -> Self {
        let [rdi, rsi, rdx, r10, r8, r9] = arguments;
        Self {
            rax: number,
            rdi,
            rsi,
            rdx,
            r10,
            r8,
            r9,
            ..*self
        }
    }
}
