//! A LUKS file whose header has been read.

use std::sync::Arc;

use super::image::{LuksImage, WritableLuks, missing_secret};
use crate::crypto::{Secret, SectorLength};
use crate::error::{Error, Result};
use crate::formats::driver::{ImageFile, Parts, Warning, WriteParts};
use crate::formats::encryption::luks::{LUKS_MARK, LuksHeader};
use crate::formats::encryption::luks2::Luks2Header;
use crate::formats::encryption::{EncryptedHeader, EncryptionFormat, Numbering};
use crate::formats::explanation::Statement;
use crate::formats::info::{ImageInfo, Specific};
use crate::formats::{Image, NewImage, OverImage, OverOptions, WritableImage};
use crate::storage::Storage;
use crate::units::SECTOR_SIZE;

/// A header of either version.
enum EitherHeader {
    One(LuksHeader),
    Two(Luks2Header),
}

impl EitherHeader {
    /// Reads the header in `file`. The second version has another copy, so it may be there without a mark at the
    /// start.
    ///
    /// # Errors
    /// Returns an error as [`LuksHeader::read`] and [`Luks2Header::read`] do.
    fn read(file: &Arc<dyn Storage>) -> Result<Self> {
        let mut mark = [0; LUKS_MARK.len()];
        file.read_at(0, &mut mark)?;
        if mark != *LUKS_MARK
            && let Some(header) = Luks2Header::read(Arc::clone(file), false)?
        {
            return Ok(Self::Two(header));
        }
        LuksHeader::read(Arc::clone(file), Numbering::Guest).map(Self::One)
    }

    fn get(&self) -> &dyn EncryptedHeader {
        match self {
            Self::One(header) => header,
            Self::Two(header) => header,
        }
    }

    fn payload_offset(&self) -> u64 {
        match self {
            Self::One(header) => header.payload_offset(),
            Self::Two(header) => header.payload_offset(),
        }
    }

    /// Returns the size of the disk in bytes in a file of `length` bytes.
    fn size(&self, length: u64) -> Result<u64> {
        match self {
            Self::One(header) => {
                let end = length.next_multiple_of(SECTOR_SIZE);
                end.checked_sub(header.payload_offset()).ok_or_else(|| {
                    Error::corrupt("Could not refresh total sector count: Input/output error")
                })
            }
            Self::Two(header) => header.size(length),
        }
    }

    fn sector_length(&self) -> SectorLength {
        match self {
            Self::One(_) => SectorLength::SHORTEST,
            Self::Two(header) => header.sector_length(),
        }
    }
}

/// A LUKS file.
pub(super) struct LuksFile {
    file: Arc<dyn Storage>,
    header: EitherHeader,
    /// The length of the file in bytes.
    length: u64,
    /// The size of the disk in bytes.
    size: u64,
}

impl LuksFile {
    /// Reads the header of the image in `file`.
    ///
    /// # Errors
    /// Returns an error as [`LuksHeader::read`] does, or if the file ends before the disk does.
    pub(super) fn load(file: Arc<dyn Storage>) -> Result<Self> {
        let header = EitherHeader::read(&file)?;
        let length = file.len()?;
        Ok(Self {
            size: header.size(length)?,
            file,
            header,
            length,
        })
    }

    fn image(&self, secret: Option<&Secret>) -> Result<LuksImage> {
        let secret = secret.ok_or_else(missing_secret)?;
        Ok(LuksImage {
            file: Arc::clone(&self.file),
            cipher: self.header.get().unlock(secret)?,
            payload: self.header.payload_offset(),
            size: self.size,
            length: self.length,
            unit: self.header.sector_length().bytes(),
        })
    }
}

impl ImageFile for LuksFile {
    fn size(&self) -> u64 {
        self.size
    }

    fn encryption(&self) -> Option<EncryptionFormat> {
        Some(EncryptionFormat::Luks)
    }

    fn describe(&self, info: &mut ImageInfo) -> Result<()> {
        info.format_specific = Some(match &self.header {
            EitherHeader::One(header) => Specific::new("luks", &header.info())?,
            EitherHeader::Two(header) => Specific::new("luks", &header.info())?,
        });
        Ok(())
    }

    fn explain(&self) -> Vec<Statement> {
        match &self.header {
            EitherHeader::One(_) => vec![Statement::new("LUKS version", "1.")],
            EitherHeader::Two(header) => header.explain(),
        }
    }

    fn warnings(&self) -> Vec<Warning> {
        match &self.header {
            EitherHeader::Two(header) if header.is_half_damaged() => vec![Warning {
                text: "One of the two LUKS2 headers is damaged, and the other is used",
                hint: "'cryptsetup repair' makes it whole.",
            }],
            EitherHeader::One(_) | EitherHeader::Two(_) => Vec::new(),
        }
    }

    fn open(&self, parts: Parts<'_>) -> Result<Arc<dyn Image>> {
        Ok(Arc::new(self.image(parts.secret)?))
    }

    fn check_writable(&self) -> Result<()> {
        match self.header {
            EitherHeader::One(_) => Ok(()),
            EitherHeader::Two(_) => Err(Error::unsupported("LUKS2 is read and not written")),
        }
    }

    fn open_writable(&self, parts: WriteParts<'_>) -> Result<Box<dyn WritableImage>> {
        self.check_writable()?;
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
