//! A VHDX file whose headers and metadata have been read.
//!
//! If the log has to be replayed, they are read in their state after the replay.

use std::ops::Range;
use std::sync::Arc;

use super::check::{self, TableState};
use super::differencing::{PartialDisk, VhdxParent};
use super::header::VhdxHeader;
use super::layout::HEADERS_END;
use super::log::{LogChange, PendingLog};
use super::metadata::DiskMetadata;
use super::regions::Regions;
use super::replayed::ReplayedFile;
use super::table::{Places, VhdxTable};
use crate::error::{Error, Result};
use crate::formats::block_map::{BlockImage, WritableBlocks};
use crate::formats::check::{Check, CheckEvent, CheckReport, Repair, refuse_damaged};
use crate::formats::driver::{BackingRef, ImageFile, Parts, WriteParts};
use crate::formats::info::ImageInfo;
use crate::formats::refusals::without_text;
use crate::formats::zeroes::make_zero;
use crate::formats::{FileUse, Image, WritableImage, parent_name};
use crate::storage::Storage;

/// The largest number of entries that are checked before an image is read. Entries of longer BATs are checked when
/// their block is read.
const MOST_LOOKED_AT: u64 = 1 << 20;

/// A VHDX file.
pub(super) struct VhdxFile {
    /// The file as stored.
    stored: Arc<dyn Storage>,
    /// The file after the replay of its log.
    file: Arc<dyn Storage>,
    header: VhdxHeader,
    places: Places,
    /// True if the log has to be replayed.
    is_dirty: bool,
    /// The parent of a differencing image.
    parent: Option<VhdxParent>,
}

impl VhdxFile {
    /// Reads the headers and the metadata of the image in `stored`.
    ///
    /// # Errors
    /// Returns the system's error. Returns an error, in QEMU's words where it has any, if the image is damaged, or if
    /// its parent can't be opened.
    pub(super) fn load(stored: Arc<dyn Storage>) -> Result<Self> {
        let mut header = VhdxHeader::read(stored.as_ref())?;
        let mut file = Arc::clone(&stored);
        let pending = PendingLog::read(stored.as_ref(), &header)?;
        let is_dirty = pending.is_some();
        if let Some(log) = pending {
            file = Arc::new(ReplayedFile::new(file, log));
            header = VhdxHeader::read(file.as_ref())?;
        }
        let regions = Regions::read(file.as_ref(), &header)?;
        let disk = DiskMetadata::read(file.as_ref(), &regions)?;
        let places = Places {
            disk,
            regions,
            log_end: header.log_offset().saturating_add(header.log_length()),
        };
        let space = places.regions.blocks.end - places.regions.blocks.start;
        if places.table_length() > space {
            return Err(without_text(stored.as_ref(), "Invalid argument"));
        }
        let parent = disk
            .locator
            .map(|(start, length)| VhdxParent::read(file.as_ref(), start, length));
        Ok(Self {
            parent: parent.transpose()?,
            stored,
            file,
            header,
            places,
            is_dirty,
        })
    }

    fn table(&self, flushes: bool) -> VhdxTable {
        VhdxTable::stored(
            Arc::clone(&self.file),
            self.places.clone(),
            self.header.clone(),
            flushes,
        )
    }

    fn image(&self, table: VhdxTable) -> BlockImage<VhdxTable> {
        let is_fixed = self.places.disk.is_fixed;
        BlockImage::new(table, Arc::clone(&self.file), is_fixed)
    }

    fn look_at(
        &self,
        table: &VhdxTable,
        on_event: &mut dyn FnMut(&CheckEvent<'_>),
    ) -> Result<TableState> {
        let log = self.header.log_offset()..self.places.log_end;
        check::look_at(table, &self.places, &log, self.file.len()?, on_event)
    }

    /// Replays the log in the file, and marks it as empty.
    ///
    /// # Errors
    /// Returns the system's error. The log is still valid then.
    fn replay(&self, flush: bool) -> Result<()> {
        let file = self.stored.as_ref();
        let header = VhdxHeader::read(file)?;
        let Some(log) = PendingLog::read(file, &header)? else {
            return Ok(());
        };
        if file.len()? < log.length {
            file.set_len(log.length)?;
        }
        for change in log.changes {
            let end = change.end();
            match change {
                LogChange::Data { offset, bytes } => file.write_at(offset, &bytes)?,
                LogChange::Zero { offset, .. } => make_zero(file, offset..end)?,
            }
        }
        file.flush_if(flush)?;
        VhdxHeader::read(file)?.end_log(file, flush)
    }
}

impl ImageFile for VhdxFile {
    fn size(&self) -> u64 {
        self.places.disk.size
    }

    fn refuse_truncated(&self) -> Result<()> {
        if self.places.entries() > MOST_LOOKED_AT {
            return Ok(());
        }
        let found = self.look_at(&self.table(false), &mut |_| {})?;
        match found.misplaced {
            Some(text) => Err(Error::corrupt(text)),
            None => Ok(()),
        }
    }

    fn describe(&self, info: &mut ImageInfo) -> Result<()> {
        info.cluster_size = Some(self.places.disk.block_size);
        Ok(())
    }

    fn parts_of(&self, used_for: FileUse, each: &mut dyn FnMut(Range<u64>)) -> Result<bool> {
        if used_for == FileUse::Metadata {
            let regions = self.places.regions.clone();
            each(0..HEADERS_END);
            each(self.header.log_offset()..self.places.log_end);
            each(regions.blocks);
            each(regions.metadata);
            self.table(false).bitmaps(each)?;
        }
        Ok(true)
    }

    fn open(&self, parts: Parts<'_>) -> Result<Arc<dyn Image>> {
        if !parts.salvage {
            self.refuse_truncated()?;
        }
        let table = self.table(false);
        Ok(match self.parent {
            None => Arc::new(self.image(table)),
            Some(_) => {
                let disk = PartialDisk::new(table);
                Arc::new(BlockImage::new(disk, Arc::clone(&self.file), false))
            }
        })
    }

    fn backing(&self) -> Option<BackingRef<'_>> {
        self.parent.as_ref().map(|parent| BackingRef {
            name: &parent.name,
            format: Some(b"vhdx"),
        })
    }

    fn content_id(&self) -> Option<u64> {
        Some(parent_name::content_id(self.header.data_id()))
    }

    fn backing_content_id(&self) -> Option<u64> {
        let parent = self.parent.as_ref()?;
        Some(parent_name::content_id(parent.id))
    }

    fn check_writable(&self) -> Result<()> {
        parent_name::refuse_child(self.parent.is_some())
    }

    fn open_writable(&self, parts: WriteParts<'_>) -> Result<Box<dyn WritableImage>> {
        self.check_writable()?;
        if self.is_dirty {
            self.replay(parts.flush)?;
            return Self::load(Arc::clone(&self.stored))?.open_writable(parts);
        }
        let table = self.table(parts.flush);
        let found = self.look_at(&table, &mut |_| {})?;
        refuse_damaged(found.corruptions)?;
        let regions = &self.places.regions;
        let used = [
            found.end,
            self.places.log_end,
            regions.blocks.end,
            regions.metadata.end,
        ];
        let used = used.into_iter().max().unwrap_or(0);
        let length = match self.file.has_fixed_length() {
            true => 0,
            false => self.file.len()?,
        };
        table.start_space(used.max(length));
        Ok(Box::new(WritableBlocks::new(
            self.image(table),
            parts.flush,
        )))
    }

    fn check(&self) -> Option<&dyn Check> {
        Some(self)
    }
}

impl Check for VhdxFile {
    fn complains(&self) -> bool {
        true
    }

    fn check(&self, on_event: &mut dyn FnMut(&CheckEvent<'_>)) -> Result<CheckReport> {
        let found = self.look_at(&self.table(false), on_event)?;
        Ok(CheckReport {
            corruptions: found.corruptions,
            ..CheckReport::default()
        })
    }

    fn repair(&self, _: Repair, on_event: &mut dyn FnMut(&CheckEvent<'_>)) -> Result<CheckReport> {
        self.replay(true)?;
        let replayed = Self::load(Arc::clone(&self.stored))?;
        let report = Check::check(&replayed, on_event)?;
        Ok(CheckReport {
            corruptions_fixed: self.is_dirty.into(),
            ..report
        })
    }
}
