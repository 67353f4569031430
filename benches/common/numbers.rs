//! Medians, ratios, and the formatting of numbers.

use super::measure::Cost;

/// Returns the median, which is the mean of the middle two for an even number of values. Returns NaN for no
/// values.
pub fn median(values: impl IntoIterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.into_iter().collect();
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match (values.get(middle), values.len() % 2) {
        (None, _) => f64::NAN,
        (Some(&upper), 1) => upper,
        (Some(&upper), _) => (values[middle - 1] + upper) / 2.0,
    }
}

/// Returns the median of the rounds' ratios of wall time. On a machine whose speed drifts, both runs of a
/// round are slow or fast together, so this is steadier than the ratio of the medians.
pub fn ratio(ours: &[Cost], theirs: &[Cost]) -> f64 {
    median(
        ours.iter()
            .zip(theirs)
            .map(|(ours, theirs)| ours.wall / theirs.wall),
    )
}

/// Formats three significant digits, with at most three decimal places.
pub fn three_digits(value: f64) -> String {
    match value.abs() {
        size if size >= 99.95 => format!("{value:.0}"),
        size if size >= 9.995 => format!("{value:.1}"),
        size if size >= 0.9995 => format!("{value:.2}"),
        _ => format!("{value:.3}"),
    }
}

/// Formats a time in seconds, or in milliseconds if that is clearer.
pub fn duration(seconds: f64) -> String {
    if seconds == 0.0 {
        "0".to_owned()
    } else if seconds < 0.1 {
        format!("{} ms", three_digits(seconds * 1e3))
    } else {
        format!("{} s", three_digits(seconds))
    }
}

/// Formats bytes in MiB.
pub fn mebibytes(bytes: u64) -> String {
    format!("{} MiB", three_digits(bytes as f64 / f64::from(1 << 20)))
}

/// Formats a share as per cent, with as many decimal places as necessary.
pub fn percent(share: f64) -> String {
    match share * 100.0 {
        per_cent if per_cent >= 9.95 => format!("{per_cent:.0} %"),
        per_cent if per_cent >= 0.95 => format!("{per_cent:.1} %"),
        per_cent if per_cent >= 0.095 => format!("{per_cent:.2} %"),
        per_cent => format!("{per_cent:.3} %"),
    }
}

/// Formats a size in the largest unit in which it is an integer: `512 B`, `64 KiB`, `2 MiB`.
pub fn size(bytes: u64) -> String {
    ["B", "KiB", "MiB", "GiB", "TiB"]
        .iter()
        .zip(0..)
        .map(|(unit, power)| {
            (
                bytes >> (10 * power),
                bytes.trailing_zeros() >= 10 * power,
                unit,
            )
        })
        .filter(|&(number, whole, _)| number > 0 && whole)
        .last()
        .map_or_else(
            || "0 B".into(),
            |(number, _, unit)| format!("{number} {unit}"),
        )
}

/// Parses `256M`, `1G`, `65536`.
///
/// # Errors
/// Returns a message for the command line if the text isn't a size.
pub fn parse_size(text: &str) -> Result<u64, String> {
    let (digits, power) = match text.strip_suffix(['K', 'k']) {
        Some(digits) => (digits, 10),
        None => match text.strip_suffix(['M', 'm']) {
            Some(digits) => (digits, 20),
            None => match text.strip_suffix(['G', 'g']) {
                Some(digits) => (digits, 30),
                None => (text, 0),
            },
        },
    };
    let number: u64 = digits
        .parse()
        .map_err(|_| "not a size: 256M, 1G, …".to_owned())?;
    number
        .checked_mul(1 << power)
        .filter(|bytes| *bytes > 0 && bytes % (1 << 20) == 0)
        .ok_or_else(|| "the size must be a multiple of 1M".to_owned())
}
