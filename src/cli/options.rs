//! QEMU's option strings: `key=value,key2=value2`.
//!
//! Inside a value two commas stand for one. A key without a value means `=on`, and with a `no` in front
//! of it `=off`.

use std::num::ParseIntError;

use crate::error::Error;
use crate::units::SizeError;

/// One option.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyValue {
    /// What is set.
    pub key: String,
    /// What it is set to.
    pub value: String,
}

/// Splits an option string. `implied` is the key of a first element that is a value alone (as the
/// `secret` of `secret,id=s`); without it, such an element is a switch that is on.
pub fn parse(text: &str, implied: Option<&str>) -> Vec<KeyValue> {
    split_at_single_commas(text)
        .into_iter()
        .enumerate()
        .map(|(position, element)| {
            let (key, value) = match (element.split_once('='), implied) {
                (Some((key, value)), _) => (key.to_owned(), value.to_owned()),
                (None, Some(implied)) if position == 0 => (implied.to_owned(), element),
                (None, _) => match element.strip_prefix("no") {
                    Some(key) => (key.to_owned(), "off".to_owned()),
                    None => (element, "on".to_owned()),
                },
            };
            KeyValue { key, value }
        })
        .collect()
}

/// Whether an option string of `-o` is well-formed: not empty, and without a comma at either end
/// that separates nothing.
pub fn is_valid_list(text: &str) -> bool {
    let commas_at_end = text.chars().rev().take_while(|c| *c == ',').count();
    !text.is_empty() && !text.starts_with(',') && commas_at_end.is_multiple_of(2)
}

/// Reads a whole number as C's `strtol` does: blanks in front, a sign, and decimal, `0x` or octal
/// digits. What doesn't fit is the nearest that does.
pub fn parse_integer(text: &str) -> Option<i64> {
    let (is_negative, digits) = parse_digits(text)?;
    let magnitude = digits.ok().and_then(|digits| i64::try_from(digits).ok());
    let magnitude = magnitude.unwrap_or(i64::MAX);
    Some(if is_negative { -magnitude } else { magnitude })
}

/// As C's `strtoull`: the same digits, and what is below zero counts from 2^64 downwards.
///
/// # Errors
/// It is no number, or doesn't fit in 64 bits.
pub fn parse_number(text: &str) -> Result<u64, SizeError> {
    let (is_negative, digits) = parse_digits(text).ok_or(SizeError::Malformed)?;
    let magnitude = digits.map_err(|_| SizeError::OutOfRange)?;
    Ok(if is_negative {
        magnitude.wrapping_neg()
    } else {
        magnitude
    })
}

/// The sign and the digits of a number as C has them.
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

/// What is wrong with an option that is no size.
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

/// Whether an option string asks for the list of options.
pub fn asks_for_help(text: &str) -> bool {
    split_at_single_commas(text)
        .iter()
        .any(|element| element == "help" || element == "?")
}

fn split_at_single_commas(text: &str) -> Vec<String> {
    let mut elements = vec![];
    let mut element = String::new();
    let mut rest = text.chars().peekable();
    while let Some(c) = rest.next() {
        if c != ',' {
            element.push(c);
        } else if rest.next_if_eq(&',').is_some() {
            element.push(',');
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
            .map(|option| (option.key, option.value))
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
