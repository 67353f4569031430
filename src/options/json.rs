//! JSON as QEMU reads it, which is more than the standard has.
//!
//! Strings may be in single quotes, so that a shell needs no more than double quotes around
//! `json:{'driver':'qcow2',…}`. No object may have a key twice: two programs could otherwise read different images
//! from it. Nesting is bounded, and mistakes are worded as QEMU words them.

use super::Value;
use crate::error::{Error, Result};

/// The start of an image's name that is a tree of options.
pub const PREFIX: &str = "json:";

/// The greatest depth of objects and lists; QEMU's limit.
const DEEPEST: usize = 1024;

/// A parsed document, with the order of its keys.
#[derive(Debug, PartialEq)]
pub enum Document {
    /// Anything without parts.
    Value(Value),
    /// A list.
    List(Vec<Document>),
    /// An object, in the order in which it is written.
    Map(Vec<(String, Document)>),
}

/// Parses a document.
///
/// # Errors
/// Returns an error if the text isn't JSON, or is more than one value.
pub fn parse(text: &str) -> Result<Document> {
    let mut reader = Reader { rest: text };
    if reader.peek().is_none() {
        return Err(Error::invalid("Expecting a JSON value"));
    }
    let node = reader.value(0)?;
    match reader.peek() {
        None => Ok(node),
        Some(_) => Err(Error::invalid("Expecting at most one JSON value")),
    }
}

fn mistake(what: &str) -> Error {
    Error::invalid(format!("JSON parse error, {what}"))
}

/// The part of the text that is still to be read.
struct Reader<'t> {
    rest: &'t str,
}

impl<'t> Reader<'t> {
    /// Returns the next character that isn't whitespace, without taking it.
    fn peek(&mut self) -> Option<char> {
        self.rest = self.rest.trim_start_matches([' ', '\t', '\r', '\n']);
        self.rest.chars().next()
    }

    /// Takes the next character if it is this one.
    fn take(&mut self, wanted: char) -> bool {
        self.peek();
        match self.rest.strip_prefix(wanted) {
            Some(rest) => {
                self.rest = rest;
                true
            }
            None => false,
        }
    }

    /// Takes the next `length` bytes, which end with a character.
    fn advance(&mut self, length: usize) -> &'t str {
        let (taken, rest) = self
            .rest
            .split_at_checked(length)
            .unwrap_or((self.rest, ""));
        self.rest = rest;
        taken
    }

    fn value(&mut self, depth: usize) -> Result<Document> {
        if depth > DEEPEST {
            return Err(Error::invalid("JSON nesting depth limit exceeded"));
        }
        match self.peek() {
            None => Err(mistake("premature EOI")),
            Some('{') => self.map(depth),
            Some('[') => self.list(depth),
            Some(quote @ ('"' | '\'')) => self
                .string(quote)
                .map(|text| Document::Value(Value::Text(text))),
            Some('-' | '0'..='9') => self
                .number()
                .map(|number| Document::Value(Value::Number(number))),
            Some('a'..='z') => self.keyword().map(Document::Value),
            Some('}' | ']' | ':' | ',') => Err(mistake("expecting value")),
            Some(other) => Err(stray(other)),
        }
    }

    fn map(&mut self, depth: usize) -> Result<Document> {
        let mut entries: Vec<(String, Document)> = Vec::new();
        self.take('{');
        if self.take('}') {
            return Ok(Document::Map(entries));
        }
        loop {
            let Document::Value(Value::Text(key)) = self.value(depth + 1)? else {
                return Err(mistake("key is not a string in object"));
            };
            self.expect(':', "missing : in object pair")?;
            let node = self.value(depth + 1)?;
            if entries.iter().any(|(known, _)| *known == key) {
                return Err(mistake(&format!("duplicate key '{key}'")));
            }
            entries.push((key, node));
            if self.take('}') {
                return Ok(Document::Map(entries));
            }
            self.expect(',', "expected separator in dict")?;
        }
    }

    fn list(&mut self, depth: usize) -> Result<Document> {
        let mut nodes = Vec::new();
        self.take('[');
        if self.take(']') {
            return Ok(Document::List(nodes));
        }
        loop {
            nodes.push(self.value(depth + 1)?);
            if self.take(']') {
                return Ok(Document::List(nodes));
            }
            self.expect(',', "expected separator in list")?;
        }
    }

    fn expect(&mut self, wanted: char, complaint: &str) -> Result<()> {
        if self.take(wanted) {
            return Ok(());
        }
        Err(match self.peek() {
            None => mistake("premature EOI"),
            Some(_) => mistake(complaint),
        })
    }

    fn string(&mut self, quote: char) -> Result<String> {
        let whole = self.rest;
        let mut text = String::new();
        let mut chars = whole.char_indices();
        chars.next();
        while let Some((at, c)) = chars.next() {
            match c {
                _ if c == quote => {
                    self.advance(at + quote.len_utf8());
                    return Ok(text);
                }
                '\0'..='\u{1f}' => {
                    let read = whole.get(..at + c.len_utf8()).unwrap_or(whole);
                    return Err(mistake(&format!("stray '{read}'")));
                }
                '\\' => {
                    let (_, escape) = chars.next().ok_or_else(|| mistake("premature EOI"))?;
                    text.push(match escape {
                        '"' | '\'' | '\\' | '/' => escape,
                        'b' => '\u{8}',
                        'f' => '\u{c}',
                        'n' => '\n',
                        'r' => '\r',
                        't' => '\t',
                        'u' => {
                            let (c, length) = unicode(chars.as_str())?;
                            chars = skip(chars, length);
                            c
                        }
                        _ => return Err(mistake("invalid escape sequence in string")),
                    });
                }
                _ => text.push(c),
            }
        }
        Err(mistake(&format!("stray '{whole}'")))
    }

    fn number(&mut self) -> Result<serde_json::Number> {
        let bytes = self.rest.as_bytes();
        let digits = |from: usize| {
            let rest = bytes.get(from..).unwrap_or_default();
            rest.iter().take_while(|byte| byte.is_ascii_digit()).count()
        };
        let sign = usize::from(bytes.first() == Some(&b'-'));
        let whole = digits(sign);
        let mut end = sign + whole;
        let mut is_well_formed = whole == 1 || whole > 1 && bytes.get(sign) != Some(&b'0');
        let mut is_integer = true;
        if bytes.get(end) == Some(&b'.') {
            let fraction = digits(end + 1);
            is_integer = false;
            is_well_formed &= fraction > 0;
            end += 1 + fraction;
        }
        if matches!(bytes.get(end), Some(b'e' | b'E')) {
            let sign = usize::from(matches!(bytes.get(end + 1), Some(b'+' | b'-')));
            let exponent = digits(end + 1 + sign);
            is_integer = false;
            is_well_formed &= exponent > 0;
            end += 1 + sign + exponent;
        }
        let text = self.advance(end);
        if !is_well_formed {
            return Err(mistake(&format!("stray '{text}'")));
        }
        if is_integer {
            if let Ok(number) = text.parse::<i64>() {
                return Ok(number.into());
            }
            if let Ok(number) = text.parse::<u64>() {
                return Ok(number.into());
            }
        }
        let number = text.parse().ok().and_then(serde_json::Number::from_f64);
        number.ok_or_else(|| mistake(&format!("the number {text} is too big")))
    }

    fn keyword(&mut self) -> Result<Value> {
        let end = self.rest.find(|c: char| !c.is_ascii_lowercase());
        match self.advance(end.unwrap_or(self.rest.len())) {
            "null" => Ok(Value::Null),
            "true" => Ok(Value::Switch(true)),
            "false" => Ok(Value::Switch(false)),
            other => Err(mistake(&format!("invalid keyword '{other}'"))),
        }
    }
}

fn stray(c: char) -> Error {
    mistake(&format!("stray '{c}'"))
}

/// Decodes four hexadecimal digits, or two such escapes. Returns the character, and the number of bytes read.
fn unicode(text: &str) -> Result<(char, usize)> {
    let unit = |text: &str| {
        let digits = text.get(..4)?;
        let is_hex = digits.bytes().all(|byte| byte.is_ascii_hexdigit());
        is_hex
            .then(|| u16::from_str_radix(digits, 16).ok())
            .flatten()
    };
    let read = || {
        let first = unit(text)?;
        let second = text.get(4..).and_then(|rest| rest.strip_prefix("\\u"));
        let second = second.and_then(unit);
        let mut decoded = char::decode_utf16([first].into_iter().chain(second));
        match (decoded.next()?, second) {
            (Ok(c), Some(_)) if c > '\u{ffff}' => Some((c, 10)),
            (Ok(c), _) => Some((c, 4)),
            (Err(_), _) => None,
        }
    };
    read().ok_or_else(|| {
        let shown: String = text.chars().take(4).collect();
        mistake(&format!("\\u{shown} is not a valid Unicode character"))
    })
}

/// Advances `chars` by `bytes`.
fn skip(mut chars: std::str::CharIndices<'_>, bytes: usize) -> std::str::CharIndices<'_> {
    let end = chars.offset() + bytes;
    while chars.offset() < end && chars.next().is_some() {}
    chars
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(json: &str) -> Result<String> {
        match parse(json)? {
            Document::Value(Value::Text(text)) => Ok(text),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn both_quotes_and_all_escapes() {
        for (json, expected) in [
            (r#""a'b\"c""#, "a'b\"c"),
            (r#"'a\'b"c'"#, "a'b\"c"),
            (r#"'\\\/\b\f\n\r\t'"#, "\\/\u{8}\u{c}\n\r\t"),
            (r#"'\u00e9x\uD83D\uDE00y'"#, "éx😀y"),
            (r#"'\u0041\u0042'"#, "AB"),
            (" '漢' ", "漢"),
        ] {
            assert_eq!(text(json).unwrap(), expected, "{json}");
        }
    }

    #[test]
    fn numbers_are_whole_where_they_can_be() {
        for json in [
            "0",
            "-0",
            "7",
            "-7",
            "18446744073709551615",
            "1.5",
            "-2e3",
            "0.5E-1",
        ] {
            let Document::Value(Value::Number(number)) = parse(json).unwrap() else {
                panic!("{json}");
            };
            assert_eq!(number.as_f64(), json.parse().ok(), "{json}");
            assert_eq!(number.is_f64(), json.contains(['.', 'e', 'E']), "{json}");
        }
    }

    #[test]
    fn whatever_serde_json_reads_is_read_the_same() {
        let json = r#" {"a":{"b":[1,-2,3.5,[],{}],"c":null},"d":true,"e":"x\u00e9","f":false} "#;
        fn convert(node: Document) -> serde_json::Value {
            match node {
                Document::Value(value) => value.to_json(),
                Document::List(nodes) => nodes.into_iter().map(convert).collect(),
                Document::Map(entries) => {
                    let entries = entries.into_iter();
                    entries.map(|(key, node)| (key, convert(node))).collect()
                }
            }
        }
        let expected: serde_json::Value = serde_json::from_str(json).unwrap();
        assert_eq!(convert(parse(json).unwrap()), expected);
    }

    #[test]
    fn mistakes_have_qemus_words() {
        for (json, message) in [
            ("", "Expecting a JSON value"),
            (" \n", "Expecting a JSON value"),
            ("{", "JSON parse error, premature EOI"),
            (r#"{"a""#, "JSON parse error, premature EOI"),
            ("{} x", "Expecting at most one JSON value"),
            (r#"{"a"}"#, "JSON parse error, missing : in object pair"),
            (r#"{"a":}"#, "JSON parse error, expecting value"),
            (r#"{"a":1,}"#, "JSON parse error, expecting value"),
            (
                r#"{"a":1 "b":2}"#,
                "JSON parse error, expected separator in dict",
            ),
            ("[1 2]", "JSON parse error, expected separator in list"),
            ("{a:1}", "JSON parse error, invalid keyword 'a'"),
            ("{1:2}", "JSON parse error, key is not a string in object"),
            (r#"{"a":1,"a":2}"#, "JSON parse error, duplicate key 'a'"),
            (r#"{"a":"x"#, "JSON parse error, stray '\"x'"),
            ("'a\tb'", "JSON parse error, stray ''a\t'"),
            (
                r#""\x""#,
                "JSON parse error, invalid escape sequence in string",
            ),
            (
                r#"'\ud800'"#,
                "JSON parse error, \\ud800 is not a valid Unicode character",
            ),
            (
                r#"'\u+123'"#,
                "JSON parse error, \\u+123 is not a valid Unicode character",
            ),
            ("01", "JSON parse error, stray '01'"),
            ("-", "JSON parse error, stray '-'"),
            ("1.", "JSON parse error, stray '1.'"),
            ("1e400", "JSON parse error, the number 1e400 is too big"),
            ("%d", "JSON parse error, stray '%'"),
            ("tru", "JSON parse error, invalid keyword 'tru'"),
        ] {
            assert_eq!(parse(json).unwrap_err().to_string(), message, "{json}");
        }
        let deep = "[".repeat(1_000_000);
        let message = parse(&deep).unwrap_err().to_string();
        assert_eq!(message, "JSON nesting depth limit exceeded");
    }
}
