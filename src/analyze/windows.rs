//! Time in equal windows, few enough for a page: where more time passes, or more is to be told, they get twice as long.

/// Most windows.
pub const WINDOWS_MAX: u32 = 512;
/// However much there is to be told, times are told apart that well, once so many windows have passed.
pub const WINDOWS_MIN: u32 = 16;
/// Upstream's interval between memory records.
const WIDTH_MS_MIN: u64 = 10;

/// Where the windows lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Windows {
    /// Milliseconds since the epoch.
    pub start_ms: i64,
    pub width_ms: u64,
}

impl Windows {
    pub fn new(start_ms: i64) -> Self {
        Self {
            start_ms,
            width_ms: WIDTH_MS_MIN,
        }
    }

    /// The window of a time, which may be past the last: 0 for what is before the first.
    pub fn of(&self, time_ms: i64) -> u64 {
        self.elapsed_ms(time_ms) / self.width_ms
    }

    pub fn elapsed_ms(&self, time_ms: i64) -> u64 {
        u64::try_from(time_ms.saturating_sub(self.start_ms)).unwrap_or(0)
    }
}
