//! The header: three texts that identify the format, and the sizes.

use crate::error::{Error, Result};
use crate::formats::fields::{u32_le, u64_le};
use crate::storage::Storage;
use crate::units::SECTOR_SIZE;

/// The length of the part of the header that is read, in bytes.
const LENGTH: usize = 96;
/// The offset, the length and the contents of the texts at the start of the file, which are padded with zeroes.
const TEXTS: [(usize, usize, &[u8]); 3] = [
    (0, 32, b"Bochs Virtual HD Image"),
    (32, 16, b"Redolog"),
    (48, 16, b"Growing"),
];
/// Version 1, which has the size at another offset.
const VERSION_1: u32 = 0x0001_0000;
/// Version 2.
const VERSION_2: u32 = 0x0002_0000;
/// The largest number of catalog entries that QEMU accepts.
const MOST_ENTRIES: u32 = 0x10_0000;
/// The largest extent, in bytes.
const LARGEST_EXTENT: u32 = 8 << 20;

/// A checked header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct BochsHeader {
    /// The size of the disk in bytes, a multiple of 512.
    pub(super) size: u64,
    /// The offset of the catalog in bytes.
    pub(super) catalog: u64,
    /// The number of catalog entries.
    pub(super) entries: u64,
    /// The size of an extent in bytes: a power of two of at least 512.
    pub(super) extent_size: u64,
    /// The length of an extent's bitmap in bytes.
    pub(super) bitmap_length: u64,
}

/// Returns true if a file starts with the texts and a version of this format.
pub(super) fn has_mark(start: &[u8]) -> bool {
    let is_text = |(at, length, text): &(usize, usize, &[u8])| {
        let field = start.get(*at..*at + *length).unwrap_or_default();
        let end = field.iter().position(|byte| *byte == 0);
        field.get(..end.unwrap_or(field.len())) == Some(*text)
    };
    TEXTS.iter().all(is_text) && matches!(u32_le(start, 64), VERSION_1 | VERSION_2)
}

impl BochsHeader {
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
        let wrong = |what: String| Err(Error::corrupt(what));
        if !has_mark(bytes) {
            return wrong("Image not in Bochs format".into());
        }
        let size_at = if u32_le(bytes, 64) == VERSION_1 {
            84
        } else {
            88
        };
        let size = u64_le(bytes, size_at);
        let size = size / SECTOR_SIZE * SECTOR_SIZE;
        let [header, entries, bitmap, extent] = [68, 72, 76, 80].map(|at| u32_le(bytes, at));
        if entries > MOST_ENTRIES {
            return wrong("Catalog size is too large".into());
        }
        if u64::from(extent) < SECTOR_SIZE {
            return wrong("Extent size must be at least 512".into());
        }
        if !extent.is_power_of_two() {
            return wrong(format!("Extent size {extent} is not a power of two"));
        }
        if extent > LARGEST_EXTENT {
            return wrong(format!("Extent size {extent} is too large"));
        }
        let extent_size = u64::from(extent);
        if u64::from(entries) < size.div_ceil(extent_size) {
            return wrong("Catalog size is too small for this disk size".into());
        }
        if u64::from(bitmap) < (extent_size / SECTOR_SIZE).div_ceil(8) {
            // QEMU reads other bytes as the bitmap.
            return wrong(format!(
                "{bitmap} bytes are too few for the bitmap of an extent"
            ));
        }
        Ok(Self {
            size,
            catalog: header.into(),
            entries: entries.into(),
            extent_size,
            bitmap_length: u64::from(bitmap).next_multiple_of(SECTOR_SIZE),
        })
    }

    /// Returns the offset of an extent's bitmap in bytes. `index` is the index of the extent in the file.
    pub(super) fn bitmap_offset(&self, index: u64) -> u64 {
        let start = self.catalog + 4 * self.entries;
        let step = self.bitmap_length + self.extent_size;
        start.saturating_add(index.saturating_mul(step))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_index_has_an_offset() {
        let header = BochsHeader {
            size: 0,
            catalog: 512,
            entries: 1,
            extent_size: LARGEST_EXTENT.into(),
            bitmap_length: 1 << 32,
        };
        assert_eq!(header.bitmap_offset(1), 516 + (1 << 32) + (8 << 20));
        assert_eq!(header.bitmap_offset(u32::MAX.into()), u64::MAX);
    }
}
