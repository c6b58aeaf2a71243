//! The JSON that `gprof2dot -f json` reads: call chains from the leaf, by function and file.

use std::io::{self, Write};

use rustc_hash::FxHashMap;
use serde_json::json;

use super::{NO_FRAME, Profile};
use crate::analyze::Stacks;

/// Written piece by piece: the events are as many as the stacks.
pub fn gprof2dot<S: Stacks>(profile: &Profile<'_, S>, out: &mut impl Write) -> io::Result<()> {
    let mut indices: FxHashMap<(&str, &str), usize> = FxHashMap::default();
    let mut functions = Vec::new();
    let costs = json!([{"description": "Memory", "unit": "bytes"}]);
    write!(out, "{{\"version\":0,\"costs\":{costs},\"events\":[")?;
    for (number, row) in profile.snapshot.rows.iter().enumerate() {
        let mut frames = profile.stacks.frames(row.tid, row.stack).peekable();
        let stand_in = frames.peek().is_none().then_some(NO_FRAME);
        let mut chain = Vec::new();
        for frame in frames.chain(stand_in) {
            let key = (frame.function, frame.file);
            chain.push(*indices.entry(key).or_insert_with(|| {
                functions.push(json!({"name": frame.function, "module": frame.file}));
                functions.len() - 1
            }));
        }
        let comma = if number == 0 { "" } else { "," };
        write!(out, "{comma}{}", json!({"callchain": chain, "cost": [row.bytes]}))?;
    }
    write!(out, "],\"functions\":{}}}", serde_json::Value::from(functions))
}
