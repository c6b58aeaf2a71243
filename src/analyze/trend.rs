//! Is a series of samples growing, and how fast? Made to say "flat" rather than to alarm without reason.
//!
//! Memory comes in steps and teeth, and each sample depends on the one before, so a straight line through all
//! samples finds "significant" slopes everywhere. Instead:
//! 1. The window is cut into up to [`BLOCKS_MAX`] blocks of equally many samples, each reduced to its median:
//!    single outliers vanish, and samples that depend on their neighbours no longer count as independent
//!    (the method of batch means).
//! 2. Five shapes are fitted: level, one step, a rise that has ended, a rise that has begun, a straight line.
//!    The best is chosen by the Bayesian information criterion, so that a shape with more freedom must earn it.
//! 3. A rise that goes on must exceed its own error at 99 %, the error being widened where neighbouring blocks
//!    still err in the same direction, and must amount to more than a few pages over the window.

/// A series that is shorter says nothing.
pub const SAMPLES_MIN: usize = 8;
/// A window that is shorter says nothing.
pub const SPAN_MS_MIN: i64 = 1000;
/// Most blocks that a window is cut into.
const BLOCKS_MAX: usize = 12;
const BLOCKS_MIN: usize = 4;
/// A change over the whole window that is smaller is the jitter of a few pages.
const CHANGE_BYTES_MIN: f64 = 16.0 * PAGE_BYTES;
/// No sample is more exact than this.
const PAGE_BYTES: f64 = 4096.0;
/// How much better than a straight line (in units of the criterion) a shape that has ended must be.
const ENDED_MARGIN: f64 = 2.0;
/// The error of a rise that began within the window is widened by this, because the bend was looked for.
const BEND_WIDENING: f64 = 1.5;
/// Two-sided 99 % quantiles of Student's t for 1, 2, 3… degrees of freedom.
const STUDENT_99: [f64; 10] = [63.66, 9.92, 5.84, 4.60, 4.03, 3.71, 3.50, 3.36, 3.25, 3.17];

/// Where a series is going at its end.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Trend {
    /// Too few samples or too short a window to tell.
    TooShort,
    Growing(Rate),
    Shrinking(Rate),
    /// No change beyond the noise. `settled_bytes` is what a rise (or fall) had brought that ended early in the
    /// window, 0 where there was none.
    Flat {
        settled_bytes: i64,
    },
}

/// How fast.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rate {
    /// Always above 0; the direction is the [`Trend`]'s.
    pub bytes_per_second: f64,
    /// The true rate lies this close with 99 % confidence.
    pub error_bytes_per_second: f64,
}

/// The trend of (milliseconds, bytes), in order of time.
pub fn trend(samples: &[(i64, u64)]) -> Trend {
    let (Some(first), Some(last)) = (samples.first(), samples.last()) else {
        return Trend::TooShort;
    };
    if samples.len() < SAMPLES_MIN || last.0.saturating_sub(first.0) < SPAN_MS_MIN {
        return Trend::TooShort;
    }
    let points = blocks(samples);
    let Some(line) = fit(&points, |seconds| seconds) else {
        return Trend::TooShort;
    };
    let level_score = score(&points, sum_of_squares(&points), 1);
    let mut rising = Rising {
        fit: line,
        start_seconds: points[0].seconds,
        score: score(&points, line.residual_squares, 2),
        freedom: 2,
    };
    // At least three blocks lie behind the bend.
    let bends = bends(&points[1..points.len() - 2]);
    if let Some((begun, bend)) = best_bend(&points, |seconds, bend| seconds.max(bend), &bends) {
        let score = score(&points, begun.residual_squares, 3);
        if score < rising.score {
            rising = Rising {
                fit: begun,
                start_seconds: bend,
                score,
                freedom: 3,
            };
        }
    }
    let ended_score = ended_score(&points);
    if ended_score < level_score && ended_score + ENDED_MARGIN < rising.score {
        let end = &points[points.len() * 2 / 3..];
        let settled = median(end.iter().map(|point| point.bytes).collect()) - first.1 as f64;
        return Trend::Flat {
            settled_bytes: if settled.abs() < CHANGE_BYTES_MIN {
                0
            } else {
                settled as i64
            },
        };
    }
    if rising.score < level_score {
        judge(&points, &rising)
    } else {
        Trend::Flat { settled_bytes: 0 }
    }
}

/// A rise (or fall) that goes on at the end.
struct Rising {
    fit: Fit,
    /// Where it begins.
    start_seconds: f64,
    score: f64,
    freedom: usize,
}

/// Whether a rise (or fall) that goes on is more than noise.
fn judge(points: &[Point], rising: &Rising) -> Trend {
    let Rising {
        fit,
        start_seconds,
        freedom,
        ..
    } = rising;
    let degrees = points.len() - freedom;
    let quantile = STUDENT_99[(degrees - 1).min(STUDENT_99.len() - 1)];
    let widening = if *freedom > 2 { BEND_WIDENING } else { 1.0 };
    let error = widening * quantile * fit.slope_error(degrees);
    let span = points[points.len() - 1].seconds - start_seconds;
    if fit.slope.abs() <= error || fit.slope.abs() * span < CHANGE_BYTES_MIN {
        return Trend::Flat { settled_bytes: 0 };
    }
    let rate = Rate {
        bytes_per_second: fit.slope.abs(),
        error_bytes_per_second: error,
    };
    if fit.slope > 0.0 {
        Trend::Growing(rate)
    } else {
        Trend::Shrinking(rate)
    }
}

/// The median of one block of samples.
#[derive(Clone, Copy, Debug)]
struct Point {
    /// Since the first sample.
    seconds: f64,
    bytes: f64,
}

fn blocks(samples: &[(i64, u64)]) -> Vec<Point> {
    let count = (samples.len() / 2).clamp(BLOCKS_MIN, BLOCKS_MAX);
    let start_ms = samples[0].0;
    let block = |index: usize| {
        let members = &samples[index * samples.len() / count..(index + 1) * samples.len() / count];
        let seconds = members
            .iter()
            .map(|sample| sample.0.saturating_sub(start_ms) as f64 / 1000.0);
        Point {
            seconds: median(seconds.collect()),
            bytes: median(members.iter().map(|s| s.1 as f64).collect()),
        }
    };
    (0..count).map(block).collect()
}

/// Of a non-empty list without NaN.
fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    if values.len() % 2 == 1 {
        values[middle]
    } else {
        (values[middle - 1] + values[middle]) / 2.0
    }
}

fn mean(values: impl ExactSizeIterator<Item = f64>) -> f64 {
    let count = values.len() as f64;
    values.sum::<f64>() / count
}

/// Squares of the distances from the mean.
fn sum_of_squares(points: &[Point]) -> f64 {
    let level = mean(points.iter().map(|point| point.bytes));
    points.iter().map(|point| (point.bytes - level).powi(2)).sum()
}

/// A least-squares line of bytes over a function of time.
#[derive(Clone, Copy, Debug)]
struct Fit {
    slope: f64,
    residual_squares: f64,
    /// Sum of the squares of the abscissa's distances from its mean.
    spread: f64,
    /// Correlation of neighbouring residuals; at least 0.
    echo: f64,
}

impl Fit {
    /// Standard error of the slope, at least that of page-sized steps.
    fn slope_error(&self, degrees: usize) -> f64 {
        let variance = (self.residual_squares / degrees as f64).max(PAGE_BYTES.powi(2) / 12.0);
        let widening = (1.0 + self.echo) / (1.0 - self.echo);
        (variance / self.spread * widening).sqrt()
    }
}

/// `None` where the abscissa doesn't vary.
fn fit(points: &[Point], abscissa: impl Fn(f64) -> f64) -> Option<Fit> {
    let x = || points.iter().map(|point| abscissa(point.seconds));
    let (x_mean, y_mean) = (mean(x()), mean(points.iter().map(|point| point.bytes)));
    let spread: f64 = x().map(|x| (x - x_mean).powi(2)).sum();
    if spread.is_nan() || spread <= 1e-9 {
        return None;
    }
    let slope = points
        .iter()
        .zip(x())
        .map(|(point, x)| (x - x_mean) * (point.bytes - y_mean))
        .sum::<f64>()
        / spread;
    let residuals: Vec<f64> = points
        .iter()
        .zip(x())
        .map(|(point, x)| point.bytes - y_mean - slope * (x - x_mean))
        .collect();
    let residual_squares: f64 = residuals.iter().map(|residual| residual.powi(2)).sum();
    let neighbours: f64 = residuals.windows(2).map(|pair| pair[0] * pair[1]).sum();
    // A correlation estimated from few points comes out too small, by about 2 in their number.
    let echo = if residual_squares > 0.0 {
        neighbours / residual_squares + 2.0 / points.len() as f64
    } else {
        0.0
    };
    Some(Fit {
        slope,
        residual_squares,
        spread,
        echo: echo.clamp(0.0, 0.9),
    })
}

/// The Bayesian information criterion; less is better.
fn score(points: &[Point], residual_squares: f64, freedom: usize) -> f64 {
    let count = points.len() as f64;
    count * (residual_squares / count + PAGE_BYTES.powi(2)).ln() + freedom as f64 * count.ln()
}

/// Moments at which a line may bend: the points and halfway between them.
fn bends(points: &[Point]) -> Vec<f64> {
    let halfway = points.windows(2).map(|pair| (pair[0].seconds + pair[1].seconds) / 2.0);
    points.iter().map(|point| point.seconds).chain(halfway).collect()
}

/// The best fit over where the abscissa may bend, and the bend.
fn best_bend(points: &[Point], abscissa: impl Fn(f64, f64) -> f64, bends: &[f64]) -> Option<(Fit, f64)> {
    bends
        .iter()
        .filter_map(|&bend| Some((fit(points, |seconds| abscissa(seconds, bend))?, bend)))
        .min_by(|(a, _), (b, _)| a.residual_squares.total_cmp(&b.residual_squares))
}

/// The better score of one step and of a rise that ended in the window's first two thirds.
fn ended_score(points: &[Point]) -> f64 {
    let step = (1..points.len()).map(|at| sum_of_squares(&points[..at]) + sum_of_squares(&points[at..]));
    let bends = bends(&points[1..points.len() * 2 / 3 + 1]);
    let ramp = best_bend(points, |seconds, bend| seconds.min(bend), &bends);
    let ramp = ramp.map(|(fit, _)| fit.residual_squares);
    score(points, step.chain(ramp).fold(f64::INFINITY, f64::min), 3)
}

#[cfg(test)]
#[path = "trend_tests.rs"]
mod tests;
