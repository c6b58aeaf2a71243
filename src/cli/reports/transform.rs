//! `memray transform`.

use super::file::Place;
use super::{Wanted, gather_all_frames, warn_of_gaps};
use crate::analyze::Mode;
use crate::cli::failure::Failure;
use crate::cli::{TransformArgs, TransformFormat};
use crate::report::transform::{Profile, csv, folded, gprof2dot, pprof, speedscope};

impl TransformFormat {
    /// The format's name and what its files' names end with; upstream's where it has the format.
    fn names(self) -> (&'static str, &'static str) {
        match self {
            Self::Csv => ("csv", ".csv"),
            Self::Gprof2dot => ("gprof2dot", ".json"),
            Self::Speedscope => ("speedscope", ".speedscope.json"),
            Self::Folded => ("folded", ".folded"),
            Self::Pprof => ("pprof", ".pb.gz"),
        }
    }
}

pub fn transform(args: &TransformArgs) -> Result<(), Failure> {
    let (name, suffix) = args.format.names();
    let place = Place::new(args.output.as_deref(), &args.results, name, suffix, args.force)?;
    let mode = args.mode.mode();
    let wanted = Wanted {
        mode,
        ..Wanted::default()
    };
    let gathered = gather_all_frames(&args.results, wanted)?;
    warn_of_gaps(&args.results, &gathered.reader);
    let header = gathered.reader.header();
    let profile = Profile {
        snapshot: &gathered.snapshot,
        stacks: &gathered,
        command_line: &header.command_line,
        start_ms: header.start_ms,
        end_ms: header.end_ms,
        is_live: !matches!(mode, Mode::Temporary { .. }),
    };
    place.write(|mut out| match args.format {
        TransformFormat::Csv => csv(&profile, |tid| gathered.reader.thread_name(tid), &mut out),
        TransformFormat::Gprof2dot => gprof2dot(&profile, &mut out),
        TransformFormat::Speedscope => speedscope(&profile, &mut out),
        TransformFormat::Folded => folded(&profile, &mut out),
        TransformFormat::Pprof => pprof(&profile, &mut out),
    })
}
