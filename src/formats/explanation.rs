//! The explanation of an image's header in sentences, for users.

use serde::Serialize;

/// The explanation of one item of a header.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Statement {
    /// The item: a field, a feature bit, a table.
    pub subject: String,
    /// One or more sentences: the item's value, and its consequences.
    pub text: String,
}

impl Statement {
    /// Makes a statement.
    pub fn new(subject: impl Into<String>, text: impl Into<String>) -> Self {
        Self {
            subject: subject.into(),
            text: text.into(),
        }
    }
}
