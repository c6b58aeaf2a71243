//! Threads that a dead tracer left on their way back.
//!
//! They get home by themselves (see [`super::borrow`]), but a system call that they were given may still be ahead of
//! them: where the CPUs are busy for milliseconds, where the process is stopped by SIGSTOP until somebody continues
//! it. Whoever puts the process in order makes sure first that no such call comes after them.

use super::candidates::{Suitability, look};
use super::gadgets::Gadgets;
use super::maps::Mapping;
use super::process::Process;
use super::ptrace::Seized;
use super::x86_64::registers::Registers;
use crate::address::RemoteAddr;
use crate::error::Error;
use std::time::{Duration, Instant};

/// How long a thread may take to stop. One that doesn't, sleeps in a call that no stop can interrupt.
const STOP_MAX: Duration = Duration::from_millis(100);
/// How long all of it may take.
const SEARCH_MAX: Duration = Duration::from_secs(2);

/// Has every thread that a dead tracer abandoned go home at once. Call it where a tracer is known to have died in the
/// middle: threads that run are stopped one after the other, for some 50 µs each. True if one was found.
pub fn send_abandoned_threads_home(process: &Process, maps: &[Mapping]) -> Result<bool, Error> {
    let Some(gadgets) = Gadgets::find(process, maps) else {
        return Ok(false);
    };
    let deadline = Instant::now() + SEARCH_MAX;
    let mut found = false;
    for tid in process.tids()? {
        while Instant::now() < deadline {
            // A thread that sleeps, sleeps in a call of its own: none of ours lets it.
            let is_on_its_way = look(process, tid).is_some_and(|thread| {
                matches!(
                    thread.suitability,
                    Suitability::Running | Suitability::Stopped | Suitability::Uninterruptible
                )
            });
            if !is_on_its_way {
                break;
            }
            // On a thread of its own, whose end frees a tracee that does not stop.
            let attempt = std::thread::scope(|scope| {
                let worker = std::thread::Builder::new().spawn_scoped(scope, || send_home(process, &gadgets, tid));
                worker.map_or(Ok(Ok(Outcome::DidNotStop)), |worker| worker.join())
            });
            match attempt {
                Ok(Ok(Outcome::WasElsewhere)) | Ok(Err(Error::Gone { .. })) => break,
                Ok(Ok(Outcome::SentHome)) => {
                    found = true;
                    break;
                }
                Ok(Ok(Outcome::DidNotStop)) => {}
                Ok(Err(error)) => return Err(error),
                Err(panic) => std::panic::resume_unwind(panic),
            }
        }
    }
    Ok(found)
}

enum Outcome {
    WasElsewhere,
    SentHome,
    DidNotStop,
}

fn send_home(process: &Process, gadgets: &Gadgets, tid: i32) -> Result<Outcome, Error> {
    let Ok(mut seized) = Seized::seize(tid, false) else {
        return Ok(Outcome::WasElsewhere);
    };
    if !seized.interrupt(STOP_MAX)? {
        return Ok(Outcome::DidNotStop);
    }
    let registers = seized.registers()?;
    let outcome = match way_home(process, gadgets, &registers) {
        Some(home) => {
            seized.set_registers(&home)?;
            Outcome::SentHome
        }
        None => Outcome::WasElsewhere,
    };
    seized.detach()?;
    Ok(outcome)
}

/// The registers with which a thread that was given a system call passes over it, straight into the restoring of its
/// own state; `None` for one that is about its own business.
fn way_home(process: &Process, gadgets: &Gadgets, registers: &Registers) -> Option<Registers> {
    let is_at_gadget = registers.rip == gadgets.syscall || registers.rip == gadgets.syscall + 2;
    let returns_to = |stack_pointer| process.read_u64(RemoteAddr(stack_pointer)).ok();
    if !is_at_gadget || returns_to(registers.rsp) != Some(gadgets.restorer) {
        return None;
    }
    // As if the gadget's `ret` had been executed.
    Some(Registers {
        rip: gadgets.restorer,
        rsp: registers.rsp + 8,
        orig_rax: u64::MAX,
        ..*registers
    })
}
