//! Samples of a whole window in bounded memory: where there are too many, every other one goes, and from then on half
//! as many are kept.

use crate::capture::Sample;

/// Half an hour at ten samples a second before the first one goes.
const SAMPLES_MAX: usize = 1 << 14;

/// Samples in order of time.
#[derive(Default)]
pub struct Series {
    samples: Vec<Sample>,
    /// One of `1 << thinned` is kept.
    thinned: u32,
    offered_count: u64,
}

impl Series {
    pub fn push(&mut self, sample: Sample) {
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
    pub fn push_last(&mut self, sample: Sample) {
        self.samples.push(sample);
    }

    pub fn samples(&self) -> &[Sample] {
        &self.samples
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_window_keeps_few_samples_evenly_spread() {
        let mut series = Series::default();
        let sample = |time_ms| Sample {
            time_ms,
            ..Sample::default()
        };
        for time_ms in 0..1_000_000 {
            series.push(sample(time_ms));
        }
        series.push_last(sample(1_000_000));
        let samples = series.samples();
        assert!((SAMPLES_MAX / 2..=SAMPLES_MAX + 1).contains(&samples.len()));
        assert_eq!((samples[0].time_ms, samples[samples.len() - 1].time_ms), (0, 1_000_000));
        let gap = samples[1].time_ms;
        assert_eq!(gap, 64);
        assert!(
            samples[..samples.len() - 1]
                .windows(2)
                .all(|pair| pair[1].time_ms - pair[0].time_ms == gap)
        );
    }
}
