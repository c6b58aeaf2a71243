//! The finished image, loaded into this process by ld.so and driven through its entries: what the tool will read from the ring
//! while real functions run. The reader here is written from [`wire`]'s contract alone.

mod harness;

use harness::{Driven, Event, ticks};
use nix::errno::Errno;
use nix::libc;
use std::collections::HashMap;
use std::sync::atomic::Ordering::{Acquire, Relaxed};
use std::sync::atomic::{AtomicBool, AtomicU64};
use wire::region::{ABANDONED, Losses};
use wire::ring::{Kind, REALLOC_BEGUN, REALLOC_FAILED};
use wire::{Allocator, Hook};

const MAPPED: usize = 3 * 4096;

/// Every hook in turn, with sizes that differ; gives what must be recorded, in order.
fn one_round(driven: &Driven, round: u64) -> Vec<Event> {
    let size = 16 + round % 700;
    let mut log = Vec::new();
    let allocation = |address: u64, size: u64, allocator: Allocator| Event {
        kind: Kind::Allocation,
        flags: allocator as u8,
        body: [address, size, 0],
    };
    let free = |log: &mut Vec<Event>, block: u64| {
        log.push(Event {
            kind: Kind::Free,
            flags: 0,
            body: [block, harness::usable_bytes(block), 0],
        });
        driven.call(Hook::Free, [block, 0, 0]);
    };

    let block = driven.call(Hook::Malloc, [size, 0, 0]);
    log.push(allocation(block, size, Allocator::Malloc));
    let usable = harness::usable_bytes(block);
    let moved = driven.call(Hook::Realloc, [block, size * 3, 0]);
    log.push(Event {
        kind: Kind::ReallocBegin,
        flags: 0,
        body: [block, usable, 0],
    });
    log.push(Event {
        kind: Kind::ReallocEnd,
        flags: REALLOC_BEGUN,
        body: [moved, size * 3, 0],
    });
    free(&mut log, moved);

    let fresh = driven.call(Hook::Realloc, [0, size, 0]);
    log.push(Event {
        kind: Kind::ReallocEnd,
        flags: 0,
        body: [fresh, size, 0],
    });
    let array = driven.call(Hook::Calloc, [3, size, 0]);
    log.push(allocation(array, 3 * size, Allocator::Calloc));
    let aligned = driven.call(Hook::AlignedAlloc, [64, size, 0]);
    log.push(allocation(aligned, size, Allocator::AlignedAlloc));
    let memalign = driven.call(Hook::Memalign, [128, size, 0]);
    log.push(allocation(memalign, size, Allocator::Memalign));
    let valloc = driven.call(Hook::Valloc, [size, 0, 0]);
    log.push(allocation(valloc, size, Allocator::Valloc));
    let pvalloc = driven.call(Hook::Pvalloc, [size, 0, 0]);
    log.push(allocation(pvalloc, size, Allocator::Pvalloc));
    let mut place = 0u64;
    let error = driven.call(Hook::PosixMemalign, [&raw mut place as u64, 32, size]);
    assert_eq!(error as i32, 0);
    log.push(allocation(place, size, Allocator::PosixMemalign));
    // Large enough for glibc to map it: another kind of chunk.
    let large = driven.call(Hook::Malloc, [40 << 20, 0, 0]);
    log.push(allocation(large, 40 << 20, Allocator::Malloc));
    for block in [fresh, array, aligned, memalign, valloc, pvalloc, place, large] {
        assert_ne!(block, 0);
        free(&mut log, block);
    }

    let mapped = driven.mmap(MAPPED);
    log.push(allocation(mapped, MAPPED as u64, Allocator::Mmap));
    assert_eq!(driven.call(Hook::Munmap, [mapped, MAPPED as u64, 0]) as i32, 0);
    log.push(Event {
        kind: Kind::MunmapBegin,
        flags: 0,
        body: [mapped, MAPPED as u64, 0],
    });
    log.push(Event {
        kind: Kind::MunmapEnd,
        flags: 0,
        body: [mapped, MAPPED as u64, 1],
    });
    log
}

/// In the order of the ring, no address comes to life while it lives, whichever threads it passes through.
fn check_lives(events: &[(u16, Event)]) {
    let mut live: HashMap<u64, u64> = HashMap::new();
    for (_, event) in events {
        let [address, size, _] = event.body;
        match event.kind {
            Kind::Allocation | Kind::ReallocEnd if address != 0 => {
                assert_eq!(
                    live.insert(address, size),
                    None,
                    "{address:#x} came to life twice: {event:?}"
                );
            }
            Kind::Free | Kind::ReallocBegin | Kind::MunmapBegin => {
                assert!(
                    live.remove(&address).is_some(),
                    "{address:#x} ended without having lived: {event:?}"
                );
            }
            _ => {}
        }
    }
    assert!(live.is_empty());
}

#[test]
fn events_of_four_threads_arrive_once_and_in_order() {
    const ROUNDS: u64 = 400;
    let mut driven = Driven::new(1 << 12);
    // The ring is smaller than what they write: they wait for the reader instead of losing.
    driven.configure(|config| {
        config.ticks_per_us = 1000;
        config.wait_event_us = u32::MAX;
        config.wait_second_us = u32::MAX;
    });
    driven.header().heartbeat_ticks.store(u64::MAX, Relaxed);
    driven.switch(true);
    let stop = AtomicBool::new(false);
    let ((logs, threads), events) = std::thread::scope(|scope| {
        let reader = scope.spawn(|| {
            let mut events = Vec::new();
            loop {
                let last = stop.load(Acquire);
                driven.drain_into(&mut events);
                if last {
                    return events;
                }
                std::thread::yield_now();
            }
        });
        let driven = &driven;
        let writers: Vec<_> = (0..4)
            .map(|_| {
                scope.spawn(move || {
                    let log: Vec<Event> = (0..ROUNDS).flat_map(|round| one_round(driven, round)).collect();
                    (log, nix::unistd::gettid().as_raw() as u64)
                })
            })
            .collect();
        let logs: (Vec<_>, Vec<_>) = writers.into_iter().map(|writer| writer.join().unwrap()).unzip();
        stop.store(true, std::sync::atomic::Ordering::Release);
        (logs, reader.join().unwrap())
    });

    let mut indexes = HashMap::new();
    for (index, event) in events.iter().filter(|(_, event)| event.kind == Kind::Thread) {
        assert_eq!(indexes.insert(event.body[0], *index), None, "announced twice");
    }
    assert_eq!(indexes.len(), 4);
    for (log, tid) in logs.iter().zip(threads) {
        let index = indexes[&tid];
        let mine = |(thread, event): &&(u16, Event)| *thread == index && event.kind != Kind::Thread;
        let received: Vec<Event> = events.iter().filter(mine).map(|(_, event)| *event).collect();
        assert_eq!(received.len(), log.len());
        for (number, (received, logged)) in received.iter().zip(log).enumerate() {
            assert_eq!(received, logged, "event {number} of thread {tid}");
        }
    }
    check_lives(
        &events
            .into_iter()
            .filter(|(_, event)| event.kind != Kind::Thread)
            .collect::<Vec<_>>(),
    );
    assert_eq!(driven.losses(), [0; 8]);
}

#[test]
fn what_failed_is_recorded_as_what_happened_and_errno_stays() {
    let driven = Driven::new(1 << 10);
    driven.switch(true);
    let block = driven.call(Hook::Malloc, [100, 0, 0]);
    let usable = harness::usable_bytes(block);
    driven.drain();

    // A size that no address space has.
    let huge = 1u64 << 62;
    for (hook, arguments) in [
        (Hook::Malloc, [huge, 0, 0]),
        (Hook::Calloc, [huge, 8, 0]),
        (Hook::AlignedAlloc, [64, huge, 0]),
        (Hook::Realloc, [0, huge, 0]),
    ] {
        Errno::clear();
        assert_eq!(driven.call(hook, arguments), 0);
        assert_eq!(Errno::last(), Errno::ENOMEM, "{hook:?}");
        assert_eq!(driven.drain(), [], "{hook:?}");
    }
    let mut place = 7u64;
    assert_eq!(
        driven.call(Hook::PosixMemalign, [&raw mut place as u64, 3, 100]) as i32,
        libc::EINVAL
    );
    driven.call(Hook::Free, [0, 0, 0]);
    assert_eq!(driven.drain(), []);

    Errno::clear();
    assert_eq!(driven.call(Hook::Realloc, [block, huge, 0]), 0);
    assert_eq!(Errno::last(), Errno::ENOMEM);
    let failed = REALLOC_BEGUN | REALLOC_FAILED;
    assert_eq!(
        driven.drain(),
        [
            Event {
                kind: Kind::ReallocBegin,
                flags: 0,
                body: [block, usable, 0]
            },
            Event {
                kind: Kind::ReallocEnd,
                flags: failed,
                body: [0, huge, 0]
            },
        ]
    );
    assert_eq!(driven.call(Hook::Realloc, [block, 0, 0]), 0, "glibc frees");
    assert_eq!(
        driven.drain(),
        [
            Event {
                kind: Kind::ReallocBegin,
                flags: 0,
                body: [block, usable, 0]
            },
            Event {
                kind: Kind::ReallocEnd,
                flags: REALLOC_BEGUN,
                body: [0, 0, 0]
            },
        ]
    );

    assert_eq!(driven.mmap(0), u64::MAX);
    assert_eq!(driven.call(Hook::Munmap, [0x1001, 4096, 0]) as i32, -1, "not aligned");
    assert_eq!(driven.call(Hook::Munmap, [0x1000, 0, 0]) as i32, -1, "no length");
    assert_eq!(Errno::last(), Errno::EINVAL);
    assert_eq!(driven.drain(), []);
    assert_eq!(driven.call(Hook::Munmap, [0x1000, u64::MAX, 0]) as i32, -1, "wraps");
    assert_eq!(
        driven.drain(),
        [
            Event {
                kind: Kind::MunmapBegin,
                flags: 0,
                body: [0x1000, u64::MAX, 0]
            },
            Event {
                kind: Kind::MunmapEnd,
                flags: 0,
                body: [0x1000, u64::MAX, 0]
            },
        ]
    );
}

#[test]
fn off_or_abandoned_every_hook_passes_through() {
    let driven = Driven::new(1 << 10);
    one_round(&driven, 1);
    assert_eq!(driven.header().head.load(Relaxed), 0, "off");
    driven.header().abandoned.store(ABANDONED, Relaxed);
    driven.switch(true);
    let events = one_round(&driven, 2).len() as u64;
    assert_eq!(driven.header().head.load(Relaxed), 0, "abandoned");
    let abandoned = std::mem::offset_of!(Losses, abandoned) / 8;
    // The end of a realloc or munmap that was not begun is no event of its own; of a realloc with a new block it is.
    assert_eq!(driven.losses()[abandoned], events - 1);
    driven.header().abandoned.store(0, Relaxed);
    driven.call(Hook::Free, [driven.call(Hook::Malloc, [10, 0, 0]), 0, 0]);
    let kinds: Vec<Kind> = driven.drain().iter().map(|event| event.kind).collect();
    assert_eq!(kinds, [Kind::Allocation, Kind::Free]);
}

#[test]
fn a_full_ring_counts_each_event_by_what_it_was() {
    let driven = Driven::new(16);
    driven.switch(true);
    let block = driven.call(Hook::Malloc, [100, 0, 0]);
    while driven.header().head.load(Relaxed) < 16 {
        driven.call(Hook::Free, [driven.call(Hook::Malloc, [100, 0, 0]), 0, 0]);
    }
    let before = driven.losses();
    let fresh = driven.call(Hook::Malloc, [100, 0, 0]);
    let moved = driven.call(Hook::Realloc, [block, 5000, 0]);
    driven.call(Hook::Free, [fresh, 0, 0]);
    driven.call(Hook::Free, [moved, 0, 0]);
    let lost: Vec<u64> = driven
        .losses()
        .iter()
        .zip(before)
        .map(|(now, before)| now - before)
        .collect();
    // Allocations: malloc's, and realloc's, whose begin was lost as a free. Frees: that one and the two.
    assert_eq!(lost[..3], [2, 3, 0]);
    assert_eq!(driven.header().abandoned.load(Relaxed), 0, "nobody can tell the time");
}

#[test]
fn the_loader_hooks_keep_arguments_and_the_callers_return_address() {
    let mut driven = Driven::new(1 << 10);
    for on in [false, true] {
        driven.switch(on);
        for hook in [Hook::Dlopen, Hook::Dlmopen, Hook::Dlclose, Hook::Dlsym] {
            driven.configure(|config| config.real[hook as usize] = harness::digest_of_arguments as *const () as u64);
            assert_eq!(
                driven.call_with_six(hook, [1, 2, 3, 4, 5, 6]),
                0x0605_0403_0201,
                "{hook:?}"
            );
            driven.configure(|config| config.real[hook as usize] = harness::return_address as *const () as u64);
            let (returned, expected) = harness::call_and_say_where(driven.hook(hook));
            assert_eq!(returned, expected, "{hook:?}, on: {on}");
        }
    }
    // Three that change modules, twice each, and the dlsym after them, once.
    assert_eq!(driven.header().modules_changed.load(Relaxed), 7);
}

#[test]
fn a_dlopen_of_a_real_library_asks_for_a_scan_and_dlsym_waits_for_it() {
    let mut driven = Driven::new(1 << 10);
    driven.configure(|config| {
        config.ticks_per_us = 1;
        config.real[Hook::Dlopen as usize] = libc::dlopen as *const () as u64;
        config.real[Hook::Dlsym as usize] = libc::dlsym as *const () as u64;
        config.real[Hook::Dlclose as usize] = libc::dlclose as *const () as u64;
    });
    driven.header().heartbeat_ticks.store(u64::MAX, Relaxed);
    driven.switch(true);
    let scans = AtomicU64::new(0);
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Acquire) {
                let wanted = driven.header().modules_changed.load(Acquire);
                if driven.header().modules_hooked.swap(wanted, Relaxed) < wanted {
                    scans.fetch_add(1, Relaxed);
                }
                std::thread::yield_now();
            }
        });
        let libm = driven.call(Hook::Dlopen, [c"libm.so.6".as_ptr() as u64, libc::RTLD_NOW as u64, 0]);
        assert_ne!(libm, 0);
        let cos = driven.call(Hook::Dlsym, [libm, c"cos".as_ptr() as u64, 0]);
        assert_ne!(cos, 0);
        assert_eq!(driven.call(Hook::Dlclose, [libm, 0, 0]), 0);
        done.store(true, std::sync::atomic::Ordering::Release);
    });
    assert_eq!(driven.header().modules_changed.load(Relaxed), 3);
    assert!(scans.load(Relaxed) > 0);
}

#[test]
fn a_python_stack_is_defined_before_the_event_and_the_fast_path_is_lean() {
    let mut driven = Driven::new(1 << 10);
    let python = harness::TinyPython::on_this_thread();
    driven.configure(|config| {
        config.python = python.layout();
        config.real[Hook::Malloc as usize] = harness::constant_block as *const () as u64;
    });
    driven.switch(true);
    driven.call(Hook::Malloc, [100, 0, 0]);
    let first = driven.drain();
    let kinds: Vec<Kind> = first
        .iter()
        .map(|event| event.kind)
        .filter(|kind| *kind != Kind::Continuation)
        .collect();
    assert_eq!(kinds, [Kind::Code, Kind::Code, Kind::Stack, Kind::Allocation]);
    let stack = first[first.len() - 1].body[2];
    assert_eq!(
        first.iter().find(|event| event.kind == Kind::Stack).unwrap().body,
        [stack, 2 << 32, 2]
    );

    let used_bytes = harness::stack_used(driven.hook(Hook::Malloc), 100) - harness::stack_used(python.nothing(), 100);
    assert_eq!(
        driven.drain(),
        [Event {
            kind: Kind::Allocation,
            flags: 6,
            body: [harness::CONSTANT_BLOCK, 100, stack]
        }]
    );
    assert!(used_bytes < 1024, "{used_bytes} bytes of stack");
    driven.switch(false);
    assert!(harness::stack_used(driven.hook(Hook::Malloc), 100) - harness::stack_used(python.nothing(), 100) <= 16);
}

#[test]
fn a_fork_child_is_not_recorded_where_its_flag_was_wiped() {
    let driven = Driven::new(1 << 10);
    driven.wipe_flag_on_fork();
    driven.switch(true);
    driven.call(Hook::Free, [driven.call(Hook::Malloc, [10, 0, 0]), 0, 0]);
    let head = driven.header().head.load(Relaxed);
    let in_child = harness::in_forked_child(|| {
        driven.call(Hook::Free, [driven.call(Hook::Malloc, [10, 0, 0]), 0, 0]);
        driven.header().head.load(Relaxed) == head
    });
    assert!(in_child, "the child recorded");
    assert!(ticks() > 0);
}
