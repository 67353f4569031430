//! A Parallels file whose header has been read.

use std::sync::Arc;

use super::check::{self, BatFindings, Said};
use super::header::ParallelsHeader;
use super::table::AllocationTable;
use crate::error::{Error, Result};
use crate::formats::bitmaps::{Bitmaps, PersistentBitmap, Replacement};
use crate::formats::block_map::{BlockImage, WritableBlocks};
use crate::formats::check::{Check, CheckEvent, CheckReport, Repair, refuse_damaged};
use crate::formats::driver::{ImageFile, Parts, WriteParts};
use crate::formats::info::ImageInfo;
use crate::formats::{Image, WritableImage};
use crate::storage::Storage;

/// A Parallels file.
pub(super) struct ParallelsFile {
    file: Arc<dyn Storage>,
    header: ParallelsHeader,
}

impl ParallelsFile {
    /// Reads the header of the image in `file`.
    ///
    /// # Errors
    /// Returns an error as [`ParallelsHeader::read`] does.
    pub(super) fn load(file: Arc<dyn Storage>) -> Result<Self> {
        let header = ParallelsHeader::read(file.as_ref())?;
        Ok(Self { file, header })
    }

    /// Returns the table, with new clusters behind all that the file has, or from `end` on.
    fn table(&self, flushes: bool, end: Option<u64>) -> Result<AllocationTable> {
        AllocationTable::stored(Arc::clone(&self.file), self.header, flushes, end)
    }

    fn image(&self, table: AllocationTable) -> BlockImage<AllocationTable> {
        BlockImage::new(table, Arc::clone(&self.file), false)
    }

    fn walk(&self, said: Said, on_event: &mut dyn FnMut(&CheckEvent<'_>)) -> Result<BatFindings> {
        check::walk(&self.table(true, None)?, self.file.as_ref(), said, on_event)
    }
}

impl ImageFile for ParallelsFile {
    fn size(&self) -> u64 {
        self.header.size
    }

    fn describe(&self, info: &mut ImageInfo) -> Result<()> {
        info.dirty_flag = None;
        Ok(())
    }

    fn open(&self, _parts: Parts<'_>) -> Result<Arc<dyn Image>> {
        Ok(Arc::new(self.image(self.table(false, None)?)))
    }

    fn check_writable(&self) -> Result<()> {
        if self.header.extension == 0 {
            return Ok(());
        }
        Err(Error::unsupported(
            "the image has a format extension, such as dirty bitmaps, which would be wrong after a write",
        ))
    }

    fn open_writable(&self, parts: WriteParts<'_>) -> Result<Box<dyn WritableImage>> {
        self.check_writable()?;
        let found = self.walk(Said::ERRORS, &mut |_| {})?;
        refuse_damaged(found.damages())?;
        let end = found.report.image_end_offset;
        let table = self.table(parts.flush, self.header.is_in_use.then_some(end))?;
        Ok(Box::new(WritableBlocks::new(
            self.image(table),
            parts.flush,
        )))
    }

    fn check(&self) -> Option<&dyn Check> {
        Some(self)
    }

    fn bitmaps(&self) -> Option<&dyn Bitmaps> {
        Some(self)
    }
}

/// Bitmaps are in the extension, which isn't read.
impl Bitmaps for ParallelsFile {
    fn list(&self) -> Result<Vec<PersistentBitmap>> {
        match self.header.extension {
            0 => Ok(Vec::new()),
            _ => Err(Error::unsupported(
                "this version doesn't read the bitmaps of such images",
            )),
        }
    }

    fn add(&self, copied: &[PersistentBitmap], _flush: bool) -> Result<()> {
        match copied {
            [] => Ok(()),
            _ => Err(Error::unsupported("Operation not supported")),
        }
    }

    fn default_granularity(&self) -> u64 {
        65536
    }

    fn check_new(&self, _name: &[u8], _granularity: u64) -> Result<()> {
        Err(Error::unsupported("Operation not supported"))
    }

    fn replace(&self, _name: &[u8], _with: Replacement, _flush: bool) -> Result<()> {
        Err(Error::unsupported("Operation not supported"))
    }
}

impl Check for ParallelsFile {
    fn check(&self, on_event: &mut dyn FnMut(&CheckEvent<'_>)) -> Result<CheckReport> {
        Ok(self.walk(Said::ERRORS, on_event)?.report)
    }

    fn repair(
        &self,
        what: Repair,
        on_event: &mut dyn FnMut(&CheckEvent<'_>),
    ) -> Result<CheckReport> {
        let said = match what {
            Repair::All => Said::REPAIRS,
            Repair::Leaks => Said {
                corruption: Said::ERRORS.corruption,
                ..Said::REPAIRS
            },
        };
        let found = self.walk(said, on_event)?;
        let file = self.file.as_ref();
        let mut fixed = CheckReport::default();
        if found.report.leaks > 0 {
            file.set_len(found.report.image_end_offset)?;
            fixed.leaks_fixed = found.report.leaks;
        }
        if what == Repair::All && found.report.corruptions > 0 {
            let table = self.table(true, None)?;
            fixed.corruptions_fixed = check::repair(&table, file, &found)?;
            if self.header.is_in_use {
                ParallelsHeader::write_in_use(file, false)?;
                fixed.corruptions_fixed += 1;
            }
        }
        if fixed == CheckReport::default() {
            return Ok(found.report);
        }
        file.flush()?;
        let again = Self::load(Arc::clone(&self.file))?;
        Ok(CheckReport {
            leaks_fixed: fixed.leaks_fixed,
            corruptions_fixed: fixed.corruptions_fixed,
            ..again.walk(Said::ERRORS, on_event)?.report
        })
    }
}
