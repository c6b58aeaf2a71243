//! Records taken many at a time are the same as one by one, whatever the bytes.

use super::builder::*;
use crate::capture::{Event, Header, Reader};

/// Records of all kinds, mostly valid ones.
fn records(random: &mut Random, count: u64, native_traces: bool) -> Vec<u8> {
    let mut out = context_switch(1);
    let mut depth = 0;
    for _ in 0..count {
        // Integers of every length.
        let any = |random: &mut Random| random.next() >> random.below(64);
        let small = random.below(40);
        match random.below(100) {
            0..45 => {
                let slot = if random.below(3) == 0 { random.below(15) } else { 15 } as u8;
                let allocators_count = if random.below(500) == 0 { 40 } else { 15 };
                let allocator = random.below(allocators_count) as u8 + 1;
                let in_token = if allocator < 8 && random.below(4) > 0 {
                    allocator
                } else {
                    0
                };
                out.push(0x80 | slot << 3 | in_token);
                if slot == 15 {
                    out.extend(signed(any(random) as i64));
                }
                if in_token == 0 {
                    out.push(allocator);
                }
                if ![1, 5].contains(&allocator) {
                    if native_traces {
                        out.extend(signed(random.below(100) as i64 - 50));
                    }
                    out.extend(varint(any(random)));
                }
            }
            45..70 => {
                out.push(0x40 | random.below(2) as u8);
                let code_id = if small == 0 { any(random) } else { small };
                out.extend([varint(code_id), signed(random.below(200) as i64 - 5)].concat());
                depth += 1;
            }
            70..86 => {
                let pops = random.below(4).min(depth);
                if pops > 0 {
                    out.push(0x10 | (pops - 1) as u8);
                    depth -= pops;
                }
            }
            86..90 => {
                // The other thread's depth is not known here; pops stay possible where there are none.
                out.extend(context_switch(1 + random.below(3)));
                depth = 0;
            }
            90..93 => out.extend([&[2][..], &varint(any(random)), &varint(small)].concat()),
            93..96 => out.extend(code_object(small, "name", "file.py", 3, &[0; 20])),
            96 => out.extend([b"\x0athread\0".to_vec()].concat()),
            97 => out.extend([&[0x21][..], if native_traces { &[2] } else { &[] }].concat()),
            98 => out.extend([&[0x20 | 15 << 1][..], &signed(any(random) as i64)].concat()),
            _ => out.extend([&[5][..], &signed(small as i64), &signed(0)].concat()),
        }
    }
    out.push(1);
    out
}

/// How a capture is read: events, their stacks as (code, offset) pairs, and the damage.
type Reading = (Vec<Event>, Vec<Vec<(u64, bool)>>, String);

fn reading(content: &[u8], read: impl FnOnce(&mut Reader, &mut Vec<Event>)) -> Reading {
    let file = TempFile::new(content);
    let mut reader = Reader::open(file.path()).expect("a capture");
    let mut events = Vec::new();
    read(&mut reader, &mut events);
    let stacks = (0..reader.stacks_count() as u32).map(|stack| {
        let frames = reader.stack_frames(stack).take(20);
        frames.map(|frame| (frame.code_id, frame.is_entry)).collect()
    });
    (events, stacks.collect(), format!("{:?}", reader.damage()))
}

fn check(content: &[u8], what: &str) {
    let expected = reading(content, |reader, events| {
        while let Some(event) = reader.next_event_slowly() {
            events.push(event);
        }
    });
    let one_by_one = reading(content, |reader, events| {
        events.extend(std::iter::from_fn(|| reader.next_event()));
    });
    assert!(one_by_one == expected, "{what}: {one_by_one:?}\n{expected:?}");
    let batches = reading(content, |reader, events| {
        reader.for_each_batch(|batch| events.extend_from_slice(batch))
    });
    assert!(batches == expected, "{what}, in batches");
}

#[test]
fn events_are_the_same_many_at_a_time() {
    for seed in 1..=40 {
        let mut random = Random(seed);
        let native_traces = seed % 3 == 0;
        let header = Header {
            native_traces,
            ..header()
        };
        let body = records(&mut random, 300 * seed, native_traces);
        let whole = [header_bytes(&header), body].concat();
        check(&whole, &format!("seed {seed}"));
        // Blocks of which none ends where a record does.
        check(&stored_frame(&whole, 61), &format!("seed {seed} in blocks"));
    }
}

#[test]
fn altered_bytes_are_taken_alike_many_at_a_time() {
    let mut random = Random(77);
    let head = header_bytes(&header());
    for round in 0..600 {
        let mut body = records(&mut random, 60, false);
        for _ in 0..1 + random.below(3) {
            let at = random.below(body.len() as u64) as usize;
            body[at] = random.next() as u8;
        }
        body.truncate(body.len() - random.below(20) as usize);
        check(&[head.clone(), body].concat(), &format!("round {round}"));
    }
}
