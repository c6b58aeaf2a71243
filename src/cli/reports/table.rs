//! `memray table`.

use super::file::Place;
use super::{
    Gathered, Wanted, WithoutAllocators, capture_object, gather_all_frames, max_rows, mode_name, not_printed,
    warn_of_gaps, write_head,
};
use crate::analyze::allocators;
use crate::cli::TableArgs;
use crate::cli::failure::Failure;
use crate::cli::say::print;
use crate::report::page::{self, Subject, TablePage};
use crate::{report, ui};
use serde_json::json;
use std::io::Write;
use std::path::Path;

pub fn table(args: &TableArgs) -> Result<(), Failure> {
    let is_file = args.html || args.output.is_some();
    let suffix = if args.json { ".json" } else { ".html" };
    let place = is_file
        .then(|| Place::new(args.output.as_deref(), &args.results, "table", suffix, args.force))
        .transpose()?;
    let wanted = Wanted {
        mode: args.mode.mode(),
        by_thread: args.split_threads,
        ..Wanted::default()
    };
    let gathered = gather_all_frames(&args.results, wanted)?;
    warn_of_gaps(&args.results, &gathered.reader);
    let stacks = WithoutAllocators(&gathered);
    let table = allocators(&gathered.snapshot, &stacks, args.split_threads);
    let thread_name = |tid| gathered.reader.thread_name(tid);
    match place {
        _ if args.json => {
            let capture = ("capture", capture_object(&args.results, &gathered.reader));
            let mut object = report::allocators_object(&table, &thread_name);
            object["mode"] = json!(mode_name(args.mode.mode()));
            let write = |mut out: &mut dyn Write| report::write_json("table", capture, object, &mut out);
            place.unwrap_or_else(Place::standard_output).write(write)
        }
        Some(place) => {
            let (capture, notes) = (name(&args.results), notes(&gathered).map_err(not_printed)?);
            let page = TablePage {
                subject: subject(&gathered, mode_name(args.mode.mode()), &capture, &notes),
                table: &table,
                thread_name: &thread_name,
            };
            place.write(|mut out| page::table(&page, &mut out))
        }
        None => {
            let color = ui::use_color();
            let mut text = Vec::new();
            write_head(&gathered.reader, color, &mut text).map_err(not_printed)?;
            let options = report::AllocatorsOptions {
                max_rows: max_rows(args.max_rows),
                color,
                thread_name: &thread_name,
            };
            report::allocators(&table, &options, ui::width(), &mut text).map_err(not_printed)?;
            print(&text);
            Ok(())
        }
    }
}

/// The capture's name without directories.
pub fn name(capture: &Path) -> String {
    let name = capture.file_name().unwrap_or(capture.as_os_str());
    name.to_string_lossy().into_owned()
}

/// What a page's numbers lack, in sentences: the head of the reports in the terminal.
pub fn notes(gathered: &Gathered) -> std::io::Result<Vec<String>> {
    let mut head = Vec::new();
    write_head(&gathered.reader, false, &mut head)?;
    let mut notes: Vec<String> = Vec::new();
    for line in String::from_utf8_lossy(&head).lines().filter(|line| !line.is_empty()) {
        // Where a sentence goes on the line is indented.
        match (line.strip_prefix("  "), notes.last_mut()) {
            (Some(rest), Some(note)) => {
                note.push(' ');
                note.push_str(rest.trim_start());
            }
            _ => notes.push(line.to_owned()),
        }
    }
    Ok(notes)
}

/// What a page is about.
pub fn subject<'a>(gathered: &'a Gathered, mode: &'static str, capture: &'a str, notes: &'a [String]) -> Subject<'a> {
    let header = gathered.reader.header();
    Subject {
        capture,
        command_line: &header.command_line,
        pid: header.pid,
        start_ms: header.start_ms,
        end_ms: header.end_ms,
        mode,
        notes,
    }
}
