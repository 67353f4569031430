//! The dynamic disk header: 1024 bytes with the place of the BAT (block allocation table).

use std::ops::Range;

use super::footer::{self, checksum};
use crate::error::{Error, Result};
use crate::formats::fields::{put, u32_be, u64_be};
use crate::storage::Storage;
use crate::units::SECTOR_SIZE;

/// The length of a header in bytes.
pub(super) const LENGTH: usize = 1024;
/// The cookie at its start.
const MARK: &[u8] = b"cxsparse";
/// The size of the blocks of a new image, in bytes.
pub(super) const NEW_BLOCK_SIZE: u64 = 2 << 20;
/// The largest number of BAT entries that QEMU accepts.
const MOST_ENTRIES: u32 = i32::MAX as u32 / 4;
/// The length of an entry in bytes.
const ENTRY_LENGTH: u64 = 4;

/// The offsets of fields, in bytes.
mod at {
    pub(super) const NEXT: usize = 8;
    pub(super) const TABLE_OFFSET: usize = 16;
    pub(super) const VERSION: usize = 24;
    pub(super) const ENTRIES: usize = 28;
    pub(super) const BLOCK_SIZE: usize = 32;
    pub(super) const CHECKSUM: usize = 36;
}

/// The description of a dynamic disk in its header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct DynamicDisk {
    /// The size of the disk in bytes, a multiple of 512.
    pub(super) size: u64,
    /// The size of a block in bytes, a power of two of at least 512.
    pub(super) block_size: u64,
    /// The offset of the header in bytes.
    header_offset: u64,
    /// The offset of the BAT in bytes.
    pub(super) table_offset: u64,
    /// The number of BAT entries, at least the number of blocks.
    entries: u64,
}

impl DynamicDisk {
    /// Reads the header at `offset` of the image in `file`, for a disk of `size` bytes.
    ///
    /// # Errors
    /// Returns the system's error. Returns an error, in QEMU's words, if the header is invalid.
    pub(super) fn read(file: &dyn Storage, offset: u64, size: u64) -> Result<Self> {
        let mut bytes = [0; LENGTH];
        let length = file.len()?;
        file.read_padded_at(offset, &mut bytes, length)?;
        let disk = Self::parse(&bytes, offset, size)?;
        let end = disk.table_offset.checked_add(disk.entries * ENTRY_LENGTH);
        let end = end.and_then(|end| end.checked_next_multiple_of(SECTOR_SIZE));
        if end.is_none_or(|end| end > length.next_multiple_of(SECTOR_SIZE)) {
            return Err(truncated());
        }
        Ok(disk)
    }

    fn parse(bytes: &[u8; LENGTH], header_offset: u64, size: u64) -> Result<Self> {
        let number = |at: usize| u32_be(bytes, at);
        if !bytes.starts_with(MARK) {
            return Err(Error::corrupt("Invalid header magic"));
        }
        let block_size = number(at::BLOCK_SIZE);
        if !block_size.is_power_of_two() || u64::from(block_size) < SECTOR_SIZE {
            return Err(Error::corrupt(format!("Invalid block size {block_size}")));
        }
        let entries = number(at::ENTRIES);
        if entries > MOST_ENTRIES {
            return Err(Error::corrupt(format!(
                "Max Table Entries too large ({})",
                entries.cast_signed()
            )));
        }
        let (entries, block_size) = (u64::from(entries), u64::from(block_size));
        if entries * block_size < size {
            return Err(Error::corrupt("Page table too small"));
        }
        Ok(Self {
            size,
            block_size,
            header_offset,
            table_offset: u64_be(bytes, at::TABLE_OFFSET),
            entries,
        })
    }

    /// Returns the description of a new disk of `size` bytes.
    pub(super) fn new(size: u64) -> Self {
        let header_offset = footer::LENGTH as u64;
        Self {
            size,
            block_size: NEW_BLOCK_SIZE,
            header_offset,
            table_offset: header_offset + LENGTH as u64,
            entries: size.div_ceil(NEW_BLOCK_SIZE),
        }
    }

    /// Returns the number of blocks of the disk.
    pub(super) fn blocks(&self) -> u64 {
        self.size.div_ceil(self.block_size)
    }

    /// Returns the end of the BAT in bytes, rounded up to whole sectors.
    pub(super) fn table_end(&self) -> u64 {
        let end = self.table_offset + self.entries * ENTRY_LENGTH;
        end.next_multiple_of(SECTOR_SIZE)
    }

    /// Returns the end of the BAT entries of the disk's blocks, in bytes.
    pub(super) fn blocks_end(&self) -> u64 {
        self.table_offset + self.blocks() * ENTRY_LENGTH
    }

    /// Returns the length of the bitmap before a block in bytes: a bit for each sector, rounded up to whole sectors.
    pub(super) fn bitmap_length(&self) -> u64 {
        (self.block_size / SECTOR_SIZE)
            .div_ceil(8)
            .next_multiple_of(SECTOR_SIZE)
    }

    /// Returns the ranges of the footer's copy, the header and the BAT, in bytes.
    pub(super) fn metadata(&self) -> [Range<u64>; 3] {
        let footer = 0..footer::LENGTH as u64;
        let header = self.header_offset..self.header_offset.saturating_add(LENGTH as u64);
        let table = self.table_offset..self.table_end();
        [footer, header, table]
    }

    /// Returns true if a range of the file overlaps with the [metadata](Self::metadata).
    pub(super) fn holds_metadata(&self, part: &Range<u64>) -> bool {
        self.metadata()
            .iter()
            .any(|other| part.start < other.end && other.start < part.end)
    }

    /// Encodes the header.
    pub(super) fn encode(&self) -> [u8; LENGTH] {
        let mut bytes = [0; LENGTH];
        let number = |number: u64| u32::try_from(number).unwrap_or(u32::MAX).to_be_bytes();
        put(&mut bytes, 0, MARK);
        put(&mut bytes, at::NEXT, &u64::MAX.to_be_bytes());
        put(
            &mut bytes,
            at::TABLE_OFFSET,
            &self.table_offset.to_be_bytes(),
        );
        put(&mut bytes, at::VERSION, &0x0001_0000u32.to_be_bytes());
        put(&mut bytes, at::ENTRIES, &number(self.entries));
        put(&mut bytes, at::BLOCK_SIZE, &number(self.block_size));
        let sum = checksum(&bytes, at::CHECKSUM);
        put(&mut bytes, at::CHECKSUM, &sum.to_be_bytes());
        bytes
    }
}

/// Returns the error for a file that ends before a block to which the BAT refers.
pub(super) fn truncated() -> Error {
    Error::corrupt(
        "block-vpc: free_data_block_offset points after the end of file. The image has been truncated.",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        for size in [0, 512, 10_514_432, 2040 << 30] {
            let disk = DynamicDisk::new(size);
            let read = DynamicDisk::parse(&disk.encode(), 512, size).unwrap();
            assert_eq!(read, disk);
        }
    }

    #[test]
    fn wrong_fields_are_named() {
        let cases: [(usize, u32, &str); 8] = [
            (0, 7, "Invalid header magic"),
            (at::BLOCK_SIZE, 3 << 20, "Invalid block size 3145728"),
            (at::BLOCK_SIZE, 0, "Invalid block size 0"),
            (at::BLOCK_SIZE, 256, "Invalid block size 256"),
            (at::ENTRIES, 5, "Page table too small"),
            (at::ENTRIES, u32::MAX, "Max Table Entries too large (-1)"),
            (
                at::ENTRIES,
                0x2000_0000,
                "Max Table Entries too large (536870912)",
            ),
            (at::BLOCK_SIZE, 1 << 20, "Page table too small"),
        ];
        for (at, value, message) in cases {
            let mut bytes = DynamicDisk::new(10_514_432).encode();
            bytes[at..at + 4].copy_from_slice(&value.to_be_bytes());
            let error = DynamicDisk::parse(&bytes, 512, 10_514_432).unwrap_err();
            assert_eq!(error.to_string(), message);
        }
    }

    #[test]
    fn bitmaps_are_whole_sectors() {
        for (block_size, length) in [(512, 512), (2 << 20, 512), (4 << 20, 1024)] {
            let disk = DynamicDisk {
                block_size,
                ..DynamicDisk::new(1 << 30)
            };
            assert_eq!(disk.bitmap_length(), length);
        }
    }
}
