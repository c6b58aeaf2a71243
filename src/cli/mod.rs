//! Commands, flags, their help, and exit codes: 0 done, 1 failed, 2 usage.

mod attach;
mod bytes;
mod doctor;
mod duration;
mod examples;
mod failure;
mod file_args;
mod generate;
mod join;
mod live;
mod many;
mod ps;
mod reports;
mod run;
mod say;
mod status;
mod tail;
mod targets;
mod watch;
mod window_args;

use crate::session;
use clap::{ArgAction, Args, CommandFactory, FromArgMatches, Parser, Subcommand};
use file_args::{ConfidentialFiles, FlamegraphArgs, TableArgs, TransformArgs, TransformFormat};
use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;
use targets::TargetArgs;
use window_args::WindowArgs;

/// `memray -V`: version, capture versions, build target.
const VERSION: &str = concat!(
    env!("CARGO_PKG_VERSION"),
    " (reads captures v12 and v13, writes v13; built for ",
    env!("MEMRAY_TARGET"),
    ")"
);

/// Memory profiling of a Python process that is already in production.
#[derive(Parser)]
#[command(
    name = "memray",
    version = VERSION,
    disable_help_subcommand = true,
    // A screen of 80 by 24, with what a bad night wants first.
    help_template = "{about}\n\n{subcommands}\n\nExamples of each: memray COMMAND --help. Version: memray -V"
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// List the Python processes, and whether attach to each would work
    Ps(PsArgs),
    /// Track the allocations of running processes, say what they keep
    Attach(AttachArgs),
    /// End the tracking of a process, clean up after a crash of memray
    Detach(DetachArgs),
    /// Watch a session that runs elsewhere: what lives while it does
    Live(LiveArgs),
    /// Start a program and track it from its first line to its end
    Run(RunArgs),
    /// Say whether attach would work, and what helps if not
    Doctor(DoctorArgs),
    /// List the processes that are being tracked
    Status(StatusArgs),
    /// Show which functions hold the memory
    Summary(SummaryArgs),
    /// Show which lines hold what was never freed, what is young apart
    Leaks(LeaksArgs),
    /// Show the calls that led to the memory, as a tree
    Tree(TreeArgs),
    /// Show which lines hold more and more, and how fast
    Growth(GrowthArgs),
    /// Show what changed from one capture to another
    Diff(DiffArgs),
    /// Show which lines hold the memory, by allocator; also as HTML
    Table(TableArgs),
    /// Write a flame graph: one HTML page that needs nothing else
    Flamegraph(FlamegraphArgs),
    /// Write the stacks in another tool's format
    Transform(TransformArgs),
    /// Show how much was allocated, in which sizes, by what and where
    Stats(StatsArgs),
    /// Print every record of a capture, one a line
    Parse(ParseArgs),
    /// Prints shell completions or writes man pages
    #[command(hide = true)]
    Generate(GenerateArgs),
    /// Waits until the tracking process ends and cleans up behind it
    #[command(hide = true)]
    Guardian {
        pid: i32,
        tool_pid: i32,
        tool_start_ticks: u64,
    },
}

#[derive(Args)]
struct AttachArgs {
    #[command(flatten)]
    targets: TargetArgs,
    #[command(flatten)]
    window: WindowArgs,
    /// Return once tracking is live and go on in the background [default with -o and no --duration]
    #[arg(long, conflicts_with = "foreground")]
    background: bool,
    /// Stay until the window ends and print the answer
    #[arg(long)]
    foreground: bool,
    /// Show what lives while it does [default on a terminal without -o and --duration]
    #[arg(long, conflicts_with_all = ["background", "foreground", "collector", "json"])]
    live: bool,
    /// Print the answer as one JSON object
    #[arg(long)]
    json: bool,
    /// How upstream would get in
    #[arg(long, hide = true, value_name = "METHOD")]
    method: Option<String>,
    /// The collector of a background window, started by memray itself
    #[arg(long, hide = true)]
    collector: bool,
    /// The collector of a program that memray started: it keeps its standard error
    #[arg(long, hide = true, requires = "collector")]
    runner: bool,
    /// Such a collector where the terminal is a view's: it lets go of standard error, too
    #[arg(long, hide = true, requires = "runner")]
    watched: bool,
    /// Such a collector that keeps its standard output open until somebody has joined
    #[arg(long, hide = true, requires = "runner")]
    awaited: bool,
    /// The collector of a child; the number is that of the memray that started it
    #[arg(long, hide = true, requires = "collector")]
    follower: Option<i32>,
    /// What the names of children's captures begin with
    #[arg(long, hide = true)]
    follow_base: Option<PathBuf>,
}

#[derive(Args)]
#[command(override_usage = "memray run [OPTIONS] [-m MODULE | -c COMMAND | FILE] [ARGS]...")]
struct RunArgs {
    #[command(flatten)]
    window: WindowArgs,
    /// Run this module (as python -m); options end here
    #[arg(short, conflicts_with = "command")]
    module: bool,
    /// Run this command (as python -c)
    #[arg(short)]
    command: bool,
    /// Show what lives while the program runs; its output goes nowhere, its errors are shown at the end
    #[arg(long, conflicts_with = "live_remote")]
    live: bool,
    /// Begin once somebody watches from elsewhere: memray live PID
    #[arg(long)]
    live_remote: bool,
    /// A port, as upstream's live view has
    #[arg(short = 'p', long, hide = true, value_name = "PORT")]
    live_port: Option<String>,
    /// The interpreter [default: that of the active virtual environment, else python3]
    #[arg(long, value_name = "PATH")]
    python: Option<OsString>,
    /// A script, or what -m or -c name, and arguments of its own
    #[arg(value_name = "FILE", required = true, trailing_var_arg = true)]
    program: Vec<OsString>,
}

#[derive(Args)]
struct LiveArgs {
    /// The process that is tracked
    #[arg(value_name = "PID", value_parser = clap::value_parser!(i32).range(1..))]
    pid: i32,
}

#[derive(Args)]
struct DetachArgs {
    #[command(flatten)]
    targets: TargetArgs,
    /// How upstream would get in
    #[arg(long, hide = true, value_name = "METHOD")]
    method: Option<String>,
    /// Say what is done
    #[arg(short, long, action = ArgAction::Count)]
    verbose: u8,
}

#[derive(Args)]
struct DoctorArgs {
    /// The process to look at; without it, this machine
    #[arg(value_name = "PID", value_parser = clap::value_parser!(i32).range(1..))]
    pid: Option<i32>,
    /// Clean up first what a killed memray left or a parent handed down; without this nothing is changed
    #[arg(long, requires = "pid")]
    repair: bool,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

#[derive(Args)]
struct StatusArgs {
    /// Only this process, whoever tracks it
    #[arg(value_name = "PID", value_parser = clap::value_parser!(i32).range(1..))]
    pid: Option<i32>,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// Which blocks a report is about; upstream's names.
#[derive(Args)]
struct ModeArgs {
    /// Show what was still live at the end instead of the high-water mark
    #[arg(long, group = "mode")]
    leaks: bool,
    /// Show what was freed after at most one other allocation of its thread
    #[arg(long, group = "mode")]
    temporary_allocations: bool,
    /// Show what was freed after at most N other allocations of its thread
    #[arg(long, value_name = "N", group = "mode")]
    temporary_allocation_threshold: Option<u64>,
}

/// Where a report goes, and as what.
#[derive(Args)]
struct OutputArgs {
    /// Print one JSON object
    #[arg(long)]
    json: bool,
    /// Write the report to this file
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Overwrite the file if it exists
    #[arg(short, long, requires = "output")]
    force: bool,
}

#[derive(Args)]
struct PsArgs {
    /// Only those whose executable, script or module has this name
    #[arg(value_name = "NAME")]
    name: Option<String>,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

#[derive(Args)]
struct GenerateArgs {
    #[command(subcommand)]
    what: GenerateWhat,
}

#[derive(Subcommand)]
enum GenerateWhat {
    /// Prints a completion script
    Completions { shell: clap_complete::Shell },
    /// Writes a man page for each command into a directory
    Man { directory: PathBuf },
}

/// What a table in the terminal shows.
#[derive(Args)]
struct RowsArgs {
    /// Show at most this many rows [default: what fits the terminal]
    #[arg(short = 'r', long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    max_rows: Option<u32>,
    /// Show native functions among those of Python, where they were recorded
    #[arg(long)]
    native: bool,
}

#[derive(Args)]
struct LeaksArgs {
    /// A capture
    #[arg(value_name = "FILE")]
    results: PathBuf,
    #[command(flatten)]
    rows: RowsArgs,
    #[command(flatten)]
    output: OutputArgs,
}

#[derive(Args)]
struct GrowthArgs {
    /// A capture
    #[arg(value_name = "FILE")]
    results: PathBuf,
    #[command(flatten)]
    rows: RowsArgs,
    #[command(flatten)]
    output: OutputArgs,
}

#[derive(Args)]
struct DiffArgs {
    /// The earlier capture
    #[arg(value_name = "BEFORE")]
    before: PathBuf,
    /// The later capture
    #[arg(value_name = "AFTER")]
    after: PathBuf,
    #[command(flatten)]
    mode: ModeArgs,
    /// Compare lines, not functions
    #[arg(long)]
    by_line: bool,
    #[command(flatten)]
    rows: RowsArgs,
    #[command(flatten)]
    output: OutputArgs,
}

#[derive(Args)]
struct SummaryArgs {
    /// A capture
    #[arg(value_name = "FILE")]
    results: PathBuf,
    /// Sort by this column, 1 to 5 [default: 1]
    #[arg(short, long, value_name = "N", value_parser = clap::value_parser!(u8).range(1..=5))]
    sort_column: Option<u8>,
    #[command(flatten)]
    rows: RowsArgs,
    /// Show threads apart
    #[arg(long)]
    threads: bool,
    /// Show lines apart, not only functions
    #[arg(long)]
    by_line: bool,
    #[command(flatten)]
    mode: ModeArgs,
    #[command(flatten)]
    output: OutputArgs,
}

#[derive(Args)]
struct TreeArgs {
    /// A capture
    #[arg(value_name = "FILE")]
    results: PathBuf,
    /// Show this many of the largest stacks [default: 200 in text, else all]
    #[arg(short, long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    biggest_allocs: Option<u32>,
    #[command(flatten)]
    mode: ModeArgs,
    /// Show native functions among those of Python, where they were recorded
    #[arg(long)]
    native: bool,
    /// Print text on a terminal, too
    #[arg(long)]
    text: bool,
    /// Print one JSON object
    #[arg(long, conflicts_with = "text")]
    json: bool,
}

#[derive(Args)]
struct StatsArgs {
    /// A capture
    #[arg(value_name = "FILE")]
    results: PathBuf,
    /// Show this many of the largest lines and modules
    #[arg(short, long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    num_largest: u32,
    /// Write a JSON file instead
    #[arg(long)]
    json: bool,
    // Not a doc comment, where <name> would be an HTML tag.
    #[arg(
        short,
        long,
        value_name = "FILE",
        requires = "json",
        help = "Name of the JSON file, - for standard output [default: memray-stats-<name>.json beside the capture]"
    )]
    output: Option<PathBuf>,
    /// Overwrite the JSON file if it exists
    #[arg(short, long)]
    force: bool,
}

#[derive(Args)]
struct ParseArgs {
    /// A capture
    #[arg(value_name = "FILE")]
    results: PathBuf,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// All commands, each with its examples.
fn command() -> clap::Command {
    let with_examples = |command: clap::Command, &(name, text): &(&'static str, &'static str)| {
        command.mut_subcommand(name, |it| it.after_help(text))
    };
    examples::EXAMPLES.iter().fold(Cli::command(), with_examples)
}

/// Runs the command line.
pub fn run() -> ExitCode {
    let parsed = command().try_get_matches();
    let cli = match parsed.and_then(|matches| Cli::from_arg_matches(&matches)) {
        Ok(cli) => cli,
        Err(error) => {
            // Help and version are no errors; clap knows which.
            let _ = error.print();
            return ExitCode::from(if error.use_stderr() { 2 } else { 0 });
        }
    };
    let outcome = match cli.command {
        Command::Attach(args) => attach::attach(args),
        Command::Live(args) => join::live(&args),
        Command::Run(args) => run::run(&args),
        Command::Detach(args) => attach::detach(&args),
        Command::Ps(args) => Ok(ps::ps(&args)),
        Command::Generate(args) => done(generate::generate(&args)),
        Command::Doctor(args) => Ok(doctor::doctor(&args)),
        Command::Status(args) => status::status(&args),
        Command::Summary(args) => done(reports::summary(&args)),
        Command::Tree(args) => done(reports::tree(&args)),
        Command::Leaks(args) => done(reports::leaks(&args)),
        Command::Growth(args) => done(reports::growth(&args)),
        Command::Diff(args) => done(reports::diff(&args)),
        Command::Table(args) => done(reports::table(&args)),
        Command::Flamegraph(args) => done(reports::flamegraph(&args)),
        Command::Transform(args) => done(reports::transform(&args)),
        Command::Stats(args) => done(reports::stats(&args)),
        Command::Parse(args) => done(reports::parse(&args)),
        Command::Guardian {
            pid,
            tool_pid,
            tool_start_ticks,
        } => {
            session::guard(pid, tool_pid, tool_start_ticks);
            Ok(ExitCode::SUCCESS)
        }
    };
    match outcome {
        Ok(code) => code,
        Err(failure) => {
            failure.print();
            ExitCode::FAILURE
        }
    }
}

fn done(outcome: Result<(), failure::Failure>) -> Result<ExitCode, failure::Failure> {
    outcome.map(|()| ExitCode::SUCCESS)
}
