//! Speedscope's file format: two sampled profiles over the same stacks, bytes and blocks.

use std::io::{self, Write};

use serde_json::{Value, json};

use super::{NO_FRAME, Profile};
use crate::analyze::{CallTree, Location, Stacks};

pub fn speedscope<S: Stacks>(profile: &Profile<'_, S>, out: &mut impl Write) -> io::Result<()> {
    let mut tree = CallTree::default();
    let unknown = tree.location(NO_FRAME);
    // In order of first appearance.
    let mut samples: Vec<(u32, u64, u64)> = Vec::new();
    let mut sample_of_node: Vec<u32> = Vec::new();
    for row in &profile.snapshot.rows {
        let node = match tree.node(profile.stacks, row.tid, row.stack) {
            0 => tree.child(0, unknown),
            node => node,
        };
        sample_of_node.resize(tree.nodes.len(), u32::MAX);
        let number = &mut sample_of_node[node as usize];
        if *number == u32::MAX {
            *number = samples.len() as u32;
            samples.push((node, 0, 0));
        }
        let (_, bytes, blocks) = &mut samples[*number as usize];
        *bytes = bytes.wrapping_add(row.bytes);
        *blocks = blocks.wrapping_add(row.allocations);
    }
    let frames: Vec<Value> = tree.locations.iter().map(frame).collect();
    write!(
        out,
        "{{\"$schema\":\"https://www.speedscope.app/file-format-schema.json\",\"shared\":{{\"frames\":{}}},\"profiles\":[",
        Value::from(frames)
    )?;
    write_profile("Memory", "bytes", &tree, &samples, |sample| sample.1, out)?;
    out.write_all(b",")?;
    write_profile("Allocations", "none", &tree, &samples, |sample| sample.2, out)?;
    write!(
        out,
        "],\"name\":{},\"activeProfileIndex\":0,\"exporter\":{}}}",
        json!(profile.command_line),
        json!(concat!("memray@", env!("CARGO_PKG_VERSION")))
    )
}

fn frame(location: &Location) -> Value {
    let mut frame = json!({"name": location.function});
    if !location.file.is_empty() && location != &NO_FRAME {
        frame["file"] = json!(location.file);
    }
    if location.line > 0 {
        frame["line"] = json!(location.line);
    }
    frame
}

/// A stack of which nothing is left weighs nothing and is left out.
fn write_profile(
    name: &str,
    unit: &str,
    tree: &CallTree<'_>,
    samples: &[(u32, u64, u64)],
    weight: impl Fn(&(u32, u64, u64)) -> u64,
    out: &mut impl Write,
) -> io::Result<()> {
    let weighty = || samples.iter().filter(|sample| weight(sample) > 0);
    let sum = weighty().fold(0u64, |sum, sample| sum.wrapping_add(weight(sample)));
    write!(
        out,
        "{{\"type\":\"sampled\",\"name\":{},\"unit\":{},\"startValue\":0,\"endValue\":{sum},\"samples\":[",
        json!(name),
        json!(unit)
    )?;
    for (number, sample) in weighty().enumerate() {
        let mut chain: Vec<u32> = tree.chain(sample.0).collect();
        chain.reverse();
        write!(out, "{}{}", if number == 0 { "" } else { "," }, json!(chain))?;
    }
    out.write_all(b"],\"weights\":[")?;
    for (number, sample) in weighty().enumerate() {
        write!(out, "{}{}", if number == 0 { "" } else { "," }, weight(sample))?;
    }
    out.write_all(b"]}")
}
