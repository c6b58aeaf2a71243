//! The sum that a stack's id is made of: one term for each frame, times a power of [`BASE`] that grows from the outermost
//! frame inwards, modulo the prime 2^61 - 1.
//!
//! Why a polynomial: the terms can be added from the innermost frame outwards, which is how they are met, and those of
//! the outer frames may be had from an earlier walk. Why modulo a prime: modulo 2^64 stacks of two call sites that
//! take turns in certain patterns have the same sum, whatever the base (Thue-Morse).

use crate::mix::{SALT, fold, id_from};

const PRIME: u64 = (1 << 61) - 1;
/// No structure of its own, and below 2^58: so a sum that is not fully reduced never overflows, see [`Terms::add`].
const BASE: u64 = SALT[0] >> 6;

/// So many powers in each of two tables; their products are all powers that are wanted.
const POWERS: usize = 32;
const LOW: [u64; POWERS] = powers_of(BASE);
const HIGH: [u64; POWERS] = powers_of(times(LOW[POWERS - 1], BASE));
/// Powers are known up to here.
pub const POWER_MAX: usize = POWERS * POWERS - 1;

const _: () = assert!(BASE < 1 << 58 && wire::path::PATH_FRAMES <= POWER_MAX);

/// The terms of frames that were met one after the other, outwards.
#[derive(Clone, Copy, Debug, Default)]
pub struct Terms {
    /// Below 2^63.
    sum: u64,
    frames: u64,
}

/// What identifies a stack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identified {
    /// Below the prime.
    pub sum: u64,
    pub frames: u64,
}

impl Identified {
    pub const EMPTY: Self = Identified { sum: 0, frames: 0 };

    #[inline(always)]
    pub fn id(self) -> u64 {
        id_from(fold(self.sum ^ SALT[2], self.frames ^ SALT[3]))
    }
}

impl Terms {
    /// The next frame outwards.
    #[inline(always)]
    pub fn add(&mut self, term: u64) {
        // Below 2^63 times below 2^58, so the high part is below 2^60; with the low part and a term, below 2^63.
        let product = self.sum as u128 * BASE as u128;
        self.sum = (product as u64 & PRIME) + (product >> 61) as u64 + (term & PRIME);
        self.frames += 1;
    }

    /// The stack of these frames and, further out, those of `outer`.
    #[inline(always)]
    pub fn behind(self, outer: Identified) -> Identified {
        let own = times(self.sum, power(outer.frames));
        Identified {
            sum: reduced(own + (outer.sum & PRIME)),
            frames: self.frames.wrapping_add(outer.frames),
        }
    }
}

/// The base to the power of `frames`; of its remainder, beyond [`POWER_MAX`].
#[inline(always)]
fn power(frames: u64) -> u64 {
    times(LOW[frames as usize % POWERS], HIGH[frames as usize / POWERS % POWERS])
}

/// `a` below 2^63, `b` below 2^61; the product is reduced.
#[inline(always)]
const fn times(a: u64, b: u64) -> u64 {
    let product = a as u128 * b as u128;
    reduced((product as u64 & PRIME) + (product >> 61) as u64)
}

/// Any number's remainder.
#[inline(always)]
const fn reduced(value: u64) -> u64 {
    let folded = (value & PRIME) + (value >> 61);
    if folded >= PRIME { folded - PRIME } else { folded }
}

const fn powers_of(base: u64) -> [u64; POWERS] {
    let mut powers = [1; POWERS];
    let mut index = 1;
    while index < POWERS {
        powers[index] = times(powers[index - 1], base);
        index += 1;
    }
    powers
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    /// By long multiplication, from the outermost frame inwards.
    fn slowly(terms: &[u64]) -> Identified {
        let (mut sum, mut power) = (0u128, 1u128);
        for term in terms {
            sum = (sum + (term & PRIME) as u128 * power) % PRIME as u128;
            power = power * BASE as u128 % PRIME as u128;
        }
        Identified {
            sum: sum as u64,
            frames: terms.len() as u64,
        }
    }

    fn walked(terms: &[u64]) -> Terms {
        let mut walked = Terms::default();
        terms.iter().rev().for_each(|&term| walked.add(term));
        walked
    }

    #[test]
    fn a_stack_has_one_sum_wherever_it_is_cut() {
        let frames: Vec<u64> = (0..POWER_MAX as u64 + 500)
            .map(|number| fold(number ^ SALT[4], SALT[5]))
            .collect();
        for count in [0, 1, 2, 31, 32, 33, 64, 500, 1000, frames.len()] {
            let all = slowly(&frames[..count]);
            assert_eq!(walked(&frames[..count]).behind(Identified::EMPTY), all, "{count}");
            for known in [1, 31, 32, 33, 999, POWER_MAX]
                .into_iter()
                .filter(|known| *known <= count)
            {
                let (outer, inner) = frames[..count].split_at(known);
                assert_eq!(walked(inner).behind(slowly(outer)), all, "{count} cut at {known}");
            }
        }
    }

    #[test]
    fn sums_stay_within_their_words() {
        let mut terms = Terms::default();
        for _ in 0..100_000 {
            terms.add(u64::MAX);
            assert!(terms.sum < 1 << 63);
        }
        assert!(reduced(u64::MAX) < PRIME && reduced(PRIME) == 0 && times((1 << 63) - 1, PRIME - 1) < PRIME);
    }

    /// Modulo a power of two these are equal from some length on.
    #[test]
    fn call_sites_that_take_turns_in_a_pattern_are_told_apart() {
        let sites = [7, 8].map(|site| fold(site ^ SALT[4], SALT[5]));
        let stack = |turned: usize| -> Vec<u64> {
            (0..2048usize)
                .map(|depth| sites[(depth.count_ones() as usize % 2) ^ turned])
                .collect()
        };
        assert_ne!(slowly(&stack(0)).id(), slowly(&stack(1)).id());
    }
}
