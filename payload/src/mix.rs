//! Sixty-four bits out of many: the ids of stacks and code objects. Not against an adversary; the inputs are
//! addresses and offsets.

/// Constants with no structure of their own: the first 64 bits of the fractional parts of the square roots of the primes
/// from 2 to 19.
pub const SALT: [u64; 8] = [
    0x6a09_e667_f3bc_c908,
    0xbb67_ae85_84ca_a73b,
    0x3c6e_f372_fe94_f82b,
    0xa54f_f53a_5f1d_36f1,
    0x510e_527f_ade6_82d1,
    0x9b05_688c_2b3e_6c1f,
    0x1f83_d9ab_fb41_bd6b,
    0x5be0_cd19_137e_2179,
];

/// Both halves of the 128-bit product: every bit of either operand reaches every bit of the result.
#[inline(always)]
pub const fn fold(a: u64, b: u64) -> u64 {
    let product = a as u128 * b as u128;
    product as u64 ^ (product >> 64) as u64
}

/// Ids 0 and 1 mean "no stack" and "unknown stack", and 0 an empty place in a set.
#[inline(always)]
pub const fn id_from(hash: u64) -> u64 {
    if hash < 2 { hash + 2 } else { hash }
}
