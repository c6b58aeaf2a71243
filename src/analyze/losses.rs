//! What was not recorded, by what it means for a reader of the report.

use super::input::Losses;

/// Events that happened and are missing from the capture.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LossSummary {
    /// Allocations: blocks that are missing from every table.
    pub allocations_count: u64,
    /// Frees, and outcomes of realloc and munmap: blocks that seem to live on.
    pub frees_count: u64,
    /// Stacks and code: blocks without their lines. They are sent again when met again.
    pub definitions_count: u64,
    /// Allocations or frees, nobody knows which.
    pub unknown_count: u64,
}

impl LossSummary {
    pub fn total_count(&self) -> u64 {
        let counts = [
            self.allocations_count,
            self.frees_count,
            self.definitions_count,
            self.unknown_count,
        ];
        counts.into_iter().fold(0, u64::saturating_add)
    }
}

/// Sums causes up. A slot that was given up is one lost event, whether or not it was committed late.
pub fn losses(losses: &Losses) -> LossSummary {
    let unknown = [
        losses.reentrant,
        losses.no_thread_entry,
        losses.abandoned,
        losses.dead_slots.max(losses.late_commits),
        // At least one event each, or there is nothing to be missed.
        losses.modules_late,
    ];
    LossSummary {
        allocations_count: losses.allocations_full,
        frees_count: losses.frees_full.saturating_add(losses.outcomes_full),
        definitions_count: losses.definitions_full,
        unknown_count: unknown.into_iter().fold(0, u64::saturating_add),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_cause_is_in_one_group() {
        let causes = Losses {
            allocations_full: 1,
            frees_full: 2,
            outcomes_full: 4,
            definitions_full: 8,
            reentrant: 16,
            no_thread_entry: 32,
            abandoned: 64,
            late_commits: 100,
            dead_slots: 128,
            modules_late: 256,
        };
        let found = losses(&causes);
        assert_eq!(
            (found.allocations_count, found.frees_count, found.definitions_count),
            (1, 6, 8)
        );
        assert_eq!((found.unknown_count, found.total_count()), (496, 511));
        assert_eq!(
            losses(&Losses {
                frees_full: u64::MAX,
                outcomes_full: 1,
                ..causes
            })
            .frees_count,
            u64::MAX
        );
    }
}
