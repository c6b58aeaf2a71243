//! `memray diff`.

use super::{Gathered, Wanted, capture_object, deliver, gather, max_rows, mode_name, not_printed, warn_of_gaps};
use crate::analyze::{self, FunctionTable, Keys, functions};
use crate::cli::DiffArgs;
use crate::cli::failure::Failure;
use crate::{report, ui};
use serde_json::{Value, json};
use std::path::Path;

pub fn diff(args: &DiffArgs) -> Result<(), Failure> {
    let (before, table_before) = read(args, &args.before)?;
    let (after, table_after) = read(args, &args.after)?;
    let table = analyze::diff(&table_before, &table_after, args.by_line);
    let mut text = Vec::new();
    if args.output.json {
        let captures = [(&args.before, &before), (&args.after, &after)];
        let captures: Vec<Value> = captures
            .iter()
            .map(|(path, gathered)| capture_object(path, &gathered.reader))
            .collect();
        let mut object = report::diff_object(&table);
        object["mode"] = json!(mode_name(args.mode.mode()));
        report::write_json("diff", ("captures", captures.into()), object, &mut text)
    } else {
        let options = report::DiffOptions {
            max_rows: max_rows(args.rows.max_rows),
            color: args.output.use_color(),
        };
        report::diff(&table, &options, ui::width(), &mut text)
    }
    .map_err(not_printed)?;
    warn_of_gaps(&args.before, &before.reader);
    warn_of_gaps(&args.after, &after.reader);
    deliver(&args.output, &args.after, &text)
}

fn read(args: &DiffArgs, path: &Path) -> Result<(Gathered, FunctionTable), Failure> {
    let gathered = gather(
        path,
        Wanted {
            mode: args.mode.mode(),
            by_thread: false,
            native: args.rows.native,
        },
    )?;
    let keys = Keys {
        by_line: args.by_line,
        by_thread: false,
    };
    let table = functions(&gathered.snapshot, &gathered, keys);
    Ok((gathered, table))
}
