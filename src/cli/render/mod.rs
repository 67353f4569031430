//! Reports as text: for people and as JSON.

pub mod check;
pub mod info;
pub mod json;
pub mod speed;

/// A name that came out of an image, safe to show on a terminal: control characters are escaped, so
/// that it can neither forge lines of the report nor send commands to the terminal.
pub fn printable(name: &str) -> String {
    let mut text = String::with_capacity(name.len());
    for c in name.chars() {
        if c.is_control() {
            text.extend(c.escape_default());
        } else {
            text.push(c);
        }
    }
    text
}
