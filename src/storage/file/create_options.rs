//! The options of new files, whatever the format of what is in them.

use crate::error::{Error, Result};
use crate::options::{Kind, OptionSpec, Values};

/// The options of a new regular file. An extent size hint is for XFS, which does well without; it is accepted, and
/// has no effect here.
pub const FILE_OPTIONS: &[OptionSpec] = &[
    OptionSpec::new("size", Kind::Size, "Virtual disk size"),
    OptionSpec::new(
        "nocow",
        Kind::Switch,
        "Turn off copy-on-write (valid only on btrfs)",
    ),
    OptionSpec::new(
        "preallocation",
        Kind::Text,
        "Preallocation mode (allowed values: off, falloc, full)",
    ),
    OptionSpec::new(
        "extent_size_hint",
        Kind::Size,
        "Extent size hint for the image file, 0 to disable",
    ),
];

/// The options of a device that is written anew.
pub const DEVICE_OPTIONS: &[OptionSpec] = &[
    OptionSpec::new("size", Kind::Size, "Virtual disk size"),
    OptionSpec::new(
        "preallocation",
        Kind::Text,
        "Preallocation mode (allowed values: off)",
    ),
];

/// Checks how a file's space is to be taken, for formats that leave that to the file. It is no use: the file is empty
/// then.
///
/// # Errors
/// Returns an error if there is no such mode, or if files don't have it.
pub fn check_preallocation(options: &Values) -> Result<()> {
    match options.text("preallocation") {
        None | Some("off" | "falloc" | "full") => Ok(()),
        Some(mode @ "metadata") => Err(Error::invalid(format!(
            "Unsupported preallocation mode: {mode}"
        ))),
        Some(other) => Err(Error::invalid(format!("invalid parameter value: {other}"))),
    }
}

/// Returns true if the file's blocks are to be written where they are, by a file system that would rather copy
/// them.
///
/// # Errors
/// Returns an error if another option of file systems is out of range.
pub fn avoids_copies(options: &Values) -> Result<bool> {
    let hint = options.number("extent_size_hint");
    if hint.is_some_and(|size| size > u64::from(u32::MAX)) {
        return Err(Error::invalid("Extent size hint is too large"));
    }
    Ok(options.switch("nocow") == Some(true))
}
