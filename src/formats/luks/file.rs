//! A LUKS file whose header, at its start or detached in another file, has been read.

use std::ops::Range;
use std::sync::Arc;

use super::image::{LuksImage, WritableLuks, missing_secret};
use crate::crypto::{Secret, SectorLength};
use crate::error::{Error, Result};
use crate::formats::driver::{FileRef, ImageFile, NameRule, Parts, Warning, WriteParts};
use crate::formats::encryption::luks::{LUKS_MARK, LuksHeader, SlotChange};
use crate::formats::encryption::luks2::Luks2Header;
use crate::formats::encryption::{EncryptedHeader, EncryptionFormat, Numbering};
use crate::formats::explanation::Statement;
use crate::formats::info::{ImageInfo, Specific};
use crate::formats::resize_file::resize_file;
use crate::formats::{
    Amend, FileUse, Image, NewImage, OverwriteOptions, OverwrittenImage, Resize, WritableImage,
};
use crate::storage::Storage;
use crate::units::SECTOR_SIZE;

/// The name of the file with a detached header in options.
pub(super) const HEADER_ROLE: &str = "header";

/// A header of version 1 or 2.
enum EitherHeader {
    One(LuksHeader),
    Two(Luks2Header),
}

impl EitherHeader {
    /// Reads the header in `file`, which is detached if `is_detached`. Version 2 has a second copy, so a header may
    /// exist without the magic number at the start.
    ///
    /// # Errors
    /// Returns an error as [`LuksHeader::read`] and [`Luks2Header::read`] do.
    fn read(file: &Arc<dyn Storage>, is_detached: bool) -> Result<Self> {
        let mut mark = [0; LUKS_MARK.len()];
        file.read_at(0, &mut mark)?;
        if mark != *LUKS_MARK
            && let Some(header) = Luks2Header::read(Arc::clone(file), is_detached)?
        {
            return Ok(Self::Two(header));
        }
        let file = Arc::clone(file);
        let read = match is_detached {
            true => LuksHeader::read_detached,
            false => LuksHeader::read,
        };
        read(file, Numbering::Guest).map(Self::One)
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

    /// Returns the size of the disk in bytes, in a file of `length` bytes.
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
    /// The header, or `None` before the file with the detached header is attached.
    header: Option<EitherHeader>,
    /// True if the header is detached.
    is_detached: bool,
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
        let header = EitherHeader::read(&file, false)?;
        let length = file.len()?;
        Ok(Self {
            size: header.size(length)?,
            file,
            header: Some(header),
            is_detached: false,
            length,
        })
    }

    /// Returns a file whose detached header isn't attached yet.
    ///
    /// # Errors
    /// Returns the system's error.
    pub(super) fn headless(file: Arc<dyn Storage>) -> Result<Self> {
        let length = file.len()?;
        Ok(Self {
            file,
            header: None,
            is_detached: true,
            length,
            size: length.next_multiple_of(SECTOR_SIZE),
        })
    }

    fn header(&self) -> Result<&EitherHeader> {
        let missing = || Error::invalid("the detached header of a LUKS image wasn't read");
        self.header.as_ref().ok_or_else(missing)
    }

    fn image(&self, secret: Option<&Secret>) -> Result<LuksImage> {
        let header = self.header()?;
        let secret = secret.ok_or_else(missing_secret)?;
        Ok(LuksImage {
            file: Arc::clone(&self.file),
            cipher: header.get().unlock(secret)?,
            payload: header.payload_offset(),
            size: self.size,
            length: self.length,
            unit: header.sector_length().bytes(),
        })
    }
}

impl ImageFile for LuksFile {
    fn size(&self) -> u64 {
        self.size
    }

    fn other_files(&self) -> Result<Vec<FileRef<'_>>> {
        let header = FileRef {
            role: HEADER_ROLE.into(),
            name: None,
            rule: NameRule::AsItStands,
        };
        let mut files = vec![header];
        files.retain(|_| self.is_detached);
        Ok(files)
    }

    fn has_headers_elsewhere(&self) -> bool {
        self.is_detached
    }

    fn attach(&mut self, files: &[Arc<dyn Storage>]) -> Result<()> {
        if let [file] = files {
            let header = EitherHeader::read(file, true)?;
            self.size = header.size(self.length)?;
            self.header = Some(header);
        }
        Ok(())
    }

    fn encryption(&self) -> Option<EncryptionFormat> {
        Some(EncryptionFormat::Luks)
    }

    fn describe(&self, info: &mut ImageInfo) -> Result<()> {
        info.format_specific = Some(match self.header()? {
            EitherHeader::One(header) => Specific::new("luks", &header.info())?,
            EitherHeader::Two(header) => Specific::new("luks", &header.info())?,
        });
        Ok(())
    }

    fn explain(&self) -> Vec<Statement> {
        match &self.header {
            Some(EitherHeader::One(_)) => vec![Statement::new("LUKS version", "1.")],
            Some(EitherHeader::Two(header)) => header.explain(),
            None => Vec::new(),
        }
    }

    fn parts_of(&self, used_for: FileUse, each: &mut dyn FnMut(Range<u64>)) -> Result<bool> {
        // The key slots are between the header and the disk.
        if used_for == FileUse::Metadata && !self.is_detached {
            each(0..self.header()?.payload_offset());
        }
        Ok(true)
    }

    fn warnings(&self) -> Vec<Warning> {
        match &self.header {
            Some(EitherHeader::Two(header)) if header.is_half_damaged() => vec![Warning {
                text: "One of the two LUKS2 headers is damaged, and the other is used",
                hint: "'cryptsetup repair' makes it whole.",
            }],
            Some(EitherHeader::One(_) | EitherHeader::Two(_)) | None => Vec::new(),
        }
    }

    fn open(&self, parts: Parts<'_>) -> Result<Arc<dyn Image>> {
        Ok(Arc::new(self.image(parts.secret)?))
    }

    fn check_writable(&self) -> Result<()> {
        match self.header {
            Some(EitherHeader::One(_)) | None => Ok(()),
            Some(EitherHeader::Two(_)) => Err(Error::unsupported("LUKS2 is read and not written")),
        }
    }

    fn open_writable(&self, parts: WriteParts<'_>) -> Result<Box<dyn WritableImage>> {
        self.check_writable()?;
        let image = self.image(parts.secret)?;
        Ok(Box::new(WritableLuks::new(image, parts.flush)))
    }

    fn amend(&self, parts: &WriteParts<'_>, amend: &Amend<'_>) -> Result<()> {
        self.check_writable()?;
        let EitherHeader::One(header) = self.header()? else {
            return Ok(());
        };
        let Some(change) = SlotChange::of(amend.options, "", amend.secret)? else {
            return Ok(());
        };
        let secret = parts.secret.ok_or_else(missing_secret)?;
        header.change_slots(change, secret, amend.force)
    }

    /// Changes the length of the file. Added space isn't written, and decrypts to noise.
    fn resize(&self, parts: WriteParts<'_>, resize: Resize) -> Result<()> {
        self.check_writable()?;
        let start = self.header()?.payload_offset();
        resize_file(self.file.as_ref(), start, parts.flush, resize)
    }

    /// Writes zeroes even if the caller guarantees that the image is zero, since unwritten parts decrypt to noise.
    fn write_over(
        &self,
        parts: WriteParts<'_>,
        size: u64,
        options: OverwriteOptions,
    ) -> Result<Box<dyn NewImage>> {
        let image = self.open_writable(parts)?;
        let options = OverwriteOptions {
            is_zero: false,
            ..options
        };
        Ok(Box::new(OverwrittenImage::new(image, size, options)?))
    }
}
