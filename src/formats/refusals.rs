//! Errors whose wording is the same for all formats.

use crate::error::{Error, printable};
use crate::storage::Storage;

/// Returns the error of an image for which QEMU's driver gives only the system's reason. QEMU then puts the file's
/// name in front once more.
pub(super) fn without_text(file: &dyn Storage, reason: &str) -> Error {
    let name = printable(&file.location().to_string_lossy());
    Error::unsupported(reason).context(format!("Could not open '{name}'"))
}

/// Returns the error for a driver that can't create images.
pub fn no_creation(driver: &str) -> Error {
    Error::unsupported(format!(
        "Format driver '{driver}' does not support image creation"
    ))
}

/// Returns the error for a driver that can't measure images.
pub fn no_measure(driver: &str) -> Error {
    Error::unsupported(format!(
        "Block driver '{driver}' does not support size measurement"
    ))
}
