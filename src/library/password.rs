//! The source of the passwords that the options have.

use crate::crypto::{Passwords, Secret};
use crate::error::{Error, ErrorKind, Result};

/// The passwords of the options: one for all encrypted images that are opened, and one for a new image.
#[derive(Default)]
pub(super) struct GivenPasswords<'a> {
    pub(super) reading: Option<&'a Secret>,
    pub(super) writing: Option<&'a Secret>,
}

impl Passwords for GivenPasswords<'_> {
    fn for_reading(&self, image: &str, _option: &str) -> Result<&Secret> {
        self.reading.ok_or_else(|| missing(image))
    }

    fn for_writing(&self, image: &str, _option: &str) -> Result<&Secret> {
        self.writing.ok_or_else(|| missing(image))
    }

    fn legacy_aes_is_used(&self, _is_new: bool) {}

    fn implausible(&self, _image: &str, _newline: bool) -> Result<()> {
        Ok(())
    }
}

fn missing(image: &str) -> Error {
    let message = format!("'{image}' is encrypted, and no password was given");
    Error::new(ErrorKind::MissingSecret, message)
}
