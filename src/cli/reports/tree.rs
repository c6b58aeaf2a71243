//! `memray tree`.

use super::{Wanted, capture_object, gather, mode_name, not_printed, warn_of_gaps, write_head};
use crate::analyze::{self, Mode, STACKS_DEFAULT};
use crate::cli::TreeArgs;
use crate::cli::failure::Failure;
use crate::cli::say::print;
use crate::{report, ui};
use serde_json::json;

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
    // In JSON nothing is left out unless that is asked for.
    let stacks_default = if args.json { usize::MAX } else { STACKS_DEFAULT };
    let stacks_max = args.biggest_allocs.map_or(stacks_default, |count| count as usize);
    let tree = analyze::tree(&gathered.snapshot, &gathered, stacks_max);
    let mut text = Vec::new();
    if args.json {
        let capture = ("capture", capture_object(&args.results, &gathered.reader));
        let mut object = report::tree_object(&tree);
        object["mode"] = json!(mode_name(mode));
        report::write_json("tree", capture, object, &mut text)
    } else {
        let color = ui::use_color();
        write_head(&gathered.reader, color, &mut text)
            .and_then(|()| report::tree(&tree, &report::TreeOptions { what, color }, ui::width(), &mut text))
    }
    .map_err(not_printed)?;
    warn_of_gaps(&args.results, &gathered.reader);
    print(&text);
    Ok(())
}
