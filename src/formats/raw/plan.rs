//! The plan of a new raw image, whose options have been checked.

use std::num::NonZeroU64;

use super::NewRaw;
use crate::error::{Error, Result};
use crate::formats::driver::{NewDisk, NewParts, Plan};
use crate::formats::new_image::unsupported_preallocation;
use crate::formats::{NewImage, Preallocation};
use crate::units::SECTOR_SIZE;

/// The plan of a new image of `size` bytes.
pub(super) struct RawPlan {
    size: u64,
    preallocation: Preallocation,
    align: Option<NonZeroU64>,
}

impl RawPlan {
    /// Checks the options.
    ///
    /// # Errors
    /// Returns an error if there is no such preallocation mode, or if the file would exceed 2^63 − 1 bytes.
    pub(super) fn new(new: &NewDisk<'_>) -> Result<Self> {
        let preallocation = match new.options.text("preallocation") {
            None => Preallocation::Off,
            Some(name) => Preallocation::from_name(name)
                .ok_or_else(|| Error::invalid(format!("invalid parameter value: {name}")))?,
        };
        let size = new.size.checked_next_multiple_of(SECTOR_SIZE);
        let size = size
            .filter(|size| i64::try_from(*size).is_ok())
            .ok_or_else(|| Error::invalid("Could not resize file: Invalid argument"))?;
        if preallocation == Preallocation::Metadata {
            return Err(unsupported_preallocation());
        }
        Ok(Self {
            size,
            preallocation,
            align: new.align,
        })
    }
}

impl Plan for RawPlan {
    /// Returns false with full preallocation, since all bytes are to be written then.
    fn is_made_empty(&self) -> bool {
        self.preallocation != Preallocation::Full
    }

    fn create(&self, parts: NewParts<'_>) -> Result<Box<dyn NewImage>> {
        let file = parts.file;
        // The length of a device can't be changed.
        let is_device = !file.starts_as_zeroes();
        if is_device && file.len()? < self.size {
            return Err(Error::invalid("Cannot grow device files"));
        }
        let length = match self.align {
            Some(align) if !is_device => aligned(self.size, align)?,
            _ => self.size,
        };
        let image = NewRaw::create(file, length, self.preallocation, parts.flush)?;
        Ok(Box::new(image))
    }
}

/// Returns the smallest multiple of `align` that is at least `size`.
fn aligned(size: u64, align: NonZeroU64) -> Result<u64> {
    let length = size.checked_next_multiple_of(align.get());
    length
        .filter(|length| i64::try_from(*length).is_ok())
        .ok_or_else(|| Error::invalid("the next multiple of --align is no length of a file"))
}
