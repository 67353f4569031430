//! A disk of blocks, written anywhere.
//!
//! A block that isn't stored yet gets its place at the end of the file, where everything reads as zeroes. So
//! writers of two of its sectors needn't know of each other. The table says so in memory first. It is stored
//! when the image is flushed: data, then a flush, then the entries that lead to it. So a power cut leaves
//! blocks that nothing leads to, which is harmless, and no entry that leads to what was never written.

use std::ops::Range;
use std::sync::{Mutex, PoisonError};

use super::{Block, BlockImage, BlockTable};
use crate::error::Result;
use crate::formats::image::check_range;
use crate::formats::in_place::closed;
use crate::formats::status::Status;
use crate::formats::{Extent, Image, Plain, WritableImage};
use crate::storage::Storage;
use crate::units::{GuestOffset, HostOffset};

/// The length of the zeroes that are written at a time, in bytes.
const FILLED_AT_ONCE: usize = 1 << 20;

/// A table that hands out room.
pub trait BlockAllocator: BlockTable {
    /// Hands out room for a block that isn't stored, behind everything that is. It reads as zeroes. Nothing is
    /// stored before [`commit`](Self::commit).
    ///
    /// # Errors
    /// Returns the system's error, or an error if the format has no more room.
    fn allocate(&self, block: u64) -> Result<HostOffset>;

    /// Stores what was handed out. The data is on stable storage already.
    ///
    /// # Errors
    /// Returns the system's error.
    fn commit(&self) -> Result<()>;
}

/// Makes a part of a file zero: by a hole, or by writing where there can be none.
///
/// # Errors
/// Returns the system's error.
pub fn make_zero(file: &dyn Storage, range: Range<u64>) -> Result<()> {
    if file.punch(range.clone())? {
        return Ok(());
    }
    let zeroes = vec![0; FILLED_AT_ONCE];
    let mut start = range.start;
    while start < range.end {
        let length = (range.end - start).min(FILLED_AT_ONCE as u64);
        let part = zeroes.get(..usize::try_from(length).unwrap_or(FILLED_AT_ONCE));
        file.write_at(start, part.unwrap_or(&zeroes))?;
        start += length;
    }
    Ok(())
}

/// A disk of blocks open for reading and writing.
pub struct WritableBlocks<T> {
    image: BlockImage<T>,
    flushes: bool,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// Entries were handed out that aren't stored.
    is_changed: bool,
    /// Nothing can be written any more.
    is_over: bool,
}

impl<T: BlockAllocator> WritableBlocks<T> {
    /// The disk of `image`, written. `flushes` says that flushes reach the storage.
    pub fn new(image: BlockImage<T>, flushes: bool) -> Self {
        Self {
            image,
            flushes,
            state: Mutex::default(),
        }
    }

    fn storage(&self) -> &dyn Storage {
        self.image.storage().as_ref()
    }

    /// Returns the place of a part of a block, which is allocated if it has none.
    fn room(&self, offset: GuestOffset, limit: u64) -> Result<(HostOffset, u64)> {
        if let (Block::At(host), length) = self.image.run_at(offset, limit)? {
            return Ok((host, length));
        }
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let table = self.image.table();
        let size = table.block_size();
        let block = offset.0 / size;
        let within = offset.0 % size;
        // Another one may have been faster.
        let host = match table.lookup(block)? {
            Block::At(host) => host,
            Block::Zero => {
                let host = table.allocate(block)?;
                state.is_changed = true;
                host
            }
        };
        Ok((HostOffset(host.0 + within), limit.min(size - within)))
    }

    fn usable(&self) -> Result<()> {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.is_over {
            return Err(closed());
        }
        Ok(())
    }

    fn store(&self) -> Result<()> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let flush = || match self.flushes {
            true => self.storage().flush(),
            false => Ok(()),
        };
        let store = || {
            flush()?;
            if state.is_changed {
                self.image.table().commit()?;
                flush()?;
            }
            Ok(())
        };
        let stored = store();
        state.is_over |= stored.is_err();
        state.is_changed &= stored.is_err();
        stored
    }
}

impl<T: BlockAllocator> Image for WritableBlocks<T> {
    fn size(&self) -> u64 {
        self.image.size()
    }

    fn extent_at(&self, offset: GuestOffset, limit: u64) -> Result<Extent> {
        self.image.extent_at(offset, limit)
    }

    fn status_at(&self, offset: GuestOffset, limit: u64) -> Result<Status> {
        self.image.status_at(offset, limit)
    }

    fn plain_storage(&self) -> Option<&dyn Storage> {
        self.image.plain_storage()
    }

    fn plain_at(&self, offset: GuestOffset, limit: u64) -> Result<Plain<'_>> {
        self.image.plain_at(offset, limit)
    }

    fn read_at(&self, offset: GuestOffset, buf: &mut [u8]) -> Result<()> {
        self.image.read_at(offset, buf)
    }
}

impl<T: BlockAllocator> WritableImage for WritableBlocks<T> {
    fn allocation_unit(&self) -> usize {
        usize::try_from(self.image.table().block_size()).unwrap_or(usize::MAX)
    }

    fn zero_unit(&self) -> usize {
        self.allocation_unit().min(4096)
    }

    fn stores_zeroes(&self) -> bool {
        false
    }

    fn writes_serially(&self) -> bool {
        self.storage().writes_serially()
    }

    fn write_at(&self, offset: GuestOffset, data: &[u8]) -> Result<()> {
        self.usable()?;
        check_range(self.size(), offset, data.len())?;
        let mut offset = offset;
        let mut rest = data;
        while !rest.is_empty() {
            let (host, length) = self.room(offset, rest.len() as u64)?;
            let length = usize::try_from(length)
                .unwrap_or(usize::MAX)
                .min(rest.len());
            let (part, after) = rest.split_at(length);
            self.storage().write_at(host.0, part)?;
            offset = GuestOffset(offset.0 + length as u64);
            rest = after;
        }
        Ok(())
    }

    fn write_zeroes(&self, offset: GuestOffset, length: u64, _may_unmap: bool) -> Result<()> {
        self.usable()?;
        check_range(
            self.size(),
            offset,
            usize::try_from(length).unwrap_or(usize::MAX),
        )?;
        let end = offset.0 + length;
        let mut start = offset.0;
        while start < end {
            let (block, length) = self.image.run_at(GuestOffset(start), end - start)?;
            if let Block::At(host) = block {
                make_zero(self.storage(), host.0..host.0.saturating_add(length))?;
            }
            start += length;
        }
        Ok(())
    }

    /// Nothing is given back: the table has no word for it that other programs keep.
    fn discard(&self, offset: GuestOffset, length: u64) -> Result<()> {
        check_range(
            self.size(),
            offset,
            usize::try_from(length).unwrap_or(usize::MAX),
        )
    }

    fn flush(&self) -> Result<()> {
        self.usable()?;
        self.store()
    }

    fn close(&self) -> Result<()> {
        self.flush()?;
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.is_over = true;
        Ok(())
    }
}
