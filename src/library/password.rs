//! The password of a caller who gives it beforehand, or gives none.

use crate::crypto::{Passwords, Secret};
use crate::error::{Error, ErrorKind, Result};

/// The password that options have, for every encrypted image that they open.
#[derive(Default)]
pub(super) struct GivenPassword(pub(super) Option<Secret>);

impl GivenPassword {
    fn get(&self, image: &str) -> Result<&Secret> {
        self.0.as_ref().ok_or_else(|| {
            let message = format!("'{image}' is encrypted, and no password was given");
            Error::new(ErrorKind::MissingSecret, message)
        })
    }
}

impl Passwords for GivenPassword {
    fn for_reading(&self, image: &str) -> Result<&Secret> {
        self.get(image)
    }

    fn for_writing(&self, image: &str) -> Result<&Secret> {
        self.get(image)
    }

    fn legacy_aes_is_used(&self, _is_new: bool) {}

    fn implausible(&self, _image: &str, _newline: bool) -> Result<()> {
        Ok(())
    }
}
