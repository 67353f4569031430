//! `create`: a new image with nothing in it.

use super::{Passwords, Target};
use crate::convert::{self, Settings};
use crate::error::{Error, Result};
use crate::formats::{Format, Image as _, Preallocation, ZeroImage, qcow2};

/// Creates `target` as a disk of `size` bytes that reads as zeroes.
///
/// # Errors
/// What keeps it from being created; no new file is left then.
pub fn run(target: &Target<'_>, size: u64, passwords: &dyn Passwords) -> Result<()> {
    let create = || {
        let zeroes = ZeroImage { size };
        let base = target.base()?;
        let open = target.open(zeroes.size(), &[], base.as_ref(), passwords)?;
        // A raw image of nothing is there already; on a device whatever it holds stays.
        if target.format() == Format::Raw && target.preallocation != Preallocation::Full {
            open.image.finish()?;
            return open.keep(target);
        }
        // A new image is a copy of nothing. Where space is preallocated so that it must be written
        // (in full, or encrypted), the engine does that.
        let settings = Settings {
            leave_unallocated: true,
            ..Settings::default()
        };
        convert::copy(&zeroes, open.image.as_ref(), settings, &())?;
        open.keep(target)
    };
    create().map_err(|error: Error| too_large(error, target.format()).context(&target.name))
}

/// What is said where the file system has no files of that size.
fn too_large(error: Error, format: Format) -> Error {
    if error.io_kind() != Some(std::io::ErrorKind::FileTooLarge) {
        return error;
    }
    match format {
        Format::Raw => Error::invalid("The image size is too large for file format 'raw'"),
        Format::Qcow2 => Error::invalid(qcow2::TOO_LARGE),
    }
}
