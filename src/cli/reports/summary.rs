//! `memray summary`.

use super::{leaks_table, lines_of_terminal, not_printed, read_with, warn_of_gaps, write_head};
use crate::analyze::{Hybrid, SortColumn, functions};
use crate::capture::HybridStacks;
use crate::cli::SummaryArgs;
use crate::cli::failure::Failure;
use crate::cli::say::print;
use crate::{report, ui};

pub fn summary(args: &SummaryArgs) -> Result<(), Failure> {
    let max_rows = args
        .max_rows
        .map_or_else(|| report::default_rows(lines_of_terminal()), |rows| rows as usize);
    let color = ui::use_color();
    let mut text = Vec::new();
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
    write_head(&reader, color, &mut text).map_err(not_printed)?;
    let written = if args.leaks {
        let table = leaks_table(&heap, &reader);
        report::leaks(
            &table,
            &report::LeaksOptions { max_rows, color },
            ui::width(),
            &mut text,
        )
    } else {
        let table = match &hybrid {
            Some(stacks) => functions(
                &heap.high_water(),
                &Hybrid {
                    reader: &reader,
                    stacks,
                },
            ),
            None => functions(&heap.high_water(), &reader),
        };
        let sort = SortColumn::from_number(u32::from(args.sort_column)).unwrap_or_default();
        report::summary(
            &table,
            &report::SummaryOptions { sort, max_rows, color },
            ui::width(),
            &mut text,
        )
    };
    written.map_err(not_printed)?;
    warn_of_gaps(&args.results, &reader);
    print(&text);
    Ok(())
}
