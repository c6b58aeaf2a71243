//! `memray parse`.

use super::{unreadable, warn_of_damage};
use crate::capture::RawReader;
use crate::cli::ParseArgs;
use crate::cli::failure::Failure;
use crate::report;

pub fn parse(args: &ParseArgs) -> Result<(), Failure> {
    let mut reader = RawReader::open(&args.results).map_err(|error| unreadable(&args.results, &error))?;
    let printed = report::parse(&mut reader, &mut std::io::stdout().lock());
    match printed {
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => return Ok(()),
        Err(error) => return Err(Failure::new(format!("cannot print the records: {error}"), None)),
        Ok(()) => {}
    }
    warn_of_damage(&args.results, reader.damage());
    Ok(())
}
