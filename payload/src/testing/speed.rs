//! What an event costs, by the hooks' own code in this process: nanoseconds of a pair of malloc and free at several
//! depths, the fastest of many short runs, so that a busy machine matters little. The reader is a thread that only takes.
//!
//! `cargo test --release --lib speed -- --ignored --nocapture`. `SPEED_OF=12:201` measures 201 frames on 3.12 alone; so under
//! `valgrind --tool=callgrind`, `callgrind_annotate --tree=calling --inclusive=yes` gives the instructions of each call, where
//! time tells nothing.

use super::TestRegion;
use super::python::{Entered, FakePython};
use crate::hooks::{memray_hook_free, memray_hook_malloc};
use std::mem::transmute;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use std::time::{Duration, Instant};
use wire::Hook;

const PAIRS: u32 = 200;
const RUNS_FOR: Duration = Duration::from_millis(400);

unsafe extern "C" {
    fn malloc(size: usize) -> *mut u8;
    fn free(block: *mut u8);
    fn pthread_key_create(key: *mut u32, destructor: Option<extern "C" fn(*mut u8)>) -> i32;
    fn pthread_setspecific(key: u32, value: u64) -> i32;
}

/// Binds a thread state to this thread, as CPython does; gives its offset from the thread pointer (glibc 2.36).
fn bind(thread_state: u64) -> u32 {
    const FIRST_BLOCK: u32 = 0x310;
    static KEY: std::sync::OnceLock<u32> = std::sync::OnceLock::new();
    let key = *KEY.get_or_init(|| {
        let mut key = 0;
        // SAFETY: writes the key.
        assert_eq!(unsafe { pthread_key_create(&mut key, None) }, 0);
        key
    });
    // SAFETY: a key that was made above.
    assert_eq!(unsafe { pthread_setspecific(key, thread_state) }, 0);
    FIRST_BLOCK + 16 * key + 8
}

/// Nanoseconds of a pair.
fn pairs(malloc: u64, free: u64) -> f64 {
    // SAFETY: both are functions of these types.
    let (malloc, free) = unsafe {
        (
            transmute::<u64, extern "C" fn(usize) -> *mut u8>(malloc),
            transmute::<u64, extern "C" fn(*mut u8)>(free),
        )
    };
    let mut best = Duration::MAX;
    let until = Instant::now() + RUNS_FOR;
    while Instant::now() < until {
        let start = Instant::now();
        for _ in 0..PAIRS {
            free(std::hint::black_box(malloc(std::hint::black_box(1000))));
        }
        best = best.min(start.elapsed());
    }
    best.as_secs_f64() * 1e9 / PAIRS as f64
}

fn thread_pointer() -> u64 {
    crate::arch::thread_pointer()
}

#[test]
#[ignore = "a measurement"]
fn speed_of_a_pair() {
    let untracked = pairs(malloc as *const () as u64, free as *const () as u64);
    println!("untracked {untracked:.1} ns a pair");
    let chosen = std::env::var("SPEED_OF").ok();
    for minor in [8, 11, 12] {
        for depth in [0, 1, 6, 20, 51, 201, 1000] {
            if chosen
                .as_ref()
                .is_some_and(|chosen| *chosen != format!("{minor}:{depth}"))
            {
                continue;
            }
            let mut python = FakePython::new(minor);
            let codes = ["a", "b", "c", "d", "e", "f", "g"].map(|name| python.function(name));
            for index in 0..depth {
                python.call(codes[index % codes.len()], index as i32 % 9 * 2, Entered::ByPython);
            }
            python.layout.tstate_offset = bind(python.thread_state);
            python.put(python.thread_state, python.layout.tstate_thread_id, thread_pointer());
            println!(
                "3.{minor}, {depth} frames: {:.1} ns a pair more",
                tracked(&python) - untracked
            );
        }
    }
}

fn tracked(python: &FakePython) -> f64 {
    let mut region = TestRegion::new(1 << 16);
    region.config.tid_offset = 0x2d0;
    region.config.glibc_chunks = 1;
    region.config.python = python.layout;
    region.config.real[Hook::Malloc as usize] = malloc as *const () as u64;
    region.config.real[Hook::Free as usize] = free as *const () as u64;
    // SAFETY: nobody is in a hook.
    unsafe { *crate::memray_config.get() = region.config };
    let is_over = AtomicBool::new(false);
    let found = std::thread::scope(|scope| {
        scope.spawn(|| {
            let header = region.header();
            while !is_over.load(Relaxed) {
                header.tail.store(header.head.load(Acquire), Release);
                std::thread::sleep(Duration::from_micros(200));
            }
        });
        let found = pairs(
            memray_hook_malloc as *const () as u64,
            memray_hook_free as *const () as u64,
        );
        is_over.store(true, Relaxed);
        found
    });
    let losses = &region.header().losses;
    assert_eq!(losses.reentrant.load(Relaxed) + losses.no_thread_entry.load(Relaxed), 0);
    let full = losses.allocations_full.load(Relaxed) + losses.frees_full.load(Relaxed);
    if full > 0 {
        println!("  {full} events found no room");
    }
    // SAFETY: as above.
    unsafe { *crate::memray_config.get() = wire::config::Config::EMPTY };
    found
}
