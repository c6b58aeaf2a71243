//! From `.eh_frame` to rows, by gimli. What has no rule here (another base register, an unknown expression) gets a row
//! that says so, where a walk stops; what is not understood at all ends the table, and the rest of the module is unknown.

use super::expressions;
use gimli::{
    BaseAddresses, CfaRule, CieOrFde, EhFrame, EhFrameOffset, LittleEndian, RegisterRule, UnwindContext,
    UnwindExpression, UnwindSection, UnwindTableRow, X86_64,
};
use rustc_hash::FxHashMap;
use wire::native::Rule;

/// Rows of one module at most.
const ROWS_MAX: usize = 16 << 20;

/// A module's rows. Addresses as in its file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rows {
    /// First address that has a row.
    pub start: u64,
    /// End of the last function.
    pub end: u64,
    /// As [`wire::native::Row`]s: distance from `start` in the high half, rule in the low one; sorted.
    pub words: Vec<u64>,
}

/// A rule and where it holds.
#[derive(Clone, Copy)]
struct Stretch {
    start: u64,
    end: u64,
    rule: Rule,
}

type Bytes<'a> = gimli::EndianSlice<'a, LittleEndian>;

/// The rows of the `.eh_frame` that begins at `address` with these bytes; more bytes may follow it.
pub fn rows(address: u64, bytes: &[u8]) -> Rows {
    let mut section = EhFrame::new(bytes, LittleEndian);
    section.set_address_size(8);
    let bases = BaseAddresses::default().set_eh_frame(address);
    let mut context = UnwindContext::new();
    let mut common = FxHashMap::default();
    let mut stretches = Vec::new();
    let mut entries = section.entries(&bases);
    while let Ok(Some(entry)) = entries.next() {
        let CieOrFde::Fde(partial) = entry else { continue };
        // Hundreds of functions share one.
        let function = partial.parse(|section: &EhFrame<Bytes>, bases, offset: EhFrameOffset| {
            if let Some(known) = common.get(&offset.0) {
                return Ok(Clone::clone(known));
            }
            let cie = section.cie_from_offset(bases, offset)?;
            common.insert(offset.0, cie.clone());
            Ok(cie)
        });
        let Ok(function) = function else { continue };
        let Ok(mut table) = function.rows(&section, &bases, &mut context) else {
            continue;
        };
        while let Ok(Some(row)) = table.next_row() {
            let (start, end) = (row.start_address(), row.end_address());
            if start < end {
                let rule = rule(&section, row);
                stretches.push(Stretch { start, end, rule });
            }
        }
        if stretches.len() > ROWS_MAX {
            break;
        }
    }
    flatten(stretches)
}

/// Stretches in any order, as rows: what lies between two of them has none.
fn flatten(mut stretches: Vec<Stretch>) -> Rows {
    // Mostly sorted already.
    stretches.sort_by_key(|it| it.start);
    let (Some(first), Some(end)) = (stretches.first(), stretches.iter().map(|it| it.end).max()) else {
        return Rows::default();
    };
    let start = first.start;
    let mut words: Vec<u64> = Vec::with_capacity(stretches.len() + stretches.len() / 4);
    let mut push = |address: u64, rule: Rule| {
        let Ok(distance) = u32::try_from(address - start) else {
            return;
        };
        if words.last().is_some_and(|last| (last >> 32) as u32 == distance) {
            words.pop();
        }
        if words.last().is_none_or(|last| *last as u32 != rule.0) {
            words.push(u64::from(distance) << 32 | u64::from(rule.0));
        }
    };
    let mut covered = start;
    for it in stretches {
        if it.start > covered {
            push(covered, Rule::NONE);
        }
        push(it.start, it.rule);
        covered = covered.max(it.end);
    }
    Rows { start, end, words }
}

fn rule(section: &EhFrame<Bytes>, row: &UnwindTableRow<usize>) -> Rule {
    known_rule(section, row).unwrap_or(Rule::NONE)
}

/// `None`: one that the payload cannot follow.
fn known_rule(section: &EhFrame<Bytes>, row: &UnwindTableRow<usize>) -> Option<Rule> {
    let bytes_of = |expression: &UnwindExpression<usize>| expression.get(section).ok().map(|it| it.0.slice());
    let special_cfa = match row.cfa() {
        CfaRule::Expression(expression) => Some(expressions::cfa(bytes_of(expression)?)?),
        CfaRule::RegisterAndOffset { .. } => None,
    };
    match row.register(X86_64::RA) {
        Some(RegisterRule::Offset(-8)) => {}
        Some(RegisterRule::Undefined) => return Rule::special(Rule::SPECIAL_END, 0, Rule::RBP_UNCHANGED),
        // The kernel's frame has all of them.
        Some(RegisterRule::Expression(_)) if special_cfa.is_some_and(|(which, _)| which == Rule::SPECIAL_SIGNAL) => {
            return Rule::special(Rule::SPECIAL_SIGNAL, 0, Rule::RBP_UNCHANGED);
        }
        _ => return None,
    }
    let rbp = match row.register(X86_64::RBP) {
        None | Some(RegisterRule::Undefined | RegisterRule::SameValue) => Rule::RBP_UNCHANGED,
        Some(RegisterRule::Offset(offset)) if offset < 0 && offset % 8 == 0 => {
            let words = u32::try_from(offset / -8).ok()?;
            (words < Rule::RBP_AT_RBP).then_some(words)?
        }
        Some(RegisterRule::Expression(expression)) if expressions::is_at_rbp(bytes_of(&expression)?) => {
            Rule::RBP_AT_RBP
        }
        Some(_) => return None,
    };
    match (special_cfa, row.cfa()) {
        (Some((which, operand)), _) => Rule::special(which, operand, rbp),
        (None, &CfaRule::RegisterAndOffset { register, offset }) => {
            let kind = match register {
                X86_64::RSP => Rule::KIND_RSP,
                X86_64::RBP => Rule::KIND_RBP,
                _ => return None,
            };
            if offset <= 0 || offset % 8 != 0 {
                return None;
            }
            Rule::new(kind, u32::try_from(offset / 8).ok()?, rbp)
        }
        (None, CfaRule::Expression(_)) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stretch(start: u64, end: u64, words: u32) -> Stretch {
        let rule = Rule::new(Rule::KIND_RSP, words, 0).unwrap();
        Stretch { start, end, rule }
    }

    fn flat(stretches: &[Stretch]) -> Vec<(u64, u32)> {
        let rows = flatten(stretches.to_vec());
        let row = |word: &u64| (rows.start + (word >> 32), Rule(*word as u32).words());
        rows.words.iter().map(row).collect()
    }

    #[test]
    fn gaps_have_no_rule_and_equal_neighbours_are_one() {
        let rows = [stretch(300, 310, 3), stretch(100, 110, 1), stretch(110, 120, 1)];
        assert_eq!(flat(&rows), [(100, 1), (120, 0), (300, 3)]);
        assert_eq!(flatten(rows.to_vec()).end, 310);
        assert_eq!(flatten(Vec::new()), Rows::default());
    }

    #[test]
    fn of_two_that_overlap_the_later_one_holds() {
        assert_eq!(
            flat(&[stretch(100, 200, 1), stretch(150, 160, 2), stretch(220, 230, 4)]),
            [(100, 1), (150, 2), (200, 0), (220, 4)]
        );
    }

    #[test]
    fn nonsense_is_no_table_and_no_panic() {
        let mut random = 7u64;
        for length in 0..600 {
            let bytes: Vec<u8> = (0..length)
                .map(|_| {
                    random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                    (random >> 40) as u8 % 24
                })
                .collect();
            rows(u64::MAX - 100, &bytes);
        }
    }
}
