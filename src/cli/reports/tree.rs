//! `memray tree`.

use super::{Wanted, gather, not_printed, warn_of_gaps, write_head};
use crate::analyze::{self, Mode, STACKS_DEFAULT, Snapshot, Stacks};
use crate::cli::TreeArgs;
use crate::cli::failure::Failure;
use crate::cli::say::print;
use crate::{report, ui};

pub fn tree(args: &TreeArgs) -> Result<(), Failure> {
    let mode = args.mode.mode();
    let gathered = gather(
        &args.results,
        Wanted {
            mode,
            native: args.native,
            ..Wanted::default()
        },
    )?;
    let what = match mode {
        Mode::HighWater => "at the high-water mark",
        Mode::Leaks => "still live at the end",
        Mode::Temporary { .. } => "in temporary allocations",
    };
    let mut text = Vec::new();
    if !args.json {
        write_head(&gathered.reader, ui::use_color(), &mut text).map_err(not_printed)?;
    }
    write(args, &gathered.snapshot, &gathered, what, &mut text).map_err(not_printed)?;
    warn_of_gaps(&args.results, &gathered.reader);
    print(&text);
    Ok(())
}

fn write(
    args: &TreeArgs,
    snapshot: &Snapshot,
    stacks: &impl Stacks,
    what: &str,
    out: &mut Vec<u8>,
) -> std::io::Result<()> {
    // In JSON nothing is left out unless that is asked for.
    let stacks_default = if args.json { usize::MAX } else { STACKS_DEFAULT };
    let stacks_max = args.biggest_allocs.map_or(stacks_default, |count| count as usize);
    let tree = analyze::tree(snapshot, stacks, stacks_max);
    if args.json {
        return report::tree_json(&tree, out);
    }
    let color = ui::use_color();
    report::tree(&tree, &report::TreeOptions { what, color }, ui::width(), out)
}
