//! The secrets of a command line, by the ids that other options refer to.
//!
//! This file only stores them. The command line parses their definitions, with files and encodings.

use std::collections::HashMap;

use super::Secret;
use crate::error::{Error, Result};

/// Secrets by id.
#[derive(Default)]
pub struct Secrets(HashMap<String, Secret>);

impl Secrets {
    /// Stores a secret under an id, and replaces an older one.
    pub fn insert(&mut self, id: String, secret: Secret) {
        self.0.insert(id, secret);
    }

    /// Returns true if there is a secret of that id.
    pub fn contains(&self, id: &str) -> bool {
        self.0.contains_key(id)
    }

    /// Returns the secret of that id, as a password.
    ///
    /// # Errors
    /// Returns an error if there is none, or if it isn't text.
    pub fn get(&self, id: &str) -> Result<&Secret> {
        let secret = self.of_any_bytes(id)?;
        if !secret.is_text() {
            return Err(Error::invalid(format!(
                "Data from secret {id} is not valid UTF-8"
            )));
        }
        Ok(secret)
    }

    /// Returns the secret of that id, as a key.
    ///
    /// # Errors
    /// Returns an error if there is none.
    pub fn of_any_bytes(&self, id: &str) -> Result<&Secret> {
        self.0
            .get(id)
            .ok_or_else(|| Error::invalid(format!("No secret with id '{id}'")))
    }
}
