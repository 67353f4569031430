//! A change of the options that an image was made with.

use crate::crypto::Secret;
use crate::error::Result;
use crate::options::Values;

/// The options that an existing image is to have.
pub struct Amend<'a> {
    /// The options, of those that the format calls its
    /// [`amend_options`](super::FormatDriver::amend_options).
    pub options: &'a Values,
    /// True if what loses data is wanted all the same.
    pub force: bool,
    /// Returns the secret of an id.
    pub secret: &'a dyn Fn(&str) -> Result<&'a Secret>,
}
