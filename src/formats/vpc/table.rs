//! The BAT (block allocation table) of a dynamic image: the sector of each block's bitmap, which precedes its data.
//!
//! Other programs require a footer at the end of the file. So when the file grows, a footer is written to its new
//! end, on stable storage, before the old one is overwritten. The file grows by many blocks at once, and is truncated
//! when the entries are stored.
//!
//! The bitmaps show which sectors were written. In a dynamic image no reader needs them, since unwritten sectors are
//! zero, but they are maintained for other programs.

use std::collections::HashSet;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use super::footer::{self, VhdFooter};
use super::header::{DynamicDisk, truncated};
use crate::error::{Error, Result};
use crate::formats::block_map::{
    Block, BlockAllocator, BlockTable, EntryForm, EntryTable, Fresh, NewBlockTable,
};
use crate::formats::new_image::write_header_last;
use crate::formats::zeroes::make_zero;
use crate::storage::Storage;
use crate::units::{HostOffset, SECTOR_SIZE};

/// The entry of an unallocated block.
const ABSENT: u64 = 0xffff_ffff;
/// The length of a footer in bytes.
const FOOTER: u64 = footer::LENGTH as u64;
/// The unit in which a block is written, in bytes. The rest of a new block reads as zeroes.
const UNIT: u64 = 64 << 10;
/// The number of blocks by which a file grows at once.
const BLOCKS_AT_ONCE: u64 = 32;

/// The BAT of an image.
pub(super) struct VhdTable {
    file: Arc<dyn Storage>,
    disk: DynamicDisk,
    footer: VhdFooter,
    entries: EntryTable,
    flushes: bool,
    space: Mutex<VhdSpace>,
}

/// The space after the last block.
#[derive(Debug, Default)]
struct VhdSpace {
    /// The end of the last block, in bytes.
    next: u64,
    /// The number of unallocated blocks.
    absent: u64,
    /// True if the file is longer than necessary.
    is_grown: bool,
    /// The blocks in whose bitmaps all bits are known to be set.
    all_set: HashSet<u64>,
}

impl VhdTable {
    /// Returns the BAT of the image in `file`. `flushes` says if flushes reach stable storage.
    pub(super) fn stored(
        file: Arc<dyn Storage>,
        disk: DynamicDisk,
        footer: VhdFooter,
        flushes: bool,
    ) -> Self {
        let entries = EntryTable::stored(
            Arc::clone(&file),
            EntryForm::Big32,
            disk.table_offset,
            disk.blocks(),
        );
        Self {
            file,
            disk,
            footer,
            entries,
            flushes,
            space: Mutex::default(),
        }
    }

    /// Returns the BAT of a new image.
    pub(super) fn new(file: Arc<dyn Storage>, disk: DynamicDisk, footer: VhdFooter) -> Self {
        let entries = EntryTable::fresh(
            Arc::clone(&file),
            EntryForm::Big32,
            disk.table_offset,
            disk.blocks(),
            Fresh::Same(ABSENT),
        );
        let space = VhdSpace {
            next: disk.table_end(),
            absent: disk.blocks(),
            ..VhdSpace::default()
        };
        Self {
            file,
            disk,
            footer,
            entries,
            flushes: false,
            space: Mutex::new(space),
        }
    }

    /// Returns the range of a block's bitmap and data in bytes of the file, or `None` if it isn't allocated.
    fn stored_at(&self, block: u64) -> Result<Option<Range<u64>>> {
        Ok(match self.entries.get(block)? {
            ABSENT => None,
            sector => Some(self.from(sector * SECTOR_SIZE)),
        })
    }

    /// Returns the range of the bitmap and data of a block at byte `start`.
    fn from(&self, start: u64) -> Range<u64> {
        start..start + self.disk.bitmap_length() + self.disk.block_size
    }

    /// Passes the range of each block's bitmap in bytes of the file to `each`.
    ///
    /// # Errors
    /// Returns an error if the BAT can't be read.
    pub(super) fn bitmaps(&self, each: &mut dyn FnMut(Range<u64>)) -> Result<()> {
        for block in 0..self.disk.blocks() {
            if let Some(Range { start, .. }) = self.stored_at(block)? {
                each(start..start + self.disk.bitmap_length());
            }
        }
        Ok(())
    }

    /// Checks that all blocks are inside the file.
    ///
    /// # Errors
    /// Returns an error, in QEMU's words, if one isn't, or if the BAT can't be read.
    pub(super) fn look_for_end(&self) -> Result<()> {
        let length = self.file.len()?.next_multiple_of(SECTOR_SIZE);
        for block in 0..self.disk.blocks() {
            if self
                .stored_at(block)?
                .is_some_and(|place| place.end > length)
            {
                return Err(truncated());
            }
        }
        Ok(())
    }

    /// Finds the end of the last block. Returns the number of blocks that overlap with something else.
    ///
    /// # Errors
    /// Returns an error if the BAT can't be read.
    pub(super) fn find_space(&self) -> Result<u64> {
        let mut starts = Vec::new();
        let mut damaged = 0;
        let blocks = self.disk.blocks();
        for block in 0..blocks {
            if let Some(place) = self.stored_at(block)? {
                damaged += u64::from(self.disk.holds_metadata(&place));
                starts.push(u32::try_from(place.start / SECTOR_SIZE).unwrap_or(u32::MAX));
            }
        }
        starts.sort_unstable();
        let step = self.from(0).end / SECTOR_SIZE;
        let pairs = starts.iter().zip(starts.iter().skip(1));
        let overlap = |(one, other): &(&u32, &u32)| u64::from(**one) + step > u64::from(**other);
        damaged += pairs.filter(overlap).count() as u64;
        let last = starts.last().copied();
        let last = last.map_or(0, |last| self.from(u64::from(last) * SECTOR_SIZE).end);
        let mut space = self.space.lock().unwrap_or_else(PoisonError::into_inner);
        *space = VhdSpace {
            next: last.max(self.disk.table_end()),
            absent: blocks - starts.len() as u64,
            ..VhdSpace::default()
        };
        Ok(damaged)
    }

    /// Extends the file beyond `end`, with a footer at its new end.
    fn grow(&self, space: &mut VhdSpace, end: u64) -> Result<()> {
        let length = self.file.len()?.next_multiple_of(SECTOR_SIZE);
        if end + FOOTER <= length {
            return Ok(());
        }
        let blocks = space.absent.clamp(1, BLOCKS_AT_ONCE);
        let reach = space.next + blocks * self.from(0).end;
        space.is_grown = true;
        self.file.set_len(reach + FOOTER)?;
        self.file.write_at(reach, self.footer.bytes())?;
        self.flush()
    }

    fn flush(&self) -> Result<()> {
        self.file.flush_if(self.flushes)
    }

    /// Sets all bits of the bitmap at byte `start`.
    fn set_bits(&self, start: u64) -> Result<()> {
        let length = usize::try_from(self.disk.bitmap_length()).unwrap_or_default();
        self.file.write_at(start, &vec![0xff; length])
    }

    /// Allocates a block after the last one.
    fn take(&self, space: &mut VhdSpace, block: u64) -> Result<HostOffset> {
        let place = self.from(space.next);
        self.set_bits(place.start)?;
        let sector = place.start / SECTOR_SIZE;
        if sector >= ABSENT {
            return Err(Error::invalid(
                "the file would be larger than the format has it",
            ));
        }
        self.entries.set(block, sector)?;
        space.next = place.end;
        space.absent = space.absent.saturating_sub(1);
        space.all_set.insert(block);
        Ok(HostOffset(place.start + self.disk.bitmap_length()))
    }
}

impl BlockTable for VhdTable {
    fn size(&self) -> u64 {
        self.disk.size
    }

    fn block_size(&self) -> u64 {
        self.disk.block_size
    }

    fn unit(&self) -> u64 {
        self.disk.block_size.min(UNIT)
    }

    fn lookup(&self, block: u64) -> Result<Block> {
        let Some(place) = self.stored_at(block)? else {
            return Ok(Block::Zero);
        };
        if self.disk.holds_metadata(&place) {
            return Err(Error::corrupt(format!(
                "block {block} of the disk lies at {:#x}, where the headers or the table are",
                place.start
            )));
        }
        Ok(Block::At(HostOffset(
            place.start + self.disk.bitmap_length(),
        )))
    }
}

impl BlockAllocator for VhdTable {
    fn allocate(&self, block: u64) -> Result<HostOffset> {
        let mut space = self.space.lock().unwrap_or_else(PoisonError::into_inner);
        let place = self.from(space.next);
        let length = self.file.len()?;
        self.grow(&mut space, place.end)?;
        // The space may have an old footer and other data.
        let left_over = place.start..place.end.min(length);
        if !left_over.is_empty() {
            make_zero(self.file.as_ref(), left_over)?;
        }
        self.take(&mut space, block)
    }

    fn before_write(&self, blocks: Range<u64>) -> Result<()> {
        let mut space = self.space.lock().unwrap_or_else(PoisonError::into_inner);
        for block in blocks {
            if space.all_set.contains(&block) {
                continue;
            }
            let Some(place) = self.stored_at(block)? else {
                continue;
            };
            let length = usize::try_from(self.disk.bitmap_length()).unwrap_or_default();
            let mut bitmap = vec![0; length];
            self.file
                .read_exact_at(place.start, &mut bitmap, "the bitmap of a block")?;
            if bitmap.iter().any(|byte| *byte != 0xff) {
                self.set_bits(place.start)?;
            }
            space.all_set.insert(block);
        }
        Ok(())
    }

    fn commit(&self) -> Result<()> {
        self.entries.store()?;
        let mut space = self.space.lock().unwrap_or_else(PoisonError::into_inner);
        if space.is_grown {
            // The footer is written before the file is truncated, so that there is always one at its end.
            self.file.write_at(space.next, self.footer.bytes())?;
            self.flush()?;
            self.file.set_len(space.next + FOOTER)?;
            space.is_grown = false;
        }
        Ok(())
    }
}

impl NewBlockTable for VhdTable {
    fn place(&self, block: u64) -> Result<HostOffset> {
        if let Block::At(host) = self.lookup(block)? {
            return Ok(host);
        }
        let mut space = self.space.lock().unwrap_or_else(PoisonError::into_inner);
        if !self.file.starts_as_zeroes() {
            make_zero(self.file.as_ref(), self.from(space.next))?;
        }
        self.take(&mut space, block)
    }

    fn finish(&self, flush: bool) -> Result<()> {
        let space = self.space.lock().unwrap_or_else(PoisonError::into_inner);
        if self.file.starts_as_zeroes() {
            self.file.set_len(space.next)?;
        }
        self.entries.store_all()?;
        let padding = self.disk.table_end() - self.disk.blocks_end();
        let padding = vec![0xff; usize::try_from(padding).unwrap_or_default()];
        self.file.write_at(self.disk.blocks_end(), &padding)?;
        self.file.write_at(space.next, self.footer.bytes())?;
        self.file.write_at(FOOTER, &self.disk.encode())?;
        write_header_last(self.file.as_ref(), self.footer.bytes(), flush)
    }
}
