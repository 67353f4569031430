//! The L1 and L2 tables of an image.

use std::sync::Arc;

use super::header::QedHeader;
use crate::error::{Error, Result};
use crate::formats::block_map::{
    Block, BlockAllocator, BlockTable, NewBlockTable, SpaceAtEnd, TwoLevelTable,
};
use crate::formats::new_image::write_header_last;
use crate::storage::Storage;
use crate::units::HostOffset;

/// The entry of an unallocated cluster.
pub(super) const ABSENT: u64 = 0;
/// The entry of a zero cluster.
pub(super) const ZERO: u64 = 1;

/// The tables of an image.
pub(super) struct QedTable {
    file: Arc<dyn Storage>,
    header: QedHeader,
    tables: TwoLevelTable,
    space: SpaceAtEnd,
    /// True if flushes reach stable storage.
    flushes: bool,
}

impl QedTable {
    /// Returns the tables of the image in `file`.
    ///
    /// # Errors
    /// Returns the system's error.
    pub(super) fn stored(file: Arc<dyn Storage>, header: QedHeader, flushes: bool) -> Result<Self> {
        let end = file.len()?;
        Ok(Self::with_end(file, header, flushes, end))
    }

    /// Returns the tables of a new image, whose L1 table directly follows the header and reads as zeroes.
    pub(super) fn fresh(file: Arc<dyn Storage>, header: QedHeader) -> Self {
        let end = header.l1_offset + header.table_length();
        Self::with_end(file, header, false, end)
    }

    fn with_end(file: Arc<dyn Storage>, header: QedHeader, flushes: bool, end: u64) -> Self {
        Self {
            tables: TwoLevelTable::new(Arc::clone(&file), header.shape()),
            space: SpaceAtEnd::new(Arc::clone(&file), end),
            file,
            header,
            flushes,
        }
    }

    /// Returns the header.
    pub(super) fn header(&self) -> &QedHeader {
        &self.header
    }

    /// Returns the stored tables.
    pub(super) fn tables(&self) -> &TwoLevelTable {
        &self.tables
    }

    /// Returns the end of the allocated space of the file in bytes.
    pub(super) fn end(&self) -> u64 {
        self.space.next()
    }

    /// Allocates a cluster that reads as zeroes, and returns its host offset.
    ///
    /// # Errors
    /// Returns an error as [`SpaceAtEnd::take_zeroed`] does.
    pub(super) fn take_cluster(&self) -> Result<u64> {
        let size = self.header.cluster_size;
        self.space.take_zeroed(size, size)
    }

    /// Allocates an L2 table for the block, unless it has one.
    fn add_table(&self, block: u64) -> Result<()> {
        self.tables
            .ensure_table(block, &self.space, self.header.cluster_size)
    }
}

impl BlockTable for QedTable {
    fn size(&self) -> u64 {
        self.header.size
    }

    fn block_size(&self) -> u64 {
        self.header.cluster_size
    }

    fn lookup(&self, block: u64) -> Result<Block> {
        match self.tables.get(block)? {
            ABSENT => Ok(Block::Absent),
            ZERO => Ok(Block::Zero),
            offset if self.header.is_cluster_offset(offset, self.end()) => {
                Ok(Block::At(HostOffset(offset)))
            }
            offset => Err(Error::corrupt(format!(
                "cluster {block} of the disk is at offset {offset:#x}, where none can be"
            ))),
        }
    }

    fn stores_zeroes(&self) -> bool {
        true
    }

    fn set_zero(&self, block: u64) -> Result<()> {
        self.add_table(block)?;
        self.tables.set(block, ZERO)
    }

    /// Returns the number of bytes that one L2 table maps, since QEMU looks up the entries of a table at once.
    fn status_step(&self) -> u64 {
        let entries = self.header.table_entries();
        entries.saturating_mul(self.header.cluster_size)
    }
}

impl BlockAllocator for QedTable {
    fn allocate(&self, block: u64) -> Result<HostOffset> {
        let cluster = self.take_cluster()?;
        self.add_table(block)?;
        self.tables.set(block, cluster)?;
        Ok(HostOffset(cluster))
    }

    fn commit(&self) -> Result<()> {
        self.tables.store(self.flushes)
    }

    fn should_store(&self) -> bool {
        self.tables.should_store()
    }
}

impl NewBlockTable for QedTable {
    fn place(&self, block: u64) -> Result<HostOffset> {
        if let Block::At(host) = self.lookup(block)? {
            return Ok(host);
        }
        if self.tables.should_store() {
            self.tables.store_l2()?;
        }
        let size = self.header.cluster_size;
        let cluster = self.space.take(size, size)?;
        self.add_table(block)?;
        self.tables.set(block, cluster)?;
        Ok(HostOffset(cluster))
    }

    fn finish(&self, flush: bool) -> Result<()> {
        let file = self.file.as_ref();
        if file.starts_as_zeroes() {
            file.set_len(self.end())?;
        }
        self.tables.store(false)?;
        if let Some(name) = &self.header.backing {
            file.write_at(self.header.backing_offset.into(), name)?;
        }
        // The header is within one sector, of which a power cut leaves the old or the new bytes.
        write_header_last(file, &self.header.encode(), flush)
    }
}
