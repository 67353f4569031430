//! The plan of a new qcow image, whose options have been checked.

use std::sync::Arc;

use super::header::{LENGTH, QcowHeader};
use super::options;
use super::table::QcowTable;
use crate::error::{Error, Result};
use crate::formats::block_map::NewBlocks;
use crate::formats::driver::{Backing, NewDisk, NewParts, Plan};
use crate::formats::encryption::{Encryption as _, EncryptionFormat, LegacyAes, missing_secret};
use crate::formats::new_image::start_with_zeroes;
use crate::formats::{NewImage, foreign};
use crate::units::SECTOR_SIZE;

/// The plan of a new image.
pub(super) struct QcowPlan {
    header: QcowHeader,
    /// The size of the backing file's disk in bytes.
    backing_size: Option<u64>,
    compressed: bool,
}

impl QcowPlan {
    /// Checks the options.
    ///
    /// # Errors
    /// Returns an error if they contradict each other, or if the format doesn't support a disk of that size.
    pub(super) fn new(new: &NewDisk<'_>) -> Result<Self> {
        if let Some(format) = new.options.text("backing_fmt")
            && !foreign::QEMU_DRIVERS.contains(&format)
        {
            return Err(Error::invalid(format!(
                "unrecognized backing format '{format}'"
            )));
        }
        let is_encrypted = options::is_encrypted(new.options)?;
        let backing = Backing::of(new.options)?;
        if new.size == 0 {
            return Err(Error::invalid(
                "Image size is too small, cannot be zero length",
            ));
        }
        let size = new.size.checked_next_multiple_of(SECTOR_SIZE);
        let size = size.filter(|size| i64::try_from(*size).is_ok());
        let size = size.ok_or_else(|| Error::invalid("Image too large"))?;
        let backing_size = backing
            .as_ref()
            .map(|_| new.backing_size.unwrap_or(u64::MAX));
        let name = backing.map(|backing| backing.name);
        if is_encrypted && new.compressed {
            return Err(Error::unsupported(
                "Compression and encryption not supported at the same time",
            ));
        }
        Ok(Self {
            header: QcowHeader::new(size, name, is_encrypted)?,
            backing_size,
            compressed: new.compressed,
        })
    }
}

impl Plan for QcowPlan {
    fn encryption(&self) -> Option<EncryptionFormat> {
        self.header.encryption()
    }

    fn create(&self, parts: NewParts<'_>) -> Result<Box<dyn NewImage>> {
        let cipher = match self.header.is_encrypted {
            false => None,
            true => {
                let (_, cipher) = LegacyAes.create(parts.secret.ok_or_else(missing_secret)?)?;
                Some(cipher)
            }
        };
        let file = &parts.file;
        let table = QcowTable::fresh(Arc::clone(file), self.header.clone());
        start_with_zeroes(file.as_ref(), LENGTH, table.end())?;
        let image = NewBlocks::new(table, parts.file, false, parts.flush)
            .with_backing(self.backing_size)
            .with_cipher(cipher)
            .compressing(self.compressed);
        Ok(Box::new(image))
    }
}
