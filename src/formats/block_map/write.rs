//! Writing to a disk of blocks in place.
//!
//! A new block is allocated at the end of the file, where everything reads as zeroes. Its entry is first set in
//! memory. A flush of the image writes the data, flushes it, and then writes the entries. So a power cut may leave
//! blocks without a reference, which is harmless, but never an entry that refers to unwritten data.
//!
//! A block that isn't allocated may read from a backing file, and a compressed one has data. The rest of it is copied
//! with the first write. One thread at a time does that and changes the table, while it holds the gate for writing.
//! Other reads and writes hold the gate for reading, so that no thread sees a partly copied block.

use std::cell::RefCell;
use std::ops::Range;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use super::{Block, BlockImage, BlockTable};
use crate::error::Result;
use crate::formats::image::check_range;
use crate::formats::in_place::closed;
use crate::formats::status::Status;
use crate::formats::zeroes::make_zero;
use crate::formats::{Extent, Image, WritableImage};
use crate::storage::Storage;
use crate::units::{GuestOffset, HostOffset};

/// The largest number of zero bytes that are written to blocks at once.
const FILLED_AT_ONCE: usize = 1 << 20;
/// The largest number of bytes of data that are written to new blocks at once, though at least a block.
const NEW_AT_ONCE: usize = 2 << 20;

/// A table that allocates blocks.
pub trait BlockAllocator: BlockTable {
    /// Allocates a block that isn't allocated or is compressed, at the end of the file. It reads as zeroes there. The
    /// entry isn't stored before [`commit`](Self::commit).
    ///
    /// # Errors
    /// Returns the system's error. Returns an error if a limit of the format is reached.
    fn allocate(&self, block: u64) -> Result<HostOffset>;

    /// Prepares allocated blocks for a write to them. It is called before each write, from any thread.
    ///
    /// # Errors
    /// Returns the system's error.
    fn before_write(&self, blocks: Range<u64>) -> Result<()> {
        let _ = blocks;
        Ok(())
    }

    /// Stores the changes of the table. The data is already on stable storage.
    ///
    /// # Errors
    /// Returns the system's error.
    fn commit(&self) -> Result<()>;

    /// Returns true if the table has so many changes that a flush is due.
    fn should_store(&self) -> bool {
        false
    }

    /// Marks the image as closed, after everything else is stored.
    ///
    /// # Errors
    /// Returns the system's error.
    fn close(&self) -> Result<()> {
        Ok(())
    }
}

/// A disk of blocks open for reading and writing.
pub struct WritableBlocks<T> {
    image: BlockImage<T>,
    backing: Option<Arc<dyn Image>>,
    flushes: bool,
    gate: RwLock<State>,
}

#[derive(Debug, Default)]
struct State {
    /// True if the table has changes that aren't stored.
    is_changed: bool,
    /// True if nothing can be written any more.
    is_over: bool,
}

thread_local! {
    /// A buffer for assembling or encrypting data.
    static SCRATCH: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

impl<T: BlockAllocator> WritableBlocks<T> {
    /// Returns `image`, open for writing. `flushes` says if flushes reach stable storage.
    pub fn new(image: BlockImage<T>, flushes: bool) -> Self {
        Self {
            image,
            backing: None,
            flushes,
            gate: RwLock::default(),
        }
    }

    /// Sets the backing file, if there is one.
    #[must_use]
    pub fn with_backing(self, backing: Option<Arc<dyn Image>>) -> Self {
        Self { backing, ..self }
    }

    fn storage(&self) -> &dyn Storage {
        self.image.storage().as_ref()
    }

    fn block_size(&self) -> u64 {
        self.image.table().block_size()
    }

    fn open_gate(&self) -> RwLockReadGuard<'_, State> {
        self.gate.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn shut_gate(&self) -> RwLockWriteGuard<'_, State> {
        self.gate.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns true if a block that isn't stored contiguously may read as anything but zeroes.
    fn shows_through(&self, block: Block) -> bool {
        match block {
            Block::Zero | Block::At(_) => false,
            Block::Absent => self.backing.is_some(),
            Block::Compressed { .. } => true,
        }
    }

    /// Reads the disk from guest byte `start` on, in such a block. Zeroes are read beyond the ends of the backing
    /// file and of the disk.
    fn read_old(&self, old: Block, start: u64, buf: &mut [u8]) -> Result<()> {
        let backing = self.backing.as_deref();
        let stored = match (old, backing) {
            (Block::Compressed { .. }, _) => self.size(),
            (Block::Absent, Some(backing)) => backing.size().min(self.size()),
            _ => 0,
        };
        let stored = relative(stored, start).min(buf.len());
        let (data, missing) = buf.split_at_mut(stored);
        missing.fill(0);
        match (old, backing) {
            _ if data.is_empty() => Ok(()),
            (Block::Absent, Some(backing)) => backing.read_at(GuestOffset(start), data),
            _ => self.image.read_at(GuestOffset(start), data),
        }
    }

    /// Prepares the allocated blocks of a range of the disk for a write.
    fn prepare(&self, offset: GuestOffset, length: u64) -> Result<()> {
        let size = self.block_size();
        let blocks = offset.0 / size..(offset.0 + length).div_ceil(size);
        self.image.table().before_write(blocks)
    }

    /// Writes data to a host offset, encrypted if necessary.
    fn write_to(&self, offset: GuestOffset, host: HostOffset, data: &[u8]) -> Result<()> {
        let Some(cipher) = self.image.cipher() else {
            return self.storage().write_at(host.0, data);
        };
        SCRATCH.with_borrow_mut(|scratch| {
            scratch.resize(data.len(), 0);
            cipher.encrypt_to(offset, host, data, scratch);
            self.storage().write_at(host.0, scratch)
        })
    }

    /// Writes data to allocated blocks, and returns the number of bytes that were written.
    fn write_in_place(&self, offset: GuestOffset, data: &[u8]) -> Result<usize> {
        let state = self.open_gate();
        if state.is_over {
            return Err(closed());
        }
        let (block, length) = self.image.run_at(offset, data.len() as u64)?;
        let Block::At(host) = block else {
            return Ok(0);
        };
        let part = data.get(..relative(length, 0)).unwrap_or(data);
        self.prepare(offset, part.len() as u64)?;
        self.write_to(offset, host, part)?;
        Ok(part.len())
    }

    /// Allocates the first blocks of data and writes them. Returns the number of bytes that were written, or 0 if the
    /// blocks are allocated already.
    fn write_new(&self, offset: GuestOffset, data: &[u8]) -> Result<usize> {
        let mut state = self.shut_gate();
        if state.is_over {
            return Err(closed());
        }
        let table = self.image.table();
        if table.should_store() {
            self.store(&mut state)?;
        }
        let size = self.block_size();
        let old = table.lookup(offset.0 / size)?;
        if matches!(old, Block::At(_)) {
            // Another thread has allocated the block meanwhile.
            return Ok(0);
        }
        state.is_changed = true;
        if self.shows_through(old) || self.image.cipher().is_some() {
            let written = self.replace(offset, data);
            // The entry may refer to unwritten data, so it must never be stored.
            state.is_over |= written.is_err();
            return written;
        }
        let length = data.len().min(NEW_AT_ONCE) as u64;
        let mut block = offset.0 / size;
        table.allocate(block)?;
        while (block + 1) * size < offset.0 + length {
            block += 1;
            let old = table.lookup(block)?;
            if matches!(old, Block::At(_)) || self.shows_through(old) {
                break;
            }
            table.allocate(block)?;
        }
        Ok(0)
    }

    /// Allocates the first blocks of data that aren't allocated, and writes them as a whole, with the rest of their
    /// old contents. Returns the number of bytes of `data` that were written.
    fn replace(&self, offset: GuestOffset, data: &[u8]) -> Result<usize> {
        let size = self.block_size();
        let table = self.image.table();
        let first = offset.0 / size;
        let most = (NEW_AT_ONCE as u64).max(size) / size;
        let data_end = offset.0 + data.len() as u64;
        let mut block = first;
        let mut whole = Vec::new();
        let mut places: Vec<(HostOffset, Range<u64>)> = Vec::new();
        while block * size < data_end && block - first < most {
            let old = table.lookup(block)?;
            if matches!(old, Block::At(_)) {
                break;
            }
            let guest = block * size..(block + 1) * size;
            let covered = guest.start.max(offset.0)..guest.end.min(data_end);
            let from = whole.len();
            whole.resize(from + relative(size, 0), 0);
            let space = whole.get_mut(from..).unwrap_or_default();
            let (head, rest) = space.split_at_mut(relative(covered.start, guest.start));
            let (middle, tail) = rest.split_at_mut(relative(covered.end, covered.start));
            self.read_old(old, guest.start, head)?;
            let part = data.get(relative(covered.start, offset.0)..);
            let part = part.and_then(|rest| rest.get(..middle.len()));
            middle.copy_from_slice(part.unwrap_or_default());
            self.read_old(old, covered.end, tail)?;
            let host = table.allocate(block)?;
            match places.last_mut() {
                Some((start, run)) if start.0 + (run.end - run.start) == host.0 => {
                    run.end = guest.end;
                }
                _ => places.push((host, guest)),
            }
            block += 1;
        }
        for (host, guest) in places {
            let within = |at: u64| relative(at, first * size);
            let part = whole.get(within(guest.start)..within(guest.end));
            self.write_to(GuestOffset(guest.start), host, part.unwrap_or_default())?;
        }
        Ok(relative((block * size).min(data_end), offset.0))
    }

    /// Zeroes the start of a range if it isn't stored contiguously, and returns the number of bytes that were zeroed.
    fn zero_new(&self, range: Range<u64>) -> Result<u64> {
        let size = self.block_size();
        let table = self.image.table();
        let (block, length) = self
            .image
            .run_at(GuestOffset(range.start), range.end - range.start)?;
        let end = range.start + length;
        let block_end = (range.start / size + 1) * size;
        let mut end_of_data = range.start.saturating_add(NEW_AT_ONCE as u64).min(end);
        match block {
            Block::Zero | Block::At(_) => return Ok(length),
            Block::Compressed { .. } => {}
            Block::Absent if table.stores_zeroes() => {
                // The last block of the disk may be incomplete.
                let is_whole = block_end <= end || end == self.size();
                if range.start.is_multiple_of(size) && is_whole {
                    let whole_end = match end == self.size() {
                        true => end,
                        false => end / size * size,
                    };
                    return self.enter_zeroes(range.start..whole_end);
                }
                end_of_data = block_end.min(end);
                if range.start >= self.backing_size().unwrap_or(0) {
                    return Ok(end_of_data - range.start);
                }
            }
            Block::Absent => {
                let below = self.backing_size().unwrap_or(0);
                if range.start >= below {
                    return Ok(length);
                }
                end_of_data = end_of_data.min(below);
            }
        }
        let part = vec![0; relative(end_of_data, range.start)];
        self.write_data(GuestOffset(range.start), &part)?;
        Ok(part.len() as u64)
    }

    /// Marks whole blocks as zero in the table.
    fn enter_zeroes(&self, range: Range<u64>) -> Result<u64> {
        let mut state = self.shut_gate();
        if state.is_over {
            return Err(closed());
        }
        let size = self.block_size();
        let table = self.image.table();
        let mut start = range.start;
        while start < range.end && !table.should_store() {
            if table.lookup(start / size)? == Block::Absent {
                state.is_changed = true;
                let entered = table.set_zero(start / size);
                state.is_over |= entered.is_err();
                entered?;
            }
            start += size;
        }
        if table.should_store() {
            self.store(&mut state)?;
        }
        Ok(start.min(range.end) - range.start)
    }

    fn write_data(&self, offset: GuestOffset, data: &[u8]) -> Result<()> {
        let mut offset = offset;
        let mut rest = data;
        while !rest.is_empty() {
            let mut written = self.write_in_place(offset, rest)?;
            if written == 0 {
                written = self.write_new(offset, rest)?;
            }
            offset.0 += written as u64;
            rest = rest.get(written..).unwrap_or_default();
        }
        Ok(())
    }

    fn store(&self, state: &mut State) -> Result<()> {
        let flush = || self.storage().flush_if(self.flushes);
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

    fn check(&self, offset: GuestOffset, length: u64) -> Result<()> {
        let length = usize::try_from(length).unwrap_or(usize::MAX);
        check_range(self.size(), offset, length)
    }
}

/// Returns `offset − start`, or 0 if that is negative.
fn relative(offset: u64, start: u64) -> usize {
    usize::try_from(offset.saturating_sub(start)).unwrap_or(usize::MAX)
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

    /// Reads allocated blocks from this image, and the others from the backing file.
    fn read_at(&self, offset: GuestOffset, buf: &mut [u8]) -> Result<()> {
        self.check(offset, buf.len() as u64)?;
        let _gate = self.open_gate();
        if self.backing.is_none() {
            return self.image.read_at(offset, buf);
        }
        let mut offset = offset;
        let mut rest = buf;
        while !rest.is_empty() {
            let (block, length) = self.image.run_at(offset, rest.len() as u64)?;
            let length = relative(length, 0).min(rest.len());
            let (part, after) = rest.split_at_mut(length);
            match block {
                Block::Absent => self.read_old(block, offset.0, part)?,
                _ => self.image.read_at(offset, part)?,
            }
            offset.0 += length as u64;
            rest = after;
        }
        Ok(())
    }
}

impl<T: BlockAllocator> WritableImage for WritableBlocks<T> {
    fn allocation_unit(&self) -> usize {
        relative(self.image.table().unit(), 0)
    }

    fn zero_unit(&self) -> usize {
        self.allocation_unit().min(4096)
    }

    fn stores_zeroes(&self) -> bool {
        self.image.table().stores_zeroes()
    }

    fn backing_size(&self) -> Option<u64> {
        self.backing.as_ref().map(|backing| backing.size())
    }

    /// Returns false for an encrypted disk, since encrypting is part of the write and gains from several threads.
    fn writes_serially(&self) -> bool {
        self.image.cipher().is_none() && self.storage().writes_serially()
    }

    fn write_at(&self, offset: GuestOffset, data: &[u8]) -> Result<()> {
        self.check(offset, data.len() as u64)?;
        if self.open_gate().is_over {
            return Err(closed());
        }
        self.write_data(offset, data)
    }

    fn write_zeroes(&self, offset: GuestOffset, length: u64, _may_unmap: bool) -> Result<()> {
        self.check(offset, length)?;
        let end = offset.0 + length;
        let mut start = offset.0;
        while start < end {
            let state = self.open_gate();
            if state.is_over {
                return Err(closed());
            }
            let (block, length) = self.image.run_at(GuestOffset(start), end - start)?;
            let zeroed = match block {
                Block::At(host) if self.image.cipher().is_none() => {
                    self.prepare(GuestOffset(start), length)?;
                    make_zero(self.storage(), host.0..host.0.saturating_add(length))?;
                    length
                }
                Block::At(_) => {
                    drop(state);
                    let part = vec![0; relative(length, 0).min(FILLED_AT_ONCE)];
                    self.write_data(GuestOffset(start), &part)?;
                    part.len() as u64
                }
                _ => {
                    drop(state);
                    self.zero_new(start..end)?
                }
            };
            start += zeroed;
        }
        Ok(())
    }

    /// Keeps the contents: the tables have no entry for a freed block that other programs accept.
    fn discard(&self, offset: GuestOffset, length: u64) -> Result<()> {
        self.check(offset, length)
    }

    fn flush(&self) -> Result<()> {
        let mut state = self.shut_gate();
        if state.is_over {
            return Err(closed());
        }
        self.store(&mut state)
    }

    fn close(&self) -> Result<()> {
        let mut state = self.shut_gate();
        if state.is_over {
            return Err(closed());
        }
        self.store(&mut state)?;
        state.is_over = true;
        self.image.table().close()
    }
}
