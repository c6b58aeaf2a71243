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
