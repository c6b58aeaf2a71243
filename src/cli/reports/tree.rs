//! `memray tree`: a screen to walk about in on a terminal, else text or JSON.

use super::flamegraph::thread_name;
use super::table::notes;
use super::{Gathered, Wanted, capture_object, gather, mode_name, not_printed, warn_of_gaps, write_head};
use crate::analyze::{self, Mode, STACKS_DEFAULT, loss_causes};
use crate::capture::Damage;
use crate::cli::TreeArgs;
use crate::cli::failure::Failure;
use crate::cli::say::print;
use crate::ui::{Input, Screen};
use crate::view::{self, SourceLines, Step, TreeFacts, TreeView};
use crate::{report, ui};
use serde_json::json;
use std::time::Duration;

pub fn tree(args: &TreeArgs) -> Result<(), Failure> {
    let mode = args.mode.mode();
    let has_screen = !args.text && !args.json && ui::can_show_screens();
    let gathered = gather(
        &args.results,
        Wanted {
            mode,
            native: args.native,
            // A screen says whose the stacks are.
            by_thread: has_screen,
        },
    )?;
    let what = match mode {
        Mode::HighWater => "at the high-water mark",
        Mode::Leaks => "still live at the end",
        Mode::Temporary { .. } => "in temporary allocations",
    };
    // Nothing is left out unless that is asked for where nobody has to read all of it.
    let stacks_default = if args.json || has_screen {
        usize::MAX
    } else {
        STACKS_DEFAULT
    };
    let stacks_max = args.biggest_allocs.map_or(stacks_default, |count| count as usize);
    if has_screen && gathered.snapshot.total_allocations > 0 {
        warn_of_gaps(&args.results, &gathered.reader);
        return explore(args, &gathered, what, stacks_max);
    }
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

/// Shows the tree until somebody has seen enough.
fn explore(args: &TreeArgs, gathered: &Gathered, what: &str, stacks_max: usize) -> Result<(), Failure> {
    let reader = &gathered.reader;
    let calls = analyze::weighted_calls(&gathered.snapshot, gathered, stacks_max);
    let mut notes = notes(gathered).map_err(not_printed)?;
    let damage = reader.damage().map(Damage::to_string);
    notes.extend(damage.map(|damage| format!("The capture is damaged: {damage}; what comes before is shown.")));
    let capture = args.results.file_name().unwrap_or_default().to_string_lossy();
    let facts = TreeFacts {
        what,
        capture: &ui::escape::printable(&capture),
        notes: &notes,
        has_losses: reader.damage().is_some() || reader.appendix().is_some_and(|it| has_losses(&it.losses)),
        threads: &|tid| thread_name(reader, tid),
        source: &|location| {
            let source = reader.source(location.file)?;
            Some(SourceLines {
                lines: &source.lines,
                is_newer: source.is_newer,
            })
        },
        color: ui::use_color(),
    };
    let mut view = TreeView::new(&calls);
    let mut screen = Screen::open(true).map_err(|error| {
        let fix = Some("memray tree --text prints it".to_owned());
        Failure::new(format!("cannot take over the terminal: {error}"), fix)
    })?;
    // Where drawing fails the terminal is gone, and nobody is there to be told.
    while screen
        .draw(|buffer| view::draw_tree(&mut view, &calls, &facts, buffer))
        .is_ok()
    {
        match screen.input(Duration::MAX) {
            Input::Nothing => {}
            Input::Closed => break,
            Input::Signal(signal) => {
                screen.end_by(signal);
                break;
            }
            Input::Key(key) => match view.press(key, &calls) {
                Step::Stay => {}
                Step::Quit => break,
                Step::Suspend if screen.suspend().is_ok() => {}
                Step::Suspend => break,
            },
        }
    }
    Ok(())
}

fn has_losses(losses: &crate::capture::Losses) -> bool {
    let losses = loss_causes(losses);
    let head = report::Head {
        losses: &losses,
        ..report::Head::default()
    };
    head.has_losses()
}
