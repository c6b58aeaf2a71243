//! Every way in which tracking a live process could harm it or mislead its reader, and where the rule against it is held: by
//! tests that fail when the rule is broken or, where there can be none, at the place that obeys it.

use crate::support::root;

/// What holds a rule.
enum Held {
    /// A test: its file and its name.
    Test(&'static str, &'static str),
    /// A place that obeys it, known by words that stand there.
    Place(&'static str, &'static str),
}

use Held::{Place, Test};

const RULES: &[(&str, &[Held])] = &[
    (
        "the real function is what a slot is bound to, never a lazy stub",
        &[
            Test("tests/bindings.rs", "no_relro_lazy"),
            Test("tests/exact.rs", "native_calls"),
        ],
    ),
    (
        "a value in an executable's PLT is followed to the function",
        &[
            Test("tests/hooking.rs", "every_slot"),
            Test("tests/bindings.rs", "no_plt"),
        ],
    ),
    (
        "an address in our own landing is never an original",
        &[
            Test("tests/pointers.rs", "a_copied_pointer_leads_to_the_landing"),
            Test("tests/cycles.rs", "five_hundred"),
        ],
    ),
    (
        "read, compare, write; aligned words are written whole",
        &[
            Test("inject/src/linux/self_test.rs", "words_are_written_whole_here"),
            Test("tests/unloading.rs", "the_memory_of_others_is_not_written"),
        ],
    ),
    (
        "a kernel may forbid writes to read-only pages",
        &[Test(
            "inject/src/linux/self_test.rs",
            "read_only_pages_can_be_written_here",
        )],
    ),
    (
        "glibc's own slots are hooked; what cannot be seen is said",
        &[
            Test("tests/hooking.rs", "every_slot"),
            Place("README.md", "## What it does not see"),
        ],
    ),
    (
        "the loader's hooks only look, and new modules are hooked before they run",
        &[
            Test(
                "src/session/payload/driven.rs",
                "the_loader_hooks_keep_arguments_and_the_callers_return_address",
            ),
            Test("payload/src/modules.rs", "a_dlsym_waits_until_the_tool_has_hooked"),
        ],
    ),
    (
        "an interrupted system call goes on or is another thread's",
        &[
            Test("tests/waits.rs", "endless_calls_go_on"),
            Test("tests/waits.rs", "another_thread_is_preferred"),
            Test("tests/waits.rs", "calls_that_cannot_go_on_are_waited_out"),
        ],
    ),
    (
        "the frame's pages are mapped and inside the stack",
        &[
            Test("tests/stacks.rs", "a_stack_without_room_is_waited_for"),
            Test("tests/stacks.rs", "small_thread_stacks"),
        ],
    ),
    (
        "no made-up frame under user shadow stacks",
        &[Place("inject/src/linux/facts.rs", "\"x86_Thread_features\"")],
    ),
    (
        "the ring's memory is sized and sealed from outside, its limits looked at first",
        &[
            Test("tests/places_limits.rs", "no_file_may_grow"),
            Test("tests/places_limits.rs", "no_free_descriptor"),
            Test("tests/places_limits.rs", "nearly_as_many_mappings_as_permitted"),
            Test("tests/hostile.rs", "a_target_that_writes_into_the_ring_harms_nobody"),
        ],
    ),
    (
        "text without an executable memfd",
        &[
            Test("tests/places_limits.rs", "no_new_executable_memory"),
            Test("tests/places_seccomp.rs", "memfds_without_execution"),
        ],
    ),
    (
        "the thread state by loads alone, proven for every thread",
        &[
            Test("src/python/tests/stacks.rs", "frames_and_recipe_are_the_programs_own"),
            Test(
                "payload/src/walk/tests.rs",
                "a_thread_without_python_is_empty_and_one_that_must_not_be_walked_is_unsafe",
            ),
            Test("src/session/payload/promises.rs", "it_needs_nobody"),
        ],
    ),
    (
        "no remembered frame is dereferenced",
        &[Place("payload/src/walk.rs", "Why the chain holds still")],
    ),
    (
        "free and munmap never walk, and nothing does once the runtime finalises",
        &[
            Place("payload/src/hooks.rs", "never walk (hazard 15)"),
            Test(
                "payload/src/walk/tests.rs",
                "finalisation_ends_a_walk_that_is_under_way",
            ),
        ],
    ),
    (
        "a thread is its pointer and its kernel id; entries of dead ones are freed",
        &[
            Test("payload/src/models/busy.rs", "loom_freed_or_taken_over"),
            Test(
                "payload/src/thread.rs",
                "a_full_neighbourhood_passes_through_and_is_counted",
            ),
        ],
    ),
    (
        "a busy mark left behind is broken, and that is harmless",
        &[
            Test(
                "payload/src/thread.rs",
                "a_busy_thread_passes_through_until_the_mark_is_broken",
            ),
            Test("payload/src/models/busy.rs", "loom_broken_mark"),
        ],
    ),
    (
        "what precedes a call is tentative until its outcome",
        &[
            Test(
                "src/collect/collector_tests.rs",
                "a_realloc_frees_and_allocates_and_a_failed_one_does_neither",
            ),
            Test(
                "src/session/payload/driven.rs",
                "what_failed_is_recorded_as_what_happened_and_errno_stays",
            ),
        ],
    ),
    (
        "every load from foreign memory is listed with its reason",
        &[
            Place(
                "payload/src/walk.rs",
                "Every load from memory that is not ours (hazard 19)",
            ),
            Test("payload/src/callers/tests.rs", "nothing_outside_of_the_stack_is_read"),
            Test("payload/src/callers/tests.rs", "tables_of_nonsense_are_survived"),
        ],
    ),
    (
        "Python's allocator tables are written under conditions only",
        &[
            Test("tests/python_allocators.rs", "replaced_while_windows_come_and_go"),
            Test("tests/python_allocators.rs", "tracemalloc_across_windows"),
            Test("tests/python_allocators.rs", "killed"),
            Place("src/session/exchange.rs", "(hazard 20)"),
        ],
    ),
    (
        "a slot that is given up on stays out of use; a late body tears nothing",
        &[
            Test("payload/src/models/ring.rs", "loom_given_up_or_committed"),
            Test(
                "payload/src/ring/tests.rs",
                "dead_slots_are_passed_over_and_never_written",
            ),
        ],
    ),
    (
        "waiting is a budget of all threads",
        &[
            Test(
                "payload/src/ring/tests.rs",
                "all_waiting_stays_within_the_budget_of_a_second",
            ),
            Place("src/session/target.rs", "may spin for room in the ring"),
        ],
    ),
    (
        "a forked child finds the flag off and the ring mapped",
        &[
            Test("tests/fork.rs", "no_kind_of_child_is_recorded"),
            Test(
                "tests/fork.rs",
                "a_child_of_a_signal_handler_does_not_finish_its_parents_hook",
            ),
            Test(
                "src/session/payload/driven.rs",
                "a_fork_child_is_not_recorded_where_its_flag_was_wiped",
            ),
        ],
    ),
    (
        "a stack is sent at least once",
        &[
            Test(
                "payload/src/sent.rs",
                "a_full_bucket_pushes_out_exactly_one_and_only_in_its_own_bucket",
            ),
            Test("payload/src/stack/tests.rs", "deep_stacks_come_in_pieces_that_fit"),
        ],
    ),
    (
        "the ring is small, and its share in the target's memory is taken out",
        &[
            Test(
                "src/session/headroom.rs",
                "the_ring_counts_where_the_tool_shares_the_cgroup",
            ),
            Place("src/collect/collector.rs", "that its RSS therefore shows"),
        ],
    ),
    (
        "ring, busy marks and re-attach are model-checked",
        &[
            Test("payload/src/models/ring.rs", "loom_records_come_out_whole"),
            Test("payload/src/models/busy.rs", "loom_claimed_by_one"),
            Test("payload/src/models/reattach.rs", "loom_one_session_or_none"),
            Test("payload/src/models/reattach.rs", "loom_a_late_writer"),
        ],
    ),
    (
        "the journal is written before the slot, and repairs by itself",
        &[
            Test("tests/killed.rs", "at_some_calls"),
            Test("tests/window.rs", "marks_of_a_killed_tool_and_guardian_are_repaired"),
            Test("tests/hostile.rs", "a_mark_that_names_somebody_else_ends_nobody"),
        ],
    ),
    (
        "flag off, drain, free the ring, slots, reservations; nothing is mapped where a writer may be",
        &[
            Test("tests/leftovers.rs", "one_leaves_little_and_a_hundred_leave_the_same"),
            Test("payload/src/models/reattach.rs", "loom_a_late_writer"),
        ],
    ),
    (
        "tool and guardian hold the target from attach on, and do not fall together",
        &[
            Test("tests/window.rs", "a_killed_tools_guardian_puts_the_target_back"),
            Place("src/session/mod.rs", "Opened now, while the right to do so is certain"),
        ],
    ),
    (
        "one's own process is attached to from another",
        &[Place("inject/src/linux/facts.rs", "Obstacle::Oneself")],
    ),
];

#[test]
fn every_rule_is_held_somewhere() {
    assert_eq!(RULES.len(), 30, "there are thirty rules");
    for (index, (rule, held)) in RULES.iter().enumerate() {
        let number = index + 1;
        assert!(!held.is_empty(), "rule {number}, {rule}, is held by nothing");
        for held in *held {
            let (file, words) = match held {
                Test(file, name) => (file, (*name).to_owned()),
                Place(file, words) => (file, (*words).to_owned()),
            };
            let text = std::fs::read_to_string(root().join(file))
                .unwrap_or_else(|error| panic!("rule {number}, {rule}: {file}: {error}"));
            let is_there = match held {
                Test(..) => text.contains(&format!("fn {words}(")),
                _ => text.contains(&words),
            };
            assert!(is_there, "rule {number}, {rule}: {words:?} in {file}");
        }
    }
}
