//! A program that is started for a window, and held at its first line until the window is open.
//!
//! The interpreter is started with the user's own arguments, and held from outside: nothing that the program could see
//! of itself differs (`sys.argv`, `sys.path`, `__main__`, tracebacks, environment, descriptors). Other ways were worse.
//! A module put before the program's (`-c`, `sitecustomize`, `PYTHONSTARTUP`) is in tracebacks, in `sys.path` or in the
//! environment that children inherit. Holding at a system call finds a script's `open`, but nothing for `-c` and `-m`.
//! An attach at any moment once the interpreter runs Python code would record `site`.

use super::error::Error;
use super::target::{TargetImage, TargetMemory};
use crate::python::{self, FindError, PLACES, ProgramFrame, Runtime};
use inject::{Launched, Module, Process, Reached};
use std::fmt;
use std::process::{Child, Command};

/// Programs that are executed one after another until one is CPython: `env`, shims and the like.
const PROGRAMS_MAX: usize = 64;
/// Entries of the evaluation loop up to the program's own.
const ENTRIES_MAX: usize = 100_000;
/// Instructions from the loop's entry until the frame is linked; some hundred.
const STEPS_MAX: usize = 20_000;

/// Why nothing is held.
pub enum HoldError {
    /// It could not be started.
    Start(std::io::Error),
    /// It ended before its first line: it is not there, or has a mistake in its syntax. Its own words say so.
    Ended(Child),
    /// It ended, and ran no CPython.
    NotPython,
    /// It is started, cannot be held, and was ended.
    Refused(Error),
}

impl From<inject::Error> for HoldError {
    fn from(error: inject::Error) -> Self {
        Self::Refused(Error::Inject(error))
    }
}

impl fmt::Display for HoldError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Start(error) => f.write_str(&super::output::error_text(error)),
            Self::NotPython => f.write_str("it is no CPython and started none"),
            Self::Ended(_) => f.write_str("it ended before its first line"),
            Self::Refused(error) => write!(f, "{error}"),
        }
    }
}

/// Starts a program that is stopped (SIGSTOP) where its first frame begins.
pub fn hold(command: Command) -> Result<Child, HoldError> {
    let mut launched = Launched::start(command).map_err(HoldError::Start)??;
    match reach_program(&mut launched) {
        Ok(Got::Program) => Ok(launched.leave_stopped()?),
        Ok(Got::End { ran_python: false }) => Err(HoldError::NotPython),
        Ok(Got::End { .. }) => Err(launched.into_child().map_or_else(
            || HoldError::Refused(Error::Internal("a program that ended was collected twice".to_owned())),
            HoldError::Ended,
        )),
        Err(error) => Err(HoldError::Refused(error)),
    }
}

/// How far a program got.
enum Got {
    Program,
    End { ran_python: bool },
}

fn reach_program(launched: &mut Launched) -> Result<Got, Error> {
    let mut ran_python = false;
    for _ in 0..PROGRAMS_MAX {
        match launched.run_to_entry()? {
            Reached::Executed => continue,
            Reached::Ended => return Ok(Got::End { ran_python }),
            Reached::Place(_) => {}
        }
        let process = Process::open(launched.pid())?;
        let modules = modules(&process)?;
        let reached = match find(&process, &modules) {
            Err(FindError::NotInitialised { path }) => {
                ran_python = true;
                let interpreter = modules.iter().find(|module| module.path == path);
                reach_frame(launched, &process, &modules, interpreter)?
            }
            // A shell script, perhaps, that goes on to execute an interpreter.
            Err(FindError::NotPython) => launched.run_to_exec()?,
            Err(error) => return Err(Error::Python(error)),
            Ok(_) => return Err(Error::Internal("an interpreter is set up before it began".to_owned())),
        };
        match reached {
            Reached::Place(_) => return Ok(Got::Program),
            Reached::Ended => return Ok(Got::End { ran_python }),
            Reached::Executed => {}
        }
    }
    Err(Error::Python(FindError::NotPython))
}

/// From the program's entry to the user's first frame.
fn reach_frame(
    launched: &mut Launched,
    process: &Process,
    modules: &[Module],
    interpreter: Option<&Module>,
) -> Result<Reached, Error> {
    let place = |name: &'static str| {
        let symbol = interpreter.and_then(|module| module.symbol(process, name));
        symbol.map(|symbol| symbol.address).ok_or_else(|| {
            let what = format!("the interpreter has no {name}, where its program could be held");
            Error::Host(what, vec!["start it, then memray attach PID".to_owned()])
        })
    };
    let (run_main, evaluate) = (place(PLACES.0)?, place(PLACES.1)?);
    let reached = launched.run_to(run_main)?;
    if !matches!(reached, Reached::Place(_)) {
        return Ok(reached);
    }
    let runtime = find(process, modules).map_err(Error::Python)?;
    for _ in 0..ENTRIES_MAX {
        let reached = launched.run_to(evaluate)?;
        let Reached::Place(arguments) = reached else {
            return Ok(reached);
        };
        let memory = TargetMemory::new(process);
        let Some(frame) = ProgramFrame::of_arguments(&memory, &runtime, arguments) else {
            continue;
        };
        // The loop links the frame first. An attach proves its tables by frames that it can find.
        for _ in 0..STEPS_MAX {
            if frame.is_linked(&memory, &runtime) {
                return Ok(reached);
            }
            if !launched.step()? {
                break;
            }
        }
        break;
    }
    Err(Error::Internal("the program's first frame was not found".to_owned()))
}

fn modules(process: &Process) -> Result<Vec<Module>, Error> {
    let maps = process.maps()?;
    Ok(inject::starts(&maps)
        .filter_map(|map| Module::read(process, map))
        .collect())
}

fn find(process: &Process, modules: &[Module]) -> Result<Runtime, FindError> {
    let images: Vec<TargetImage> = modules.iter().map(|module| TargetImage { process, module }).collect();
    python::find(&TargetMemory::new(process), &images)
}
