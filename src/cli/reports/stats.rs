//! `memray stats`.

use super::{not_printed, read, unreadable, warn_of_damage, warn_of_gaps, write_file, write_head};
use crate::analyze::{SearchPaths, Statistics, Tally};
use crate::capture::{FileFormat, Reader, python_allocator_name};
use crate::cli::StatsArgs;
use crate::cli::failure::Failure;
use crate::cli::say::print;
use crate::{report, session, ui};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

pub fn stats(args: &StatsArgs) -> Result<(), Failure> {
    let path = &args.results;
    let count = args.num_largest as usize;
    let mut reader = Reader::open(path).map_err(|error| unreadable(path, &error))?;
    if reader.header().file_format == FileFormat::AggregatedAllocations {
        return Err(Failure::new(
            format!(
                "cannot compute statistics of {}: it was recorded with --aggregate and tells what was held, not what was \
                 allocated",
                path.display()
            ),
            Some(format!(
                "memray summary {}",
                ui::escape::shell_word(path.as_os_str().as_bytes())
            )),
        ));
    }
    let mut tally = Tally::default();
    read(&mut reader, |events| tally.apply_all(events));
    warn_of_damage(path, reader.damage());
    let header = reader.header();
    let paths = SearchPaths {
        libdest: &header.libdest,
        site_packages: &header.site_packages,
        sys_path: &header.sys_path,
    };
    let statistics = tally.finish(&reader, paths);
    let mut text = Vec::new();
    if args.json {
        let metadata = metadata(&statistics, &reader);
        report::stats_json(&statistics, count, &metadata, &mut text).map_err(not_printed)?;
    } else {
        let color = ui::use_color();
        write_head(&reader, color, &mut text).map_err(not_printed)?;
        report::stats(&statistics, count, color, &mut text).map_err(not_printed)?;
    }
    warn_of_gaps(path, &reader);
    if args.json && args.output.as_deref() != Some(Path::new("-")) {
        return write_file(args.output.as_deref(), path, "stats", ".json", args.force, &text);
    }
    print(&text);
    Ok(())
}

fn metadata(statistics: &Statistics, reader: &Reader) -> report::Metadata {
    let header = reader.header();
    // With its offset, since this program knows no time zones: `2026-01-31 14:05:09.123000+00:00`.
    let time = |ms: i64| {
        let ms = u64::try_from(ms).unwrap_or(0);
        let clock = session::clock_text(ms);
        format!("{}.{:03}000+00:00", clock.trim_end_matches(" UTC"), ms % 1000)
    };
    report::Metadata {
        start_time: time(header.start_ms),
        end_time: time(header.end_ms),
        total_allocations: statistics.records_count,
        total_frames: header.frames_count,
        peak_memory: statistics.peak_bytes,
        command_line: header.command_line.clone(),
        pid: header.pid,
        main_thread_id: header.main_tid,
        python_allocator: python_allocator_name(header.python_allocator)
            .unwrap_or("unknown")
            .to_owned(),
        has_native_traces: header.native_traces,
        trace_python_allocators: header.trace_python_allocators,
        file_format: header.file_format as u8,
    }
}
