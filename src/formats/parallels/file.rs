//! A Parallels file whose header has been read.

use std::ops::Range;
use std::sync::Arc;

use super::check::{self, BatFindings, FindingWords};
use super::dirty_bits::{DirtyBits, KeptExtension, WithExtension};
use super::extension::FormatExtension;
use super::header::ParallelsHeader;
use super::table::AllocationTable;
use crate::error::{Error, Result};
use crate::formats::bitmaps::{Bitmaps, PersistentBitmap, Replacement};
use crate::formats::block_map::{BlockImage, WritableBlocks};
use crate::formats::check::{Check, CheckEvent, CheckReport, Repair, refuse_damaged};
use crate::formats::driver::{ImageFile, Load, Parts, WriteParts};
use crate::formats::explanation::Statement;
use crate::formats::info::ImageInfo;
use crate::formats::{FileUse, Image, WritableImage};
use crate::storage::Storage;

/// A Parallels file.
pub(super) struct ParallelsFile {
    file: Arc<dyn Storage>,
    header: ParallelsHeader,
    extension: Option<FormatExtension>,
    /// The reason why the extension couldn't be read.
    broken_extension: Option<Error>,
}

impl ParallelsFile {
    /// Reads the header of the image in `file`, and its extension.
    ///
    /// # Errors
    /// Returns an error as [`ParallelsHeader::read`] does. Returns an error as [`FormatExtension::read`] does, except
    /// with [`Load::Check`].
    pub(super) fn load(file: Arc<dyn Storage>, how: Load) -> Result<Self> {
        let header = ParallelsHeader::read(file.as_ref())?;
        let (extension, broken_extension) = match FormatExtension::read(file.as_ref(), &header) {
            Ok(extension) => (extension, None),
            Err(error) if how == Load::Check => (None, Some(error)),
            Err(error) => return Err(error),
        };
        Ok(Self {
            file,
            header,
            extension,
            broken_extension,
        })
    }

    /// Returns the BAT. New clusters are allocated from `end` on, or after the end of the file.
    fn table(&self, flushes: bool, end: Option<u64>) -> Result<AllocationTable> {
        AllocationTable::stored(Arc::clone(&self.file), self.header, flushes, end)
    }

    fn image(&self, table: AllocationTable) -> BlockImage<AllocationTable> {
        BlockImage::new(table, Arc::clone(&self.file), false)
    }

    fn walk(
        &self,
        words: FindingWords,
        on_event: &mut dyn FnMut(&CheckEvent<'_>),
    ) -> Result<BatFindings> {
        let table = self.table(true, None)?;
        let extension = self.extension.as_ref();
        check::walk(&table, extension, self.file.as_ref(), words, on_event)
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

    fn parts_of(&self, used_for: FileUse, each: &mut dyn FnMut(Range<u64>)) -> Result<bool> {
        if used_for == FileUse::Metadata {
            each(0..self.header.table_end());
            let extension = self.extension.iter();
            let clusters = extension.flat_map(|found| {
                let bits = found.clusters();
                std::iter::once(self.header.extension).chain(bits)
            });
            clusters.for_each(|at| each(at..at.saturating_add(self.header.cluster_size)));
        }
        Ok(true)
    }

    fn open(&self, _parts: Parts<'_>) -> Result<Arc<dyn Image>> {
        Ok(Arc::new(self.image(self.table(false, None)?)))
    }

    fn explain(&self) -> Vec<Statement> {
        let bitmaps = self.extension.iter().flat_map(|found| &found.bitmaps);
        let names: Vec<_> = bitmaps.map(|bitmap| bitmap.name.as_str()).collect();
        if names.is_empty() {
            return Vec::new();
        }
        let text = format!(
            "{}. By them a backup knows what has changed; they are kept true when the disk is written.",
            names.join(", ")
        );
        vec![Statement::new("dirty bitmaps", text)]
    }

    fn open_writable(&self, parts: WriteParts<'_>) -> Result<Box<dyn WritableImage>> {
        let found = self.walk(FindingWords::ERRORS, &mut |_| {})?;
        refuse_damaged(found.damages())?;
        let end = found.report.image_end_offset;
        let table = self.table(parts.flush, self.header.is_in_use.then_some(end))?;
        let image = WritableBlocks::new(self.image(table), parts.flush);
        let Some(extension) = self.extension.clone() else {
            return Ok(Box::new(image));
        };
        let file = Arc::clone(&self.file);
        let kept = KeptExtension::new(file, self.header, extension, parts.flush);
        Ok(Box::new(WithExtension::new(image, kept)))
    }

    fn check(&self) -> Option<&dyn Check> {
        Some(self)
    }

    fn bitmaps(&self) -> Option<&dyn Bitmaps> {
        Some(self)
    }
}

/// The bitmaps of the extension can be merged into others, but aren't copied to other images, as in QEMU.
impl Bitmaps for ParallelsFile {
    fn list(&self) -> Result<Vec<PersistentBitmap>> {
        Ok(Vec::new())
    }

    fn to_merge(&self) -> Result<Vec<PersistentBitmap>> {
        let bitmaps = self.extension.iter().flat_map(|found| &found.bitmaps);
        let bitmap = |found| DirtyBits::bitmap(&self.file, &self.header, found);
        Ok(bitmaps.map(bitmap).collect())
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
        if let Some(error) = &self.broken_extension {
            return Err(Error::corrupt(error.to_string()));
        }
        Ok(self.walk(FindingWords::ERRORS, on_event)?.report)
    }

    fn repair(
        &self,
        what: Repair,
        on_event: &mut dyn FnMut(&CheckEvent<'_>),
    ) -> Result<CheckReport> {
        let words = match what {
            Repair::All => FindingWords::REPAIRS,
            Repair::Leaks => FindingWords {
                corruption: FindingWords::ERRORS.corruption,
                ..FindingWords::REPAIRS
            },
        };
        let file = self.file.as_ref();
        let mut fixed = CheckReport::default();
        if let Some(error) = &self.broken_extension {
            if what == Repair::Leaks {
                return Err(Error::corrupt(error.to_string()));
            }
            // It is unknown which clusters the extension used.
            on_event(&format!("Repairing format extension is dropped: {error}"));
            ParallelsHeader::write_extension(file, 0)?;
            file.flush()?;
            fixed.corruptions_fixed = 1;
        }
        let found = self.walk(words, on_event)?;
        if found.report.leaks > 0 {
            file.set_len(found.report.image_end_offset)?;
            fixed.leaks_fixed = found.report.leaks;
        }
        if what == Repair::All && found.report.corruptions > 0 {
            let table = self.table(true, None)?;
            fixed.corruptions_fixed += check::repair(&table, file, &found)?;
            if self.header.is_in_use {
                ParallelsHeader::write_in_use(file, false)?;
                fixed.corruptions_fixed += 1;
            }
        }
        if fixed == CheckReport::default() {
            return Ok(found.report);
        }
        file.flush()?;
        let again = Self::load(Arc::clone(&self.file), Load::Check)?;
        Ok(CheckReport {
            leaks_fixed: fixed.leaks_fixed,
            corruptions_fixed: fixed.corruptions_fixed,
            ..again.walk(FindingWords::ERRORS, on_event)?.report
        })
    }
}
