//! Refusals that are worded alike for all formats.

use crate::error::{Error, printable};
use crate::storage::Storage;

/// Returns the error for an image of which QEMU's drivers give no more than a reason of the system's. The file's name
/// stands in front of that once more.
pub(super) fn without_text(file: &dyn Storage, reason: &str) -> Error {
    let name = printable(&file.location().to_string_lossy());
    Error::unsupported(reason).context(format!("Could not open '{name}'"))
}

/// Returns the error for a driver that makes no new images.
pub fn no_creation(driver: &str) -> Error {
    Error::unsupported(format!(
        "Format driver '{driver}' does not support image creation"
    ))
}

/// Returns the error for a driver that doesn't measure.
pub fn no_measure(driver: &str) -> Error {
    Error::unsupported(format!(
        "Block driver '{driver}' does not support size measurement"
    ))
}
