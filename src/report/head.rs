//! What a report of a capture begins with: whatever its figures lack, and why its window ended where nobody would
//! expect it to. Nothing where there is nothing to say.

use super::text::Text;
use crate::analyze::{Loss, LossCause};
use crate::ui::format;
use std::io::{self, Write};

/// Facts about a capture that its tables do not show.
#[derive(Clone, Copy, Debug, Default)]
pub struct Head<'a> {
    /// What ended the window, where it was neither its time nor somebody's wish nor the target's end.
    pub window_end: Option<&'a str>,
    pub losses: &'a [Loss],
    /// Count and bytes of frees of blocks from before the window; told by reports that do not reconcile them.
    pub old_frees: Option<(u64, Option<u64>)>,
}

impl Head<'_> {
    /// Whether events were lost. What was found out later is none.
    pub fn has_losses(&self) -> bool {
        self.lost_count() > 0
    }

    /// How many.
    pub fn lost_count(&self) -> u64 {
        let lost = self.losses.iter().filter(|loss| loss.cause.is_lost_event());
        lost.fold(0, |sum, loss| sum.saturating_add(loss.count))
    }
}

/// Writes it, with an empty line behind.
pub fn head(head: &Head<'_>, width: usize, color: bool, out: &mut impl Write) -> io::Result<()> {
    let old_frees = head.old_frees.filter(|&(count, _)| count > 0);
    if head.window_end.is_none() && head.losses.is_empty() && old_frees.is_none() {
        return Ok(());
    }
    let mut text = Text::new(width, color, out);
    if let Some(end) = head.window_end {
        text.say("The window ended:", &format!("{end}."))?;
    }
    if head.has_losses() {
        let events = format::counted(head.lost_count(), "event");
        text.say("Lost:", &format!("{events} could not be recorded."))?;
    }
    for loss in head.losses {
        let (what, meaning) = words(loss.cause, loss.count == 1);
        let count = format::count(loss.count);
        text.say("", &format!("  {count} {what}: {meaning}."))?;
    }
    if let Some((count, bytes)) = old_frees {
        let blocks = format::counted(count, "block");
        let bytes = bytes.map_or(String::new(), |bytes| format!(" ({})", format::bytes_short(bytes)));
        let verb = if count == 1 { "was" } else { "were" };
        text.say(
            "Old frees:",
            &format!("{blocks}{bytes} from before the attach {verb} freed in the window, and in no figure below."),
        )?;
    }
    writeln!(text.out)
}

/// What was lost, and what that means for the figures.
fn words(cause: LossCause, is_one: bool) -> (&'static str, &'static str) {
    let of = |one, many| if is_one { one } else { many };
    let unknown = "each a block missing below, or one that may be gone already";
    match cause {
        LossCause::AllocationsFull => (
            of("allocation found the ring full", "allocations found the ring full"),
            "their blocks are missing below",
        ),
        LossCause::FreesFull => (
            of("free found the ring full", "frees found the ring full"),
            "some blocks below may be gone already",
        ),
        LossCause::OutcomesFull => (
            of(
                "outcome of a realloc or munmap found the ring full",
                "outcomes of realloc or munmap found the ring full",
            ),
            "some blocks below may be gone already or have another size",
        ),
        LossCause::DefinitionsFull => (
            of("stack found the ring full", "stacks found the ring full"),
            "some blocks below may lack their line",
        ),
        LossCause::Reentrant => (
            of(
                "call of a signal handler that interrupted the recording was passed through",
                "calls of signal handlers that interrupted the recording were passed through",
            ),
            unknown,
        ),
        LossCause::NoThreadEntry => (
            of(
                "call was made by a thread for which the thread table was full",
                "calls were made by threads for which the thread table was full",
            ),
            unknown,
        ),
        LossCause::Abandoned => (
            of(
                "event was given up since memray stood still",
                "events were given up since memray stood still",
            ),
            unknown,
        ),
        LossCause::DeadSlots => (
            of(
                "event was never completed by its thread",
                "events were never completed by their threads",
            ),
            unknown,
        ),
        LossCause::ModulesLate => (
            of(
                "library was used before it was hooked",
                "libraries were used before they were hooked",
            ),
            "what it allocated first is missing below",
        ),
        LossCause::Stackless => (
            of(
                "allocation came without its stack",
                "allocations came without their stacks",
            ),
            "they stand at ??? below",
        ),
        LossCause::ImpliedFrees => (
            of("free was not seen", "frees were not seen"),
            "found out when the address was used again; until then the block seemed to live",
        ),
        LossCause::Corrupt => (
            of("record made no sense", "records made no sense"),
            "the process wrote into memray's memory, and the figures may be wrong",
        ),
        LossCause::NativeStacksCut => (
            of(
                "native stack could not be followed to its end",
                "native stacks could not be followed to their ends",
            ),
            "their outer native frames are missing below",
        ),
        LossCause::NativeModulesFull => (
            of(
                "library's unwind table found no room",
                "libraries' unwind tables found no room",
            ),
            "native stacks end in it",
        ),
        LossCause::NativeModulesUnnamed => (
            of(
                "library's names were not looked up for want of time",
                "libraries' names were not looked up for want of time",
            ),
            "their native frames stand at ??? below",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(given: &Head<'_>) -> String {
        let mut out = Vec::new();
        head(given, 80, false, &mut out).expect("a vector takes everything");
        String::from_utf8(out).expect("reports are UTF-8")
    }

    #[test]
    fn nothing_to_say_is_nothing() {
        assert_eq!(text(&Head::default()), "");
        let none = Head {
            old_frees: Some((0, Some(0))),
            ..Head::default()
        };
        assert_eq!(text(&none), "");
    }

    #[test]
    fn each_cause_says_what_it_means() {
        let losses = [
            (LossCause::AllocationsFull, 1200),
            (LossCause::Reentrant, 1),
            (LossCause::ImpliedFrees, 5),
        ]
        .map(|(cause, count)| Loss { cause, count });
        let given = Head {
            window_end: Some("the capture reached 3.00MB (--max-size)"),
            losses: &losses,
            old_frees: Some((1, None)),
        };
        let expected = "\
The window ended: the capture reached 3.00MB (--max-size).
Lost: 1,201 events could not be recorded.
1,200 allocations found the ring full: their blocks are missing below.
1 call of a signal handler that interrupted the recording was passed through:
  each a block missing below, or one that may be gone already.
5 frees were not seen: found out when the address was used again; until then
  the block seemed to live.
Old frees: 1 block from before the attach was freed in the window, and in no
  figure below.

";
        assert_eq!(text(&given), expected);
    }
}
