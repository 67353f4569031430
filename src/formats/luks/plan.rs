//! The plan of a new LUKS image, whose options have been checked.

use super::image::{KEY_SECRET, missing_secret};
use super::new::NewLuks;
use crate::error::{Error, Result};
use crate::formats::driver::{Measured, NewDisk, NewParts, Plan};
use crate::formats::encryption::luks::{LuksCreation, LuksOptions};
use crate::formats::encryption::{Encryption as _, EncryptionFormat, Numbering};
use crate::formats::{NewImage, Preallocation};
use crate::options::Values;

/// The plan of a new image.
pub(super) struct LuksPlan {
    creation: LuksCreation,
    size: u64,
    preallocation: Preallocation,
}

impl LuksPlan {
    /// Checks the options.
    ///
    /// # Errors
    /// Returns an error if there is no such cipher, or if the file would exceed 2^63 − 1 bytes.
    pub(super) fn new(new: &NewDisk<'_>) -> Result<Self> {
        let creation = creation(new.options)?;
        let size = stored(&creation, new.size);
        let length = size.checked_add(creation.header_length());
        if length.is_none_or(|length| i64::try_from(length).is_err()) {
            return Err(Error::invalid("The requested file size is too large"));
        }
        let preallocation = new.options.text("preallocation");
        Ok(Self {
            creation,
            size,
            preallocation: preallocation
                .and_then(Preallocation::from_name)
                .unwrap_or(Preallocation::Off),
        })
    }
}

/// Returns the number of bytes of the disk that are in the same file as the header.
fn stored(creation: &LuksCreation, size: u64) -> u64 {
    match creation.is_detached {
        true => 0,
        false => size,
    }
}

/// Reads the options of the header.
fn creation(values: &Values) -> Result<LuksCreation> {
    Ok(LuksCreation {
        options: LuksOptions::of(values, "")?,
        numbering: Numbering::Guest,
        is_detached: values.switch("detached-header") == Some(true),
    })
}

/// Returns the size of the file for a disk of `size` bytes, all of which is allocated.
///
/// # Errors
/// Returns an error as for a new image, or if there is no secret.
pub(super) fn measure(values: &Values, size: u64) -> Result<Measured> {
    if values.text(KEY_SECRET).is_none() {
        return Err(missing_secret());
    }
    let creation = creation(values)?;
    let length = stored(&creation, size).saturating_add(creation.header_length());
    Ok(Measured {
        required: length,
        fully_allocated: length,
        bitmaps: None,
    })
}

impl Plan for LuksPlan {
    fn encryption(&self) -> Option<EncryptionFormat> {
        Some(EncryptionFormat::Luks)
    }

    /// Returns true unless the disk is fully preallocated. Otherwise unwritten parts read as noise, as they do with
    /// every other program.
    fn is_made_empty(&self) -> bool {
        self.preallocation != Preallocation::Full || self.creation.is_detached
    }

    fn create(&self, parts: NewParts<'_>) -> Result<Box<dyn NewImage>> {
        let secret = parts.secret.ok_or_else(missing_secret)?;
        let made = self.creation.create(secret)?;
        Ok(Box::new(NewLuks::create(
            parts.file,
            made,
            self.creation.header_length(),
            (!self.creation.is_detached).then_some(self.size),
            self.preallocation,
            parts.flush,
        )?))
    }
}
