//! How much memory there was when, thinned out as it comes so that it never has more than a given number of points.

/// One moment, or the most within a stretch of time that ends there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MemoryPoint {
    /// Milliseconds since the epoch.
    pub time_ms: i64,
    pub rss_bytes: u64,
    /// What was allocated and lived; `None` where the capture doesn't tell.
    pub heap_bytes: Option<u64>,
}

/// Points in order of time.
#[derive(Clone, Debug)]
pub struct MemorySeries {
    points: Vec<MemoryPoint>,
    points_max: usize,
    /// How many samples a point stands for.
    stride: u32,
    /// How many the last point stands for so far.
    filled: u32,
}

impl MemorySeries {
    /// At least two points are kept.
    pub fn new(points_max: usize) -> Self {
        Self {
            points: Vec::new(),
            points_max: points_max.max(2),
            stride: 1,
            filled: 0,
        }
    }

    /// Takes in the next sample.
    pub fn push(&mut self, sample: MemoryPoint) {
        match self.points.last_mut() {
            Some(last) if self.filled < self.stride => {
                *last = most(*last, sample);
                self.filled += 1;
            }
            _ => {
                if self.points.len() >= self.points_max {
                    self.halve();
                    return self.push(sample);
                }
                self.points.push(sample);
                self.filled = 1;
            }
        }
    }

    pub fn points(&self) -> &[MemoryPoint] {
        &self.points
    }

    fn halve(&mut self) {
        // An odd one at the end goes on growing.
        self.filled = if self.points.len().is_multiple_of(2) {
            self.stride * 2
        } else {
            self.stride
        };
        self.stride *= 2;
        self.points = self
            .points
            .chunks(2)
            .map(|pair| pair.iter().copied().reduce(most).unwrap_or_default())
            .collect();
    }
}

/// The most of both, at the later time.
fn most(first: MemoryPoint, second: MemoryPoint) -> MemoryPoint {
    MemoryPoint {
        time_ms: second.time_ms,
        rss_bytes: first.rss_bytes.max(second.rss_bytes),
        heap_bytes: first.heap_bytes.max(second.heap_bytes),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn however_many_samples_there_are_the_points_stay_few_and_lose_no_peak() {
        for count in [1, 2, 7, 8, 9, 100, 1000] {
            let mut series = MemorySeries::new(8);
            for index in 0..count {
                series.push(MemoryPoint {
                    time_ms: index,
                    rss_bytes: if index == count / 2 { 1000 } else { 10 },
                    heap_bytes: Some(index as u64),
                });
            }
            let points = series.points();
            assert!((1..=8).contains(&points.len()), "{count}");
            assert!(count < 8 || points.len() >= 4, "{count}: {}", points.len());
            assert_eq!(points.iter().map(|point| point.rss_bytes).max(), Some(1000));
            let last = points[points.len() - 1];
            assert_eq!((last.time_ms, last.heap_bytes), (count - 1, Some(count as u64 - 1)));
            assert!(points.is_sorted_by_key(|point| point.time_ms));
        }
    }
}
