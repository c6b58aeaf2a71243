use super::*;
use crate::testing::python::{Entered, FakePython, VERSIONS};

/// Everything that a walk from the innermost frame yields, and how it ended.
fn walk(python: &FakePython) -> (Vec<Frame>, Step) {
    let mut frames = Vec::new();
    // SAFETY: the layout describes the fake; its objects live as long as it does.
    let mut walk = unsafe {
        match innermost(&python.layout, python.thread_pointer) {
            Start::Frame(frame) => Walk::new(&python.layout, frame),
            other => panic!("no walk: {other:?}"),
        }
    };
    loop {
        match walk.step() {
            Step::Frame(frame) => frames.push(frame),
            end => return (frames, end),
        }
    }
}

fn start(python: &FakePython) -> Start {
    // SAFETY: as in `walk`.
    unsafe { innermost(&python.layout, python.thread_pointer) }
}

/// Whether a frame was entered by C, as each version says it.
fn entry_bit(minor: u32, entered: Entered) -> u32 {
    if minor <= 10 || entered == Entered::ByC {
        FRAME_ENTRY
    } else {
        0
    }
}

#[test]
fn frames_come_innermost_first_with_offset_and_entry_in_every_layout() {
    for minor in VERSIONS {
        let python = FakePython::new(minor);
        let calls = [
            (python.function("<module>"), 2, Entered::ByC),
            (python.function("outer"), 40, Entered::ByPython),
            (python.function("callback"), 0, Entered::ByC),
            (python.function("inner"), 1234, Entered::ByPython),
        ];
        for (code, offset, entered) in calls {
            python.call(code, offset, entered);
        }
        let expected: Vec<Frame> = calls
            .iter()
            .rev()
            .map(|(code, offset, entered)| Frame {
                code: *code,
                position: (offset + FRAME_OFFSET_BIAS) as u32 | entry_bit(minor, *entered),
            })
            .collect();
        assert_eq!(walk(&python), (expected, Step::End), "3.{minor}");
    }
}

#[test]
fn a_frame_that_has_not_started_has_the_bias_alone() {
    for minor in VERSIONS {
        let python = FakePython::new(minor);
        python.call(python.function("f"), -1, Entered::ByC);
        // One code unit before the first, as 3.11 and 3.12 have it.
        python.call(python.function("g"), if minor >= 11 { -2 } else { -1 }, Entered::ByC);
        let (frames, _) = walk(&python);
        assert_eq!(
            frames.iter().map(|frame| frame.position).collect::<Vec<_>>(),
            [FRAME_ENTRY; 2],
            "3.{minor}"
        );
    }
}

#[test]
fn an_offset_too_large_for_its_bits_is_no_offset() {
    let python = FakePython::new(12);
    python.call(python.function("f"), i32::MAX, Entered::ByC);
    assert_eq!(walk(&python).0[0].position, FRAME_ENTRY);
}

#[test]
fn what_is_not_a_code_object_is_passed_over() {
    for minor in VERSIONS {
        let python = FakePython::new(minor);
        let outer = python.function("outer");
        python.call(outer, 4, Entered::ByC);
        python.push_frame(0, 0);
        python.push_frame(python.string("not code"), 0);
        python.push_frame(outer + 4, 0);
        let inner = python.function("inner");
        python.call(inner, 6, Entered::ByPython);
        let codes: Vec<u64> = walk(&python).0.iter().map(|frame| frame.code).collect();
        assert_eq!(codes, [inner, outer], "3.{minor}");
    }
}

#[test]
fn a_thread_without_python_is_empty_and_one_that_must_not_be_walked_is_unsafe() {
    for minor in VERSIONS {
        let mut python = FakePython::new(minor);
        assert_eq!(start(&python), Start::Empty, "3.{minor}: no frame");
        python.call(python.function("f"), 2, Entered::ByC);
        assert!(matches!(start(&python), Start::Frame(_)));
        python.put(python.layout.finalizing, 0, 1);
        assert_eq!(start(&python), Start::Unsafe, "3.{minor}: finalising");
        python.put(python.layout.finalizing, 0, 0);
        python.put(
            python.thread_state,
            python.layout.tstate_thread_id,
            python.thread_pointer + 64,
        );
        assert_eq!(start(&python), Start::Unsafe, "3.{minor}: another thread's state");
        python.put(python.thread_pointer, python.layout.tstate_offset, 0);
        assert_eq!(start(&python), Start::Empty, "3.{minor}: no thread state");
        python.layout.tstate_second = 24;
        assert_eq!(start(&python), Start::Empty, "3.{minor}: no second level");
    }
}

#[test]
fn a_thread_state_in_the_second_level_is_found() {
    let mut python = FakePython::new(8);
    python.call(python.function("f"), 2, Entered::ByC);
    let block = python.object(64);
    python.put(block, 24, python.thread_state);
    python.put(python.thread_pointer, python.layout.tstate_offset, block);
    python.layout.tstate_second = 24;
    assert_eq!(walk(&python).0.len(), 1);
}

#[test]
fn finalisation_ends_a_walk_that_is_under_way() {
    let python = FakePython::new(13);
    for _ in 0..FINALIZING_CHECK_FRAMES * 3 {
        python.call(python.function("f"), 2, Entered::ByPython);
    }
    let Start::Frame(frame) = start(&python) else {
        panic!("no frame")
    };
    // SAFETY: as in `walk`.
    let mut walk = unsafe { Walk::new(&python.layout, frame) };
    assert!(matches!(walk.step(), Step::Frame(_)));
    python.put(python.layout.finalizing, 0, 1);
    let further = (0..).take_while(|_| matches!(walk.step(), Step::Frame(_))).count();
    assert!(further < FINALIZING_CHECK_FRAMES as usize, "{further} frames further");
    assert_eq!(walk.step(), Step::Broken);
}

#[test]
fn a_chain_without_end_is_broken_and_so_is_a_crooked_one() {
    for minor in VERSIONS {
        let python = FakePython::new(minor);
        let code = python.function("f");
        let outermost = python.push_frame(code, 0);
        python.put(outermost, python.layout.frame_previous, python.push_frame(code, 0));
        let (frames, end) = walk(&python);
        assert_eq!(
            (frames.len() as u32, end),
            (FRAMES_MAX, Step::Broken),
            "3.{minor}: a circle"
        );
        let shims = FakePython::new(minor);
        let shim = shims.push_frame(0, 3);
        shims.put(shim, shims.layout.frame_previous, shim);
        assert_eq!(walk(&shims), (Vec::new(), Step::Broken), "3.{minor}: a circle of shims");
        python.put(outermost, python.layout.frame_previous, code + 4);
        assert_eq!(walk(&python).1, Step::Broken, "3.{minor}: not a frame");
    }
}
