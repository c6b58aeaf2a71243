//! What the JSON of all reports has in common: one object, a schema number, integers with their unit in the name,
//! nothing cut. Text is as the capture has it: whoever prints it escapes it.

use std::io::{self, Write};

use serde_json::{Map, Value, json};

use super::head::Head;
use crate::analyze::LossCause;

/// Version of every report's JSON: changes only when a key goes or changes its meaning.
pub const SCHEMA: u32 = 1;

/// What a report says of the capture that it is about.
#[derive(Clone, Copy, Debug, Default)]
pub struct CaptureFacts<'a> {
    pub path: &'a str,
    pub pid: i32,
    pub command_line: &'a str,
    /// `3.11.7`; the headers' that the writer was built with, for upstream's captures.
    pub python_version: &'a str,
    /// Milliseconds since the epoch.
    pub started_ms: i64,
    /// `None` until it is closed.
    pub ended_ms: Option<i64>,
    pub is_aggregated: bool,
    pub has_native_stacks: bool,
    pub traces_python_allocators: bool,
    /// What ended the reading early.
    pub damage: Option<&'a str>,
    pub head: Head<'a>,
}

impl CaptureFacts<'_> {
    pub fn object(&self) -> Value {
        let losses: Map<String, Value> = (self.head.losses.iter())
            .map(|loss| (format!("{}_count", name(loss.cause)), json!(loss.count)))
            .collect();
        let (old_frees_count, old_frees_bytes) = self.head.old_frees.unwrap_or((0, None));
        json!({
            "path": self.path,
            "pid": self.pid,
            "command_line": self.command_line,
            "python_version": self.python_version,
            "started_ms": self.started_ms,
            "ended_ms": self.ended_ms,
            "is_complete": self.ended_ms.is_some(),
            "is_aggregated": self.is_aggregated,
            "has_native_stacks": self.has_native_stacks,
            "traces_python_allocators": self.traces_python_allocators,
            "damage": self.damage,
            "window_end": self.head.window_end,
            "lost_count": self.head.lost_count(),
            "losses": losses,
            "old_frees_count": old_frees_count,
            "old_frees_bytes": old_frees_bytes,
        })
    }
}

/// As the capture's appendix calls it.
fn name(cause: LossCause) -> &'static str {
    match cause {
        LossCause::AllocationsFull => "allocations_full",
        LossCause::FreesFull => "frees_full",
        LossCause::OutcomesFull => "outcomes_full",
        LossCause::DefinitionsFull => "definitions_full",
        LossCause::Reentrant => "reentrant",
        LossCause::NoThreadEntry => "no_thread_entry",
        LossCause::Abandoned => "abandoned",
        LossCause::DeadSlots => "dead_slots",
        LossCause::ModulesLate => "modules_late",
        LossCause::Stackless => "stackless",
        LossCause::ImpliedFrees => "implied_frees",
        LossCause::NativeStacksCut => "native_stacks_cut",
        LossCause::NativeModulesFull => "native_modules_full",
        LossCause::NativeModulesUnnamed => "native_modules_unnamed",
        LossCause::Corrupt => "corrupt",
    }
}

/// Writes a report's object: its name, the schema, the capture or captures, and what it found.
pub fn write(report: &str, capture: (&str, Value), found: Value, out: &mut impl Write) -> io::Result<()> {
    let mut object = json!({"schema": SCHEMA, "report": report});
    object[capture.0] = capture.1;
    if let (Some(object), Value::Object(found)) = (object.as_object_mut(), found) {
        object.extend(found);
    }
    serde_json::to_writer_pretty(&mut *out, &object)?;
    writeln!(out)
}
