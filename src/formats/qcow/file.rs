//! A qcow file whose header has been read.

use std::ops::Range;
use std::sync::Arc;

use super::entry_check;
use super::header::QcowHeader;
use super::table::QcowTable;
use crate::crypto::Secret;
use crate::error::{Error, Result};
use crate::formats::block_map::{BlockImage, WritableBlocks, compressed_parts};
use crate::formats::check::refuse_damaged;
use crate::formats::driver::{BackingRef, ImageFile, Parts, WriteParts};
use crate::formats::encryption::{
    Cipher, EncryptedHeader as _, EncryptionFormat, LegacyAes, missing_secret,
};
use crate::formats::info::ImageInfo;
use crate::formats::zeroes::make_zero;
use crate::formats::{FileUse, Image, WritableImage};
use crate::options::Values;
use crate::storage::Storage;

/// A qcow file.
pub(super) struct QcowFile {
    file: Arc<dyn Storage>,
    header: QcowHeader,
}

impl QcowFile {
    /// Reads the header of the image in `file`.
    ///
    /// # Errors
    /// Returns an error as [`QcowHeader::read`] does.
    pub(super) fn load(file: Arc<dyn Storage>) -> Result<Self> {
        let header = QcowHeader::read(file.as_ref())?;
        Ok(Self { file, header })
    }

    fn cipher(&self, secret: Option<&Secret>) -> Result<Option<Cipher>> {
        match self.header.is_encrypted {
            false => Ok(None),
            true => LegacyAes
                .unlock(secret.ok_or_else(missing_secret)?)
                .map(Some),
        }
    }

    fn image(&self, secret: Option<&Secret>, flushes: bool) -> Result<BlockImage<QcowTable>> {
        let cipher = self.cipher(secret)?;
        let table = QcowTable::stored(Arc::clone(&self.file), self.header.clone(), flushes)?;
        let image = BlockImage::new(table, Arc::clone(&self.file), false);
        Ok(image.with_cipher(cipher))
    }
}

impl ImageFile for QcowFile {
    fn size(&self) -> u64 {
        self.header.size
    }

    fn backing(&self) -> Option<BackingRef<'_>> {
        let format = None;
        let name = self.header.backing.as_deref();
        name.map(|name| BackingRef { name, format })
    }

    fn encryption(&self) -> Option<EncryptionFormat> {
        self.header.encryption()
    }

    fn accept(&mut self, options: &Values) -> Result<()> {
        match (options.text("encrypt.format"), self.header.encryption()) {
            (Some(stated), None) => Err(Error::invalid(format!(
                "No encryption in image header, but options specified format '{stated}'"
            ))),
            (Some(stated), Some(format)) if stated != format.name() => {
                Err(Error::invalid(format!(
                    "Header reported '{}' encryption format but options specify '{stated}'",
                    format.name()
                )))
            }
            _ => Ok(()),
        }
    }

    fn describe(&self, info: &mut ImageInfo) -> Result<()> {
        info.cluster_size = Some(self.header.cluster_size());
        Ok(())
    }

    fn parts_of(&self, used_for: FileUse, each: &mut dyn FnMut(Range<u64>)) -> Result<bool> {
        let table = QcowTable::stored(Arc::clone(&self.file), self.header.clone(), false)?;
        match used_for {
            FileUse::Metadata => {
                each(0..self.header.length());
                let clusters = self.header.size.div_ceil(self.header.cluster_size());
                table.tables().places(clusters, each)?;
            }
            FileUse::Compressed => compressed_parts(&table, each)?,
        }
        Ok(true)
    }

    fn open(&self, parts: Parts<'_>) -> Result<Arc<dyn Image>> {
        Ok(Arc::new(self.image(parts.secret, false)?))
    }

    fn open_writable(&self, parts: WriteParts<'_>) -> Result<Box<dyn WritableImage>> {
        let image = self.image(parts.secret, parts.flush)?;
        let wrong = entry_check::wrong_entries(image.table(), self.file.len()?)?;
        refuse_damaged(wrong)?;
        let image = WritableBlocks::new(image, parts.flush);
        Ok(Box::new(image.with_backing(parts.backing)))
    }

    fn make_empty(&self, parts: WriteParts<'_>) -> Result<()> {
        let flush = || self.file.flush_if(parts.flush);
        let l1_end = self.header.l1_end();
        make_zero(self.file.as_ref(), self.header.l1_offset..l1_end)?;
        // The cleared entries are on stable storage before their clusters are truncated.
        flush()?;
        if !self.file.has_fixed_length() && self.file.len()? > l1_end {
            self.file.set_len(l1_end)?;
        }
        flush()
    }
}
