//! The time-stamp counter, which the payload can read without a system call, against the clock.

use std::time::{Duration, Instant};

/// Relates counter ticks to time. Made early and asked later, so that calibration costs no waiting.
pub struct TickClock {
    started: Instant,
    started_ticks: u64,
}

impl TickClock {
    pub fn start() -> Self {
        Self {
            started: Instant::now(),
            started_ticks: now(),
        }
    }

    /// Ticks in a microsecond, at least 1; waits until enough time has passed to know.
    pub fn ticks_per_us(&self) -> u32 {
        let enough = Duration::from_millis(2);
        if let Some(missing) = enough.checked_sub(self.started.elapsed()) {
            std::thread::sleep(missing);
        }
        let ticks = now().saturating_sub(self.started_ticks) as u128;
        let elapsed_ns = self.started.elapsed().as_nanos().max(1);
        (ticks * 1000 / elapsed_ns).clamp(1, u128::from(u32::MAX)) as u32
    }
}

/// The counter now.
#[cfg(target_arch = "x86_64")]
pub fn now() -> u64 {
    // SAFETY: RDTSC exists on every x86_64 CPU and only reads a counter.
    unsafe { core::arch::x86_64::_rdtsc() }
}
