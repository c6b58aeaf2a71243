//! memray: memory profiling of a Python process that is already in production.

mod analyze;
mod capture;
mod cli;
mod collect;
mod python;
mod report;
mod session;
mod ui;

fn main() -> std::process::ExitCode {
    cli::run()
}
