//! The options of new files, whatever the format of the image in them.

use crate::error::{Error, Result};
use crate::options::{Kind, OptionSpec, Values};

/// The options of a new regular file. An extent size hint only makes XFS faster. It is accepted for the sake of
/// scripts, and has no effect here.
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

/// The options of a device that is overwritten as a new image.
pub const DEVICE_OPTIONS: &[OptionSpec] = &[
    OptionSpec::new("size", Kind::Size, "Virtual disk size"),
    OptionSpec::new(
        "preallocation",
        Kind::Text,
        "Preallocation mode (allowed values: off)",
    ),
];

/// Checks the option `preallocation` of a file for formats that leave it to the file. It has no effect, since the
/// file is empty when it is created.
///
/// # Errors
/// Returns an error if the mode is unknown, or if files don't have it.
pub fn check_preallocation(options: &Values) -> Result<()> {
    match options.text("preallocation") {
        None | Some("off" | "falloc" | "full") => Ok(()),
        Some(mode @ "metadata") => Err(Error::invalid(format!(
            "Unsupported preallocation mode: {mode}"
        ))),
        Some(other) => Err(Error::invalid(format!("invalid parameter value: {other}"))),
    }
}

/// Returns true if the option `nocow` asks a copy-on-write file system to overwrite the file's blocks in place.
///
/// # Errors
/// Returns an error if `extent_size_hint` is out of range.
pub fn avoids_copies(options: &Values) -> Result<bool> {
    let hint = options.number("extent_size_hint");
    if hint.is_some_and(|size| size > u64::from(u32::MAX)) {
        return Err(Error::invalid("Extent size hint is too large"));
    }
    Ok(options.switch("nocow") == Some(true))
}
