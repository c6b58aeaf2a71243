//! Flags of the reports that are files: upstream's names.

use super::ModeArgs;
use clap::{Args, ValueEnum};
use std::path::PathBuf;

#[derive(Args)]
pub struct TransformArgs {
    /// What to make of it
    pub format: TransformFormat,
    /// A capture
    #[arg(value_name = "FILE")]
    pub results: PathBuf,
    // Not a doc comment, where <name> would be an HTML tag.
    #[arg(
        short,
        long,
        value_name = "FILE",
        help = "Name of the file, - for standard output [default: memray-<format>-<name> beside the capture]"
    )]
    pub output: Option<PathBuf>,
    /// Overwrite the file if it exists
    #[arg(short, long)]
    pub force: bool,
    #[command(flatten)]
    pub mode: ModeArgs,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
#[value(rename_all = "lower")]
pub enum TransformFormat {
    /// A row for each stack and allocator, for spreadsheets and scripts
    Csv,
    /// Call chains, for gprof2dot -f json
    Gprof2dot,
    /// For the viewer at speedscope.app
    Speedscope,
    /// A line for each stack, for flame graph scripts: frames; from; the; root BYTES
    Folded,
    /// For pprof: a compressed protocol buffer
    Pprof,
}

#[derive(Args)]
pub struct TableArgs {
    /// A capture
    #[arg(value_name = "FILE")]
    pub results: PathBuf,
    /// Show at most this many rows in the terminal [default: what fits it]
    #[arg(short = 'r', long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub max_rows: Option<u32>,
    // Not a doc comment, where <name> would be an HTML tag.
    #[arg(
        long,
        help = "Write an HTML page instead: memray-table-<name>.html beside the capture"
    )]
    pub html: bool,
    /// Print one JSON object
    #[arg(long, conflicts_with = "html")]
    pub json: bool,
    /// Write an HTML page of this name, - for standard output; with --json that object
    #[arg(short, long, value_name = "FILE")]
    pub output: Option<PathBuf>,
    /// Overwrite the file if it exists
    #[arg(short, long)]
    pub force: bool,
    /// Show threads apart
    #[arg(long)]
    pub split_threads: bool,
    /// Pages never load anything
    #[arg(long, hide = true)]
    pub no_web: bool,
    #[command(flatten)]
    pub mode: ModeArgs,
}

#[derive(Args)]
pub struct FlamegraphArgs {
    /// A capture
    #[arg(value_name = "FILE")]
    pub results: PathBuf,
    // Not a doc comment, where <name> would be an HTML tag.
    #[arg(
        short,
        long,
        value_name = "FILE",
        help = "Name of the page, - for standard output [default: memray-flamegraph-<name>.html beside the capture]"
    )]
    pub output: Option<PathBuf>,
    /// Overwrite the page if it exists
    #[arg(short, long)]
    pub force: bool,
    /// Let the page show any range of time
    #[arg(long, conflicts_with_all = ["temporary_allocations", "temporary_allocation_threshold"])]
    pub temporal: bool,
    /// Draw each thread's frames apart; the page can show one thread without this, too
    #[arg(long)]
    pub split_threads: bool,
    /// Begin with the graph inverted: what allocated as the root, its callers above
    #[arg(long)]
    pub inverted: bool,
    /// Draw memory over time with at most this many points
    #[arg(long, value_name = "N", default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(2..))]
    pub max_memory_records: u32,
    /// Which files' source lines stay out of the page
    #[arg(long, value_name = "WHICH", default_value = "default")]
    pub confidential_files: ConfidentialFiles,
    /// Pages never load anything
    #[arg(long, hide = true)]
    pub no_web: bool,
    #[command(flatten)]
    pub mode: ModeArgs,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ConfidentialFiles {
    /// All: the page has no source lines
    All,
    /// None: it has whatever lines the capture has
    None,
    /// Files that are not named like Python's source files
    Default,
}
