//! What stands in for the tool: the image loaded, configured, switched and drained; and callers that look at return addresses and at
//! the stack.

use crate::session::payload::{IMAGE, image};
use libloading::os::unix::Library;
use memmap2::MmapMut;
use nix::libc;
use std::arch::naked_asm;
use std::collections::HashMap;
use std::mem::transmute;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use std::sync::atomic::{AtomicU64, AtomicUsize, compiler_fence};
use wire::config::{Config, PythonLayout};
use wire::region::{Losses, RING_OFFSET, RegionHeader, region_bytes};
use wire::ring::{Kind, Slot, lap_of, word_flags, word_kind, word_lap, word_thread};
use wire::{Hook, PAGE_BYTES};

/// A committed slot, apart from its thread.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Event {
    pub kind: Kind,
    pub flags: u8,
    pub body: [u64; 3],
}

/// A copy of the payload of its own in this process, with a region and libc's functions behind it.
pub struct Driven {
    _library: Library,
    region: MmapMut,
    config: *mut Config,
    flag: *mut u64,
    hooks: HashMap<Hook, u64>,
}

// SAFETY: the raw pointers are to statics of the loaded image, written through aligned atomic stores or, in `configure`,
// by whoever holds the only reference.
unsafe impl Sync for Driven {}

impl Driven {
    /// Off, with no Python and no time.
    pub fn new(slots: u64) -> Self {
        let library = load_a_copy();
        // SAFETY: the names are the image's own symbols; statics and functions, whose addresses are taken.
        let address = |name: &str| unsafe { *library.get::<*mut ()>(name.as_bytes()).unwrap() } as u64;
        let hooks = Hook::all().map(|hook| (hook, address(hook.payload_symbol()))).collect();
        let mut region = MmapMut::map_anon(region_bytes(slots) as usize).unwrap();
        let (config, flag) = (
            address("memray_config") as *mut Config,
            address("memray_flag") as *mut u64,
        );
        let mut driven = Driven {
            config,
            flag,
            hooks,
            region: MmapMut::map_anon(1).unwrap(),
            _library: library,
        };
        driven.configure(|config| {
            config.region = region.as_mut_ptr() as u64;
            config.ring_mask = slots - 1;
            config.lap_base = 41;
            config.tid_offset = tid_offset();
            config.glibc_chunks = 1;
            config.real = real_functions();
        });
        driven.region = region;
        driven
    }

    /// Changes the configuration. Nothing may be running in a hook.
    pub fn configure(&mut self, change: impl FnOnce(&mut Config)) {
        // SAFETY: the static is mapped writable by ld.so, and `&mut self` keeps every caller of a hook out.
        change(unsafe { &mut *self.config });
    }

    pub fn switch(&self, on: bool) {
        // SAFETY: an aligned word of the loaded image, mapped writable by ld.so.
        unsafe { AtomicU64::from_ptr(self.flag) }.store(on as u64, Release);
    }

    /// Gives the flag's page to the kernel as the tool does.
    pub fn wipe_flag_on_fork(&self) {
        // SAFETY: the flag fills a page of its own, so advice and replacement touch nothing else. The page belongs to
        // a file mapping, which can't be wiped: an anonymous one takes its place.
        unsafe {
            let page = self.flag.cast::<libc::c_void>();
            let flags = libc::MAP_FIXED | libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
            let length = PAGE_BYTES as usize;
            assert_eq!(
                libc::mmap(page, length, libc::PROT_READ | libc::PROT_WRITE, flags, -1, 0),
                page
            );
            assert_eq!(libc::madvise(page, length, libc::MADV_WIPEONFORK), 0);
        }
    }

    pub fn header(&self) -> &RegionHeader {
        // SAFETY: a mapped region begins with its header, which is made of atomics.
        unsafe { &*self.region.as_ptr().cast::<RegionHeader>() }
    }

    /// The loss counters in the order of [`Losses`].
    pub fn losses(&self) -> [u64; 8] {
        const { assert!(size_of::<Losses>() == 64) };
        // SAFETY: eight atomics in a row.
        let counters = unsafe { &*(&raw const self.header().losses).cast::<[AtomicU64; 8]>() };
        std::array::from_fn(|index| counters[index].load(Relaxed))
    }

    /// Address of a hook's entry.
    pub fn hook(&self, hook: Hook) -> u64 {
        self.hooks[&hook]
    }

    /// Calls a hook that takes up to three words.
    pub fn call(&self, hook: Hook, [a, b, c]: [u64; 3]) -> u64 {
        // SAFETY: the hooked functions take integers and pointers in the registers of this signature; the
        // arguments are the caller's responsibility as with the real function.
        unsafe { transmute::<u64, extern "C" fn(u64, u64, u64) -> u64>(self.hook(hook))(a, b, c) }
    }

    pub fn call_with_six(&self, hook: Hook, [a, b, c, d, e, f]: [u64; 6]) -> u64 {
        type Six = extern "C" fn(u64, u64, u64, u64, u64, u64) -> u64;
        // SAFETY: as in `call`; the real function behind it takes six words.
        unsafe { transmute::<u64, Six>(self.hook(hook))(a, b, c, d, e, f) }
    }

    /// Maps private anonymous memory through the hook.
    pub fn mmap(&self, bytes: usize) -> u64 {
        let flags = (libc::MAP_PRIVATE | libc::MAP_ANONYMOUS) as u64;
        let protection = (libc::PROT_READ | libc::PROT_WRITE) as u64;
        self.call_with_six(Hook::Mmap, [0, bytes as u64, protection, flags, u64::MAX, 0])
    }

    /// What this thread alone has recorded, without announcements.
    pub fn drain(&self) -> Vec<Event> {
        let mut events = Vec::new();
        self.drain_into(&mut events);
        events
            .into_iter()
            .map(|(_, event)| event)
            .filter(|event| event.kind != Kind::Thread)
            .collect()
    }

    /// Appends everything that is committed, with its thread.
    pub fn drain_into(&self, events: &mut Vec<(u16, Event)>) {
        let header = self.header();
        // SAFETY: as in `header`; the image's configuration does not change while hooks run.
        let (mask, lap_base) = unsafe { ((*self.config).ring_mask, (*self.config).lap_base) };
        let mut tail = header.tail.load(Relaxed);
        while tail != header.head.load(Acquire) {
            // SAFETY: masked to the slots of the region.
            let slot = unsafe {
                &*self
                    .region
                    .as_ptr()
                    .add(RING_OFFSET as usize)
                    .cast::<Slot>()
                    .add((tail & mask) as usize)
            };
            let word = slot.word.load(Acquire);
            if word_lap(word) != lap_of(tail, mask + 1, lap_base) {
                return;
            }
            let kind = Kind::from_u8(word_kind(word)).expect("a known kind");
            let body = std::array::from_fn(|index| slot.body[index].load(Relaxed));
            events.push((
                word_thread(word),
                Event {
                    kind,
                    flags: word_flags(word),
                    body,
                },
            ));
            tail += 1;
            header.tail.store(tail, Release);
        }
    }
}

/// ld.so gives each file one copy, so each test loads a file of its own.
fn load_a_copy() -> Library {
    static COPIES: AtomicUsize = AtomicUsize::new(0);
    image().expect("the tool can read it too");
    let name = format!(
        "memray-payload-{}-{}.so",
        std::process::id(),
        COPIES.fetch_add(1, Relaxed)
    );
    let path = std::env::temp_dir().join(name);
    std::fs::write(&path, IMAGE).unwrap();
    // SAFETY: the image has no constructors; loading it runs no code of its.
    let library = unsafe { Library::new(&path) };
    std::fs::remove_file(&path).unwrap();
    library.unwrap()
}

fn real_functions() -> [u64; wire::HOOK_COUNT] {
    unsafe extern "C" {
        fn valloc(size: usize) -> *mut libc::c_void;
        fn pvalloc(size: usize) -> *mut libc::c_void;
    }
    let mut real = [0; wire::HOOK_COUNT];
    for (hook, function) in [
        (Hook::Malloc, libc::malloc as *const ()),
        (Hook::Calloc, libc::calloc as *const ()),
        (Hook::Realloc, libc::realloc as *const ()),
        (Hook::Free, libc::free as *const ()),
        (Hook::PosixMemalign, libc::posix_memalign as *const ()),
        (Hook::AlignedAlloc, libc::aligned_alloc as *const ()),
        (Hook::Memalign, libc::memalign as *const ()),
        (Hook::Valloc, valloc as *const ()),
        (Hook::Pvalloc, pvalloc as *const ()),
        (Hook::Mmap, libc::mmap as *const ()),
        (Hook::Munmap, libc::munmap as *const ()),
    ] {
        real[hook as usize] = function as u64;
    }
    real
}

pub fn usable_bytes(block: u64) -> u64 {
    // SAFETY: a live block of glibc's.
    unsafe { libc::malloc_usable_size(block as *mut libc::c_void) as u64 }
}

fn thread_pointer() -> u64 {
    // SAFETY: on x86_64 Linux pthread_self is the thread pointer.
    unsafe { libc::pthread_self() as u64 }
}

/// Words of this thread's descriptor, up to where the inline pthread-specific values end.
fn descriptor_halves() -> Vec<u32> {
    // SAFETY: glibc's `struct pthread` is longer than this.
    (0..0x700 / 4)
        .map(|index| unsafe { (thread_pointer() as *const u32).add(index).read_volatile() })
        .collect()
}

/// Where libc keeps the thread's tid, found by its value.
fn tid_offset() -> u32 {
    let tid = nix::unistd::gettid().as_raw() as u32;
    let index = descriptor_halves().iter().position(|half| *half == tid);
    index.expect("the tid is in the descriptor") as u32 * 4
}

/// Runs `check` in a forked child and gives its answer.
pub fn in_forked_child(check: impl FnOnce() -> bool) -> bool {
    // SAFETY: the child calls nothing but `check` and _exit.
    match unsafe { nix::unistd::fork() }.unwrap() {
        // SAFETY: leaves without running destructors of the parent's.
        nix::unistd::ForkResult::Child => unsafe { libc::_exit(check() as i32) },
        nix::unistd::ForkResult::Parent { child } => {
            let status = nix::sys::wait::waitpid(child, None).unwrap();
            status == nix::sys::wait::WaitStatus::Exited(child, 1)
        }
    }
}

/// Six small numbers into one word, each in a byte of its own.
pub extern "C" fn digest_of_arguments(a: u64, b: u64, c: u64, d: u64, e: u64, f: u64) -> u64 {
    a | b << 8 | c << 16 | d << 24 | e << 32 | f << 40
}

/// The address to which its caller returns.
#[unsafe(naked)]
pub extern "C" fn return_address() -> u64 {
    naked_asm!("mov rax, [rsp]", "ret")
}

/// Calls `function` and gives its result together with the address behind the call.
pub fn call_and_say_where(function: u64) -> (u64, u64) {
    #[unsafe(naked)]
    extern "C" fn call(function: u64, after: *mut u64) -> u64 {
        naked_asm!(
            "sub rsp, 8",
            "lea rax, [rip + 2f]",
            "mov [rsi], rax",
            "call rdi",
            "2:",
            "add rsp, 8",
            "ret",
        )
    }
    let mut after = 0;
    (call(function, &raw mut after), after)
}

/// How many bytes of stack a call of `function(argument)` wrote, found by painting what lies below.
pub fn stack_used(function: u64, argument: u64) -> u64 {
    #[unsafe(naked)]
    extern "C" fn measure(function: u64, argument: u64) -> u64 {
        naked_asm!(
            "push rbx",
            "mov rbx, rdi",
            "lea rdi, [rsp - 16384]",
            "mov ecx, 2048",
            "movabs rax, 0x5a5aa5a5c3c33c3c",
            "rep stosq",
            "mov rdi, rsi",
            "call rbx",
            "lea rdi, [rsp - 16384]",
            "mov ecx, 2048",
            "movabs rax, 0x5a5aa5a5c3c33c3c",
            "repe scasq",
            // One word behind the first that was written.
            "lea rax, [rsp + 8]",
            "sub rax, rdi",
            "pop rbx",
            "ret",
        )
    }
    compiler_fence(Acquire);
    measure(function, argument)
}

/// What [`constant_block`] returns; nobody looks there.
pub const CONSTANT_BLOCK: u64 = 0x1234_5670;

/// A malloc that uses no stack of its own.
pub extern "C" fn constant_block(_size: u64) -> u64 {
    CONSTANT_BLOCK
}

/// Two frames as 3.8 has them, in this process's memory, reachable from this thread's pthread-specific values.
pub struct TinyPython {
    layout: PythonLayout,
    _objects: Vec<Box<[u64]>>,
}

impl TinyPython {
    pub fn on_this_thread() -> Self {
        let mut objects: Vec<Box<[u64]>> = Vec::new();
        let mut object = |words: &[u64]| {
            objects.push(words.into());
            objects[objects.len() - 1].as_ptr() as u64
        };
        let code_type = object(&[0; 8]);
        // A compact ASCII str of three characters: header, length, hash, state, wstr, characters.
        let text = object(&[
            1,
            0,
            3,
            0,
            1 << 2 | 1 << 5 | 1 << 6,
            0,
            u64::from_le_bytes(*b"abc\0\0\0\0\0"),
            0,
        ]);
        let table = object(&[1, 0, 2, 0, 0x0204, 0]);
        let mut code = |line: u64| {
            let mut words = [0; 16];
            (words[1], words[5], words[13], words[14], words[15]) = (code_type, line, text, text, table);
            object(&words)
        };
        let codes = [code(10), code(20)];
        let mut frame = |code: u64, previous: u64| {
            let mut words = [0; 14];
            (words[3], words[4], words[13]) = (previous, code, 6);
            object(&words)
        };
        let outer = frame(codes[0], 0);
        let inner = frame(codes[1], outer);
        let mut state = [0; 24];
        (state[3], state[22]) = (inner, thread_pointer());
        let state = object(&state);
        let layout = PythonLayout {
            enabled: 1,
            tstate_offset: offset_of_specific_value(state),
            tstate_thread_id: 176,
            tstate_frame: 24,
            frame_code: 32,
            frame_previous: 24,
            frame_instr: 104,
            code_filename: 104,
            code_name: 112,
            code_firstlineno: 40,
            code_linetable: 120,
            object_type: 8,
            unicode_length: 16,
            unicode_state: 32,
            unicode_ascii_data: 48,
            unicode_compact_data: 72,
            bytes_size: 16,
            bytes_data: 32,
            code_type,
            ..PythonLayout::OFF
        };
        TinyPython {
            layout,
            _objects: objects,
        }
    }

    pub fn layout(&self) -> PythonLayout {
        self.layout
    }

    /// A function that does nothing, to compare with.
    pub fn nothing(&self) -> u64 {
        constant_block as *const () as u64
    }
}

/// Stores a pthread-specific value and finds where it lies.
fn offset_of_specific_value(value: u64) -> u32 {
    let mut key = 0;
    // SAFETY: a key of our own, whose value is nothing that anyone frees.
    unsafe {
        assert_eq!(libc::pthread_key_create(&mut key, None), 0);
        assert_eq!(libc::pthread_setspecific(key, value as *const libc::c_void), 0);
    }
    let halves = descriptor_halves();
    let pairs = halves
        .chunks_exact(2)
        .map(|pair| pair[0] as u64 | (pair[1] as u64) << 32);
    pairs.into_iter().position(|word| word == value).expect("an inline key") as u32 * 8
}
