//! The options of an amendment of an existing image, as `qemu-img amend` changes them.

use crate::crypto::Secret;
use crate::error::Result;
use crate::options::Values;

/// The new options of an existing image.
pub struct Amend<'a> {
    /// The values of the options. All of them are among the format's
    /// [`amend_options`](super::FormatDriver::amend_options).
    pub options: &'a Values,
    /// True if changes that lose data are allowed.
    pub force: bool,
    /// Returns the secret with the given id.
    pub secret: &'a dyn Fn(&str) -> Result<&'a Secret>,
}
