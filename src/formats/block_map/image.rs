//! A disk of blocks, read.
//!
//! The backing file isn't read here: what is left to it is said to be so, and the chain of images reads it.

use std::cell::RefCell;
use std::sync::Arc;

use super::{Block, BlockTable};
use crate::error::{Error, Result};
use crate::formats::encryption::Cipher;
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
    cipher: Option<Cipher>,
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
            cipher: None,
        }
    }

    /// Makes it a disk whose blocks are encrypted, where there is a cipher. Compressed blocks aren't.
    #[must_use]
    pub fn with_cipher(self, cipher: Option<Cipher>) -> Self {
        Self { cipher, ..self }
    }

    /// The table.
    pub fn table(&self) -> &T {
        &self.table
    }

    /// The file.
    pub fn storage(&self) -> &Arc<dyn Storage> {
        &self.storage
    }

    /// The cipher of the blocks.
    pub(super) fn cipher(&self) -> Option<&Cipher> {
        self.cipher.as_ref()
    }

    /// Returns the place of the disk's bytes from `offset` on, and how many bytes are in one piece there, at
    /// most `limit`. Of a compressed block that is the whole block's place.
    ///
    /// # Errors
    /// Returns the errors of [`BlockTable::lookup`].
    pub fn run_at(&self, offset: GuestOffset, limit: u64) -> Result<(Block, u64)> {
        let size = self.table.block_size();
        let within = offset.0 % size;
        let first = offset.0 / size;
        let start = self.table.lookup(first)?;
        let start = start.after(within).unwrap_or(start);
        let limit = limit.min(self.table.size() - offset.0);
        let mut length = size - within;
        let mut block = first + 1;
        while length < limit && block - first < MOST_BLOCKS {
            let Some(expected) = start.after(length) else {
                break;
            };
            // An entry that is in error ends the run; whoever goes on there is told.
            match self.table.lookup(block) {
                Ok(next) if next == expected => {}
                _ => break,
            }
            length += size;
            block += 1;
        }
        Ok((start, length.min(limit)))
    }

    /// Reads a part of a compressed block from guest byte `offset` on.
    ///
    /// # Errors
    /// Returns the system's error, or an error if the block doesn't decompress.
    fn read_packed(
        &self,
        offset: GuestOffset,
        host: HostOffset,
        length: u64,
        part: &mut [u8],
    ) -> Result<()> {
        let size = self.table.block_size();
        let too_long = || Error::corrupt("a compressed block is too long");
        let block = usize::try_from(size).map_err(|_| too_long())?;
        let length = usize::try_from(length).map_err(|_| too_long())?;
        // No encoder makes a block much longer than it was.
        if length > 2 * block + 4096 {
            return Err(too_long());
        }
        SCRATCH.with_borrow_mut(|(packed, unpacked)| {
            packed.resize(length, 0);
            let read = self.storage.read_at(host.0, packed)?;
            let packed = packed.get(..read).unwrap_or_default();
            if part.len() == block {
                return self.table.unpack(packed, part);
            }
            unpacked.resize(block, 0);
            self.table.unpack(packed, unpacked)?;
            let within = usize::try_from(offset.0 % size).unwrap_or(block);
            let found = unpacked
                .get(within..)
                .and_then(|rest| rest.get(..part.len()));
            part.copy_from_slice(found.ok_or_else(too_long)?);
            Ok(())
        })
    }
}

thread_local! {
    /// A compressed block, and what it decompresses to.
    static SCRATCH: RefCell<(Vec<u8>, Vec<u8>)> = const { RefCell::new((Vec::new(), Vec::new())) };
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
            Block::Absent => (ExtentKind::Unallocated { kept: None }, length),
            Block::Packed { .. } => (ExtentKind::Encoded, length),
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
        let status = Status::of(&extent, self.cipher.is_none());
        Ok(Status {
            data: status.data || status.offset.is_some(),
            ..status
        })
    }

    /// Block by block, as most of QEMU's drivers of such formats do.
    fn status_step(&self) -> u64 {
        self.table.status_step()
    }

    fn plain_storage(&self) -> Option<&dyn Storage> {
        self.cipher.is_none().then_some(self.storage.as_ref())
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
                Block::Zero | Block::Absent => part.fill(0),
                Block::At(host) => {
                    self.storage
                        .read_exact_at(host.0, part, "a block of the disk")?;
                    if let Some(cipher) = &self.cipher {
                        cipher.decrypt(offset, host, part);
                    }
                }
                Block::Packed { host, length } => self.read_packed(offset, host, length, part)?,
            }
            offset = GuestOffset(offset.0 + length as u64);
            rest = after;
        }
        Ok(())
    }
}
