//! `create`: a new image with nothing in it.
//!
//! Sizes come from the command line and may be anything that fits in 64 bits: those that no disk has are
//! refused before a file is made.

use super::{Passwords, Target};
use crate::convert::{self, Settings};
use crate::error::{Error, Result};
use crate::formats::{Format, Image as _, Preallocation, ZeroImage, qcow2};
use crate::units::SECTOR_SIZE;

/// The longest that QEMU lets a disk of any format be, in bytes: all that a signed offset can say, less one
/// GiB for what it rounds up.
const LONGEST: u64 = i64::MAX.cast_unsigned() - ((1 << 30) - 1);

/// Creates `target` as a disk of `size` bytes that reads as zeroes.
///
/// # Errors
/// What keeps it from being created; no new file is left then.
pub fn run(target: &Target<'_>, size: u64, passwords: &dyn Passwords) -> Result<()> {
    let create = || {
        let size = whole_sectors(size, target.format())?;
        let zeroes = ZeroImage { size };
        let base = target.base()?;
        let open = target.open(zeroes.size(), &[], base.as_ref(), passwords)?;
        // A raw image of nothing is there already; on a device whatever it holds stays.
        if target.format() == Format::RAW && target.preallocation != Preallocation::Full {
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

/// The size of a disk in whole sectors.
///
/// # Errors
/// No disk of that format is so big.
fn whole_sectors(size: u64, format: Format) -> Result<u64> {
    let rounded = size.checked_next_multiple_of(SECTOR_SIZE);
    let possible = rounded.filter(|size| i64::try_from(*size).is_ok());
    let transparent = format.capabilities().transparent;
    match possible {
        None if transparent => Err(Error::invalid("Could not resize file: Invalid argument")),
        None => Err(Error::invalid(
            "Could not resize image: Image size cannot be negative",
        )),
        Some(size) if !transparent && size > LONGEST => Err(Error::invalid(format!(
            "Could not resize image: offset({size}) exceeds maximum({LONGEST})"
        ))),
        Some(size) => Ok(size),
    }
}

/// What is said where the file system has no files of that size.
fn too_large(error: Error, format: Format) -> Error {
    if error.io_kind() != Some(std::io::ErrorKind::FileTooLarge) {
        return error;
    }
    match format.capabilities().transparent {
        true => Error::invalid("The image size is too large for file format 'raw'"),
        false => Error::invalid(qcow2::TOO_LARGE),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_whole_sectors_or_refused() {
        for (size, rounded) in [(0, 0), (1, 512), (512, 512), (LONGEST, LONGEST)] {
            for format in [Format::RAW, Format::QCOW2] {
                assert_eq!(whole_sectors(size, format).unwrap(), rounded);
            }
        }
        let most = i64::MAX.cast_unsigned();
        for size in [most, most + 1, u64::MAX - 511, u64::MAX - 510, u64::MAX] {
            for format in [Format::RAW, Format::QCOW2] {
                assert!(whole_sectors(size, format).is_err(), "{size}");
            }
        }
    }
}
