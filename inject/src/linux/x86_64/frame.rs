//! The signal frame that waits on a borrowed thread's own stack. If the tracer dies, the thread's `ret` after
//! a system call reaches `rt_sigreturn`, and the thread restores itself.
//!
//! ```text
//! rsp − 128          red zone, untouched
//! 64-byte aligned    xsave area, then the second magic word
//! 16-byte aligned    struct ucontext, 304 bytes
//! below it           address of the restorer; the borrowed rsp points here
//! ```

use super::registers::Registers;

/// `syscall; ret`
pub const GADGET: [u8; 3] = [
    0x0f, 0x05, // syscall
    0xc3, // ret
];

/// libc's `__restore_rt`.
pub const RESTORER: [u8; 9] = [
    0x48, 0xc7, 0xc0, 0x0f, 0x00, 0x00, 0x00, // mov $15, %rax
    0x0f, 0x05, // syscall
];

const RED_ZONE_BYTES: u64 = 128;
const UCONTEXT_BYTES: u64 = 304;
/// Where `asm/ucontext.h` and `asm/sigcontext.h` have their fields.
const UC_FLAGS: usize = 0;
const UC_STACK_FLAGS: usize = 24;
const UC_REGISTERS: usize = 40;
const UC_SEGMENTS: usize = UC_REGISTERS + 18 * 8;
const UC_FPSTATE: usize = UC_SEGMENTS + 8 + 4 * 8;
const UC_SIGMASK: usize = UC_REGISTERS + 256;
/// UC_FP_XSTATE, UC_SIGCONTEXT_SS, UC_STRICT_RESTORE_SS.
const FLAGS: u64 = 7;
/// Neither SS_ONSTACK nor SS_DISABLE nor 0: sigaltstack refuses it, so the alternate stack is left alone.
const STACK_FLAGS_INVALID: u32 = 0x55;

/// Software bytes of the xsave area's legacy part (`struct _fpx_sw_bytes`).
const SW_BYTES: usize = 464;
const MAGIC1: u32 = 0x4650_5853;
const MAGIC2: u32 = 0x4650_5845;
/// XSTATE_BV, the components that are not in their initial state.
const XSTATE_BV: usize = 512;
/// Legacy part and header.
const XSTATE_BYTES_MIN: usize = 576;
/// AMX tile configuration and data.
const AMX: u64 = 1 << 17 | 1 << 18;

/// Bytes to be written below the stack pointer, and where.
pub struct Frame {
    /// Address of the first byte, which is also the borrowed stack pointer.
    pub address: u64,
    pub bytes: Vec<u8>,
}

/// Builds the frame that brings a thread back to `registers`, which the kernel does not mend any more, `mask` and
/// `xstate`. `None` if the xsave area is not one.
pub fn build(registers: &Registers, mask: u64, xstate: &[u8], restorer: u64) -> Option<Frame> {
    let back = registers;
    let xstate_bytes = frame_xstate_bytes(xstate)?;
    let fpstate = (registers.rsp - RED_ZONE_BYTES - xstate_bytes as u64 - 4) & !63;
    let ucontext = (fpstate - UCONTEXT_BYTES) & !15;
    let address = ucontext - 8;
    let mut bytes = vec![0; (fpstate - address) as usize + xstate_bytes + 4];
    bytes[..8].copy_from_slice(&restorer.to_le_bytes());

    let context = &mut bytes[8..];
    let mut put = |at: usize, value: u64| context[at..at + 8].copy_from_slice(&value.to_le_bytes());
    put(UC_FLAGS, FLAGS);
    put(UC_STACK_FLAGS, u64::from(STACK_FLAGS_INVALID));
    let general = [
        back.r8,
        back.r9,
        back.r10,
        back.r11,
        back.r12,
        back.r13,
        back.r14,
        back.r15,
        back.rdi,
        back.rsi,
        back.rbp,
        back.rbx,
        back.rdx,
        back.rax,
        back.rcx,
        back.rsp,
        back.rip,
        back.eflags,
    ];
    for (index, value) in general.into_iter().enumerate() {
        put(UC_REGISTERS + 8 * index, value);
    }
    put(UC_SEGMENTS, (back.cs & 0xffff) | (back.ss & 0xffff) << 48);
    put(UC_FPSTATE, fpstate);
    put(UC_SIGMASK, mask);

    let area = &mut bytes[(fpstate - address) as usize..];
    area[..xstate_bytes].copy_from_slice(&xstate[..xstate_bytes]);
    // The kernel left the mask of supported components where the frame has its first two magic words.
    let features = u64_at(xstate, SW_BYTES);
    area[SW_BYTES..SW_BYTES + 48].fill(0);
    area[SW_BYTES..SW_BYTES + 4].copy_from_slice(&MAGIC1.to_le_bytes());
    area[SW_BYTES + 4..SW_BYTES + 8].copy_from_slice(&(xstate_bytes as u32 + 4).to_le_bytes());
    area[SW_BYTES + 8..SW_BYTES + 16].copy_from_slice(&features.to_le_bytes());
    area[SW_BYTES + 16..SW_BYTES + 20].copy_from_slice(&(xstate_bytes as u32).to_le_bytes());
    area[xstate_bytes..xstate_bytes + 4].copy_from_slice(&MAGIC2.to_le_bytes());
    Some(Frame { address, bytes })
}

/// How much of the area belongs into a frame. A process that has not asked for AMX has a smaller frame than
/// the area that ptrace gives; with the larger size the kernel would silently restore the SSE state alone.
fn frame_xstate_bytes(xstate: &[u8]) -> Option<usize> {
    if xstate.len() < XSTATE_BYTES_MIN {
        return None;
    }
    let supported = u64_at(xstate, SW_BYTES);
    if supported & AMX == 0 || u64_at(xstate, XSTATE_BV) & AMX != 0 {
        return Some(xstate.len());
    }
    let end = (2..63)
        .filter(|component| (supported & !AMX) >> component & 1 != 0)
        .map(component_end)
        .max();
    Some(end.unwrap_or(0).clamp(XSTATE_BYTES_MIN, xstate.len()))
}

/// End of a component in the standard format: CPUID leaf 0xd.
fn component_end(component: u32) -> usize {
    // SAFETY: every x86_64 has CPUID. Later compilers than our oldest know that without being told.
    #[allow(unused_unsafe, reason = "needed at rust-version")]
    let leaf = unsafe { std::arch::x86_64::__cpuid_count(0xd, component) };
    (leaf.eax + leaf.ebx) as usize
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}
