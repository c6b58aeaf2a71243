//! When blocks were allocated, in two bytes each, and which of them are too young to be called leaks.

/// Milliseconds since the window began, exact below 2048, then to eleven significant bits: exact enough to tell the last
/// tenth of any window, and small enough to be kept for each block.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Moment(u16);

/// Times below this are kept as they are.
const EXACT_MS: u64 = 1 << 11;

impl Moment {
    /// Later times never give earlier moments.
    pub fn from_ms(ms: u64) -> Self {
        if ms < EXACT_MS {
            return Self(ms as u16);
        }
        // 1024 to 2047, and how often it was halved to get there: 53 times at most.
        let halvings = 53 - ms.leading_zeros();
        let digits = (ms >> halvings) as u16;
        Self(EXACT_MS as u16 + (halvings as u16 - 1) * 1024 + (digits - 1024))
    }
}

impl Moment {
    pub fn bits(self) -> u16 {
        self.0
    }

    /// Undoes [`Moment::bits`].
    pub fn from_bits(bits: u16) -> Self {
        Self(bits)
    }
}

/// A shorter window says nothing about ages.
const WINDOW_MS_MIN: u64 = 1000;
/// The part of a window whose blocks may well be about to be freed.
const YOUNG_PART: u64 = 10;

/// The time of a window as its events tell it.
#[derive(Clone, Copy, Debug, Default)]
pub struct Clock {
    start_ms: Option<i64>,
    elapsed_ms: u64,
    now: Moment,
}

impl Clock {
    /// The time is this now. It never goes back, whatever the system's clock does.
    pub fn set(&mut self, time_ms: i64) {
        let start_ms = *self.start_ms.get_or_insert(time_ms);
        let elapsed_ms = time_ms.saturating_sub(start_ms);
        self.elapsed_ms = self.elapsed_ms.max(u64::try_from(elapsed_ms).unwrap_or(0));
        self.now = Moment::from_ms(self.elapsed_ms);
    }

    /// Milliseconds since the epoch.
    pub fn start_ms(&self) -> Option<i64> {
        self.start_ms
    }

    pub fn elapsed_ms(&self) -> u64 {
        self.elapsed_ms
    }

    pub fn now(&self) -> Moment {
        self.now
    }

    /// What is young as of now, if that can be told.
    pub fn youth(&self) -> Option<Youth> {
        (self.elapsed_ms >= WINDOW_MS_MIN).then(|| {
            let span_ms = self.elapsed_ms / YOUNG_PART;
            Youth {
                since: Moment::from_ms(self.elapsed_ms - span_ms),
                span_ms,
            }
        })
    }
}

/// Blocks that were allocated from some moment on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Youth {
    since: Moment,
    /// How long ago that moment is.
    pub span_ms: u64,
}

impl Youth {
    pub fn has(self, born: Moment) -> bool {
        born >= self.since
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_are_in_order_and_exact_to_a_thousandth() {
        let mut times: Vec<u64> = (0..5000).collect();
        times.extend((0..u64::BITS).flat_map(|bit| [1 << bit, (1 << bit) - 1, (1 << bit) + 1, 3 << bit >> 1]));
        times.push(u64::MAX);
        times.sort_unstable();
        for pair in times.windows(2) {
            assert!(Moment::from_ms(pair[0]) <= Moment::from_ms(pair[1]), "{pair:?}");
        }
        for ms in (1..40).map(|power| 1000 << power) {
            assert!(Moment::from_ms(ms) < Moment::from_ms(ms + ms / 500), "{ms}");
        }
    }

    #[test]
    fn the_last_tenth_is_young() {
        let mut clock = Clock::default();
        clock.set(1_700_000_000_000);
        assert_eq!(clock.youth(), None);
        clock.set(1_700_000_027_000);
        let (old, young) = (Moment::from_ms(26_900), clock.now());
        clock.set(1_700_000_030_000);
        // A clock that is put back does not make anything older.
        clock.set(1_600_000_000_000);
        let youth = clock.youth().expect("30 seconds are enough");
        assert_eq!(youth.span_ms, 3000);
        assert!(youth.has(young) && youth.has(clock.now()));
        assert!(!youth.has(old) && !youth.has(Moment::default()));
    }
}
