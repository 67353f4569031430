//! Rounds of many short measurements, and their median.
//!
//! A single interruption would distort a mean. The best of many would only show the speed without any other load. The
//! median is what a user gets.

use std::time::{Duration, Instant};

/// The fewest rounds for a median.
const FEWEST: u32 = 3;

/// Calls `round` until the budget is used up, but at least [`FEWEST`] times. Returns the number of calls.
///
/// # Errors
/// Returns the first error of `round`.
pub fn repeat<E>(budget: Duration, mut round: impl FnMut() -> Result<(), E>) -> Result<u32, E> {
    let start = Instant::now();
    let mut done = 0;
    loop {
        round()?;
        done += 1;
        // It stops at the round whose end is nearest to the budget.
        let next = start.elapsed() + start.elapsed().div_f64(2.0 * f64::from(done));
        if done >= FEWEST && next >= budget {
            return Ok(done);
        }
    }
}

/// The measurements of one figure, one for each round.
#[derive(Debug, Default)]
pub struct Samples(Vec<f64>);

impl Samples {
    /// Adds a round's measurement.
    pub fn push(&mut self, sample: f64) {
        self.0.push(sample);
    }

    /// Returns the median, or 0 without measurements.
    pub fn median(&self) -> f64 {
        rounded(self.quartile(2))
    }

    /// Returns the spread of the measurements: their interquartile range divided by their median. On an idle machine
    /// it is a few hundredths.
    pub fn spread(&self) -> f64 {
        let width = self.quartile(3) - self.quartile(1);
        rounded(width / self.quartile(2).max(f64::MIN_POSITIVE))
    }

    fn quartile(&self, number: usize) -> f64 {
        let mut sorted = self.0.clone();
        sorted.sort_by(f64::total_cmp);
        let place = sorted.len() * number / 4;
        sorted.get(place).copied().unwrap_or_default()
    }

    /// Returns the median of the ratios of these measurements to `other` in each round.
    pub fn times(&self, other: &Self) -> f64 {
        let ratios = self.0.iter().zip(&other.0).map(|(one, other)| one / other);
        Self(ratios.collect()).median()
    }
}

/// Rounds a figure to four digits, which is more than its accuracy.
fn rounded(figure: f64) -> f64 {
    if figure == 0.0 || !figure.is_finite() {
        return figure;
    }
    let scale = 10_f64.powf(3.0 - figure.abs().log10().floor());
    (figure * scale).round() / scale
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_outlier_moves_neither_medians_nor_ratios() {
        let one = Samples(vec![2.0, 4.0, 1000.0]);
        let other = Samples(vec![1.0, 2.0, 4.0]);
        assert_eq!(one.median(), 4.0);
        assert_eq!(one.times(&other), 2.0);
        assert_eq!(Samples::default().median(), 0.0);
    }

    #[test]
    fn the_spread_is_that_of_the_middle_half() {
        let samples = Samples(vec![1000.0, 10.0, 11.0, 12.0, 0.1]);
        assert_eq!(samples.spread(), 0.1818);
        assert_eq!(Samples(vec![3.0]).spread(), 0.0);
        assert_eq!(Samples::default().spread(), 0.0);
    }

    #[test]
    fn figures_have_four_digits() {
        assert_eq!(rounded(12.345_678), 12.35);
        assert_eq!(rounded(0.001_234_56), 0.001_235);
        assert_eq!(rounded(0.0), 0.0);
    }

    #[test]
    fn there_are_a_few_rounds_even_without_time() {
        let rounds = repeat::<()>(Duration::ZERO, || Ok(()));
        assert_eq!(rounds, Ok(FEWEST));
    }

    #[test]
    fn the_first_error_ends_it() {
        assert_eq!(repeat(Duration::MAX, || Err("no")), Err("no"));
    }
}
