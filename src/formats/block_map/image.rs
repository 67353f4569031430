//! A disk of blocks, read.

use std::sync::Arc;

use super::{Block, BlockTable};
use crate::error::Result;
use crate::formats::image::check_range;
use crate::formats::status::{Holes, Status};
use crate::formats::{Extent, ExtentKind, Image};
use crate::storage::Storage;
use crate::units::{GuestOffset, HostOffset, SECTOR_SIZE};

/// The most blocks that are looked up for one extent.
const MOST_BLOCKS: u64 = 1 << 16;

/// A disk of blocks open for reading.
pub struct BlockImage<T> {
    table: T,
    storage: Arc<dyn Storage>,
    /// Every block has its place beforehand, so that the file's holes say what is zero.
    is_fixed: bool,
    holes: Holes,
}

impl<T: BlockTable> BlockImage<T> {
    /// The disk whose blocks `table` places in `storage`. One that is fixed has all blocks stored, and the file may
    /// have holes there.
    pub fn new(table: T, storage: Arc<dyn Storage>, is_fixed: bool) -> Self {
        Self {
            table,
            storage,
            is_fixed,
            holes: Holes::default(),
        }
    }

    /// The table.
    pub fn table(&self) -> &T {
        &self.table
    }

    /// The file.
    pub fn storage(&self) -> &Arc<dyn Storage> {
        &self.storage
    }

    /// Returns the place of the disk's bytes from `offset` on, and how many bytes are in one piece there, at
    /// most `limit`.
    ///
    /// # Errors
    /// Returns the errors of [`BlockTable::lookup`].
    pub fn run_at(&self, offset: GuestOffset, limit: u64) -> Result<(Block, u64)> {
        let size = self.table.block_size();
        let within = offset.0 % size;
        let first = offset.0 / size;
        let start = match self.table.lookup(first)? {
            Block::Zero => Block::Zero,
            Block::At(host) => Block::At(HostOffset(host.0.saturating_add(within))),
        };
        let limit = limit.min(self.table.size() - offset.0);
        let mut length = size - within;
        let mut block = first + 1;
        while length < limit && block - first < MOST_BLOCKS {
            let next = match start {
                Block::Zero => Block::Zero,
                Block::At(host) => Block::At(HostOffset(host.0.saturating_add(length))),
            };
            if self.table.lookup(block)? != next {
                break;
            }
            length += size;
            block += 1;
        }
        Ok((start, length.min(limit)))
    }
}

impl<T: BlockTable> Image for BlockImage<T> {
    fn size(&self) -> u64 {
        self.table.size()
    }

    fn extent_at(&self, offset: GuestOffset, limit: u64) -> Result<Extent> {
        check_range(self.size(), offset, 1)?;
        let (block, length) = self.run_at(offset, limit)?;
        let (kind, length) = match block {
            Block::Zero => (ExtentKind::Zero { kept: None }, length),
            Block::At(host) if self.is_fixed => {
                let (is_hole, left) = self.holes.at(self.storage.as_ref(), host.0)?;
                let stored = self.storage.len()?.saturating_sub(host.0);
                let stored = stored / SECTOR_SIZE * SECTOR_SIZE;
                let kept = Some(host);
                // In whole sectors: a hole inside of one isn't worth an extent.
                let sectors = |length: u64| length.next_multiple_of(SECTOR_SIZE);
                match is_hole {
                    // A part that the file has lost isn't zero, and is an error to whoever reads it.
                    _ if stored == 0 => (ExtentKind::Data(host), length),
                    true => (
                        ExtentKind::Zero { kept },
                        length.min(sectors(left.min(stored))),
                    ),
                    false => (ExtentKind::Data(host), length.min(sectors(left))),
                }
            }
            Block::At(host) => (ExtentKind::Data(host), length),
        };
        Ok(Extent {
            start: offset,
            length,
            kind,
            depth: 0,
        })
    }

    fn status_at(&self, offset: GuestOffset, limit: u64) -> Result<Status> {
        let extent = self.extent_at(offset, limit)?;
        let status = Status::of(&extent, true);
        Ok(Status {
            data: status.data || status.offset.is_some(),
            ..status
        })
    }

    /// Block by block, as QEMU's drivers of such formats do.
    fn status_step(&self) -> u64 {
        self.table.block_size()
    }

    fn plain_storage(&self) -> Option<&dyn Storage> {
        Some(self.storage.as_ref())
    }

    fn read_at(&self, offset: GuestOffset, buf: &mut [u8]) -> Result<()> {
        check_range(self.size(), offset, buf.len())?;
        let mut offset = offset;
        let mut rest = buf;
        while !rest.is_empty() {
            let (block, length) = self.run_at(offset, rest.len() as u64)?;
            let length = usize::try_from(length)
                .unwrap_or(usize::MAX)
                .min(rest.len());
            let (part, after) = rest.split_at_mut(length);
            match block {
                Block::Zero => part.fill(0),
                Block::At(host) => {
                    self.storage
                        .read_exact_at(host.0, part, "a block of the disk")?;
                }
            }
            offset = GuestOffset(offset.0 + length as u64);
            rest = after;
        }
        Ok(())
    }
}
