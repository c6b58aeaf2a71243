//! memray: memory profiling of a Python process that is already in production.
//!
//! One idea carries it: write memory into the running process, call no function in it. The way of the data:
//!
//! ```text
//! target: GOT slots → payload → ring ⇒ collect → capture → analyze → report → terminal
//!               ▲ inject, python: session                            cli, ui
//! ```
//!
//! - [`cli`]: commands, flags, exit codes; the one match on the subcommand.
//! - [`session`]: a window on a process, from preflight to detach, and repair after a crash.
//! - [`python`]: CPython as data: where its structures lie, and the proof that they do.
//! - [`unwind`]: the modules' unwind tables as the payload's unwinder wants them.
//! - [`collect`]: drains the ring into the capture.
//! - [`capture`]: the file format, its writer and its reader.
//! - [`symbolize`]: native addresses to functions, files and lines.
//! - [`analyze`]: pure functions from records to tables; [`report`]: tables to text; [`view`]: tables and keys to what
//!   stands on a screen; [`ui`]: the terminal.
//!
//! Beside this crate stand `inject`, which stops, reads and changes the target and knows nothing of Python or of
//! memray; `payload`, the freestanding code that runs in the target, built and embedded by
//! `scripts/build_payload.rs`; and `payload/wire`, the bytes that both sides share.

mod analyze;
mod capture;
mod cli;
mod collect;
mod python;
mod report;
mod session;
mod symbolize;
mod ui;
mod unwind;
mod view;

fn main() -> std::process::ExitCode {
    cli::run()
}
