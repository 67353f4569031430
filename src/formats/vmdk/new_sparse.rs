//! A new extent with grains.
//!
//! The layout is QEMU's: the header, the descriptor, the second grain directory with its tables, the first grain
//! directory with its tables. The grains follow in guest order, from the next multiple of the grain length on. All
//! grain tables are allocated beforehand. They are written last, and the header after them.

use std::sync::{Arc, Mutex, PoisonError};

use super::sparse_header::{self, SparseHeader, flag};
use crate::error::{Error, Result};
use crate::formats::block_map::{
    Block, BlockTable, EntryForm, EntryTable, Fresh, NewBlockTable, NewBlocks,
};
use crate::formats::new_image::wipe_old_header;
use crate::formats::new_image::write_header_last;
use crate::formats::zeroes::write_zeroes;
use crate::storage::Storage;
use crate::units::{HostOffset, SECTOR_SIZE};

/// The length of a grain in sectors of 512 bytes.
pub(super) const GRAIN: u64 = 128;
/// The number of entries in a grain table, and its length in sectors.
pub(super) const GRAIN_ENTRIES: u32 = 512;
pub(super) const TABLE: u64 = 4;
/// The offset and the length of the descriptor, in sectors.
pub(super) const DESCRIPTOR: u64 = 1;
pub(super) const DESCRIPTOR_LENGTH: u64 = 20;
/// The largest length of a file that entries can address, in sectors.
pub(super) const MOST_SECTORS: u64 = 1 << 32;
/// The number of bytes that are copied at once to the second grain tables.
const COPIED_AT_ONCE: u64 = 1 << 20;

/// Returns the header of a new extent of `size` bytes.
///
/// # Errors
/// Returns an error if its tables would be beyond the sectors that entries can address.
pub(super) fn header(size: u64, zero_grains: bool) -> Result<SparseHeader> {
    let capacity = size.div_ceil(SECTOR_SIZE);
    let tables = capacity.div_ceil(GRAIN * u64::from(GRAIN_ENTRIES));
    let directory_length = (tables * 4).div_ceil(SECTOR_SIZE);
    let second_directory = DESCRIPTOR + DESCRIPTOR_LENGTH;
    let directory = second_directory + directory_length + tables * TABLE;
    let overhead = directory + directory_length + tables * TABLE;
    let overhead = overhead.next_multiple_of(GRAIN);
    if overhead >= MOST_SECTORS {
        return Err(Error::invalid(
            "The image size is too large for file format 'vmdk'",
        ));
    }
    let zero_flag = if zero_grains { flag::ZERO_GRAINS } else { 0 };
    Ok(SparseHeader {
        version: if zero_grains { 2 } else { 1 },
        flags: flag::LINE_ENDS | flag::SECOND_DIRECTORY | zero_flag,
        capacity,
        grain: GRAIN,
        descriptor: DESCRIPTOR,
        descriptor_length: DESCRIPTOR_LENGTH,
        grain_entries: GRAIN_ENTRIES,
        second_directory,
        directory,
        overhead,
        compression: 0,
    })
}

/// The tables of a new extent.
pub(super) struct NewGrains {
    file: Arc<dyn Storage>,
    header: SparseHeader,
    /// The text of the descriptor, or empty if the descriptor is a separate file.
    text: Vec<u8>,
    /// The size in bytes of the backing file's part for this extent, if there is one. Unallocated grains are read
    /// from it.
    backing_size: Option<u64>,
    entries: EntryTable,
    /// The sector of the next grain.
    next: Mutex<u64>,
}

impl NewGrains {
    /// Starts an extent in `file`. Overwrites an old header on a device.
    ///
    /// # Errors
    /// Returns the system's error.
    pub(super) fn create(
        file: Arc<dyn Storage>,
        header: SparseHeader,
        text: Vec<u8>,
        backing_size: Option<u64>,
    ) -> Result<Self> {
        wipe_old_header(file.as_ref(), sparse_header::LENGTH)?;
        let entries = EntryTable::fresh(
            Arc::clone(&file),
            EntryForm::Little32,
            first_table(&header, header.directory) * SECTOR_SIZE,
            header.tables() * u64::from(GRAIN_ENTRIES),
            Fresh::Same(0),
        );
        Ok(Self {
            file,
            header,
            text,
            backing_size,
            entries,
            next: Mutex::new(header.overhead),
        })
    }

    /// Returns the extent for writing a new image.
    pub(super) fn new_image(self, flush: bool) -> NewBlocks<Self> {
        let file = Arc::clone(&self.file);
        let backing_size = self.backing_size;
        NewBlocks::new(self, file, false, flush).with_backing(backing_size)
    }

    /// Writes the grain directory at sector `place`, which its tables follow.
    fn write_directory(&self, place: u64) -> Result<()> {
        let first = first_table(&self.header, place);
        let tables = (0..self.header.tables()).map(|table| first + table * TABLE);
        let mut bytes: Vec<u8> = tables
            .flat_map(|sector| u32::try_from(sector).unwrap_or(u32::MAX).to_le_bytes())
            .collect();
        bytes.resize(bytes.len().next_multiple_of(512), 0);
        self.file.write_at(place * SECTOR_SIZE, &bytes)
    }

    /// Copies the grain tables to those of the second grain directory. Leaves out zeroes if the file reads as zeroes
    /// there.
    fn copy_tables(&self) -> Result<()> {
        let from = first_table(&self.header, self.header.directory) * SECTOR_SIZE;
        let to = first_table(&self.header, self.header.second_directory) * SECTOR_SIZE;
        let length = self.header.tables() * TABLE * SECTOR_SIZE;
        let mut buffer = vec![0; usize::try_from(length.min(COPIED_AT_ONCE)).unwrap_or(0)];
        let leaves_out = self.file.starts_as_zeroes();
        let mut done = 0;
        while done < length {
            if leaves_out {
                match self.file.next_data(from + done)? {
                    Some(data) if data.start < from + length => {
                        let sector = data.start / SECTOR_SIZE * SECTOR_SIZE;
                        done = sector.saturating_sub(from).max(done);
                    }
                    _ => break,
                }
            }
            let part = usize::try_from((length - done).min(COPIED_AT_ONCE)).unwrap_or(0);
            let part = buffer.get_mut(..part).unwrap_or_default();
            self.file.read_exact_at(from + done, part, "grain tables")?;
            self.file.write_at(to + done, part)?;
            done += part.len() as u64;
        }
        Ok(())
    }
}

/// Returns the sector of the first grain table of a directory at sector `place`.
fn first_table(header: &SparseHeader, place: u64) -> u64 {
    place + (header.tables() * 4).div_ceil(SECTOR_SIZE)
}

impl BlockTable for NewGrains {
    fn size(&self) -> u64 {
        self.header.size()
    }

    fn block_size(&self) -> u64 {
        GRAIN * SECTOR_SIZE
    }

    fn lookup(&self, block: u64) -> Result<Block> {
        Ok(match self.entries.get(block)? {
            0 if self.backing_size.is_some() => Block::Absent,
            0 | 1 => Block::Zero,
            sector => Block::At(HostOffset(sector * SECTOR_SIZE)),
        })
    }

    fn stores_zeroes(&self) -> bool {
        self.header.flags & flag::ZERO_GRAINS != 0
    }

    fn set_zero(&self, block: u64) -> Result<()> {
        self.entries.set(block, 1)
    }
}

impl NewBlockTable for NewGrains {
    fn place(&self, block: u64) -> Result<HostOffset> {
        if let Block::At(host) = self.lookup(block)? {
            return Ok(host);
        }
        let mut next = self.next.lock().unwrap_or_else(PoisonError::into_inner);
        let sector = u32::try_from(*next)
            .map_err(|_| Error::unsupported("an extent of a VMDK image has at most 2 TiB"))?;
        self.entries.set(block, sector.into())?;
        *next += GRAIN;
        Ok(HostOffset(u64::from(sector) * SECTOR_SIZE))
    }

    fn finish(&self, flush: bool) -> Result<()> {
        let end = *self.next.lock().unwrap_or_else(PoisonError::into_inner) * SECTOR_SIZE;
        if self.file.starts_as_zeroes() {
            self.file.set_len(end)?;
            self.entries.store()?;
        } else {
            // A device may have any contents up to the first grain.
            let overhead = self.header.overhead * SECTOR_SIZE;
            write_zeroes(self.file.as_ref(), 0..overhead)?;
            self.entries.store_all()?;
        }
        self.write_directory(self.header.directory)?;
        self.write_directory(self.header.second_directory)?;
        self.copy_tables()?;
        self.file.write_at(DESCRIPTOR * SECTOR_SIZE, &self.text)?;
        write_header_last(self.file.as_ref(), &self.header.encode(), flush)
    }
}
