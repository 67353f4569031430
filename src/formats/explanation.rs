//! An image's header in words, for people who want to know what they have.

use serde::Serialize;

/// A statement on one thing in a header.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Statement {
    /// The thing: a field, a feature bit, a table.
    pub subject: String,
    /// A sentence or a few: its value, and what follows from it.
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
