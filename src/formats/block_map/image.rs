//! Reading a disk of blocks.
//!
//! The backing file isn't read here: unallocated blocks are reported as such, and the backing chain reads them.

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

/// The largest number of blocks that are looked up for one extent.
const MOST_BLOCKS: u64 = 1 << 16;

/// A disk of blocks open for reading.
pub struct BlockImage<T> {
    table: T,
    storage: Arc<dyn Storage>,
    /// True if every block is allocated, so that the file's holes show which parts are zero.
    is_fixed: bool,
    holes: Holes,
    cipher: Option<Cipher>,
}

impl<T: BlockTable> BlockImage<T> {
    /// Returns the disk whose blocks `table` maps to `storage`. If `is_fixed`, all blocks are allocated, and the file
    /// may have holes in them.
    pub fn new(table: T, storage: Arc<dyn Storage>, is_fixed: bool) -> Self {
        Self {
            table,
            storage,
            is_fixed,
            holes: Holes::default(),
            cipher: None,
        }
    }

    /// Sets the cipher of the blocks, if there is one. Compressed blocks aren't encrypted.
    #[must_use]
    pub fn with_cipher(self, cipher: Option<Cipher>) -> Self {
        Self { cipher, ..self }
    }

    /// Returns the table.
    pub fn table(&self) -> &T {
        &self.table
    }

    /// Returns the file.
    pub fn storage(&self) -> &Arc<dyn Storage> {
        &self.storage
    }

    /// Returns the cipher of the blocks.
    pub(super) fn cipher(&self) -> Option<&Cipher> {
        self.cipher.as_ref()
    }

    /// Returns the place of the disk's bytes from `offset` on, and the number of bytes that are contiguous there, at
    /// most `limit`. For a compressed block the place is that of the whole block.
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
            // An invalid entry ends the run, and is reported when it is read.
            match self.table.lookup(block) {
                Ok(next) if next == expected => {}
                _ => break,
            }
            length += size;
            block += 1;
        }
        Ok((start, length.min(limit)))
    }

    /// Reads a part of a compressed block, from guest byte `offset` on.
    ///
    /// # Errors
    /// Returns the system's error. Returns an error if the block can't be decompressed.
    fn read_compressed(
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
        // No encoder expands a block by more than that.
        if length > 2 * block + 4096 {
            return Err(too_long());
        }
        SCRATCH.with_borrow_mut(|(compressed, decompressed)| {
            compressed.resize(length, 0);
            let read = self.storage.read_at(host.0, compressed)?;
            let compressed = compressed.get(..read).unwrap_or_default();
            if part.len() == block {
                return self.table.decompress(compressed, part);
            }
            decompressed.resize(block, 0);
            self.table.decompress(compressed, decompressed)?;
            let within = usize::try_from(offset.0 % size).unwrap_or(block);
            let found = decompressed
                .get(within..)
                .and_then(|rest| rest.get(..part.len()));
            part.copy_from_slice(found.ok_or_else(too_long)?);
            Ok(())
        })
    }
}

thread_local! {
    /// The buffers for a compressed block and for its decompressed data.
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
            Block::Compressed { .. } => (ExtentKind::Encoded, length),
            Block::At(host) if self.is_fixed => {
                let (is_hole, left) = self.holes.at(self.storage.as_ref(), host.0)?;
                let stored = self.storage.len()?.saturating_sub(host.0);
                let stored = stored / SECTOR_SIZE * SECTOR_SIZE;
                let kept = Some(host);
                // The lengths are rounded up to sectors, since smaller holes aren't reported.
                let sectors = |length: u64| length.next_multiple_of(SECTOR_SIZE);
                match is_hole {
                    // A part beyond the end of the file isn't zero, but an error when it is read.
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

    /// Returns the length of a block, as for most of QEMU's drivers of such formats.
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
                Block::Compressed { host, length } => {
                    self.read_compressed(offset, host, length, part)?
                }
            }
            offset = GuestOffset(offset.0 + length as u64);
            rest = after;
        }
        Ok(())
    }
}
