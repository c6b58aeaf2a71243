//! x86_64 Linux. Base instruction set only.

use core::arch::asm;

/// `FS:0` holds its own address: the thread pointer, which is also `pthread_self()` (System V ABI, TLS
/// variant II).
#[inline(always)]
pub fn thread_pointer() -> u64 {
    let pointer: u64;
    // SAFETY: every thread of a libc program has FS set up before it can call a function through a GOT slot, and
    // the ABI puts the thread pointer at FS:0.
    unsafe { asm!("mov {}, qword ptr fs:[0]", out(reg) pointer, options(nostack, preserves_flags, readonly)) };
    pointer
}

/// Where the frame of the function lies that this is inlined into: the caller's RBP, then the return address. The
/// image for native stacks is built with frame pointers in every function.
#[cfg(feature = "native")]
#[inline(always)]
pub fn frame_pointer() -> u64 {
    let pointer: u64;
    // SAFETY: reads a register.
    unsafe { asm!("mov {}, rbp", out(reg) pointer, options(nomem, nostack, preserves_flags)) };
    pointer
}

/// Where the stack is now.
#[inline(always)]
pub fn stack_pointer() -> u64 {
    let pointer: u64;
    // SAFETY: reads a register.
    unsafe { asm!("mov {}, rsp", out(reg) pointer, options(nomem, nostack, preserves_flags)) };
    pointer
}

/// See [`wire::EXCHANGE_SYMBOL`]. Run by a thread that was stopped anywhere, on a stack that is not its own to use.
#[unsafe(no_mangle)]
#[unsafe(naked)]
pub extern "C" fn memray_exchange() {
    core::arch::naked_asm!(
        "2:",
        "test rsi, rsi",
        "jz 5f",
        "mov r8, [rdi]",
        "mov rax, [rdi + 8]",
        "mov r9, [rdi + 16]",
        "test rdx, rdx",
        "jz 3f",
        "xchg rax, r9",
        "3:",
        "test r8, r8",
        "jz 4f",
        "lock cmpxchg [r8], r9",
        "4:",
        "add rdi, 32",
        "dec rsi",
        "jmp 2b",
        "5:",
        // madvise of nothing: a call that every attach makes, so that a filter that lets those pass lets this pass.
        "xor edi, edi",
        "xor edx, edx",
        "mov eax, 28",
        "syscall",
        "ret",
    )
}

/// The time-stamp counter.
#[inline(always)]
pub fn ticks() -> u64 {
    // SAFETY: RDTSC is part of the base set; it faults only under PR_TSC_SIGSEGV, and then the tool gives
    // ticks_per_us = 0, with which nobody comes here.
    unsafe { core::arch::x86_64::_rdtsc() }
}

/// Where the program break is now. brk(0) is a call that every filter allows which allows the one that follows.
pub fn program_break() -> u64 {
    const SYS_BRK: u64 = 12;
    let current: u64;
    // SAFETY: the kernel takes 0, which is below every heap, for a question. It clobbers rax, rcx and r11 and leaves
    // memory alone.
    unsafe {
        asm!(
            "syscall",
            inlateout("rax") SYS_BRK => current,
            in("rdi") 0u64,
            out("rcx") _,
            out("r11") _,
            options(nostack),
        );
    }
    current
}

/// How long a futex wait may last: `struct timespec`.
#[repr(C)]
pub struct Timespec {
    pub seconds: i64,
    pub nanoseconds: i64,
}

/// FUTEX_WAIT: sleep while `*word == value`, at most `timeout`. Shared, since the other side is another process.
pub fn futex_wait(word: *const u32, value: u32, timeout: &Timespec) {
    const FUTEX_WAIT: u64 = 0;
    futex(word, FUTEX_WAIT, value, timeout);
}

/// FUTEX_WAKE: wake every sleeper on `word`.
pub fn futex_wake(word: *const u32) {
    const FUTEX_WAKE: u64 = 1;
    futex(word, FUTEX_WAKE, i32::MAX as u32, core::ptr::null());
}

/// The result is not looked at: every caller loops on the word itself, within a bound. errno is libc's and is not touched.
fn futex(word: *const u32, operation: u64, value: u32, timeout: *const Timespec) {
    const SYS_FUTEX: u64 = 202;
    // SAFETY: futex reads `word` (a bad address gives EFAULT) and `timeout`, which is null or a reference; it
    // writes no memory of ours. The kernel clobbers rax, rcx and r11 and leaves the stack alone.
    unsafe {
        asm!(
            "syscall",
            inlateout("rax") SYS_FUTEX => _,
            in("rdi") word,
            in("rsi") operation,
            in("rdx") value as u64,
            in("r10") timeout,
            out("rcx") _,
            out("r11") _,
            options(nostack),
        );
    }
}

/// Defines the exported entry of a hook that records: off, it is a compare and a jump to the real function, as if
/// the slot held that; on, it jumps to `$record`, which takes the same arguments.
///
/// A macro, because an entry must be a naked function of its own with its symbol and its constants in it.
macro_rules! recording_entry {
    ($name:ident, $hook:expr, $record:path) => {
        #[unsafe(no_mangle)]
        #[unsafe(naked)]
        pub extern "C" fn $name() {
            core::arch::naked_asm!(
                "cmp qword ptr [rip + {flag}], 0",
                "jne {record}",
                "jmp qword ptr [rip + {config} + {real}]",
                flag = sym crate::memray_flag,
                config = sym crate::memray_config,
                real = const core::mem::offset_of!(wire::config::Config, real) + 8 * $hook as usize,
                record = sym $record,
            )
        }
    };
}

/// Defines the exported entry of a hook that only looks: it saves the argument registers, calls `$look`, restores
/// them and jumps to the real function, so that this finds its caller's return address on the stack
/// (hazard 7: it is the caller's identity for RPATH, `$ORIGIN` and RTLD_NEXT).
macro_rules! looking_entry {
    ($name:ident, $hook:expr, $look:path) => {
        #[unsafe(no_mangle)]
        #[unsafe(naked)]
        pub extern "C" fn $name() {
            core::arch::naked_asm!(
                "cmp qword ptr [rip + {flag}], 0",
                "je 2f",
                "push rdi",
                "push rsi",
                "push rdx",
                "push rcx",
                "push r8",
                "push r9",
                // A seventh word aligns the stack for the call.
                "push rax",
                "call {look}",
                "pop rax",
                "pop r9",
                "pop r8",
                "pop rcx",
                "pop rdx",
                "pop rsi",
                "pop rdi",
                "2:",
                "jmp qword ptr [rip + {config} + {real}]",
                flag = sym crate::memray_flag,
                config = sym crate::memray_config,
                real = const core::mem::offset_of!(wire::config::Config, real) + 8 * $hook as usize,
                look = sym $look,
            )
        }
    };
}

/// What the compiler may call where the source has a copy or a comparison. Written in assembly: a loop in Rust
/// would be recognised and turned into a call of itself.
#[cfg(not(test))]
mod memory {
    use core::arch::asm;

    /// # Safety
    /// As C's memcpy.
    #[unsafe(no_mangle)]
    unsafe extern "C" fn memcpy(to: *mut u8, from: *const u8, count: usize) -> *mut u8 {
        // SAFETY: the caller vouches for both ranges; the ABI keeps the direction flag clear.
        unsafe {
            asm!(
                "rep movsb",
                inout("rcx") count => _,
                inout("rdi") to => _,
                inout("rsi") from => _,
                options(nostack, preserves_flags),
            );
        }
        to
    }

    /// # Safety
    /// As C's memmove.
    #[unsafe(no_mangle)]
    unsafe extern "C" fn memmove(to: *mut u8, from: *const u8, count: usize) -> *mut u8 {
        if (to as usize).wrapping_sub(from as usize) >= count {
            // SAFETY: the caller vouches for both ranges, and copying upwards reads each byte before it is
            // overwritten, since `to` does not lie inside the source.
            return unsafe { memcpy(to, from, count) };
        }
        // SAFETY: count > 0 here, so the last bytes exist; the direction flag is cleared again.
        unsafe {
            asm!(
                "std",
                "rep movsb",
                "cld",
                inout("rcx") count => _,
                inout("rdi") to.wrapping_add(count).wrapping_sub(1) => _,
                inout("rsi") from.wrapping_add(count).wrapping_sub(1) => _,
                options(nostack),
            );
        }
        to
    }

    /// # Safety
    /// As C's memset.
    #[unsafe(no_mangle)]
    unsafe extern "C" fn memset(to: *mut u8, byte: i32, count: usize) -> *mut u8 {
        // SAFETY: the caller vouches for the range; the ABI keeps the direction flag clear.
        unsafe {
            asm!(
                "rep stosb",
                inout("rcx") count => _,
                inout("rdi") to => _,
                in("al") byte as u8,
                options(nostack, preserves_flags),
            );
        }
        to
    }

    /// # Safety
    /// As C's memcmp.
    #[unsafe(no_mangle)]
    unsafe extern "C" fn memcmp(left: *const u8, right: *const u8, count: usize) -> i32 {
        for index in 0..count {
            // SAFETY: the caller vouches for both ranges; volatile, so that the loop stays a loop.
            let (a, b) = unsafe { (left.add(index).read_volatile(), right.add(index).read_volatile()) };
            if a != b {
                return a as i32 - b as i32;
            }
        }
        0
    }

    /// # Safety
    /// As BSD's bcmp.
    #[unsafe(no_mangle)]
    unsafe extern "C" fn bcmp(left: *const u8, right: *const u8, count: usize) -> i32 {
        // SAFETY: the caller vouches for both ranges.
        unsafe { memcmp(left, right, count) }
    }
}
