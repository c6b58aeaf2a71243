//! `memray tree`.

use super::{not_printed, read_with, warn_of_gaps, write_head};
use crate::analyze::{self, Hybrid, STACKS_DEFAULT, Snapshot, Stacks};
use crate::capture::HybridStacks;
use crate::cli::TreeArgs;
use crate::cli::failure::Failure;
use crate::cli::say::print;
use crate::{report, ui};

pub fn tree(args: &TreeArgs) -> Result<(), Failure> {
    let mut hybrid = args.native.then(HybridStacks::default);
    let (heap, reader) = read_with(&args.results, |event| match &mut hybrid {
        Some(hybrid) => hybrid.enter(event),
        None => event,
    })?;
    if args.native && !reader.header().native_traces {
        return Err(Failure::new(
            format!("{} holds no native stacks", args.results.display()),
            Some("memray attach PID --native records them".to_owned()),
        ));
    }
    let (snapshot, what) = if args.leaks {
        (heap.leaks(None), "still live at the end")
    } else {
        (heap.high_water(), "at the high-water mark")
    };
    let mut text = Vec::new();
    if !args.json {
        write_head(&reader, ui::use_color(), &mut text).map_err(not_printed)?;
    }
    match &hybrid {
        Some(stacks) => {
            let reader = &reader;
            write(args, &snapshot, &Hybrid { reader, stacks }, what, &mut text)
        }
        None => write(args, &snapshot, &reader, what, &mut text),
    }
    .map_err(not_printed)?;
    warn_of_gaps(&args.results, &reader);
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
