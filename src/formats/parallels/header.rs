//! The header: 64 bytes, which the BAT follows.

use crate::error::{Error, Result};
use crate::formats::fields::{put, u32_le, u64_le};
use crate::storage::Storage;
use crate::units::SECTOR_SIZE;

/// The magic number of the older variant, whose entries are in sectors.
const OLD_MARK: &[u8; 16] = b"WithoutFreeSpace";
/// The magic number of the newer variant, whose entries are in clusters.
const MARK: &[u8; 16] = b"WithouFreSpacExt";
/// The length of the header in bytes.
pub(super) const LENGTH: usize = 64;
/// The only version.
const VERSION: u32 = 2;
/// The value of the `inuse` field in an image that is in use.
const IN_USE: u32 = 0x746f_6e59;
/// The largest number of BAT entries that QEMU accepts.
pub(super) const MOST_ENTRIES: u64 = i32::MAX as u64 / 4;

/// The offsets of fields, in bytes.
mod at {
    pub(super) const VERSION: usize = 16;
    pub(super) const HEADS: usize = 20;
    pub(super) const CYLINDERS: usize = 24;
    pub(super) const TRACKS: usize = 28;
    pub(super) const ENTRIES: usize = 32;
    pub(super) const SECTORS: usize = 36;
    pub(super) const IN_USE: usize = 44;
    pub(super) const DATA_OFFSET: usize = 48;
    pub(super) const EXTENSION: usize = 56;
}

/// A checked header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct ParallelsHeader {
    /// True for the older variant, whose entries are in sectors.
    pub(super) is_old: bool,
    /// The size of a cluster in bytes, a multiple of 512.
    pub(super) cluster_size: u64,
    /// The number of BAT entries.
    pub(super) entries: u32,
    /// The size of the disk in bytes, a multiple of 512.
    pub(super) size: u64,
    /// True if the image is marked as in use.
    pub(super) is_in_use: bool,
    /// The offset of the clusters in bytes, according to the header.
    pub(super) stated_data_offset: u64,
    /// The offset of the format extension in bytes, or 0 without one.
    pub(super) extension: u64,
}

/// Returns true if a file starts with a magic number and a version of this format.
pub(super) fn is_header(start: &[u8]) -> bool {
    let has_mark = start.starts_with(MARK) || start.starts_with(OLD_MARK);
    has_mark && u32_le(start, at::VERSION) == VERSION
}

impl ParallelsHeader {
    /// Reads the header of the image in `file`.
    ///
    /// # Errors
    /// Returns the system's error. Returns an error, in QEMU's words where it has any, if the header is invalid.
    pub(super) fn read(file: &dyn Storage) -> Result<Self> {
        let mut bytes = [0; LENGTH];
        file.read_padded_at(0, &mut bytes, file.len()?)?;
        Self::parse(&bytes)
    }

    fn parse(bytes: &[u8; LENGTH]) -> Result<Self> {
        let wrong = |what: &str| Err(Error::corrupt(what));
        if !is_header(bytes) {
            return wrong("Image not in Parallels format");
        }
        let is_old = bytes.starts_with(OLD_MARK);
        let tracks = u32_le(bytes, at::TRACKS);
        if tracks == 0 {
            return wrong("Invalid image: Zero sectors per track");
        }
        if tracks > i32::MAX.unsigned_abs() / 513 {
            return wrong("Invalid image: Too big cluster");
        }
        let entries = u32_le(bytes, at::ENTRIES);
        if u64::from(entries) > MOST_ENTRIES {
            return wrong("Catalog too large");
        }
        let sectors = u64_le(bytes, at::SECTORS);
        let sectors = if is_old {
            sectors & 0xffff_ffff
        } else {
            sectors
        };
        let size = sectors.checked_mul(SECTOR_SIZE);
        let Some(size) = size.filter(|size| i64::try_from(*size).is_ok()) else {
            return wrong("File too large");
        };
        let extension = u64_le(bytes, at::EXTENSION);
        if extension >= 1 << 54 {
            return wrong("Invalid image: Too big offset");
        }
        let header = Self {
            is_old,
            cluster_size: u64::from(tracks) * SECTOR_SIZE,
            entries,
            size,
            is_in_use: u32_le(bytes, at::IN_USE) == IN_USE,
            stated_data_offset: u64::from(u32_le(bytes, at::DATA_OFFSET)) * SECTOR_SIZE,
            extension: extension * SECTOR_SIZE,
        };
        if header.clusters() > entries.into() {
            // QEMU reads zeroes beyond the last entry.
            return Err(Error::corrupt(format!(
                "the table has {entries} entries, and the disk has {} clusters",
                header.clusters()
            )));
        }
        Ok(header)
    }

    /// Returns the header of a new disk of `size` bytes, with clusters of `cluster_size` bytes.
    pub(super) fn new(size: u64, cluster_size: u64) -> Self {
        let entries = u32::try_from(size.div_ceil(cluster_size)).unwrap_or(u32::MAX);
        let table_end = LENGTH as u64 + u64::from(entries) * 4;
        Self {
            is_old: false,
            cluster_size,
            entries,
            size,
            is_in_use: false,
            stated_data_offset: table_end.next_multiple_of(cluster_size),
            extension: 0,
        }
    }

    /// Encodes the header.
    pub(super) fn encode(&self) -> [u8; LENGTH] {
        let mut bytes = [0; LENGTH];
        let short = |value: u64| u32::try_from(value).unwrap_or(u32::MAX).to_le_bytes();
        put(&mut bytes, 0, if self.is_old { OLD_MARK } else { MARK });
        put(&mut bytes, at::VERSION, &VERSION.to_le_bytes());
        put(&mut bytes, at::HEADS, &16u32.to_le_bytes());
        let sectors = self.size / SECTOR_SIZE;
        put(&mut bytes, at::CYLINDERS, &short(sectors / 16 / 32));
        put(
            &mut bytes,
            at::TRACKS,
            &short(self.cluster_size / SECTOR_SIZE),
        );
        put(&mut bytes, at::ENTRIES, &self.entries.to_le_bytes());
        put(&mut bytes, at::SECTORS, &sectors.to_le_bytes());
        put(
            &mut bytes,
            at::DATA_OFFSET,
            &short(self.stated_data_offset / SECTOR_SIZE),
        );
        bytes
    }

    /// Returns the number of clusters of the disk.
    pub(super) fn clusters(&self) -> u64 {
        self.size.div_ceil(self.cluster_size)
    }

    /// Returns the end of the BAT in bytes.
    pub(super) fn table_end(&self) -> u64 {
        LENGTH as u64 + u64::from(self.entries) * 4
    }

    /// Returns the smallest valid offset of the clusters in bytes.
    fn least_data_offset(&self) -> u64 {
        let end = self.table_end();
        match self.is_old {
            true => end.next_multiple_of(SECTOR_SIZE),
            false => end.next_multiple_of(self.cluster_size),
        }
    }

    /// Returns the offset of the clusters in bytes, in a file of `length` bytes, and true if the header has that
    /// value.
    pub(super) fn data_offset(&self, length: u64) -> (u64, bool) {
        let least = self.least_data_offset();
        let stated = self.stated_data_offset;
        if stated == 0 && self.is_old {
            return (least, true);
        }
        let length = length.next_multiple_of(SECTOR_SIZE);
        let end = self.table_end().next_multiple_of(SECTOR_SIZE);
        if stated < end || stated > length {
            return (least, false);
        }
        (stated, true)
    }

    /// Returns the unit of BAT entries in bytes.
    pub(super) fn entry_unit(&self) -> u64 {
        match self.is_old {
            true => SECTOR_SIZE,
            false => self.cluster_size,
        }
    }

    /// Sets or clears the mark of an image in use in the header in `file`.
    ///
    /// # Errors
    /// Returns the system's error.
    pub(super) fn write_in_use(file: &dyn Storage, is_in_use: bool) -> Result<()> {
        let word = if is_in_use { IN_USE } else { 0 };
        file.write_at(at::IN_USE as u64, &word.to_le_bytes())
    }

    /// Stores the offset of the format extension in the header in `file`, in bytes; 0 means none.
    ///
    /// # Errors
    /// Returns the system's error.
    pub(super) fn write_extension(file: &dyn Storage, offset: u64) -> Result<()> {
        let sectors = offset / SECTOR_SIZE;
        file.write_at(at::EXTENSION as u64, &sectors.to_le_bytes())
    }

    /// Stores the offset of the clusters in the header in `file`, in bytes.
    ///
    /// # Errors
    /// Returns the system's error.
    pub(super) fn write_data_offset(file: &dyn Storage, offset: u64) -> Result<()> {
        let sectors = u32::try_from(offset / SECTOR_SIZE).unwrap_or_default();
        file.write_at(at::DATA_OFFSET as u64, &sectors.to_le_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        for (size, cluster_size) in [(0, 1 << 20), (512, 1024), (5 << 30, 3072)] {
            let header = ParallelsHeader::new(size, cluster_size);
            assert_eq!(ParallelsHeader::parse(&header.encode()).unwrap(), header);
            assert_eq!(
                header.data_offset(1 << 40),
                (header.stated_data_offset, true)
            );
        }
    }

    #[test]
    fn the_older_form_counts_sectors_in_32_bits() {
        let mut bytes = ParallelsHeader::new(1 << 20, 1 << 16).encode();
        bytes[..16].copy_from_slice(OLD_MARK);
        bytes[at::SECTORS + 4] = 7;
        bytes[at::DATA_OFFSET..at::DATA_OFFSET + 4].fill(0);
        let header = ParallelsHeader::parse(&bytes).unwrap();
        assert_eq!((header.size, header.entry_unit()), (1 << 20, 512));
        assert_eq!(header.data_offset(1 << 20), (512, true));
    }
}
