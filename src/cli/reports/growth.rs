//! `memray growth`.

use super::{
    Gathered, WithoutAllocators, capture_object, deliver, max_rows, no_native_stacks, not_printed, origins, read,
    unreadable, warn_of_damage, warn_of_gaps, write_head,
};
use crate::analyze::{History, Snapshot, Trend, arena_bytes, trend};
use crate::capture::{FileFormat, HybridStacks, Reader};
use crate::cli::GrowthArgs;
use crate::cli::failure::Failure;
use crate::{report, ui};
use std::os::unix::ffi::OsStrExt;

pub fn growth(args: &GrowthArgs) -> Result<(), Failure> {
    let path = &args.results;
    let mut reader = Reader::open(path).map_err(|error| unreadable(path, &error))?;
    let header = reader.header();
    if header.file_format == FileFormat::AggregatedAllocations {
        return Err(Failure::new(
            format!(
                "cannot tell what grows in {}: it was recorded with --aggregate and knows the end only, not the way there",
                path.display()
            ),
            Some(format!(
                "memray leaks {}",
                ui::escape::shell_word(path.as_os_str().as_bytes())
            )),
        ));
    }
    if args.rows.native && !header.native_traces {
        return Err(no_native_stacks(path));
    }
    let arena = arena_bytes(header.python_version, header.python_allocator);
    let mut history = History::default();
    let mut hybrid = args.rows.native.then(HybridStacks::default);
    let mut entered = Vec::new();
    read(&mut reader, |events| match &mut hybrid {
        Some(hybrid) => {
            entered.clear();
            entered.extend(events.iter().map(|event| hybrid.enter(*event)));
            history.apply_all(&entered);
        }
        None => history.apply_all(events),
    });
    warn_of_damage(path, reader.damage());
    let gathered = Gathered {
        snapshot: Snapshot::default(),
        reader,
        hybrid,
    };
    let reader = &gathered.reader;
    let table = history.finish(&WithoutAllocators(&gathered), &origins(reader), arena);
    let mut text = Vec::new();
    if args.output.json {
        let capture = ("capture", capture_object(path, reader));
        report::write_json("growth", capture, report::growth_object(&table), &mut text)
    } else {
        let options = report::GrowthOptions {
            max_rows: max_rows(args.rows.max_rows),
            color: args.output.use_color(),
            rss_trend: rss_trend(reader),
        };
        write_head(reader, options.color, &mut text)
            .and_then(|()| report::growth(&table, &options, ui::width(), &mut text))
    }
    .map_err(not_printed)?;
    warn_of_gaps(path, reader);
    deliver(&args.output, path, &text)
}

fn rss_trend(reader: &Reader) -> Option<Trend> {
    let samples = reader.appendix()?.samples.iter();
    let samples: Vec<(i64, u64)> = samples.map(|sample| (sample.time_ms, sample.rss_bytes)).collect();
    Some(trend(&samples))
}
