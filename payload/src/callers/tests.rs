//! Made-up stacks and tables: where a walk goes, and where it must not.

use super::*;
use std::alloc::{Layout, alloc_zeroed, dealloc};
use wire::native::native_bytes;

const ROWS_MAX: usize = 64;
/// Where the made-up module's code is.
const CODE: u64 = 0x5555_0000_0000;
const PAGE: usize = PAGE_BYTES as usize;

/// Tables and a stack of two pages, whose first word is word 0.
struct Scene {
    tables: *mut u8,
    stack: *mut u64,
    place: NativePlace,
    /// What stands for libc's descriptor: start and size of the thread's stack.
    descriptor: Box<[u64; 2]>,
    rows: Vec<(u32, Rule)>,
}

fn tables_layout() -> Layout {
    Layout::from_size_align(native_bytes(ROWS_MAX as u64) as usize, PAGE).unwrap()
}

fn stack_layout() -> Layout {
    Layout::from_size_align(2 * PAGE, 2 * PAGE).unwrap()
}

impl Scene {
    fn new() -> Self {
        // SAFETY: neither size is 0.
        let (tables, stack) = unsafe { (alloc_zeroed(tables_layout()), alloc_zeroed(stack_layout()).cast()) };
        let place = NativePlace {
            tables: tables as u64,
            rows_count: ROWS_MAX as u32,
            ..NativePlace::OFF
        };
        Scene {
            tables,
            stack,
            place,
            descriptor: Box::new([0; 2]),
            rows: Vec::new(),
        }
    }

    /// The whole stack is the main thread's.
    fn with_main_stack() -> Self {
        let scene = Scene::new();
        scene.header().main_stack_low.store(scene.at(0), Relaxed);
        scene.header().main_stack_high.store(scene.at(2 * PAGE / 8), Relaxed);
        scene
    }

    fn header(&self) -> &NativeHeader {
        // SAFETY: the tables begin with their header.
        unsafe { &*self.tables.cast::<NativeHeader>() }
    }

    fn word_at(&self, offset: u64) -> &AtomicU64 {
        assert!(offset < native_bytes(ROWS_MAX as u64));
        // SAFETY: inside the tables.
        unsafe { &*self.tables.add(offset as usize).cast::<AtomicU64>() }
    }

    /// Address of a word of the stack.
    fn at(&self, index: usize) -> u64 {
        self.stack as u64 + 8 * index as u64
    }

    fn put(&mut self, index: usize, value: u64) {
        assert!(index < 2 * PAGE / 8);
        // SAFETY: inside the stack.
        unsafe { self.stack.add(index).write(value) };
    }

    /// From this distance in the code on, a rule.
    fn rule(&mut self, distance: u32, rule: Rule) {
        self.rows.push((distance, rule));
        self.publish(1);
    }

    fn publish(&self, generation: u32) {
        for (index, (distance, rule)) in self.rows.iter().enumerate() {
            let row = (*distance as u64) << 32 | rule.0 as u64;
            self.word_at(ROWS_OFFSET + 8 * index as u64).store(row, Relaxed);
        }
        for (index, word) in [CODE, CODE + 0x10000, (self.rows.len() as u64) << 32]
            .into_iter()
            .enumerate()
        {
            self.word_at(INDEX_OFFSET + 8 * index as u64).store(word, Relaxed);
        }
        let current = Current {
            modules_count: 1,
            buffer: 0,
            generation,
        };
        self.header().current.store(current.pack(), Relaxed);
    }

    fn walk(&self, pc: u64, sp: u64, bp: u64) -> (Vec<u64>, Step) {
        // SAFETY: tables and stack live as long as `self`; where there is a descriptor, its two words are there.
        let mut walk = unsafe {
            let tables = Tables::at(&self.place);
            let pointer = self.descriptor.as_ptr() as u64;
            Callers::new(tables, &self.place, pointer, Registers { pc, sp, bp })
        };
        let mut frames = Vec::new();
        loop {
            match walk.step() {
                Step::Frame(pc) => frames.push(pc),
                end => return (frames, end),
            }
        }
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        // SAFETY: allocated with these layouts.
        unsafe {
            dealloc(self.tables, tables_layout());
            dealloc(self.stack.cast(), stack_layout());
        }
    }
}

fn rsp(words: u32, rbp: u32) -> Rule {
    Rule::new(Rule::KIND_RSP, words, rbp).unwrap()
}

fn rbp(words: u32, rbp: u32) -> Rule {
    Rule::new(Rule::KIND_RBP, words, rbp).unwrap()
}

fn end() -> Rule {
    Rule::special(Rule::SPECIAL_END, 0, 0).unwrap()
}

/// Three functions: one by RSP that saves RBP, one by RBP, the outermost.
fn three_functions() -> Scene {
    let mut scene = Scene::with_main_stack();
    scene.rule(0x000, rsp(4, 2));
    scene.rule(0x100, rbp(2, 2));
    scene.rule(0x200, end());
    // The first frame: four words from word 10 on, saved RBP at 12, return address at 13.
    scene.put(12, scene.at(20));
    scene.put(13, CODE + 0x150);
    // The second: RBP points to word 20; the return address follows.
    scene.put(20, 0x77);
    scene.put(21, CODE + 0x250);
    scene
}

#[test]
fn frames_by_either_register_are_followed_to_the_outermost() {
    let scene = three_functions();
    let expected = vec![CODE + 0x50, CODE + 0x150, CODE + 0x250];
    assert_eq!(scene.walk(CODE + 0x50, scene.at(10), 0), (expected.clone(), Step::End));
    assert_eq!(
        scene.walk(CODE + 0x50, scene.at(10), 0),
        (expected, Step::End),
        "from the cache"
    );
}

/// The call may be the last instruction of its function: the address behind it belongs to another.
#[test]
fn a_return_address_stands_for_the_call_before_it() {
    let mut scene = three_functions();
    scene.put(13, CODE + 0x200);
    let (frames, last) = scene.walk(CODE + 0x100, scene.at(10), 0);
    assert_eq!((frames.len(), last), (3, Step::End));
}

#[test]
fn unknown_code_ends_the_walk_after_its_own_frame() {
    let mut scene = three_functions();
    scene.put(13, 0x1234);
    assert_eq!(
        scene.walk(CODE + 0x50, scene.at(10), 0),
        (vec![CODE + 0x50, 0x1234], Step::Cut)
    );
    assert_eq!(
        scene.walk(CODE + 0x10001, scene.at(10), 0),
        (vec![CODE + 0x10001], Step::Cut)
    );
    assert_eq!(scene.walk(u64::MAX, scene.at(10), 0), (vec![u64::MAX], Step::Cut));
    // A return address of 0 marks the outermost frame of many programs.
    scene.put(13, 0);
    assert_eq!(scene.walk(CODE + 0x50, scene.at(10), 0), (vec![CODE + 0x50], Step::End));
}

/// What was popped is in its register, whatever the table says; below the stack pointer nothing is read.
#[test]
fn a_register_that_was_popped_already_is_as_it_was() {
    let mut scene = three_functions();
    scene.rule(0x300, rsp(1, 2));
    scene.put(9, 0x99);
    scene.put(10, CODE + 0x150);
    let expected = vec![CODE + 0x350, CODE + 0x150, CODE + 0x250];
    assert_eq!(
        scene.walk(CODE + 0x350, scene.at(10), scene.at(20)),
        (expected, Step::End)
    );
}

/// Every one of these would be read if the tables were believed.
#[test]
fn nothing_outside_of_the_stack_is_read() {
    let sane = vec![CODE + 0x50];
    for (rule, bp) in [
        // Beyond the end, by one word and by far.
        (rsp(1015, 0), 0),
        (rsp(0xffff, 0), 0),
        // The CFA is the stack pointer itself.
        (rsp(0, 0), 0),
        (rbp(2, 0), 0),
        (rbp(2, 0), u64::MAX - 7),
        (rbp(2, 0), 0x7fff_ffff_f000),
        (
            Rule::special(Rule::SPECIAL_REALIGNED, 1, Rule::RBP_AT_RBP).unwrap(),
            u64::MAX,
        ),
        (Rule::special(Rule::SPECIAL_SIGNAL, 0, 0).unwrap(), 0),
        (Rule::special(9, 0, 0).unwrap(), 0),
        (Rule::NONE, 0),
    ] {
        let mut scene = Scene::with_main_stack();
        scene.rule(0, rule);
        // Words 10 to 1023.
        assert_eq!(
            scene.walk(CODE + 0x50, scene.at(10), bp),
            (sane.clone(), Step::Cut),
            "{rule:x?}"
        );
    }
    let mut scene = Scene::with_main_stack();
    scene.rule(0, rbp(2, 0));
    let crooked = scene.at(20) + 4;
    assert_eq!(scene.walk(CODE + 0x50, scene.at(10), crooked), (sane, Step::Cut));
}

#[test]
fn frames_that_lead_in_a_circle_end() {
    let mut scene = Scene::with_main_stack();
    scene.rule(0, rbp(2, 2));
    scene.put(20, scene.at(20));
    scene.put(21, CODE + 1);
    let (frames, last) = scene.walk(CODE + 0x50, scene.at(10), scene.at(20));
    assert_eq!((frames.len(), last), (2, Step::Cut));
}

/// Of a stack that nothing is known of, the page in use is mapped.
#[test]
fn an_unknown_stack_is_read_to_the_end_of_its_page() {
    let mut scene = Scene::new();
    scene.rule(0, rsp(4, 0));
    let words = PAGE / 8;
    scene.put(words - 7, CODE + 0x50);
    scene.put(words - 3, CODE + 0x60);
    scene.put(words + 1, CODE + 0x70);
    let (frames, last) = scene.walk(CODE + 1, scene.at(words - 10), 0);
    assert_eq!((frames, last), (vec![CODE + 1, CODE + 0x50, CODE + 0x60], Step::Cut));
}

#[test]
fn a_threads_own_stack_ends_at_its_descriptor() {
    let mut scene = Scene::new();
    scene.rule(0, rsp(4, 0));
    scene.place.stack_block = 0;
    let pointer = scene.descriptor.as_ptr() as u64;
    let page = PAGE / 8;
    scene.put(page - 2, CODE + 0x50);
    scene.put(page + 2, CODE + 0x60);
    // The descriptor is elsewhere: not this thread's stack.
    *scene.descriptor = [scene.at(0), 8];
    assert_eq!(scene.walk(CODE + 1, scene.at(page - 5), 0).0.len(), 2);
    // The block around both: the page's end is no bound any more. Only where the descriptor lies above the stack.
    if pointer > scene.at(0) {
        *scene.descriptor = [scene.at(0), pointer - scene.at(0) + 64];
        assert_eq!(scene.walk(CODE + 1, scene.at(page - 5), 0).0.len(), 3);
    }
    // A main thread has no start there.
    *scene.descriptor = [0, u64::MAX];
    assert_eq!(scene.walk(CODE + 1, scene.at(page - 5), 0).0.len(), 2);
}

#[test]
fn a_signal_frame_leads_to_what_was_interrupted() {
    let mut scene = three_functions();
    scene.rule(0x300, Rule::special(Rule::SPECIAL_SIGNAL, 0, 0).unwrap());
    scene.rule(0x400, rsp(2, 0));
    // A handler whose frame is two words from word 100 on; the kernel's follows.
    scene.put(101, CODE + 0x301);
    scene.put(102 + 15, 0);
    // The first instruction of the first function, which a return address would not stand for.
    scene.put(102 + 21, CODE);
    scene.put(102 + 20, scene.at(10));
    let expected = vec![CODE + 0x401, CODE + 0x301, CODE + 1, CODE + 0x150, CODE + 0x250];
    // On an alternate stack: here above the stack that was interrupted.
    assert_eq!(scene.walk(CODE + 0x401, scene.at(100), 0), (expected, Step::End));
    // What was interrupted ran on a stack that is not known.
    scene.put(102 + 20, 0x1000);
    let (frames, last) = scene.walk(CODE + 0x401, scene.at(100), 0);
    assert_eq!((frames.len(), last), (2, Step::Cut));
}

#[test]
fn a_realigned_stack_is_followed() {
    let mut scene = Scene::with_main_stack();
    scene.rule(0, Rule::special(Rule::SPECIAL_REALIGNED, 1, Rule::RBP_AT_RBP).unwrap());
    scene.rule(0x100, rbp(2, 2));
    scene.rule(0x200, end());
    // RBP points to word 30: the caller's RBP; below it the CFA.
    scene.put(29, scene.at(41));
    scene.put(30, scene.at(50));
    scene.put(40, CODE + 0x110);
    scene.put(50, 0);
    scene.put(51, CODE + 0x210);
    assert_eq!(
        scene.walk(CODE + 1, scene.at(10), scene.at(30)),
        (vec![CODE + 1, CODE + 0x110, CODE + 0x210], Step::End)
    );
}

#[test]
fn a_new_generation_forgets_the_rules_of_the_old() {
    let mut scene = three_functions();
    assert_eq!(scene.walk(CODE + 0x50, scene.at(10), 0).0.len(), 3);
    scene.rows[1].1 = Rule::NONE;
    scene.publish(2);
    assert_eq!(scene.walk(CODE + 0x50, scene.at(10), 0).0.len(), 2);
}

/// The tables lie in memory that the program can write.
#[test]
fn tables_of_nonsense_are_survived() {
    let mut scene = three_functions();
    let mut random = 3u64;
    let mut next = || {
        random = random
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        random
    };
    for index in 0..2 * PAGE / 8 {
        scene.put(index, if index % 3 == 0 { CODE + next() % 0x400 } else { next() });
    }
    for round in 0..20_000 {
        let offset = match round % 4 {
            0 => next() % PAGE_BYTES,
            1 => CACHE_OFFSET + next() % (8 * CACHE_ENTRIES as u64),
            2 => INDEX_OFFSET + next() % 256,
            _ => ROWS_OFFSET + next() % (8 * ROWS_MAX as u64),
        };
        // The stack's bounds are what a walk relies on: the tool rewrites them, and a program that scribbles over
        // them reads its own memory.
        if offset / 8 != 1 && offset / 8 != 2 {
            scene.word_at(offset & !7).store(next() >> (next() % 64), Relaxed);
        }
        let (frames, _) = scene.walk(CODE + next() % 0x400, scene.at((next() % 1000) as usize), next());
        assert!(frames.len() <= 2 * PAGE / 8);
    }
}
