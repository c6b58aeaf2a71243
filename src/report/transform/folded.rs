//! Folded stacks: a line for each stack, frames from the root, `;` between them, a space and the bytes.

use std::io::{self, Write};

use super::{NO_FRAME, Profile};
use crate::analyze::{CallTree, Location, Stacks};
use crate::ui::escape::printable;

pub fn folded<S: Stacks>(profile: &Profile<'_, S>, out: &mut impl Write) -> io::Result<()> {
    let mut tree = CallTree::default();
    let unknown = tree.location(NO_FRAME);
    let mut bytes: Vec<u64> = Vec::new();
    for row in &profile.snapshot.rows {
        let node = match tree.node(profile.stacks, row.tid, row.stack) {
            0 => tree.child(0, unknown),
            node => node,
        } as usize;
        bytes.resize(bytes.len().max(node + 1), 0);
        bytes[node] = bytes[node].wrapping_add(row.bytes);
    }
    let names: Vec<String> = tree.locations.iter().map(name).collect();
    for (node, bytes) in bytes.into_iter().enumerate().filter(|(_, bytes)| *bytes != 0) {
        let mut chain: Vec<u32> = tree.chain(node as u32).collect();
        chain.reverse();
        for (depth, location) in chain.into_iter().enumerate() {
            let separator = if depth == 0 { "" } else { ";" };
            write!(out, "{separator}{}", names[location as usize])?;
        }
        writeln!(out, " {bytes}")?;
    }
    Ok(())
}

/// Free of what would end a frame or a line.
fn name(location: &Location) -> String {
    let Location { function, file, line } = *location;
    let text = match line {
        _ if location == &NO_FRAME => function.to_owned(),
        0 => format!("{function} ({file})"),
        _ => format!("{function} ({file}:{line})"),
    };
    printable(&text).replace(';', ":")
}
