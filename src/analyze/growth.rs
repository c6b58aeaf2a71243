//! Which lines hold more and more: what each held over the window, and how fast that rises.
//!
//! The window is cut into [`SLICES_MAX`] slices at most: whenever there are more, two become one. A place's series lists
//! only the slices in which it changed, so that memory goes with what changes and not with the window's length.

use rustc_hash::FxHashMap;

use super::heap::Heap;
use super::input::{Event, Location, Stacks, leaf};
use super::lines::{LineRow, lines};
use super::origin::Origins;

/// An even number; that of slices is between half of it and this, once the window is long enough.
const SLICES_MAX: usize = 64;
const SLICE_MS_MIN: u64 = 10;
/// A window of fewer slices tells no growth.
const SLICES_MIN: usize = 8;
/// Nor does one that is shorter than this.
const WINDOW_MS_MIN: u64 = 1000;
/// A rise goes on if it brought this part of its share in the window's second half.
const STILL_RISING_SHARE_MIN: f64 = 0.25;
/// A rise over the window must be this many times as high as the ups and downs around it.
const RISE_IN_DEVIATIONS_MIN: f64 = 3.0;
/// And this part of the most that the line held: what comes and goes by chance wanders, if slowly.
const RISE_SHARE_MIN: f64 = 0.15;

/// A line and what it held over time.
#[derive(Clone, Debug, PartialEq)]
pub struct GrowthRow {
    /// As of the end.
    pub line: LineRow,
    /// Bytes at the end of each slice.
    pub series: Vec<u64>,
    /// The median of the slopes between any two slices: neither a single step nor an outlier moves it.
    pub bytes_per_second: f64,
    /// Whether it rises beyond its ups and downs, and still does in the second half of the window.
    pub is_growing: bool,
}

/// Every line that holds something at the end.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct GrowthTable {
    /// Those that grow first, the fastest first; then the others by what they hold.
    pub rows: Vec<GrowthRow>,
    pub window_ms: u64,
    pub slice_ms: u64,
    /// Too few slices or too short a window to tell.
    pub is_too_short: bool,
}

impl GrowthTable {
    /// The rows that grow.
    pub fn growing(&self) -> &[GrowthRow] {
        &self.rows[..self.rows.iter().take_while(|row| row.is_growing).count()]
    }
}

/// Takes in events.
#[derive(Debug, Default)]
pub struct History {
    heap: Heap,
    slice_ms: u64,
    slices_count: usize,
    /// By place: slice and bytes at its end, where they changed.
    series: Vec<Vec<(u8, u64)>>,
}

impl History {
    /// Takes in several events.
    pub fn apply_all(&mut self, events: &[Event]) {
        // Time passes with samples of memory alone; what comes between two of them is taken in at once.
        for events in events.chunk_by(|before, _| !matches!(before, Event::Memory { .. })) {
            self.heap.apply_all(events);
            if matches!(events.last(), Some(Event::Memory { .. })) {
                self.slice_ms = self.slice_ms.max(SLICE_MS_MIN);
                while self.heap.elapsed_ms() / self.slice_ms > self.slices_count as u64 {
                    self.end_slice();
                }
            }
        }
    }

    fn end_slice(&mut self) {
        if self.slices_count == SLICES_MAX {
            self.halve();
            return;
        }
        let slice = self.slices_count as u8;
        self.slices_count += 1;
        self.series.resize_with(self.heap.held().len(), Vec::new);
        for (series, (_, now)) in self.series.iter_mut().zip(self.heap.held()) {
            if series.last().map_or(0, |(_, bytes)| *bytes) != now.bytes {
                series.push((slice, now.bytes));
            }
        }
    }

    /// Each two slices become one, which ends with what the second did.
    fn halve(&mut self) {
        for series in &mut self.series {
            let mut kept: Vec<(u8, u64)> = Vec::with_capacity(series.len());
            for &(slice, bytes) in series.iter() {
                match kept.last_mut().filter(|(last, _)| *last == slice / 2) {
                    Some(last) => last.1 = bytes,
                    None => kept.push((slice / 2, bytes)),
                }
            }
            *series = kept;
        }
        self.slices_count = SLICES_MAX / 2;
        self.slice_ms = self.slice_ms.saturating_mul(2);
    }

    /// One row for each line that holds something. For `arena_bytes` see [`Heap::leaks`].
    pub fn finish(self, stacks: &impl Stacks, origins: &Origins<'_>, arena_bytes: Option<u64>) -> GrowthTable {
        let table = lines(&self.heap.leaks(arena_bytes), stacks, origins, arena_bytes);
        let mut by_line: FxHashMap<Location<'_>, Vec<u64>> = FxHashMap::default();
        for (series, (place, _)) in self.series.iter().zip(self.heap.held()) {
            let leaf = leaf(stacks, place.tid, place.stack);
            let sums = by_line.entry(leaf).or_insert_with(|| vec![0; self.slices_count]);
            for (index, &(from, bytes)) in series.iter().enumerate() {
                let to = series
                    .get(index + 1)
                    .map_or(self.slices_count, |(next, _)| usize::from(*next));
                for sum in &mut sums[usize::from(from)..to] {
                    *sum = sum.wrapping_add(bytes);
                }
            }
        }
        let is_too_short = self.slices_count < SLICES_MIN || self.heap.elapsed_ms() < WINDOW_MS_MIN;
        let mut rows: Vec<GrowthRow> = (table.rows.into_iter())
            .map(|line| {
                let leaf = Location {
                    function: &line.function,
                    file: &line.file,
                    line: line.line,
                };
                // One that came after the last slice held nothing in any.
                let series = by_line.get(&leaf).cloned();
                let series = series.unwrap_or_else(|| vec![0; self.slices_count]);
                let rise = if is_too_short { Rise::default() } else { rise(&series) };
                GrowthRow {
                    line,
                    bytes_per_second: rise.bytes_per_slice * 1000.0 / self.slice_ms.max(1) as f64,
                    is_growing: rise.goes_on,
                    series,
                }
            })
            .collect();
        // Lines came by what they hold, and stay so where nothing else tells.
        rows.sort_by(|left, right| {
            let growing = |row: &GrowthRow| if row.is_growing { row.bytes_per_second } else { 0.0 };
            growing(right).total_cmp(&growing(left))
        });
        GrowthTable {
            rows,
            window_ms: self.heap.elapsed_ms(),
            slice_ms: self.slice_ms,
            is_too_short,
        }
    }
}

#[derive(Clone, Copy, Debug, Default)]
struct Rise {
    bytes_per_slice: f64,
    goes_on: bool,
}

/// How a series rises.
fn rise(series: &[u64]) -> Rise {
    let count = series.len();
    let bytes: Vec<f64> = series.iter().map(|&bytes| bytes as f64).collect();
    let slopes = (1..count).flat_map(|to| (0..to).map(move |from| (from, to)));
    let mut slopes: Vec<f64> = slopes
        .map(|(from, to)| (bytes[to] - bytes[from]) / (to - from) as f64)
        .collect();
    let slope = median(&mut slopes);
    let mut levels: Vec<f64> = (0..count).map(|at| bytes[at] - slope * at as f64).collect();
    let level = median(&mut levels.clone());
    levels.iter_mut().for_each(|it| *it = (*it - level).abs());
    let deviation = median(&mut levels);
    let half = count / 2;
    let rise_of_late = bytes[count - 1] - bytes[count - 1 - half];
    let rise = slope * (count - 1) as f64;
    let goes_on = slope > 0.0
        && rise > RISE_IN_DEVIATIONS_MIN * deviation
        && rise >= RISE_SHARE_MIN * bytes.iter().copied().fold(0.0, f64::max)
        && rise_of_late >= STILL_RISING_SHARE_MIN * slope * half as f64;
    Rise {
        bytes_per_slice: slope,
        goes_on,
    }
}

/// 0 of nothing.
fn median(values: &mut [f64]) -> f64 {
    if values.is_empty() {
        return 0.0;
    }
    let middle = values.len() / 2;
    *values.select_nth_unstable_by(middle, f64::total_cmp).1
}

#[cfg(test)]
mod tests {
    use super::super::input::testing::{FakeStacks, Random, malloc, time};
    use super::*;

    /// A window of that many milliseconds, a tick each 10 ms; `held` gives what each stack holds after the tick.
    fn table(window_ms: i64, held: impl Fn(i64, u32) -> u64) -> GrowthTable {
        let mut history = History::default();
        for tick in 0..=window_ms / 10 {
            history.apply_all(&[time(1_700_000_000_000 + tick * 10)]);
            for stack in 0..3 {
                history.apply_all(&[malloc(u64::from(stack + 1) * 16, held(tick * 10, stack), stack)]);
            }
        }
        let stacks = FakeStacks::new(&[&[("a", "a.py", 1)], &[("b", "b.py", 2)], &[("c", "c.py", 3)]]);
        history.finish(&stacks, &Origins::default(), None)
    }

    #[test]
    fn the_fastest_that_still_grows_comes_first() {
        for window_ms in [1200, 5000, 30_000, 300_000] {
            let found = table(window_ms, |ms, stack| match stack {
                // Steady; a warm-up that ends in the first half; three times as fast.
                0 => 5000 + ms as u64 * 10,
                1 => 1_000_000 * ms.min(window_ms / 3) as u64,
                _ => ms as u64 * 30,
            });
            let brief: Vec<_> = (found.growing().iter())
                .map(|row| (row.line.function.as_str(), row.bytes_per_second.round()))
                .collect();
            assert_eq!(brief, [("c", 30_000.0), ("a", 10_000.0)], "{window_ms}");
            assert_eq!(found.rows[2].line.function, "b");
            assert!(!found.is_too_short && found.window_ms == window_ms as u64);
            let slices_count = found.rows[0].series.len();
            assert!((SLICES_MAX / 2..=SLICES_MAX).contains(&slices_count) || window_ms < 1300);
            // What a slice ends with is what was held just before the tick that ended it.
            for (index, bytes) in found.rows[0].series.iter().enumerate() {
                let end_ms = (index as u64 + 1) * found.slice_ms;
                assert_eq!(*bytes, (end_ms - 10) * 30, "{index} of {slices_count}");
            }
        }
    }

    #[test]
    fn steps_teeth_and_noise_do_not_grow() {
        let mut random = Random(3);
        let noise: Vec<u64> = std::iter::repeat_with(|| random.below(1_000_000)).take(4000).collect();
        let found = table(30_000, |ms, stack| match stack {
            0 => {
                if ms > 20_000 {
                    5_000_000
                } else {
                    0
                }
            }
            1 => ms as u64 % 7000 * 1000,
            _ => noise[ms as usize / 10],
        });
        assert_eq!(found.growing(), []);
        assert_eq!(found.rows.len(), 3);
    }

    #[test]
    fn what_is_full_and_wanders_does_not_grow() {
        let mut random = Random(9);
        let mut level = 4_000_000i64;
        let walk: Vec<u64> = std::iter::repeat_with(|| {
            // A step that is a little more often up than down.
            level += random.below(2001) as i64 - 950;
            level as u64
        })
        .take(3002)
        .collect();
        let found = table(30_000, |ms, stack| walk[ms as usize / 10] * u64::from(stack == 0));
        assert_eq!(found.growing(), []);
    }

    #[test]
    fn a_line_of_the_last_moment_has_a_series_too() {
        let mut history = History::default();
        for tick in 0..200 {
            history.apply_all(&[time(tick * 10)]);
        }
        history.apply_all(&[malloc(16, 100, 0)]);
        let found = history.finish(&FakeStacks::new(&[&[("a", "a.py", 1)]]), &Origins::default(), None);
        let [row] = &found.rows[..] else { panic!("{found:?}") };
        assert!(!found.is_too_short && !row.is_growing);
        assert!(row.series.len() >= SLICES_MAX / 2 && row.series.iter().all(|bytes| *bytes == 0));
    }

    #[test]
    fn arenas_come_in_steps_and_grow() {
        let found = table(30_000, |ms, stack| ((ms as u64 / 4000) << 20) * u64::from(stack == 1));
        let [row] = found.growing() else { panic!("{found:?}") };
        assert!((200_000.0..300_000.0).contains(&row.bytes_per_second), "{row:?}");
    }

    #[test]
    fn short_windows_and_wild_clocks_say_nothing() {
        assert!(table(900, |ms, _| ms as u64).is_too_short);
        assert!(table(900, |ms, _| ms as u64).growing().is_empty());
        let mut history = History::default();
        for time_ms in [0, i64::MAX, i64::MIN, 5] {
            history.apply_all(&[time(time_ms)]);
            history.apply_all(&[malloc(16, 100, 0)]);
        }
        let found = history.finish(&FakeStacks::new(&[]), &Origins::default(), None);
        assert_eq!((found.rows.len(), found.growing().len()), (1, 0));
    }
}
