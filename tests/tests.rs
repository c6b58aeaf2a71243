//! One test binary; the public command line is its only door. It runs the real program on real interpreters and
//! reads what it wrote with upstream's reader, which shares no code with ours.
//!
//! `MEMRAY_TEST_UPSTREAM` names the interpreter of upstream's reader (`scripts/upstream_reader` prints it);
//! `MEMRAY_TEST_SKIPS` a file that collects what was skipped; `MEMRAY_TEST_REQUIRE_ALL=1` turns skips into failures.

/// Interpreters, targets, the program under test, upstream's reader, snapshots of a process.
#[macro_use]
mod support;

/// `--aggregate`, and captures of which no file is kept.
mod aggregate;
/// Other allocators in the place of the C library's.
mod allocators;
/// Every way in which a library may be bound to the allocation functions.
mod bindings;
/// Targets that do one thing over and over in native code and check each result.
mod busy;
/// What the command line says about itself, and its usage errors.
mod command_line;
/// Ends of a window by condition: resident memory, the capture's size, room on its disk.
mod conditions;
/// 500 attaches and detaches while four threads allocate and check what they stored.
mod cycles;
/// `scripts/demo`, the README's first command.
mod demo;
/// `doctor`: says what attach would, changes nothing, repairs when asked to.
mod doctor;
/// Interpreters inside of other programs.
mod embedded;
/// Targets that end or execute another program at any moment.
mod endings;
/// Programs that log their own allocations: each record right, none missing, none extra.
mod exact;
/// What else befalls the tool: stopped, hung up, out of disk, its guardian or its whole process group killed.
mod faults;
/// `transform`, `table` and `flamegraph`: files that other programs read.
mod files;
/// The pages of `flamegraph` and `table`, used in a real browser.
mod flamegraph;
/// Children that are tracked along with their parent.
mod follow;
/// A target that forks in the window.
mod fork;
/// Which test or place holds each rule against harming a target.
mod hazards;
/// Which slots are hooked in the window, and that none is after it.
mod hooking;
/// Targets, names and files that are out to harm the tool, the user or somebody else.
mod hostile;
/// Captures that somebody has cut, altered or made up, in every report.
mod hostile_captures;
/// Targets that are blocked in a system call: attached as fast, and their call is what it would have been.
mod idle;
/// Captures from pipes, cut ones, those of older releases.
mod inputs;
/// The tool killed in the middle of an attach.
mod killed;
/// What is different in a process after detach.
mod leftovers;
/// `attach --live`: what lives while it lives, driven by keys and read from the screen.
mod live;
/// `live`: sessions of other memrays, watched from any terminal.
mod live_elsewhere;
/// What a capture lacks: counted by cause, at the head of every report, and never called a leak.
mod losses;
/// Several processes at once, and the list of those that there are.
mod many;
/// Which kind of interpreter does what: the table that `scripts/test` prints.
mod matrix;
/// Modes and JSON of reports, against upstream's reader.
mod modes;
/// Names, files and lines of native frames: in the capture, in reports, in the answer.
mod native_names;
/// `attach --native`: native stacks as glibc's own unwinder has them, and as upstream's reader merges them.
mod native_stacks;
/// The Debian package and the wheel.
mod package;
/// Processes of a container, tracked from a place beside or inside of it with few rights.
mod places_beside;
/// Targets whose files are deleted or replaced on disk while they run.
mod places_files;
/// Targets whose limits are nearly reached.
mod places_limits;
/// Targets in namespaces and containers.
mod places_namespaces;
/// Whose processes may be tracked by whom.
mod places_privileges;
/// Targets under a seccomp filter.
mod places_seccomp;
/// Pointers to hooks that the target keeps, and threads that are inside of them, after detach.
mod pointers;
/// Python's own allocators: every object, once, by the name of its domain's function.
mod python_allocators;
/// Stacks of the rarer kinds: long names, no line table, other interpreters, greenlets, profile functions.
mod python_stacks;
/// The commands that the README shows.
mod readme;
/// What can't be attached to or read: one line with the cause, one with the fix, nothing touched.
mod refusals;
/// `summary` and `parse`, on our captures and on upstream's, against upstream's reader.
mod reports;
/// `run`: programs from their first line to their end.
mod run;
/// `run --live`, `run --live-remote`: the screen, the program, and who ends whom.
mod run_live;
/// Whose function a slot stands for where there is more than one of a name.
mod scopes;
/// Real services from PyPI under load.
mod services;
/// Lines of source code in captures: the target's own, and nobody else's.
mod source_lines;
/// Threads on alternate, coroutine, small and full stacks: not a byte is changed that is not theirs.
mod stacks;
/// Stopped, traced, vforking, shutting down, embedded, of another kind: attached to, or refused with the cause.
mod states;
/// `status`: which sessions there are, whoever asks from wherever, and what became of them.
mod status;
/// A bounded part of `scripts/storm`.
mod storm;
/// What threads are called.
mod thread_names;
/// `tree`: calls from the outermost in, against upstream's reader.
mod tree;
/// `tree` on a terminal: driven by keys, read from its screen.
mod tree_terminal;
/// Libraries that are unloaded while hooked.
mod unloading;
/// Native code blocked in each system call that waits: its result and its time are what they would have been.
mod waits;
/// How a window begins and ends.
mod window;
