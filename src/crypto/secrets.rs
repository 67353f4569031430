//! The secrets of a command line, by the ids by which its other options name them.
//!
//! Only their keeping is this file's matter. Defining one, with files and encodings, is the command line's.

use std::collections::HashMap;

use super::Secret;
use crate::error::{Error, Result};

/// Secrets by id.
#[derive(Default)]
pub struct Secrets(HashMap<String, Secret>);

impl Secrets {
    /// Keeps a secret under an id; one that is there already goes.
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
    /// Returns an error if there is none, or it is no text.
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
