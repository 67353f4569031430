//! The trailer: 512 bytes at the end of the file, with the places of the tables.

use std::ops::Range;

use crate::error::{Error, Result};
use crate::formats::fields::{u32_be, u64_be};
use crate::formats::refusals::without_text;
use crate::storage::Storage;
use crate::units::SECTOR_SIZE;

/// The magic number of the trailer.
const MARK: &[u8; 4] = b"koly";
/// The length of the trailer in bytes.
const LENGTH: usize = 512;

/// The fields of the trailer. All offsets are in bytes of the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Trailer {
    /// The offset of the trailer itself.
    pub(super) start: u64,
    /// The offset to which those of chunks are relative.
    pub(super) data: u64,
    /// The offset and the length of the resource fork.
    pub(super) resources: (u64, u64),
    /// The offset and the length of the property list.
    pub(super) list: (u64, u64),
    /// The size of the disk in bytes, a multiple of 512.
    pub(super) size: u64,
}

impl Trailer {
    /// Finds the trailer. As in QEMU, a few bytes may follow it.
    ///
    /// # Errors
    /// Returns the system's error. Returns an error if there is no trailer, or if it is invalid.
    pub(super) fn read(file: &dyn Storage) -> Result<Self> {
        let length = file.len()?;
        if length == 0 {
            return Err(Error::corrupt("dmg file must be at least 512 bytes long"));
        }
        let not_found = || Error::corrupt("Could not locate UDIF trailer in dmg file");
        let last = length.checked_sub(LENGTH as u64).ok_or_else(not_found)?;
        let mut bytes = [0; LENGTH];
        file.read_exact_at(last, &mut bytes, "the trailer")?;
        if bytes.starts_with(MARK) {
            return Self::parse(&bytes, last, file);
        }
        let first = length.next_multiple_of(SECTOR_SIZE).saturating_sub(1023);
        let mut window = vec![0; 2 * LENGTH];
        let read = file.read_padded_at(first, &mut window, length)?;
        let places = window.get(..read).unwrap_or_default().windows(MARK.len());
        let found = places.take(LENGTH).position(|bytes| bytes == MARK);
        let start = found.map(|place| first + place as u64);
        let start = start.ok_or_else(not_found)?;
        file.read_exact_at(start, &mut bytes, "the trailer")?;
        Self::parse(&bytes, start, file)
    }

    /// Returns the ranges of the tables and of the trailer, in bytes.
    pub(super) fn metadata(&self) -> [Range<u64>; 3] {
        let range = |(start, length): (u64, u64)| start..start.saturating_add(length);
        [
            range(self.resources),
            range(self.list),
            range((self.start, LENGTH as u64)),
        ]
    }

    fn parse(bytes: &[u8; LENGTH], start: u64, file: &dyn Storage) -> Result<Self> {
        let number = |at: usize| u64_be(bytes, at);
        let segments = u32_be(bytes, 60);
        if segments > 1 {
            return Err(Error::unsupported(format!(
                "the image is in {segments} files, which this version doesn't read"
            )));
        }
        let size = number(492).checked_mul(SECTOR_SIZE);
        let size = size.filter(|size| i64::try_from(*size).is_ok());
        let trailer = Self {
            start,
            data: number(24),
            resources: (number(40), number(48)),
            list: (number(216), number(224)),
            size: size.ok_or_else(|| Error::corrupt("the size of the disk is impossible"))?,
        };
        let is_within =
            |(place, length): (u64, u64)| place.checked_add(length).is_some_and(|end| end <= start);
        if trailer.data > start || !is_within(trailer.resources) || !is_within(trailer.list) {
            return Err(without_text(file, "Invalid argument"));
        }
        Ok(trailer)
    }
}
