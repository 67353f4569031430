//! One value of an option.
//!
//! JSON has several kinds of values, and a list has only text. The reader of an option decides which kind it takes,
//! so the value is kept as it was written.

use std::ffi::OsString;

/// A value without parts: lists and objects are flattened into keys.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// JSON's `null`.
    Null,
    /// JSON's `true` and `false`.
    Switch(bool),
    /// A JSON number.
    Number(serde_json::Number),
    /// Text; nearly all that a list of `key=value` has.
    Text(String),
    /// Bytes that aren't UTF-8, as the name of a file may have them.
    Bytes(OsString),
}

impl Value {
    /// Returns the value as JSON. Bytes that are no UTF-8 become replacement characters.
    pub fn to_json(&self) -> serde_json::Value {
        match self {
            Self::Null => serde_json::Value::Null,
            Self::Switch(on) => (*on).into(),
            Self::Number(number) => number.clone().into(),
            Self::Text(text) => text.as_str().into(),
            Self::Bytes(bytes) => bytes.to_string_lossy().into(),
        }
    }

    /// Returns the value as text, if it is text. Bytes that are no UTF-8 become text that matches nothing.
    pub fn into_text(self) -> Option<String> {
        match self {
            Self::Text(text) => Some(text),
            Self::Bytes(bytes) => Some(bytes.to_string_lossy().into_owned()),
            Self::Null | Self::Switch(_) | Self::Number(_) => None,
        }
    }
}

impl From<OsString> for Value {
    fn from(value: OsString) -> Self {
        value.into_string().map_or_else(Self::Bytes, Self::Text)
    }
}
