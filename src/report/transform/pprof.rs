//! The profile that `pprof` reads: a protocol buffer (`perftools.profiles.Profile`), compressed with gzip. Its few fields
//! are encoded here by hand.

use std::io::{self, Write};

use flate2::{Compression, write::GzEncoder};
use rustc_hash::FxHashMap;

use super::{NO_FRAME, Profile};
use crate::analyze::{CallTree, Stacks};
use crate::capture::allocator_name;

/// Wire types: a varint, and bytes behind their length.
const VARINT: u64 = 0;
const BYTES: u64 = 2;

/// The profile's texts, each once; the first is empty, as the format demands.
struct Texts<'a> {
    numbers: FxHashMap<&'a str, u64>,
    texts: Vec<&'a str>,
}

impl<'a> Texts<'a> {
    fn number(&mut self, text: &'a str) -> u64 {
        let texts = &mut self.texts;
        *self.numbers.entry(text).or_insert_with(|| {
            texts.push(text);
            (texts.len() - 1) as u64
        })
    }
}

pub fn pprof<S: Stacks>(profile: &Profile<'_, S>, out: &mut impl Write) -> io::Result<()> {
    let mut out = GzEncoder::new(out, Compression::default());
    let mut texts = Texts {
        numbers: FxHashMap::default(),
        texts: Vec::new(),
    };
    texts.number("");
    // The names of Go's own heap profiles, which pprof has options for.
    let [objects, space] = if profile.is_live {
        ["inuse_objects", "inuse_space"]
    } else {
        ["alloc_objects", "alloc_space"]
    };
    for (name, unit) in [(objects, "count"), (space, "bytes")] {
        let value_type = Message::new()
            .number(1, texts.number(name))
            .number(2, texts.number(unit));
        write_field(1, &value_type, &mut out)?;
    }
    let allocator_key = texts.number("allocator");
    let mut tree = CallTree::default();
    let unknown = tree.location(NO_FRAME);
    let mut chain = Vec::new();
    for row in &profile.snapshot.rows {
        let node = match tree.node(profile.stacks, row.tid, row.stack) {
            0 => tree.child(0, unknown),
            node => node,
        };
        chain.clear();
        chain.extend(tree.chain(node).map(|location| u64::from(location) + 1));
        let allocator = texts.number(allocator_name(row.allocator).unwrap_or("unknown"));
        let label = Message::new().number(1, allocator_key).number(2, allocator);
        let sample = Message::new()
            .packed(1, &chain)
            .packed(2, &[row.allocations, row.bytes])
            .bytes(3, &label.0);
        write_field(2, &sample, &mut out)?;
    }
    // One mapping, which says that nothing is left to be symbolized.
    let program = texts.number(profile.command_line);
    let mapping = Message::new()
        .number(1, 1)
        .number(5, program)
        .number(7, 1)
        .number(8, 1)
        .number(9, 1);
    write_field(3, &mapping, &mut out)?;
    let mut functions: FxHashMap<(&str, &str), u64> = FxHashMap::default();
    for (index, place) in tree.locations.iter().enumerate() {
        let next = functions.len() as u64 + 1;
        let function = *functions.entry((place.function, place.file)).or_insert(next);
        if function == next {
            let name = texts.number(place.function);
            let file = texts.number(place.file);
            let message = Message::new()
                .number(1, function)
                .number(2, name)
                .number(3, name)
                .number(4, file);
            write_field(5, &message, &mut out)?;
        }
        let line = Message::new().number(1, function).number(2, u64::from(place.line));
        let location = Message::new()
            .number(1, index as u64 + 1)
            .number(2, 1)
            .bytes(4, &line.0);
        write_field(4, &location, &mut out)?;
    }
    let default_type = texts.number(space);
    for text in &texts.texts {
        write_field(6, &Message(text.as_bytes().to_vec()), &mut out)?;
    }
    let nanos = |ms: i64| u64::try_from(ms).unwrap_or(0).saturating_mul(1_000_000);
    let duration_ms = profile.end_ms.saturating_sub(profile.start_ms);
    let rest = Message::new()
        .number(9, nanos(profile.start_ms))
        .number(10, nanos(duration_ms))
        .number(14, default_type);
    out.write_all(&rest.0)?;
    out.finish()?.flush()
}

fn write_field(field: u64, message: &Message, out: &mut impl Write) -> io::Result<()> {
    out.write_all(&Message::new().bytes(field, &message.0).0)
}

/// Fields of a message, encoded.
struct Message(Vec<u8>);

impl Message {
    fn new() -> Self {
        Self(Vec::new())
    }

    fn number(mut self, field: u64, value: u64) -> Self {
        // Absent is 0.
        if value != 0 {
            self.varint(field << 3 | VARINT);
            self.varint(value);
        }
        self
    }

    fn bytes(mut self, field: u64, bytes: &[u8]) -> Self {
        self.varint(field << 3 | BYTES);
        self.varint(bytes.len() as u64);
        self.0.extend_from_slice(bytes);
        self
    }

    fn packed(self, field: u64, values: &[u64]) -> Self {
        let mut packed = Self::new();
        values.iter().for_each(|&value| packed.varint(value));
        self.bytes(field, &packed.0)
    }

    fn varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.0.push(value as u8 | 0x80);
            value >>= 7;
        }
        self.0.push(value as u8);
    }
}
