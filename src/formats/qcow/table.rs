//! The L1 and L2 tables of an image.

use std::sync::Arc;

use super::header::{LENGTH, QcowHeader};
use crate::error::{Error, Result};
use crate::formats::block_map::{
    Block, BlockAllocator, BlockTable, NewBlockTable, SpaceAtEnd, TwoLevelTable,
};
use crate::formats::codec::{Codec, compress, decompress};
use crate::formats::new_image::write_header_last;
use crate::storage::Storage;
use crate::units::{HostOffset, SECTOR_SIZE};

/// The entry of an unallocated cluster.
pub(super) const ABSENT: u64 = 0;
/// The bit of an entry that marks a compressed cluster.
const IS_COMPRESSED: u64 = 1 << 63;

/// The tables of an image.
pub(super) struct QcowTable {
    file: Arc<dyn Storage>,
    header: QcowHeader,
    tables: TwoLevelTable,
    space: SpaceAtEnd,
    /// True if flushes reach stable storage.
    flushes: bool,
}

impl QcowTable {
    /// Returns the tables of the image in `file`.
    ///
    /// # Errors
    /// Returns the system's error.
    pub(super) fn stored(
        file: Arc<dyn Storage>,
        header: QcowHeader,
        flushes: bool,
    ) -> Result<Self> {
        let end = file.len()?;
        Ok(Self::with_end(file, header, flushes, end))
    }

    /// Returns the tables of a new image, all of which read as zeroes.
    pub(super) fn fresh(file: Arc<dyn Storage>, header: QcowHeader) -> Self {
        // QEMU writes the L1 table in whole sectors, wherever it starts.
        let l1_length = (header.l1_entries() * 8).next_multiple_of(SECTOR_SIZE);
        let end = header.l1_offset + l1_length;
        Self::with_end(file, header, false, end)
    }

    fn with_end(file: Arc<dyn Storage>, header: QcowHeader, flushes: bool, end: u64) -> Self {
        Self {
            tables: TwoLevelTable::new(Arc::clone(&file), header.shape()),
            space: SpaceAtEnd::new(Arc::clone(&file), end),
            file,
            header,
            flushes,
        }
    }

    /// Returns the header.
    pub(super) fn header(&self) -> &QcowHeader {
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

    /// Allocates an L2 table for the block, unless it has one.
    fn add_table(&self, block: u64) -> Result<()> {
        self.tables
            .ensure_table(block, &self.space, self.header.cluster_size())
    }

    /// Returns the place of a cluster according to its entry.
    ///
    /// # Errors
    /// Returns an error if there can't be a cluster at that place.
    pub(super) fn place_of(&self, block: u64, entry: u64) -> Result<Block> {
        let offset_bits = 63 - self.header.cluster_bits;
        let offset_mask = (1u64 << offset_bits) - 1;
        let (place, offset) = if entry == ABSENT {
            return Ok(Block::Absent);
        } else if entry & IS_COMPRESSED == 0 {
            (Block::At(HostOffset(entry)), entry)
        } else {
            let offset = entry & offset_mask;
            let length = (entry >> offset_bits) & (self.header.cluster_size() - 1);
            let host = HostOffset(offset);
            (Block::Compressed { host, length }, offset)
        };
        let is_aligned = entry & IS_COMPRESSED != 0 || entry.is_multiple_of(SECTOR_SIZE);
        let header = 0..LENGTH as u64;
        let l1 = self.header.l1_offset..self.header.l1_end();
        if !is_aligned || header.contains(&offset) || l1.contains(&offset) {
            return Err(Error::corrupt(format!(
                "cluster {block} of the disk is at offset {offset:#x}, where none can be"
            )));
        }
        Ok(place)
    }
}

impl BlockTable for QcowTable {
    fn size(&self) -> u64 {
        self.header.size
    }

    fn block_size(&self) -> u64 {
        self.header.cluster_size()
    }

    fn lookup(&self, block: u64) -> Result<Block> {
        self.place_of(block, self.tables.get(block)?)
    }

    fn decompress(&self, compressed: &[u8], block: &mut [u8]) -> Result<()> {
        decompress(Codec::Deflate, compressed, block)
            .map_err(|error| Error::corrupt(format!("a compressed cluster is damaged: {error}")))
    }
}

impl BlockAllocator for QcowTable {
    fn allocate(&self, block: u64) -> Result<HostOffset> {
        self.add_table(block)?;
        let size = self.header.cluster_size();
        let cluster = self.space.take_zeroed(size, size)?;
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

impl NewBlockTable for QcowTable {
    fn place(&self, block: u64) -> Result<HostOffset> {
        if let Block::At(host) = self.lookup(block)? {
            return Ok(host);
        }
        if self.tables.should_store() {
            self.tables.store_l2()?;
        }
        self.add_table(block)?;
        let size = self.header.cluster_size();
        let cluster = self.space.take(size, size)?;
        self.tables.set(block, cluster)?;
        Ok(HostOffset(cluster))
    }

    fn compress(&self, block: &[u8], compressed: &mut Vec<u8>) -> Result<bool> {
        // The length field of an entry can represent at most the cluster size less one byte.
        compress(Codec::Deflate, block, block.len() - 1, compressed)
    }

    fn place_compressed(&self, block: u64, length: u64) -> Result<HostOffset> {
        if self.tables.should_store() {
            self.tables.store_l2()?;
        }
        self.add_table(block)?;
        let host = self.space.take(length, 1)?;
        let offset_bits = 63 - self.header.cluster_bits;
        if host >> offset_bits != 0 {
            return Err(Error::invalid("the image's file is too big"));
        }
        let entry = IS_COMPRESSED | length << offset_bits | host;
        self.tables.set(block, entry)?;
        Ok(HostOffset(host))
    }

    fn finish(&self, flush: bool) -> Result<()> {
        let file = self.file.as_ref();
        if file.starts_as_zeroes() {
            file.set_len(self.end())?;
        }
        self.tables.store(false)?;
        let header = self.header.encode();
        let (fields, name) = header.split_at(LENGTH);
        if !name.is_empty() {
            file.write_at(LENGTH as u64, name)?;
        }
        // The header is within one sector, of which a power cut leaves the old or the new bytes.
        write_header_last(file, fields, flush)
    }
}
