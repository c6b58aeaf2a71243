//! Samples of a whole window in bounded memory: where there are too many, every other one goes, and from then on half
//! as many are kept.

/// Half an hour at ten samples a second before the first one goes; upstream's reader takes 10,000 at a time.
const SAMPLES_MAX: usize = 1 << 14;

/// Samples in order of time.
pub struct Series<T> {
    samples: Vec<T>,
    /// One of `1 << thinned` is kept.
    thinned: u32,
    offered_count: u64,
}

impl<T> Default for Series<T> {
    fn default() -> Self {
        Self {
            samples: Vec::new(),
            thinned: 0,
            offered_count: 0,
        }
    }
}

impl<T> Series<T> {
    pub fn push(&mut self, sample: T) {
        let is_kept = self.offered_count.is_multiple_of(1 << self.thinned);
        self.offered_count += 1;
        if !is_kept {
            return;
        }
        if self.samples.len() == SAMPLES_MAX {
            let mut index = 0;
            self.samples.retain(|_| {
                index += 1;
                index % 2 == 1
            });
            self.thinned += 1;
        }
        self.samples.push(sample);
    }

    /// The window's last sample is kept whatever its turn.
    pub fn push_last(&mut self, sample: T) {
        self.samples.push(sample);
    }

    pub fn samples(&self) -> &[T] {
        &self.samples
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_window_keeps_few_samples_evenly_spread() {
        let mut series = Series::default();
        for time_ms in 0..1_000_000 {
            series.push(time_ms);
        }
        series.push_last(1_000_000);
        let samples = series.samples();
        assert!((SAMPLES_MAX / 2..=SAMPLES_MAX + 1).contains(&samples.len()));
        assert_eq!((samples[0], samples[samples.len() - 1]), (0, 1_000_000));
        let gap = samples[1];
        assert_eq!(gap, 64);
        assert!(
            samples[..samples.len() - 1]
                .windows(2)
                .all(|pair| pair[1] - pair[0] == gap)
        );
    }
}
