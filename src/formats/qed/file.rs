//! A QED file whose header has been read.

use std::ops::Range;
use std::sync::Arc;

use super::change;
use super::check::{self, TableFindings};
use super::header::{self, QedHeader, longest_disk};
use super::table::QedTable;
use crate::error::{Error, Result};
use crate::formats::block_map::{Block, BlockImage, BlockTable as _, WritableBlocks};
use crate::formats::check::{Check, CheckEvent, CheckReport, Repair, refuse_damaged};
use crate::formats::driver::{Backing, BackingRef, ImageFile, Parts, WriteParts};
use crate::formats::info::ImageInfo;
use crate::formats::zeroes::make_zero;
use crate::formats::{FileUse, Image, Preallocation, Resize, WritableImage};
use crate::storage::Storage;
use crate::units::SECTOR_SIZE;

/// A QED file.
pub(super) struct QedFile {
    file: Arc<dyn Storage>,
    header: QedHeader,
}

impl QedFile {
    /// Reads the header of the image in `file`.
    ///
    /// # Errors
    /// Returns an error as [`QedHeader::read`] does.
    pub(super) fn load(file: Arc<dyn Storage>) -> Result<Self> {
        let header = QedHeader::read(file.as_ref())?;
        Ok(Self { file, header })
    }

    fn table(&self, flush: bool) -> Result<QedTable> {
        QedTable::stored(Arc::clone(&self.file), self.header.clone(), flush)
    }

    fn walk(&self, on_event: &mut dyn FnMut(&CheckEvent<'_>)) -> Result<TableFindings> {
        check::walk(&self.table(false)?, self.file.as_ref(), on_event)
    }

    /// Refuses an image with damaged tables, and clears the marks of any other.
    fn make_ready(&self, flush: bool) -> Result<()> {
        refuse_damaged(self.walk(&mut |_| {})?.report.corruptions)?;
        match change::for_writing(&self.header) {
            Some(header) => change::write(self.file.as_ref(), &header, flush),
            None => Ok(()),
        }
    }

    /// Zeroes the part of the last cluster beyond the disk's end.
    fn clear_end(&self) -> Result<()> {
        let size = self.header.cluster_size;
        let within = self.header.size % size;
        if within == 0 {
            return Ok(());
        }
        let Block::At(host) = self.table(false)?.lookup(self.header.size / size)? else {
            return Ok(());
        };
        make_zero(self.file.as_ref(), host.0 + within..host.0 + size)
    }
}

impl ImageFile for QedFile {
    fn size(&self) -> u64 {
        self.header.size
    }

    fn backing(&self) -> Option<BackingRef<'_>> {
        let is_raw = self.header.backing_is_raw();
        self.header.backing.as_deref().map(|name| BackingRef {
            name,
            format: is_raw.then_some(&b"raw"[..]),
        })
    }

    fn describe(&self, info: &mut ImageInfo) -> Result<()> {
        info.cluster_size = Some(self.header.cluster_size);
        Ok(())
    }

    fn parts_of(&self, used_for: FileUse, each: &mut dyn FnMut(Range<u64>)) -> Result<bool> {
        if used_for == FileUse::Metadata {
            let header = self.header.header_size * self.header.cluster_size;
            each(0..header.max(header::LENGTH as u64));
            let table = self.table(false)?;
            table.tables().places(self.header.clusters(), each)?;
        }
        Ok(true)
    }

    fn prepare_to_change(&mut self, _looks_for_damage: bool) -> Result<()> {
        self.make_ready(true)?;
        self.header = QedHeader::read(self.file.as_ref())?;
        Ok(())
    }

    fn open(&self, _parts: Parts<'_>) -> Result<Arc<dyn Image>> {
        let table = self.table(false)?;
        let image = BlockImage::new(table, Arc::clone(&self.file), false);
        Ok(Arc::new(image))
    }

    fn open_writable(&self, parts: WriteParts<'_>) -> Result<Box<dyn WritableImage>> {
        self.make_ready(parts.flush)?;
        let table = self.table(parts.flush)?;
        let image = BlockImage::new(table, Arc::clone(&self.file), false);
        let image = WritableBlocks::new(image, parts.flush);
        Ok(Box::new(image.with_backing(parts.backing)))
    }

    fn check_backing(&self, backing: Option<&Backing>) -> Result<()> {
        change::with_backing(&self.header, backing).map(drop)
    }

    fn set_backing(&self, backing: Option<&Backing>, flush: bool) -> Result<()> {
        let header = QedHeader::read(self.file.as_ref())?;
        let header = change::with_backing(&header, backing)?;
        change::write(self.file.as_ref(), &header, flush)
    }

    fn resize(&self, parts: WriteParts<'_>, resize: Resize) -> Result<()> {
        let mode = match resize.preallocation {
            Preallocation::Off => None,
            Preallocation::Metadata => Some("metadata"),
            Preallocation::Falloc => Some("falloc"),
            Preallocation::Full => Some("full"),
        };
        if let Some(mode) = mode {
            return Err(Error::unsupported(format!(
                "Unsupported preallocation mode '{mode}'"
            )));
        }
        let longest = longest_disk(self.header.cluster_size, self.header.table_size);
        let size = resize.size;
        if !size.is_multiple_of(SECTOR_SIZE)
            || u128::from(size) > longest
            || i64::try_from(size).is_err()
        {
            return Err(Error::invalid("Invalid image size specified"));
        }
        if size < self.header.size {
            return Err(Error::unsupported(
                "Shrinking images is currently not supported",
            ));
        }
        let below = parts.backing.map_or(0, |backing| backing.size());
        if size > self.header.size && below > self.header.size {
            // The added space would read from the backing file.
            return Err(Error::unsupported(
                "Block driver does not support requested flags",
            ));
        }
        self.make_ready(parts.flush)?;
        self.clear_end()?;
        self.file.flush_if(parts.flush)?;
        let header = QedHeader::read(self.file.as_ref())?;
        let header = QedHeader { size, ..header };
        change::write(self.file.as_ref(), &header, parts.flush)
    }

    /// Keeps the data, as QEMU does, since it equals the backing file's.
    fn make_empty(&self, _parts: WriteParts<'_>) -> Result<()> {
        Ok(())
    }

    fn check(&self) -> Option<&dyn Check> {
        Some(self)
    }
}

impl Check for QedFile {
    fn check(&self, on_event: &mut dyn FnMut(&CheckEvent<'_>)) -> Result<CheckReport> {
        Ok(self.walk(on_event)?.report)
    }

    /// Repairs invalid entries with [`Repair::All`]. Leaks stay, as with QEMU.
    fn repair(
        &self,
        what: Repair,
        on_event: &mut dyn FnMut(&CheckEvent<'_>),
    ) -> Result<CheckReport> {
        let found = self.walk(on_event)?;
        let mut report = found.report;
        if what == Repair::All && !found.wrong.is_empty() {
            check::repair(&self.table(true)?, self.file.as_ref(), &found.wrong)?;
            report = CheckReport {
                corruptions_fixed: found.wrong.len() as u64,
                ..self.walk(on_event)?.report
            };
        }
        if report.corruptions == 0
            && let Some(header) = change::for_writing(&self.header)
        {
            change::write(self.file.as_ref(), &header, true)?;
        }
        Ok(report)
    }
}
