//! `memray leaks`.

use super::{Wanted, capture_object, deliver, gather, line_table, max_rows, not_printed, warn_of_gaps, write_head};
use crate::analyze::Mode;
use crate::cli::LeaksArgs;
use crate::cli::failure::Failure;
use crate::{report, ui};

pub fn leaks(args: &LeaksArgs) -> Result<(), Failure> {
    let wanted = Wanted {
        mode: Mode::Leaks,
        by_thread: false,
        native: args.rows.native,
    };
    let gathered = gather(&args.results, wanted)?;
    let table = line_table(&gathered);
    let mut text = Vec::new();
    if args.output.json {
        let capture = ("capture", capture_object(&args.results, &gathered.reader));
        report::write_json("leaks", capture, report::leaks_object(&table), &mut text)
    } else {
        let options = report::LeaksOptions {
            max_rows: max_rows(args.rows.max_rows),
            color: args.output.use_color(),
        };
        write_head(&gathered.reader, options.color, &mut text)
            .and_then(|()| report::leaks(&table, &options, ui::width(), &mut text))
    }
    .map_err(not_printed)?;
    warn_of_gaps(&args.results, &gathered.reader);
    deliver(&args.output, &args.results, &text)
}
