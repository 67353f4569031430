//! The block map, which has the index of each allocated block in the file.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::header::{BLOCK_SIZE, ImageType, VdiHeader};
use crate::error::{Error, Result};
use crate::formats::block_map::{
    Block, BlockAllocator, BlockTable, ClusterSet, EntryForm, EntryTable, Fresh, NewBlockTable,
};
use crate::formats::new_image::write_header_last;
use crate::formats::zeroes::make_zero;
use crate::storage::Storage;
use crate::units::HostOffset;

/// The entry of a block that was never allocated.
const NEVER: u64 = 0xffff_ffff;
/// The entry of a block that was discarded.
const DISCARDED: u64 = 0xffff_fffe;

/// The block map of an image.
pub(super) struct BlockMap {
    file: Arc<dyn Storage>,
    header: VdiHeader,
    entries: EntryTable,
    indexes: Mutex<FreeIndexes>,
}

/// The allocation of indexes.
#[derive(Debug, Default)]
struct FreeIndexes {
    used: ClusterSet,
    /// The next index to try.
    next: u32,
    /// The number of allocated blocks.
    count: u32,
}

/// The decoded entry of a block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Entry {
    /// The block reads as zeroes.
    Zero,
    /// The index of the block in the file.
    At(u32),
}

impl BlockMap {
    /// Returns the block map of the image in `file`.
    pub(super) fn stored(file: Arc<dyn Storage>, header: VdiHeader) -> Self {
        let blocks = header.blocks.into();
        let entries = EntryTable::stored(
            Arc::clone(&file),
            EntryForm::Little32,
            header.map_offset,
            blocks,
        );
        Self {
            file,
            header,
            entries,
            indexes: Mutex::default(),
        }
    }

    /// Returns the block map of a new image.
    pub(super) fn new(file: Arc<dyn Storage>, header: VdiHeader) -> Self {
        let fresh = match header.kind {
            ImageType::Dynamic => Fresh::Same(NEVER),
            ImageType::Static => Fresh::Identity,
        };
        let blocks = header.blocks.into();
        let entries = EntryTable::fresh(
            Arc::clone(&file),
            EntryForm::Little32,
            header.map_offset,
            blocks,
            fresh,
        );
        Self {
            file,
            header,
            entries,
            indexes: Mutex::default(),
        }
    }

    /// Returns the header.
    pub(super) fn header(&self) -> &VdiHeader {
        &self.header
    }

    /// Returns the image's file.
    pub(super) fn file(&self) -> &dyn Storage {
        self.file.as_ref()
    }

    /// Returns the end of a block's part inside the disk, in bytes of the file. The block is at `index`.
    pub(super) fn stored_end(&self, block: u32, index: u32) -> u64 {
        let rest = self
            .header
            .size
            .saturating_sub(u64::from(block) * BLOCK_SIZE);
        self.host(index).0 + rest.min(BLOCK_SIZE)
    }

    /// Returns an entry without checking its index.
    ///
    /// # Errors
    /// Returns an error as [`EntryTable::get`] does.
    pub(super) fn entry(&self, block: u32) -> Result<Entry> {
        Ok(match self.indexed(block.into())? {
            None => Entry::Zero,
            Some(index) => Entry::At(index),
        })
    }

    /// Returns the index in an entry, or `None` if the block reads as zeroes.
    fn indexed(&self, block: u64) -> Result<Option<u32>> {
        Ok(match self.entries.get(block)? {
            NEVER | DISCARDED => None,
            index => Some(u32::try_from(index).unwrap_or(u32::MAX)),
        })
    }

    /// Prepares the allocation of indexes, which starts after the highest one in use, and returns the number of
    /// allocated blocks. The header's count isn't used, since a wrong one would lead to an index in use.
    ///
    /// # Errors
    /// Returns an error if the block map can't be read.
    pub(super) fn find_space(&self) -> Result<u32> {
        let mut indexes = FreeIndexes::default();
        for block in 0..self.header.blocks {
            if let Entry::At(index) = self.entry(block)? {
                indexes.used.insert(index.into());
                indexes.next = indexes.next.max(index.saturating_add(1));
                indexes.count += 1;
            }
        }
        let count = indexes.count;
        *self.lock() = indexes;
        Ok(count)
    }

    /// Returns the host offset of the block at `index`.
    pub(super) fn host(&self, index: u32) -> HostOffset {
        HostOffset(self.header.data_offset + u64::from(index) * BLOCK_SIZE)
    }

    fn lock(&self) -> MutexGuard<'_, FreeIndexes> {
        self.indexes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Allocates a free index for a block. There are as many indexes as blocks.
    ///
    /// # Errors
    /// Returns the system's error. Returns an error if all indexes are in use.
    pub(super) fn take(&self, block: u64) -> Result<HostOffset> {
        let mut indexes = self.lock();
        for _ in 0..self.header.blocks {
            let index = indexes.next % self.header.blocks;
            indexes.next = index + 1;
            if indexes.used.insert(index.into()) {
                indexes.count += 1;
                self.entries.set(block, index.into())?;
                return Ok(self.host(index));
            }
        }
        Err(Error::corrupt("every block of the image is in use"))
    }

    /// Makes the next allocation use the lowest free index.
    pub(super) fn take_from_start(&self) {
        self.lock().next = 0;
    }

    /// Marks a block as unallocated.
    ///
    /// # Errors
    /// Returns an error as [`EntryTable::set`] does.
    pub(super) fn deallocate(&self, block: u32) -> Result<()> {
        self.entries.set(block.into(), NEVER)
    }

    /// Writes the entries that have changed.
    ///
    /// # Errors
    /// Returns the system's error.
    pub(super) fn store_entries(&self) -> Result<()> {
        self.entries.store()
    }

    /// Stores the number of allocated blocks in the header.
    ///
    /// # Errors
    /// Returns the system's error.
    pub(super) fn store_count(&self, count: u32) -> Result<()> {
        VdiHeader::write_allocated(self.file.as_ref(), count)
    }

    /// Makes a block's space read as zeroes, since it may have old contents.
    fn clear(&self, host: HostOffset) -> Result<()> {
        let (length, end) = (self.file.len()?, host.0 + BLOCK_SIZE);
        let is_clean = length <= host.0 && self.file.starts_as_zeroes();
        if !is_clean {
            make_zero(self.file.as_ref(), host.0..end)?;
        }
        if self.file.len()? < end {
            self.file.set_len(end)?;
        }
        Ok(())
    }
}

impl BlockTable for BlockMap {
    fn size(&self) -> u64 {
        self.header.size
    }

    fn block_size(&self) -> u64 {
        BLOCK_SIZE
    }

    fn lookup(&self, block: u64) -> Result<Block> {
        let Some(index) = self.indexed(block)? else {
            return Ok(Block::Zero);
        };
        if index >= self.header.blocks {
            return Err(Error::corrupt(format!(
                "block {block} of the disk has index {index}, and there are {} blocks",
                self.header.blocks
            )));
        }
        Ok(Block::At(self.host(index)))
    }
}

impl BlockAllocator for BlockMap {
    fn allocate(&self, block: u64) -> Result<HostOffset> {
        let before = self.entries.get(block)?;
        let host = self.take(block)?;
        self.clear(host).inspect_err(|_| {
            // The block is unallocated again. Its index isn't used until the image is opened again.
            drop(self.entries.set(block, before));
        })?;
        Ok(host)
    }

    fn commit(&self) -> Result<()> {
        // QEMU allocates blocks at the index that the count gives, so it must never be too low.
        self.store_count(self.lock().count)?;
        self.store_entries()
    }
}

impl NewBlockTable for BlockMap {
    fn place(&self, block: u64) -> Result<HostOffset> {
        match self.lookup(block)? {
            Block::At(host) => Ok(host),
            _ => self.take(block),
        }
    }

    fn finish(&self, flush: bool) -> Result<()> {
        let indexes = self.lock();
        let allocated = match self.header.kind {
            ImageType::Dynamic => indexes.count,
            ImageType::Static => self.header.blocks,
        };
        let end = self.host(allocated).0;
        if self.file.starts_as_zeroes() {
            self.file.set_len(end)?;
        }
        self.entries.store_all()?;
        let map_end = self.header.map_offset + u64::from(self.header.blocks) * 4;
        let padding = self.header.data_offset.saturating_sub(map_end);
        let padding = vec![0; usize::try_from(padding).unwrap_or_default()];
        self.file.write_at(map_end, &padding)?;
        let header = VdiHeader {
            allocated,
            ..self.header
        };
        write_header_last(self.file.as_ref(), &header.encode(), flush)
    }
}
