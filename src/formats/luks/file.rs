//! A LUKS file whose header has been read.

use std::sync::Arc;

use super::image::{LuksImage, WritableLuks, missing_secret};
use crate::crypto::Secret;
use crate::error::{Error, Result};
use crate::formats::driver::{ImageFile, Parts, WriteParts};
use crate::formats::encryption::luks::LuksHeader;
use crate::formats::encryption::{EncryptedHeader as _, EncryptionFormat, Numbering};
use crate::formats::info::{ImageInfo, Specific};
use crate::formats::{Image, NewImage, OverImage, OverOptions, WritableImage};
use crate::storage::Storage;
use crate::units::SECTOR_SIZE;

/// A LUKS file.
pub(super) struct LuksFile {
    file: Arc<dyn Storage>,
    header: LuksHeader,
    /// The length of the file in bytes.
    length: u64,
}

impl LuksFile {
    /// Reads the header of the image in `file`.
    ///
    /// # Errors
    /// Returns an error as [`LuksHeader::read`] does, or if the file ends before the disk starts.
    pub(super) fn load(file: Arc<dyn Storage>) -> Result<Self> {
        let header = LuksHeader::read(Arc::clone(&file), Numbering::Guest)?;
        let length = file.len()?;
        if length.next_multiple_of(SECTOR_SIZE) < header.payload_offset() {
            return Err(Error::corrupt(
                "Could not refresh total sector count: Input/output error",
            ));
        }
        Ok(Self {
            file,
            header,
            length,
        })
    }

    fn image(&self, secret: Option<&Secret>) -> Result<LuksImage> {
        let secret = secret.ok_or_else(missing_secret)?;
        Ok(LuksImage {
            file: Arc::clone(&self.file),
            cipher: self.header.unlock(secret)?,
            payload: self.header.payload_offset(),
            size: self.size(),
            length: self.length,
        })
    }
}

impl ImageFile for LuksFile {
    fn size(&self) -> u64 {
        let end = self.length.next_multiple_of(SECTOR_SIZE);
        end.saturating_sub(self.header.payload_offset())
    }

    fn encryption(&self) -> Option<EncryptionFormat> {
        Some(EncryptionFormat::Luks)
    }

    fn describe(&self, info: &mut ImageInfo) -> Result<()> {
        info.format_specific = Some(Specific::new("luks", &self.header.info())?);
        Ok(())
    }

    fn open(&self, parts: Parts<'_>) -> Result<Arc<dyn Image>> {
        Ok(Arc::new(self.image(parts.secret)?))
    }

    fn open_writable(&self, parts: WriteParts<'_>) -> Result<Box<dyn WritableImage>> {
        let image = self.image(parts.secret)?;
        Ok(Box::new(WritableLuks::new(image, parts.flush)))
    }

    /// Writes zeroes too, whatever the caller promises: what nobody has written decrypts to noise.
    fn write_over(
        &self,
        parts: WriteParts<'_>,
        size: u64,
        options: OverOptions,
    ) -> Result<Box<dyn NewImage>> {
        let image = self.open_writable(parts)?;
        let options = OverOptions {
            is_zero: false,
            ..options
        };
        Ok(Box::new(OverImage::new(image, size, options)?))
    }
}
