//! `memray summary`.

use super::{Wanted, gather, line_table, lines_of_terminal, not_printed, warn_of_gaps, write_head};
use crate::analyze::{Keys, Mode, SortColumn, functions};
use crate::cli::SummaryArgs;
use crate::cli::failure::Failure;
use crate::cli::say::print;
use crate::{report, ui};

pub fn summary(args: &SummaryArgs) -> Result<(), Failure> {
    let max_rows = args
        .max_rows
        .map_or_else(|| report::default_rows(lines_of_terminal()), |rows| rows as usize);
    let color = ui::use_color();
    let gathered = gather(
        &args.results,
        Wanted {
            mode: args.mode.mode(),
            by_thread: args.threads,
            native: args.native,
        },
    )?;
    let mut text = Vec::new();
    write_head(&gathered.reader, color, &mut text).map_err(not_printed)?;
    // What is still live is a question about lines: functions are asked for by their columns.
    let is_by_line = args.mode.mode() == Mode::Leaks && args.sort_column.is_none() && !args.threads && !args.by_line;
    let written = if is_by_line {
        let options = report::LeaksOptions { max_rows, color };
        report::leaks(&line_table(&gathered), &options, ui::width(), &mut text)
    } else {
        let keys = Keys {
            by_line: args.by_line,
            by_thread: args.threads,
        };
        let table = functions(&gathered.snapshot, &gathered, keys);
        let sort = args
            .sort_column
            .and_then(|number| SortColumn::from_number(number.into()));
        let options = report::SummaryOptions {
            sort: sort.unwrap_or_default(),
            max_rows,
            color,
            thread_names: &|tid| gathered.reader.thread_name(tid),
        };
        report::summary(&table, &options, ui::width(), &mut text)
    };
    written.map_err(not_printed)?;
    warn_of_gaps(&args.results, &gathered.reader);
    print(&text);
    Ok(())
}
