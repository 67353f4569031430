//! The BAT (block allocation table), which has the state of each block and its offset in MiB.
//!
//! After each group of block entries follows the entry of a sector bitmap, which only images with a parent use. It
//! isn't checked in other images, where older versions of QEMU left it undefined.

use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::header::VhdxHeader;
use super::layout::{HEADERS_END, MIB};
use super::metadata::DiskMetadata;
use super::regions::Regions;
use crate::error::{Error, Result};
use crate::formats::block_map::{
    Block, BlockAllocator, BlockTable, EntryForm, EntryTable, Fresh, NewBlockTable,
};
use crate::formats::new_image::write_header_last;
use crate::formats::zeroes::make_zero;
use crate::storage::Storage;
use crate::units::HostOffset;

/// The number of sectors in a sector bitmap of 1 MiB.
const BITMAP_SECTORS: u64 = 1 << 23;
/// The length of an entry in bytes.
const ENTRY_LENGTH: u64 = 8;
/// The unit in which a block is written, in bytes. The rest of a new block reads as zeroes.
const UNIT: u64 = 64 << 10;
/// The states of blocks: zero, fully present, and partially present.
pub(super) const ZERO: u64 = 2;
const PRESENT: u64 = 6;
pub(super) const PARTIAL: u64 = 7;

/// The description of an image's layout.
#[derive(Debug, Clone)]
pub(super) struct Places {
    pub(super) disk: DiskMetadata,
    pub(super) regions: Regions,
    /// The end of the log, in bytes.
    pub(super) log_end: u64,
}

impl Places {
    /// Returns the number of blocks of the disk.
    pub(super) fn blocks(&self) -> u64 {
        self.disk.size.div_ceil(self.disk.block_size)
    }

    /// Returns the number of block entries before each sector bitmap entry (the specification's chunk ratio).
    fn ratio(&self) -> u64 {
        BITMAP_SECTORS * crate::units::SECTOR_SIZE / self.disk.block_size
    }

    /// Returns the number of BAT entries. In an image with a parent, the last group has a sector bitmap entry, too.
    pub(super) fn entries(&self) -> u64 {
        match self.disk.locator {
            None => self.blocks() + self.blocks().saturating_sub(1) / self.ratio(),
            Some(_) => self.blocks().div_ceil(self.ratio()) * (self.ratio() + 1),
        }
    }

    /// Returns the length of the BAT in bytes.
    pub(super) fn table_length(&self) -> u64 {
        self.entries() * ENTRY_LENGTH
    }

    /// Returns the length of the BAT of a new image in bytes. Like QEMU, it reserves space in that of an empty disk,
    /// as if it had 2^32 − 1 blocks.
    pub(super) fn new_table_length(&self) -> u64 {
        match self.blocks() {
            0 => u64::from(u32::MAX) / self.ratio() * ENTRY_LENGTH,
            _ => self.table_length(),
        }
    }

    /// Returns the index of a block's entry.
    pub(super) fn index(&self, block: u64) -> u64 {
        block + block / self.ratio()
    }

    /// Returns true if the entry with that index is a sector bitmap entry.
    fn is_bitmap(&self, index: u64) -> bool {
        index % (self.ratio() + 1) == self.ratio()
    }

    /// Returns the end of a block's part inside the disk, in bytes of the file. The block is stored at `host`.
    pub(super) fn stored_end(&self, block: u64, host: u64) -> u64 {
        let start = block * self.disk.block_size;
        let rest = self.disk.size.saturating_sub(start);
        host.saturating_add(rest.min(self.disk.block_size))
    }
}

/// The BAT of an image.
pub(super) struct VhdxTable {
    file: Arc<dyn Storage>,
    places: Places,
    entries: EntryTable,
    flushes: bool,
    space: Mutex<VhdxSpace>,
}

/// The state of a writer.
struct VhdxSpace {
    header: VhdxHeader,
    /// True once the header's identifiers have been changed.
    is_marked: bool,
    /// The end of the last block, in bytes.
    next: u64,
}

/// The decoded entry of a block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum BlockState {
    /// The block reads as zeroes.
    Zero,
    /// The offset of the block in bytes.
    At(u64),
    /// The state is invalid without a parent.
    Invalid(u64),
}

impl VhdxTable {
    /// Returns the BAT of the image in `file`. `flushes` says if flushes reach stable storage.
    pub(super) fn stored(
        file: Arc<dyn Storage>,
        places: Places,
        header: VhdxHeader,
        flushes: bool,
    ) -> Self {
        let entries = EntryTable::stored(
            Arc::clone(&file),
            EntryForm::Little64,
            places.regions.blocks.start,
            places.entries(),
        );
        Self::with_entries(file, places, header, entries, flushes)
    }

    /// Returns the BAT of a new image, whose blocks start at byte `data_offset`. Blocks of a dynamic image initially
    /// have `state`, and those of a fixed image are allocated.
    pub(super) fn new(
        file: Arc<dyn Storage>,
        places: Places,
        header: VhdxHeader,
        data_offset: u64,
        state: u64,
    ) -> Self {
        let ratio = places.ratio();
        let disk = places.disk;
        let pattern = places.clone();
        let fresh = Fresh::Computed(Box::new(move |index| {
            if pattern.is_bitmap(index) {
                return 0;
            }
            match disk.is_fixed {
                true => data_offset + (index - index / (ratio + 1)) * disk.block_size + PRESENT,
                false => state,
            }
        }));
        let entries = EntryTable::fresh(
            Arc::clone(&file),
            EntryForm::Little64,
            places.regions.blocks.start,
            places.entries(),
            fresh,
        );
        let table = Self::with_entries(file, places, header, entries, false);
        table.lock().next = data_offset;
        table
    }

    fn with_entries(
        file: Arc<dyn Storage>,
        places: Places,
        header: VhdxHeader,
        entries: EntryTable,
        flushes: bool,
    ) -> Self {
        let space = VhdxSpace {
            header,
            is_marked: false,
            next: 0,
        };
        Self {
            file,
            places,
            entries,
            flushes,
            space: Mutex::new(space),
        }
    }

    fn lock(&self) -> MutexGuard<'_, VhdxSpace> {
        self.space.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns an entry without checking its offset.
    ///
    /// # Errors
    /// Returns an error as [`EntryTable::get`] does.
    pub(super) fn state(&self, block: u64) -> Result<BlockState> {
        let entry = self.entries.get(self.places.index(block))?;
        Ok(match entry & 7 {
            // The states are: not present, undefined, zero, unmapped, and unmapped in an earlier draft.
            0 | 1 | 2 | 3 | 5 => BlockState::Zero,
            PRESENT => BlockState::At(entry / MIB * MIB),
            PARTIAL if self.places.disk.locator.is_some() => BlockState::At(entry / MIB * MIB),
            other => BlockState::Invalid(other),
        })
    }

    /// Returns the state of a block as stored.
    ///
    /// # Errors
    /// Returns an error as [`EntryTable::get`] does.
    pub(super) fn raw_state(&self, block: u64) -> Result<u64> {
        Ok(self.entries.get(self.places.index(block))? & 7)
    }

    /// Reads the bits of a block's sectors from its sector bitmap.
    ///
    /// # Errors
    /// Returns the system's error. Returns an error if the block has no sector bitmap.
    pub(super) fn bits(&self, block: u64) -> Result<Vec<u8>> {
        let ratio = self.places.ratio();
        let entry = self.entries.get(block / ratio * (ratio + 1) + ratio)?;
        if entry & 7 != PRESENT {
            return Err(Error::corrupt(format!(
                "block {block} of the disk is stored in part, and nothing says in which"
            )));
        }
        let length = self.places.disk.block_size / crate::units::SECTOR_SIZE / 8;
        let mut bits = vec![0; usize::try_from(length).unwrap_or_default()];
        let start = (entry / MIB * MIB).saturating_add(block % ratio * length);
        self.file
            .read_exact_at(start, &mut bits, "the bitmap of a block")?;
        Ok(bits)
    }

    /// Passes the range of each sector bitmap in bytes of the file to `each`.
    ///
    /// # Errors
    /// Returns an error as [`EntryTable::get`] does.
    pub(super) fn bitmaps(&self, each: &mut dyn FnMut(Range<u64>)) -> Result<()> {
        let ratio = self.places.ratio();
        if self.places.disk.locator.is_none() {
            return Ok(());
        }
        for group in 0..self.places.blocks().div_ceil(ratio) {
            let entry = self.entries.get(group * (ratio + 1) + ratio)?;
            if entry & 7 == PRESENT {
                let start = entry / MIB * MIB;
                each(start..start.saturating_add(MIB));
            }
        }
        Ok(())
    }

    /// Sets the offset for new blocks, after everything else, in bytes.
    pub(super) fn start_space(&self, end: u64) {
        self.lock().next = end.next_multiple_of(MIB);
    }

    /// Changes the header's identifiers before the first write.
    fn mark(&self, space: &mut VhdxSpace) -> Result<()> {
        if !space.is_marked {
            space
                .header
                .mark_changed(self.file.as_ref(), self.flushes)?;
            space.is_marked = true;
        }
        Ok(())
    }

    fn take(&self, space: &mut VhdxSpace, block: u64) -> Result<HostOffset> {
        let host = space.next;
        self.entries.set(self.places.index(block), host | PRESENT)?;
        space.next = host + self.places.disk.block_size;
        Ok(HostOffset(host))
    }
}

impl BlockTable for VhdxTable {
    fn size(&self) -> u64 {
        self.places.disk.size
    }

    fn block_size(&self) -> u64 {
        self.places.disk.block_size
    }

    fn unit(&self) -> u64 {
        UNIT
    }

    fn lookup(&self, block: u64) -> Result<Block> {
        match self.state(block)? {
            BlockState::Zero => Ok(Block::Zero),
            BlockState::At(host) if host >= HEADERS_END => Ok(Block::At(HostOffset(host))),
            BlockState::At(host) => Err(Error::corrupt(format!(
                "block {block} of the disk lies at {host:#x}, where the headers are"
            ))),
            BlockState::Invalid(state) => Err(Error::corrupt(format!(
                "block {block} of the disk has the state {state}, which no image without a parent has"
            ))),
        }
    }
}

impl BlockAllocator for VhdxTable {
    fn allocate(&self, block: u64) -> Result<HostOffset> {
        let mut space = self.lock();
        self.mark(&mut space)?;
        let (start, end) = (space.next, space.next + self.places.disk.block_size);
        let length = self.file.len()?;
        if length > start {
            make_zero(self.file.as_ref(), start..length.min(end))?;
        }
        if length < end {
            self.file.set_len(end)?;
        }
        self.take(&mut space, block)
    }

    fn before_write(&self, _blocks: Range<u64>) -> Result<()> {
        self.mark(&mut self.lock())
    }

    fn commit(&self) -> Result<()> {
        self.entries.store()
    }
}

impl NewBlockTable for VhdxTable {
    fn place(&self, block: u64) -> Result<HostOffset> {
        match self.lookup(block)? {
            Block::At(host) => Ok(host),
            _ => {
                let mut space = self.lock();
                let (start, end) = (space.next, space.next + self.places.disk.block_size);
                if !self.file.starts_as_zeroes() {
                    make_zero(self.file.as_ref(), start..end)?;
                }
                self.take(&mut space, block)
            }
        }
    }

    fn finish(&self, flush: bool) -> Result<()> {
        let mut space = self.lock();
        let file = self.file.as_ref();
        let end = match self.places.disk.is_fixed {
            true => space.next + self.places.disk.size,
            false => space.next,
        };
        if file.starts_as_zeroes() {
            file.set_len(end)?;
        }
        self.entries.store_all()?;
        let metadata = self.places.disk.encode();
        file.write_at(self.places.regions.metadata.start, &metadata)?;
        let regions = self.places.regions.encode();
        for offset in super::regions::OFFSETS {
            file.write_at(offset, &regions)?;
        }
        space.header.mark_changed(file, false)?;
        write_header_last(file, &super::header::identifier(), flush)
    }
}
