//! The BAT (block allocation table) of an image.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::header::{LENGTH, ParallelsHeader};
use crate::error::{Error, Result};
use crate::formats::block_map::{
    Block, BlockAllocator, BlockTable, EntryForm, EntryTable, NewBlockTable, SpaceAtEnd,
};
use crate::formats::new_image::write_header_last;
use crate::storage::Storage;
use crate::units::{HostOffset, SECTOR_SIZE};

/// The entry of an unallocated cluster.
const ABSENT: u64 = 0;

/// The BAT of an image.
pub(super) struct AllocationTable {
    file: Arc<dyn Storage>,
    header: ParallelsHeader,
    entries: EntryTable,
    space: SpaceAtEnd,
    /// True if flushes reach stable storage.
    flushes: bool,
    /// True if the header marks the image as in use.
    is_in_use: AtomicBool,
}

impl AllocationTable {
    /// Returns the BAT of the image in `file`. New clusters are allocated from byte `end` on, or after the end of the
    /// file.
    ///
    /// # Errors
    /// Returns the system's error.
    pub(super) fn stored(
        file: Arc<dyn Storage>,
        header: ParallelsHeader,
        flushes: bool,
        end: Option<u64>,
    ) -> Result<Self> {
        if let Some(end) = end {
            return Ok(Self::with_end(file, header, flushes, end));
        }
        let length = file.len()?;
        let (start, _) = header.data_offset(length);
        let clusters = length.saturating_sub(start).div_ceil(header.cluster_size);
        let end = start.saturating_add(clusters.saturating_mul(header.cluster_size));
        Ok(Self::with_end(file, header, flushes, end))
    }

    /// Returns the BAT of a new image, which reads as zeroes.
    pub(super) fn fresh(file: Arc<dyn Storage>, header: ParallelsHeader) -> Self {
        let end = header.stated_data_offset;
        Self::with_end(file, header, false, end)
    }

    fn with_end(file: Arc<dyn Storage>, header: ParallelsHeader, flushes: bool, end: u64) -> Self {
        let start = LENGTH as u64;
        Self {
            entries: EntryTable::stored(
                Arc::clone(&file),
                EntryForm::Little32,
                start,
                header.entries.into(),
            ),
            space: SpaceAtEnd::new(Arc::clone(&file), end),
            file,
            header,
            flushes,
            is_in_use: AtomicBool::new(header.is_in_use),
        }
    }

    fn flush(&self) -> Result<()> {
        self.file.flush_if(self.flushes)
    }

    /// Returns the header.
    pub(super) fn header(&self) -> &ParallelsHeader {
        &self.header
    }

    /// Returns the offset in an entry in bytes, without checking it, or 0 if the cluster isn't allocated.
    ///
    /// # Errors
    /// Returns the system's error.
    pub(super) fn stated(&self, block: u64) -> Result<u64> {
        Ok(self.entries.get(block)? * self.header.entry_unit())
    }

    /// Marks a cluster as unallocated.
    ///
    /// # Errors
    /// Returns the system's error.
    pub(super) fn deallocate(&self, block: u64) -> Result<()> {
        self.entries.set(block, ABSENT)
    }

    /// Sets the entry of a cluster to the host offset `host`, in bytes.
    ///
    /// # Errors
    /// Returns the system's error. Returns an error if an entry can't represent the offset.
    pub(super) fn refer(&self, block: u64, host: u64) -> Result<()> {
        let unit = self.header.entry_unit();
        let entry = u32::try_from(host / unit).ok();
        let entry = entry.filter(|_| host.is_multiple_of(unit));
        let entry = entry.ok_or_else(|| Error::invalid("the image's file is too big"))?;
        self.entries.set(block, entry.into())
    }

    /// Allocates a cluster that reads as zeroes, and returns its host offset.
    ///
    /// # Errors
    /// Returns an error as [`SpaceAtEnd::take_zeroed`] does.
    pub(super) fn take_cluster(&self) -> Result<u64> {
        let size = self.header.cluster_size;
        self.space.take_zeroed(size, self.header.entry_unit())
    }
}

impl BlockTable for AllocationTable {
    fn size(&self) -> u64 {
        self.header.size
    }

    fn block_size(&self) -> u64 {
        self.header.cluster_size
    }

    fn lookup(&self, block: u64) -> Result<Block> {
        match self.stated(block)? {
            0 => Ok(Block::Absent),
            host if host >= self.header.table_end() => Ok(Block::At(HostOffset(host))),
            host => Err(Error::corrupt(format!(
                "cluster {block} of the disk is at offset {host:#x}, where the table is"
            ))),
        }
    }

    /// Returns the largest number, since QEMU looks up all contiguous clusters at once.
    fn status_step(&self) -> u64 {
        u64::MAX
    }
}

impl BlockAllocator for AllocationTable {
    fn allocate(&self, block: u64) -> Result<HostOffset> {
        // A power cut may leave unused space at the end of the file, which the mark reveals.
        if !self.is_in_use.swap(true, Ordering::AcqRel) {
            ParallelsHeader::write_in_use(self.file.as_ref(), true)?;
            self.flush()?;
        }
        let host = self.take_cluster()?;
        self.refer(block, host)?;
        Ok(HostOffset(host))
    }

    fn commit(&self) -> Result<()> {
        self.entries.store()
    }

    fn close(&self) -> Result<()> {
        if !self.is_in_use.load(Ordering::Acquire) {
            return Ok(());
        }
        let end = self.space.next();
        if self.header.is_in_use && self.file.len()? > end {
            // The program that left the image in use had preallocated space.
            self.file.set_len(end)?;
        }
        self.flush()?;
        ParallelsHeader::write_in_use(self.file.as_ref(), false)?;
        self.flush()
    }
}

impl NewBlockTable for AllocationTable {
    fn place(&self, block: u64) -> Result<HostOffset> {
        if let Block::At(host) = self.lookup(block)? {
            return Ok(host);
        }
        let size = self.header.cluster_size;
        let host = match self.unit() == size || self.file.starts_as_zeroes() {
            true => self.space.take(size, SECTOR_SIZE)?,
            // The cluster may be written in several pieces, so the rest must read as zeroes.
            false => self.take_cluster()?,
        };
        self.refer(block, host)?;
        Ok(HostOffset(host))
    }

    fn finish(&self, flush: bool) -> Result<()> {
        let file = self.file.as_ref();
        if file.starts_as_zeroes() {
            file.set_len(self.space.next())?;
        }
        self.entries.store()?;
        write_header_last(file, &self.header.encode(), flush)
    }
}
