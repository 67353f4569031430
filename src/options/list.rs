//! QEMU's option strings: `key=value,key2=value2`.
//!
//! Two commas in a value mean one. A key without a value means `=on`, and with a `no` in front of it `=off`. Values
//! may be names of files, so they may have any bytes that such a name may have.

use std::ffi::{OsStr, OsString};
use std::num::ParseIntError;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};

use crate::error::Error;
use crate::units::SizeError;

/// One option.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyValue {
    /// The name.
    pub key: String,
    /// The value.
    pub value: OsString,
    /// The element as it was written, if it was a key without a value.
    pub short: Option<String>,
}

impl KeyValue {
    /// Returns the value as text. Bytes that are no UTF-8 become text that matches nothing.
    pub fn text(self) -> String {
        let text = self.value.into_string();
        text.unwrap_or_else(|bytes| bytes.to_string_lossy().into_owned())
    }

    /// Returns QEMU's warning about a key without a value, which is deprecated.
    pub fn deprecation(&self) -> Option<String> {
        let short = self.short.as_deref()?;
        let (key, value) = (&self.key, self.value.display());
        Some(format!(
            "short-form boolean option '{short}' deprecated\nPlease use {key}={value} instead"
        ))
    }
}

/// Splits an option string. `implied` is the key of a first element that is a value alone, as the `secret` of
/// `secret,id=s`. Without `implied` such an element is a switch that is on.
pub fn parse(text: impl AsRef<OsStr>, implied: Option<&str>) -> Vec<KeyValue> {
    split_at_single_commas(text.as_ref())
        .into_iter()
        .enumerate()
        .map(|(position, element)| {
            let at = element.iter().position(|byte| *byte == b'=');
            let whole = String::from_utf8_lossy(&element).into_owned();
            let (key, value, short) =
                match (at.and_then(|at| element.split_at_checked(at)), implied) {
                    (Some((key, value)), _) => {
                        let value = value.get(1..).unwrap_or_default();
                        let key = String::from_utf8_lossy(key).into_owned();
                        (key, OsString::from_vec(value.to_vec()), None)
                    }
                    (None, Some(implied)) if position == 0 => {
                        (implied.to_owned(), OsString::from_vec(element), None)
                    }
                    (None, _) => {
                        let (key, value) = match whole.strip_prefix("no") {
                            Some(key) => (key.to_owned(), "off"),
                            None => (whole.clone(), "on"),
                        };
                        (key, value.into(), Some(whole))
                    }
                };
            KeyValue { key, value, short }
        })
        .collect()
}

/// Returns true if an option string of `-o` is well-formed: not empty, and without a separating comma at either end.
pub fn is_valid_list(text: impl AsRef<OsStr>) -> bool {
    let text = text.as_ref().as_bytes();
    let commas_at_end = text.iter().rev().take_while(|c| **c == b',').count();
    !text.is_empty() && !text.starts_with(b",") && commas_at_end.is_multiple_of(2)
}

/// Parses a whole number as C's `strtol` does: blanks in front, a sign, and decimal, `0x` or octal digits. A number
/// out of range becomes the nearest in range.
pub fn parse_integer(text: &str) -> Option<i64> {
    let (is_negative, digits) = parse_digits(text)?;
    let magnitude = digits.ok().and_then(|digits| i64::try_from(digits).ok());
    let magnitude = magnitude.unwrap_or(i64::MAX);
    Some(if is_negative { -magnitude } else { magnitude })
}

/// Parses a number as C's `strtoull` does: the same digits, and a negative number counts from 2^64 downwards.
///
/// # Errors
/// Returns an error if it is no number, or doesn't fit in 64 bits.
pub fn parse_number(text: &str) -> Result<u64, SizeError> {
    let (is_negative, digits) = parse_digits(text).ok_or(SizeError::Malformed)?;
    let magnitude = digits.map_err(|_| SizeError::OutOfRange)?;
    Ok(if is_negative {
        magnitude.wrapping_neg()
    } else {
        magnitude
    })
}

/// Parses the sign and the digits of a number as C has them.
fn parse_digits(text: &str) -> Option<(bool, Result<u64, ParseIntError>)> {
    let text = text.trim_start();
    let (is_negative, digits) = match text.strip_prefix('-') {
        Some(digits) => (true, digits),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    let (base, digits) = match digits.strip_prefix("0x").or(digits.strip_prefix("0X")) {
        Some(digits) => (16, digits),
        None if digits.starts_with('0') => (8, digits),
        None => (10, digits),
    };
    if digits.is_empty() || !digits.chars().all(|digit| digit.is_digit(base)) {
        return None;
    }
    Some((is_negative, u64::from_str_radix(digits, base)))
}

/// Returns the error for an option that isn't a size.
pub fn no_size(key: &str, value: &str, error: SizeError) -> Error {
    match error {
        SizeError::Malformed => Error::invalid(format!(
            "Parameter '{key}' expects a non-negative number below 2^64"
        ))
        .with_hint(
            "Optional suffix k, M, G, T, P or E means kilo-, mega-, giga-, tera-, peta-\n\
             and exabytes, respectively.",
        ),
        SizeError::OutOfRange => Error::invalid(format!(
            "Value '{value}' is out of range for parameter '{key}'"
        )),
    }
}

/// Returns true if a text can be the id of an object or a node: letters, digits, `-`, `.` and `_`, a letter
/// first.
pub fn is_identifier(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_alphabetic())
        && text
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || "-._".contains(c))
}

/// Returns true if an option string asks for the list of options.
pub fn asks_for_help(text: impl AsRef<OsStr>) -> bool {
    split_at_single_commas(text.as_ref())
        .iter()
        .any(|element| matches!(element.as_slice(), b"help" | b"?"))
}

fn split_at_single_commas(text: &OsStr) -> Vec<Vec<u8>> {
    let mut elements = vec![];
    let mut element = Vec::new();
    let mut rest = text.as_bytes().iter().copied().peekable();
    while let Some(c) = rest.next() {
        if c != b',' {
            element.push(c);
        } else if rest.next_if_eq(&b',').is_some() {
            element.push(b',');
        } else {
            elements.push(std::mem::take(&mut element));
        }
    }
    if !element.is_empty() {
        elements.push(element);
    }
    elements
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pairs(text: &str, implied: Option<&str>) -> Vec<(String, String)> {
        parse(text, implied)
            .into_iter()
            .map(|option| (option.key.clone(), option.text()))
            .collect()
    }

    fn owned(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
        pairs
            .iter()
            .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
            .collect()
    }

    #[test]
    fn elements_values_and_doubled_commas() {
        assert_eq!(
            pairs("a=1,b,c=x,,y=z", None),
            owned(&[("a", "1"), ("b", "on"), ("c", "x,y=z")])
        );
        assert_eq!(
            pairs("secret,id=s,data=a,,,,b", Some("qom-type")),
            owned(&[("qom-type", "secret"), ("id", "s"), ("data", "a,,b")])
        );
        assert_eq!(pairs("a=", None), owned(&[("a", "")]));
        assert_eq!(
            pairs("nolazy,no=x,no", None),
            owned(&[("lazy", "off"), ("no", "x"), ("", "off")])
        );
        assert_eq!(pairs("", None), []);
    }

    #[test]
    fn values_need_not_be_text() {
        let text = OsStr::from_bytes(b"a=\xff,,b,no\xfe");
        let options = parse(text, None);
        let values: Vec<&[u8]> = options.iter().map(|one| one.value.as_bytes()).collect();
        assert_eq!(values, [&b"\xff,b"[..], b"off"]);
        assert_eq!(options[0].deprecation(), None);
        assert_eq!(
            options[1].deprecation().unwrap(),
            "short-form boolean option 'no\u{fffd}' deprecated\nPlease use \u{fffd}=off instead"
        );
    }

    #[test]
    fn lists_with_stray_commas_are_invalid() {
        for text in ["", ",", "a=1,", ",a=1", "a=1,,,"] {
            assert!(!is_valid_list(text), "{text:?}");
        }
        for text in ["a=1", "a", "a=1,,"] {
            assert!(is_valid_list(text), "{text:?}");
        }
    }

    #[test]
    fn integers_are_read_as_c_reads_them() {
        for (text, number) in [
            ("4", 4),
            (" +4", 4),
            ("-4", -4),
            ("0", 0),
            ("0x10", 16),
            ("010", 8),
            ("99999999999999999999", i64::MAX),
        ] {
            assert_eq!(parse_integer(text), Some(number), "{text}");
        }
        for text in ["", "-", "x", "4k", "0x", "08", "--4", "4 "] {
            assert_eq!(parse_integer(text), None, "{text}");
        }
    }

    #[test]
    fn help_is_asked_for() {
        assert!(asks_for_help("help"));
        assert!(asks_for_help("size=1,?"));
        assert!(!asks_for_help("size=help"));
    }
}
