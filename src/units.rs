//! Sizes and offsets: their parsing and printing, and types that keep guest and host offsets apart.
//!
//! A guest offset is a position on the virtual disk. A host offset is a position in the file that stores it. Both are
//! in bytes and fit a `u64`, and swapping them corrupts data. So each has its own type, and only an L2 table maps the
//! one to the other.
//!
//! Sizes are parsed and printed as in `qemu-img`, since scripts depend on both.

use std::fmt;

/// The length of a sector in bytes. Disk sizes are multiples of it.
pub const SECTOR_SIZE: u64 = SECTOR_LEN as u64;

/// [`SECTOR_SIZE`] as the length of a buffer.
pub const SECTOR_LEN: usize = 512;

/// A byte position on the virtual disk, as the guest sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GuestOffset(pub u64);

/// A byte position in a file that stores an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HostOffset(pub u64);

impl HostOffset {
    /// Returns the offset plus `bytes`, or `None` if it is 2^64 or more.
    pub fn after(self, bytes: u64) -> Option<Self> {
        self.0.checked_add(bytes).map(Self)
    }
}

impl fmt::Display for GuestOffset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}", self.0)
    }
}

impl fmt::Display for HostOffset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}", self.0)
    }
}

/// The reason why a size could not be parsed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SizeError {
    /// The text is not a number with at most one of the suffixes.
    Malformed,
    /// The number is negative or above 2^64 − 1.
    OutOfRange,
}

/// Parses a size in bytes. It is decimal with an optional fraction and one suffix of `b k K M G T P E`
/// (powers of 1024). It may also be hexadecimal, without a suffix. Leading blanks and a `+` are allowed.
///
/// # Errors
/// Returns [`SizeError::OutOfRange`] if it is a negative number or doesn't fit 64 bits. Returns
/// [`SizeError::Malformed`] if it is anything else, such as a fraction of a byte, `10KB` or `1e6`.
pub fn parse_size(text: &str) -> Result<u64, SizeError> {
    let text = text.trim_start_matches([' ', '\t', '\n', '\r', '\x0b', '\x0c']);
    let (negative, digits) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    if negative {
        // `qemu-img` distinguishes the two errors in this way, as tests of it show.
        let digits = digits.strip_prefix('.').unwrap_or(digits);
        let plain = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit());
        return Err(if plain {
            SizeError::OutOfRange
        } else {
            SizeError::Malformed
        });
    }
    match digits
        .strip_prefix("0x")
        .or_else(|| digits.strip_prefix("0X"))
    {
        Some(hex) => parse_hex(hex),
        None => parse_decimal(digits),
    }
}

fn parse_hex(digits: &str) -> Result<u64, SizeError> {
    if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_hexdigit()) {
        return Err(SizeError::Malformed);
    }
    u64::from_str_radix(digits, 16).map_err(|_| SizeError::OutOfRange)
}

fn parse_decimal(text: &str) -> Result<u64, SizeError> {
    let end_of_whole = text
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(text.len());
    let (whole, rest) = text.split_at(end_of_whole);
    let (fraction, suffix) = match rest.strip_prefix('.') {
        Some(after) => {
            let end = after
                .find(|c: char| !c.is_ascii_digit())
                .unwrap_or(after.len());
            after.split_at(end)
        }
        None => ("", rest),
    };
    if whole.is_empty() && fraction.is_empty() {
        return Err(SizeError::Malformed);
    }
    let shift = match suffix {
        "" | "b" | "B" => 0,
        "k" | "K" => 10,
        "m" | "M" => 20,
        "g" | "G" => 30,
        "t" | "T" => 40,
        "p" | "P" => 50,
        "e" | "E" => 60,
        _ => return Err(SizeError::Malformed),
    };
    let unit = 1u64 << shift;
    let whole: u64 = if whole.is_empty() {
        0
    } else {
        whole.parse().map_err(|_| SizeError::OutOfRange)?
    };
    let part = fraction_of(fraction, unit);
    if unit == 1 && part > 0 {
        return Err(SizeError::Malformed);
    }
    whole
        .checked_mul(unit)
        .and_then(|bytes| bytes.checked_add(part))
        .ok_or(SizeError::OutOfRange)
}

/// Returns `0.fraction × unit`, rounded to the nearest byte. A fraction above zero of a byte is at least 1, so that a
/// caller notices it. It is computed in floating point as in QEMU, so that inexact sizes are the same.
fn fraction_of(fraction: &str, unit: u64) -> u64 {
    let fraction: f64 = format!("0.{fraction}").parse().unwrap_or(0.0);
    if unit == 1 {
        return u64::from(fraction > 0.0);
    }
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::cast_precision_loss,
        reason = "0 to 2^60, a power of two"
    )]
    let bytes = (fraction * unit as f64 + 0.5) as u64;
    bytes
}

/// Formats a size as people read it: three significant digits and a binary unit, such as `1.5 KiB`, `704 KiB`
/// or `0.977 MiB`. The next unit starts at 1000, so that three digits are enough.
pub fn human_size(bytes: u64) -> String {
    const UNITS: [&str; 7] = ["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    let mut unit = 0;
    #[expect(
        clippy::cast_precision_loss,
        reason = "three significant digits are printed"
    )]
    let mut value = bytes as f64;
    while value >= 1000.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    let name = UNITS.get(unit).copied().unwrap_or("EiB");
    format!("{} {name}", three_digits(value))
}

/// Formats as C does with `%0.3g`, for values from 0 to 1000.
fn three_digits(value: f64) -> String {
    let decimals = if value == 0.0 || value >= 99.95 {
        0
    } else if value >= 9.995 {
        1
    } else if value >= 0.9995 {
        2
    } else {
        3
    };
    let text = format!("{value:.decimals$}");
    if text == "1000" {
        return "1e+03".to_owned();
    }
    if text.contains('.') {
        text.trim_end_matches('0').trim_end_matches('.').to_owned()
    } else {
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_as_qemu_img_reads_them() {
        let read = [
            ("0", 0),
            ("5", 5),
            (" 5", 5),
            ("+5", 5),
            ("5b", 5),
            ("5B", 5),
            ("010", 10),
            ("1.0", 1),
            ("0x10", 16),
            ("0X10", 16),
            ("1.k", 1024),
            (".5k", 512),
            ("1.3k", 1331),
            ("1.7k", 1741),
            ("1.5G", 1_610_612_736),
            ("1t", 1 << 40),
            ("8191P", 9_222_246_136_947_933_184),
            ("7.99999E", 9_223_360_507_639_729_792),
            ("18446744073709551615", u64::MAX),
        ];
        for (text, bytes) in read {
            assert_eq!(parse_size(text), Ok(bytes), "{text}");
        }
    }

    #[test]
    fn malformed_sizes_are_told_from_those_out_of_range() {
        for text in [
            "", "k", "5 ", "10KB", "1e6", "1.5", "1.5b", "0x", "0xk", "0x10k", "0x1.8k", "5,5k",
            "5kk", "5é", "-1k", "-1.5", "-0x5", "-", "-.",
        ] {
            assert_eq!(parse_size(text), Err(SizeError::Malformed), "{text:?}");
        }
        for text in [
            "-5",
            "-0",
            "-.5",
            "18446744073709551616",
            "16E",
            "17179869184G",
        ] {
            assert_eq!(parse_size(text), Err(SizeError::OutOfRange), "{text:?}");
        }
    }

    #[test]
    fn human_sizes_have_three_digits() {
        for (bytes, text) in [
            (0, "0 B"),
            (512, "512 B"),
            (1536, "1.5 KiB"),
            (10_240, "10 KiB"),
            (102_400, "100 KiB"),
            (1_024_000, "0.977 MiB"),
            (1_047_552, "0.999 MiB"),
            (1_048_576, "1 MiB"),
            (123_457_024, "118 MiB"),
            (1_000_000_000, "954 MiB"),
            (1_023_999_488, "977 MiB"),
            (1_073_740_800, "1 GiB"),
            (1_098_437_885_952, "0.999 TiB"),
            (1_098_974_756_864, "1 TiB"),
            (u64::MAX, "16 EiB"),
        ] {
            assert_eq!(human_size(bytes), text);
        }
    }
}
