//! Memory that means nothing: every loop ends, nothing panics, and nothing is believed.

use std::ops::Range;

use super::interpreters::interpreter;
use super::target::Target;
use crate::python::{Image, Memory, ReadError, describe, find, prove};

/// Every word is made from its address and a seed: null, a small number, an address that reads likewise, all
/// ones, or noise. Over it lie words that are what a version check wants to see.
struct Noise {
    seed: u64,
    version: (u64, u64),
}

impl Noise {
    fn word(&self, address: u64) -> u64 {
        if address == self.version.0 {
            return self.version.1;
        }
        // splitmix64's finaliser.
        let mut x = address ^ self.seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        x ^= x >> 31;
        match x % 8 {
            0 => 0,
            1 => x >> 8 & 0xff,
            2 => u64::MAX - (x >> 8 & 0xff),
            3 => x,
            // Few addresses, so that chains meet themselves.
            _ => (x >> 8 & 0x1f) * 8 + 0x1000,
        }
    }
}

impl Memory for Noise {
    fn read(&self, address: u64, buffer: &mut [u8]) -> Result<(), ReadError> {
        if self.word(address / 4096).is_multiple_of(11) {
            return Err(ReadError {
                address,
                length_bytes: buffer.len(),
            });
        }
        for (index, byte) in buffer.iter_mut().enumerate() {
            let at = address.wrapping_add(index as u64);
            *byte = self.word(at & !7).to_le_bytes()[(at & 7) as usize];
        }
        Ok(())
    }
}

struct Fake;

impl Image for Fake {
    fn path(&self) -> &str {
        "/usr/bin/python3"
    }
    fn executable_ranges(&self) -> &[Range<u64>] {
        &[]
    }
    fn symbol(&self, name: &str) -> Option<u64> {
        match name {
            "_PyRuntime" => Some(0x1000),
            "Py_Version" => Some(0x8000),
            "PyCode_Type" => Some(0x1020),
            "PyMem_RawMalloc" | "PyMem_Malloc" | "PyObject_Malloc" | "Py_GetVersion" => Some(0x2000),
            _ => None,
        }
    }
}

/// A real target's memory, in which some words are others each time it is looked at, and pages are missing: it is being
/// rewritten under the reader.
struct Rewritten<'a> {
    memory: &'a dyn Memory,
    /// One word in this many is another.
    one_in: u64,
    random: std::cell::Cell<u64>,
}

impl Rewritten<'_> {
    fn next(&self) -> u64 {
        let mut x = self.random.get();
        x ^= x >> 12;
        x ^= x << 25;
        x ^= x >> 27;
        self.random.set(x);
        x.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }
}

impl Memory for Rewritten<'_> {
    fn read(&self, address: u64, buffer: &mut [u8]) -> Result<(), ReadError> {
        let failed = ReadError {
            address,
            length_bytes: buffer.len(),
        };
        if self.next().is_multiple_of(self.one_in * 4) {
            return Err(failed);
        }
        self.memory.read(address, buffer)?;
        for word in buffer.chunks_mut(8) {
            let random = self.next();
            if !random.is_multiple_of(self.one_in) {
                continue;
            }
            let value = match random >> 60 {
                0..4 => 0,
                4..7 => u64::MAX,
                // Somewhere else in the same structure, or the structure itself: chains that meet themselves.
                7..12 => (address & !7).wrapping_add(random >> 50 & 0xf8),
                12..14 => random >> 40 & 0xffff,
                _ => random,
            };
            word.copy_from_slice(&value.to_le_bytes()[..word.len()]);
        }
        Ok(())
    }
}

#[test]
fn memory_that_is_rewritten_under_the_reader_is_survived() {
    for version in ["3.8", "3.12", "3.13"] {
        let Some(python) = interpreter(version) else { continue };
        let target = Target::start(&python, "say('ready'); time.sleep(1000)");
        let real = target.find().unwrap();
        for seed in 1..120 {
            let memory = Rewritten {
                memory: &target.memory,
                one_in: 1 << (seed % 10 + 2),
                random: std::cell::Cell::new(seed * 0x9e37_79b9),
            };
            // Refused or not: it ends, and nothing panics.
            let _ = prove(&memory, &real, target.pid(), &[target.pid()]);
            let description = describe(&memory, &real, "/");
            let bytes = |list: &[String]| list.iter().map(String::len).sum::<usize>();
            assert!(bytes(&description.sys_path) <= 2 << 20);
        }
    }
}

#[test]
fn noise_is_refused() {
    let Some(python) = interpreter("3.12") else { return };
    let target = Target::start(&python, "say('ready'); time.sleep(1000)");
    let real = target.find().unwrap();
    for seed in 0..600 {
        let hex = 0x0300_00f0 | (8 + seed % 6) << 16;
        let noise = Noise {
            seed,
            version: (0x8000, hex),
        };
        if let Ok(runtime) = find(&noise, &[Fake]) {
            // One word that leads to another and back is soon found in noise; the walk is not fooled.
            assert!(prove(&noise, &runtime, 1, &[1, 2, 3]).is_err());
            describe(&noise, &runtime, "/");
        }
        // A real runtime's places in memory that has changed under it.
        assert!(prove(&noise, &real, 1, &[1, 2, 3]).is_err());
        describe(&noise, &real, "");
    }
}
