//! `memray summary`.

use super::{
    Gathered, Wanted, capture_object, deliver, gather, line_table, max_rows, mode_name, not_printed, warn_of_gaps,
    write_head,
};
use crate::analyze::{Keys, Mode, SortColumn, functions};
use crate::cli::SummaryArgs;
use crate::cli::failure::Failure;
use crate::{report, ui};
use serde_json::json;
use std::io;

pub fn summary(args: &SummaryArgs) -> Result<(), Failure> {
    let gathered = gather(
        &args.results,
        Wanted {
            mode: args.mode.mode(),
            by_thread: args.threads,
            native: args.rows.native,
        },
    )?;
    let mut text = Vec::new();
    if !args.output.json {
        write_head(&gathered.reader, args.output.use_color(), &mut text).map_err(not_printed)?;
    }
    // What is still live is a question about lines; who wants functions asks for one of their columns.
    let is_by_line = args.mode.mode() == Mode::Leaks && args.sort_column.is_none() && !args.threads && !args.by_line;
    let written = if is_by_line {
        write_lines(args, &gathered, &mut text)
    } else {
        write_functions(args, &gathered, &mut text)
    };
    written.map_err(not_printed)?;
    warn_of_gaps(&args.results, &gathered.reader);
    deliver(&args.output, &args.results, &text)
}

fn write_lines(args: &SummaryArgs, gathered: &Gathered, out: &mut Vec<u8>) -> io::Result<()> {
    let table = line_table(gathered);
    if args.output.json {
        let capture = ("capture", capture_object(&args.results, &gathered.reader));
        return report::write_json("leaks", capture, report::leaks_object(&table), out);
    }
    let options = report::LeaksOptions {
        max_rows: max_rows(args.rows.max_rows),
        color: args.output.use_color(),
    };
    report::leaks(&table, &options, ui::width(), out)
}

fn write_functions(args: &SummaryArgs, gathered: &Gathered, out: &mut Vec<u8>) -> io::Result<()> {
    let keys = Keys {
        by_line: args.by_line,
        by_thread: args.threads,
    };
    let table = functions(&gathered.snapshot, gathered, keys);
    let sort = args
        .sort_column
        .and_then(|number| SortColumn::from_number(number.into()));
    let sort = sort.unwrap_or_default();
    let thread_names = |tid| gathered.reader.thread_name(tid);
    if args.output.json {
        let capture = ("capture", capture_object(&args.results, &gathered.reader));
        let mut object = report::summary_object(&table, sort, &thread_names);
        object["mode"] = json!(mode_name(args.mode.mode()));
        object["peak_bytes"] = json!(gathered.snapshot.peak_bytes);
        return report::write_json("summary", capture, object, out);
    }
    let options = report::SummaryOptions {
        sort,
        max_rows: max_rows(args.rows.max_rows),
        color: args.output.use_color(),
        thread_names: &thread_names,
    };
    report::summary(&table, &options, ui::width(), out)
}
