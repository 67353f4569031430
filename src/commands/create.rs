//! The subcommand `create`: a new, empty image.
//!
//! Sizes come from the command line and may be any number of 64 bits. Impossible ones are refused before a file is
//! created.

use super::{Passwords, Target};
use crate::convert::{self, Settings};
use crate::error::{Error, Result};
use crate::formats::ZeroImage;

/// Creates `target` as a disk of `size` bytes that reads as zeroes.
///
/// # Errors
/// Returns an error if the image can't be created. No new file is left then.
pub fn run(target: &Target<'_>, size: u64, passwords: &dyn Passwords) -> Result<()> {
    let create = || {
        // The options are checked before the files that they name.
        target.plan(size, None)?;
        let base = target.base()?;
        let plan = target.plan(size, base.as_ref())?;
        let plan = plan.ok_or_else(|| Error::invalid("an image that exists isn't created"))?;
        let open = target.make(plan.as_ref(), &[], base.as_ref(), passwords)?;
        if plan.is_made_empty() {
            open.image.finish()?;
            return open.keep(target);
        }
        // A new image is a copy of an empty disk, so that preallocated or encrypted space is written as in a
        // conversion.
        let settings = Settings {
            leave_unallocated: true,
            ..Settings::default()
        };
        convert::copy(&ZeroImage { size }, open.image.as_ref(), settings, &())?;
        open.keep(target)
    };
    create().map_err(|error: Error| too_large(error, target).context(&target.name))
}

/// Returns the error for a file system that can't have files of that size.
fn too_large(error: Error, target: &Target<'_>) -> Error {
    if error.io_kind() != Some(std::io::ErrorKind::FileTooLarge) {
        return error;
    }
    let hint = match target.options.knows("cluster_size") {
        true => " (try using a larger cluster size)",
        false => "",
    };
    Error::invalid(format!(
        "The image size is too large for file format '{}'{hint}",
        target.format()
    ))
}
