//! The few expressions that compilers and libraries put into `.eh_frame` on x86_64, known by their bytes.

use wire::native::Rule;

const BREG_RBP: u8 = 0x76;
const BREG_RSP: u8 = 0x77;
const DEREF: u8 = 0x06;

/// `rsp + 8 + ((rip & 15) >= 11) << 3`: what the linker writes for a procedure linkage table.
const PLT: [u8; 11] = [BREG_RSP, 8, 0x80, 0, 0x3f, 0x1a, 0x3b, 0x2a, 0x33, 0x24, 0x22];
/// The word at RSP + 160: glibc's, for what a signal handler returns to.
const SIGNAL: [u8; 4] = [BREG_RSP, 0xa0, 1, DEREF];
/// RBP itself: where a function that realigned the stack keeps its caller's.
const AT_RBP: [u8; 2] = [BREG_RBP, 0];

/// What an expression for the CFA amounts to: which special rule, and its operand.
pub fn cfa(bytes: &[u8]) -> Option<(u32, u32)> {
    if bytes == PLT {
        return Some((Rule::SPECIAL_PLT, 0));
    }
    if bytes == SIGNAL {
        return Some((Rule::SPECIAL_SIGNAL, 0));
    }
    match *bytes {
        // A distance of one byte, which is signed and has seven bits.
        [BREG_RBP, distance @ 0x40..=0x7f, DEREF] if distance % 8 == 0 => {
            Some((Rule::SPECIAL_REALIGNED, (0x80 - u32::from(distance)) / 8))
        }
        [BREG_RBP, low @ 0x80..=0xff, high @ 0x40..=0x7f, DEREF] if low % 8 == 0 => {
            let distance = 0x4000 - (u32::from(high) << 7 | u32::from(low & 0x7f));
            Some((Rule::SPECIAL_REALIGNED, distance / 8))
        }
        _ => None,
    }
}

/// Whether the caller's RBP is in the word that RBP points to.
pub fn is_at_rbp(bytes: &[u8]) -> bool {
    bytes == AT_RBP
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_expressions_alone_have_a_meaning() {
        assert_eq!(cfa(&PLT), Some((Rule::SPECIAL_PLT, 0)));
        assert_eq!(cfa(&SIGNAL), Some((Rule::SPECIAL_SIGNAL, 0)));
        // DW_OP_breg6 (rbp) -8; deref, and -16, -256.
        assert_eq!(cfa(&[0x76, 0x78, 0x06]), Some((Rule::SPECIAL_REALIGNED, 1)));
        assert_eq!(cfa(&[0x76, 0x70, 0x06]), Some((Rule::SPECIAL_REALIGNED, 2)));
        assert_eq!(cfa(&[0x76, 0x80, 0x7e, 0x06]), Some((Rule::SPECIAL_REALIGNED, 32)));
        for unknown in [
            &[][..],
            &[0x76, 0x79, 0x06],
            &[0x76, 0x08, 0x06],
            &[0x77, 0x78, 0x06],
            &PLT[..10],
            &[0x77, 0xa8, 1, 6],
        ] {
            assert_eq!(cfa(unknown), None, "{unknown:x?}");
        }
        assert!(is_at_rbp(&[0x76, 0]) && !is_at_rbp(&[0x76, 8]) && !is_at_rbp(&[0x76]));
    }
}
