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

/// Why events were not recorded, or not as they were.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LossCause {
    AllocationsFull,
    FreesFull,
    OutcomesFull,
    DefinitionsFull,
    Reentrant,
    NoThreadEntry,
    Abandoned,
    DeadSlots,
    ModulesLate,
    Stackless,
    ImpliedFrees,
    Corrupt,
    NativeStacksCut,
    NativeModulesFull,
    NativeModulesUnnamed,
}

impl LossCause {
    /// Whether such an event is missing from the capture; others came, but not whole, or late.
    pub fn is_lost_event(self) -> bool {
        !matches!(
            self,
            Self::Stackless
                | Self::ImpliedFrees
                | Self::Corrupt
                | Self::NativeStacksCut
                | Self::NativeModulesFull
                | Self::NativeModulesUnnamed
        )
    }
}

/// How much was lost for one cause.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Loss {
    pub cause: LossCause,
    pub count: u64,
}

/// The causes that there were.
pub fn loss_causes(losses: &Losses) -> Vec<Loss> {
    let counts = [
        (LossCause::AllocationsFull, losses.allocations_full),
        (LossCause::FreesFull, losses.frees_full),
        (LossCause::OutcomesFull, losses.outcomes_full),
        (LossCause::DefinitionsFull, losses.definitions_full),
        (LossCause::Reentrant, losses.reentrant),
        (LossCause::NoThreadEntry, losses.no_thread_entry),
        (LossCause::Abandoned, losses.abandoned),
        (LossCause::DeadSlots, losses.dead_slots.max(losses.late_commits)),
        (LossCause::ModulesLate, losses.modules_late),
        (LossCause::Stackless, losses.stackless),
        (LossCause::ImpliedFrees, losses.implied_frees),
        (LossCause::Corrupt, losses.corrupt),
        (LossCause::NativeStacksCut, losses.native_stacks_cut),
        (LossCause::NativeModulesFull, losses.native_modules_full),
        (LossCause::NativeModulesUnnamed, losses.native_modules_unnamed),
    ];
    let some = counts.into_iter().filter(|&(_, count)| count > 0);
    some.map(|(cause, count)| Loss { cause, count }).collect()
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
            stackless: 512,
            implied_frees: 1024,
            corrupt: 2048,
            native_stacks_cut: 4096,
            native_modules_full: 8192,
            native_modules_unnamed: 16384,
        };
        let found = losses(&causes);
        assert_eq!(
            (found.allocations_count, found.frees_count, found.definitions_count),
            (1, 6, 8)
        );
        assert_eq!((found.unknown_count, found.total_count()), (496, 511));
        let causes_found = loss_causes(&causes);
        let lost = causes_found.iter().filter(|loss| loss.cause.is_lost_event());
        assert_eq!(lost.map(|loss| loss.count).sum::<u64>(), found.total_count());
        assert_eq!(causes_found.len(), 15);
        assert_eq!(loss_causes(&Losses::default()), []);
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
