//! JSON as QEMU prints it: four spaces, empty lists on two lines, everything beyond ASCII escaped,
//! and keys in the order of QEMU's hash table.
//!
//! The order looks arbitrary but is the same in every run, and scripts rely on the resulting text. It follows
//! from the table's 512 buckets and its hash function.

use std::io;

use serde::Serialize;
use serde_json::ser::{CharEscape, Formatter};
use serde_json::{Map, Value};

use crate::error::{Error, Result};

/// Renders a report.
///
/// # Errors
/// Returns an error if the report can't be expressed as JSON, which would be an internal error.
pub fn render(report: &impl Serialize) -> Result<String> {
    let mut text = written(report, QemuFormatter::default())?;
    text.push('\n');
    Ok(text)
}

fn written(report: &impl Serialize, formatter: QemuFormatter) -> Result<String> {
    let failed = |error: serde_json::Error| Error::invalid(format!("rendering JSON: {error}"));
    let value = ordered(report)?;
    let mut text = Vec::new();
    let mut serializer = serde_json::Serializer::with_formatter(&mut text, formatter);
    value.serialize(&mut serializer).map_err(failed)?;
    String::from_utf8(text).map_err(|_| Error::invalid("rendering JSON: not UTF-8"))
}

/// Renders a value on one line, as QEMU does in names of images.
///
/// # Errors
/// Returns the errors of [`render`].
pub fn one_line(value: &Value) -> Result<String> {
    let formatter = QemuFormatter {
        one_line: true,
        ..QemuFormatter::default()
    };
    written(value, formatter)
}

/// Returns a report as a JSON value whose keys have QEMU's order.
///
/// # Errors
/// Returns the errors of [`render`].
pub fn ordered(report: &impl Serialize) -> Result<Value> {
    serde_json::to_value(report)
        .map(sorted)
        .map_err(|error| Error::invalid(format!("rendering JSON: {error}")))
}

fn sorted(value: Value) -> Value {
    match value {
        Value::Object(map) => {
            let mut entries: Vec<_> = map
                .into_iter()
                .map(|(key, value)| (key, sorted(value)))
                .collect();
            entries.sort_by_key(|(key, _)| bucket(key));
            Value::Object(Map::from_iter(entries))
        }
        Value::Array(values) => Value::Array(values.into_iter().map(sorted).collect()),
        other => other,
    }
}

/// Returns the bucket of a key in QEMU's dictionaries.
fn bucket(key: &str) -> u32 {
    let length = u32::try_from(key.len()).unwrap_or(u32::MAX);
    let hash = (0u32..).zip(key.bytes()).fold(
        0x238f_13af_u32.wrapping_mul(length),
        |hash, (index, byte)| hash.wrapping_add(u32::from(byte) << (index * 5 % 24)),
    );
    1_103_515_243_u32.wrapping_mul(hash).wrapping_add(12345) % 512
}

#[derive(Default)]
struct QemuFormatter {
    depth: usize,
    one_line: bool,
}

impl QemuFormatter {
    fn new_line<W: ?Sized + io::Write>(&self, writer: &mut W) -> io::Result<()> {
        if self.one_line {
            return Ok(());
        }
        writer.write_all(b"\n")?;
        for _ in 0..self.depth {
            writer.write_all(b"    ")?;
        }
        Ok(())
    }

    fn begin<W: ?Sized + io::Write>(&mut self, writer: &mut W, bracket: &[u8]) -> io::Result<()> {
        self.depth += 1;
        writer.write_all(bracket)
    }

    fn item<W: ?Sized + io::Write>(&self, writer: &mut W, first: bool) -> io::Result<()> {
        if !first {
            writer.write_all(if self.one_line { b", " } else { b"," })?;
        }
        self.new_line(writer)
    }

    fn end<W: ?Sized + io::Write>(&mut self, writer: &mut W, bracket: &[u8]) -> io::Result<()> {
        self.depth -= 1;
        self.new_line(writer)?;
        writer.write_all(bracket)
    }
}

impl Formatter for QemuFormatter {
    fn begin_array<W: ?Sized + io::Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.begin(writer, b"[")
    }

    fn begin_array_value<W: ?Sized + io::Write>(
        &mut self,
        writer: &mut W,
        first: bool,
    ) -> io::Result<()> {
        self.item(writer, first)
    }

    fn end_array<W: ?Sized + io::Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.end(writer, b"]")
    }

    fn begin_object<W: ?Sized + io::Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.begin(writer, b"{")
    }

    fn begin_object_key<W: ?Sized + io::Write>(
        &mut self,
        writer: &mut W,
        first: bool,
    ) -> io::Result<()> {
        self.item(writer, first)
    }

    fn begin_object_value<W: ?Sized + io::Write>(&mut self, writer: &mut W) -> io::Result<()> {
        writer.write_all(b": ")
    }

    fn end_object<W: ?Sized + io::Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.end(writer, b"}")
    }

    fn write_string_fragment<W: ?Sized + io::Write>(
        &mut self,
        writer: &mut W,
        fragment: &str,
    ) -> io::Result<()> {
        for c in fragment.chars() {
            if c.is_ascii() && c != '\x7f' {
                write!(writer, "{c}")?;
            } else {
                let mut units = [0; 2];
                for unit in c.encode_utf16(&mut units) {
                    write!(writer, "\\u{unit:04X}")?;
                }
            }
        }
        Ok(())
    }

    fn write_char_escape<W: ?Sized + io::Write>(
        &mut self,
        writer: &mut W,
        escape: CharEscape,
    ) -> io::Result<()> {
        match escape {
            CharEscape::Quote => writer.write_all(b"\\\""),
            CharEscape::ReverseSolidus => writer.write_all(b"\\\\"),
            CharEscape::Solidus => writer.write_all(b"/"),
            CharEscape::Backspace => writer.write_all(b"\\b"),
            CharEscape::FormFeed => writer.write_all(b"\\f"),
            CharEscape::LineFeed => writer.write_all(b"\\n"),
            CharEscape::CarriageReturn => writer.write_all(b"\\r"),
            CharEscape::Tab => writer.write_all(b"\\t"),
            CharEscape::AsciiControl(byte) => write!(writer, "\\u{byte:04X}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn keys_have_the_order_of_qemus_dictionaries() {
        let report = json!({
            "dirty-flag": false, "filename": "x", "children": [], "virtual-size": 1,
            "format": "qcow2", "cluster-size": 2, "encrypted": true, "actual-size": 3,
            "format-specific": {}, "backing-filename": "b",
        });
        let Value::Object(map) = ordered(&report).unwrap() else {
            panic!("not an object");
        };
        assert_eq!(
            map.keys().collect::<Vec<_>>(),
            [
                "children",
                "virtual-size",
                "filename",
                "cluster-size",
                "format",
                "actual-size",
                "format-specific",
                "encrypted",
                "backing-filename",
                "dirty-flag"
            ]
        );
    }

    #[test]
    fn layout_and_escapes() {
        let text = render(&json!({ "data": { "a": [], "b": {} , "c": "\u{1}\"é\u{1f600}\n" } }));
        let expected = r#"{
    "data": {
        "a": [
        ],
        "b": {
        },
        "c": "\u0001\"\u00E9\uD83D\uDE00\n"
    }
}
"#;
        assert_eq!(text.unwrap(), expected);
    }
}
