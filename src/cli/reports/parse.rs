//! `memray parse`.

use super::{capture_facts, unreadable, warn_of_damage};
use crate::capture::RawReader;
use crate::cli::ParseArgs;
use crate::cli::failure::Failure;
use crate::report;

pub fn parse(args: &ParseArgs) -> Result<(), Failure> {
    let mut reader = RawReader::open(&args.results).map_err(|error| unreadable(&args.results, &error))?;
    let mut stdout = std::io::stdout().lock();
    let printed = if args.json {
        let capture = |reader: &RawReader| capture_facts(&args.results, reader);
        report::parse_json(&mut reader, capture, &mut stdout)
    } else {
        report::parse(&mut reader, &mut stdout)
    };
    match printed {
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => return Ok(()),
        Err(error) => return Err(Failure::new(format!("cannot print the records: {error}"), None)),
        Ok(()) => {}
    }
    warn_of_damage(&args.results, reader.damage());
    Ok(())
}
