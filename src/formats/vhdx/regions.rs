//! The region table, with the places of the metadata and of the BAT. There are two copies of it.

use std::ops::Range;

use uuid::{Uuid, uuid};

use super::checksum::{is_right, seal};
use super::header::VhdxHeader;
use super::layout::{HEADERS_END, MIB};
use crate::error::{Error, Result};
use crate::formats::fields::{u32_le, u64_le};
use crate::formats::refusals::without_text;
use crate::storage::Storage;

/// The offsets of the two copies, in bytes.
pub(super) const OFFSETS: [u64; 2] = [192 << 10, 256 << 10];
/// The length of a copy in bytes.
const LENGTH: usize = 64 << 10;
/// The signature of the table.
const MARK: &[u8] = b"regi";
/// The largest number of entries in the table.
const MOST_ENTRIES: u32 = 2047;
/// The offset of the first entry, and the length of an entry, in bytes.
const FIRST: usize = 16;
const ENTRY: usize = 32;

const BLOCKS: Uuid = uuid!("2dc27766-f623-4200-9d64-115e9bfd4a08");
const METADATA: Uuid = uuid!("8b7ca206-4790-4b9a-b8fe-575f050f886e");

/// The regions of an image, in bytes of the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Regions {
    /// The BAT.
    pub(super) blocks: Range<u64>,
    /// The metadata.
    pub(super) metadata: Range<u64>,
}

impl Regions {
    /// Reads the regions. Uses the second copy if the first one is damaged.
    ///
    /// # Errors
    /// Returns the system's error. Returns an error if neither copy is valid.
    pub(super) fn read(file: &dyn Storage, header: &VhdxHeader) -> Result<Self> {
        let length = file.len()?;
        for offset in OFFSETS {
            let mut bytes = vec![0; LENGTH];
            file.read_padded_at(offset, &mut bytes, length)?;
            if bytes.starts_with(MARK) && is_right(&bytes) {
                return Self::parse(&bytes, file, header);
            }
        }
        Err(without_text(file, "Invalid argument"))
    }

    fn parse(bytes: &[u8], file: &dyn Storage, header: &VhdxHeader) -> Result<Self> {
        let invalid = || without_text(file, "Invalid argument");
        let count = u32_le(bytes, 8);
        if count > MOST_ENTRIES {
            return Err(invalid());
        }
        let log = header.log_offset()..header.log_offset().saturating_add(header.log_length());
        let mut known = vec![0..HEADERS_END, log];
        let (mut blocks, mut metadata) = (None, None);
        let entries = bytes.get(FIRST..).unwrap_or_default().chunks_exact(ENTRY);
        for entry in entries.take(usize::try_from(count).unwrap_or_default()) {
            let (id, rest) = entry.split_at(16);
            let start = u64_le(rest, 0);
            let length = u32_le(rest, 8);
            let is_required = rest.get(12).is_some_and(|flags| flags & 1 != 0);
            let end = start.checked_add(length.into()).ok_or_else(invalid)?;
            let overlapped = known
                .iter()
                .find(|other: &&Range<u64>| start < other.end && other.start < end);
            if let Some(other) = overlapped {
                return Err(overlap(&(start..end), other));
            }
            known.push(start..end);
            let id = <[u8; 16]>::try_from(id).map(Uuid::from_bytes_le);
            let place = match id {
                Ok(BLOCKS) => &mut blocks,
                Ok(METADATA) => &mut metadata,
                _ if is_required => return Err(without_text(file, "Operation not supported")),
                _ => continue,
            };
            if place.is_some() || !start.is_multiple_of(MIB) {
                return Err(invalid());
            }
            *place = Some(start..end);
        }
        match (blocks, metadata) {
            (Some(blocks), Some(metadata)) => Ok(Self { blocks, metadata }),
            _ => Err(invalid()),
        }
    }

    /// Encodes the table.
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut bytes = MARK.to_vec();
        bytes.extend([0; 4]);
        bytes.extend(2u64.to_le_bytes());
        for (id, region) in [(BLOCKS, &self.blocks), (METADATA, &self.metadata)] {
            let length = u32::try_from(region.end - region.start).unwrap_or(u32::MAX);
            bytes.extend(id.to_bytes_le());
            bytes.extend(region.start.to_le_bytes());
            bytes.extend(length.to_le_bytes());
            // The flag `Required`, since an image can't be read without these regions. QEMU doesn't set it.
            bytes.extend(1u32.to_le_bytes());
        }
        bytes.resize(LENGTH, 0);
        seal(&mut bytes);
        bytes
    }
}

/// Returns the error for two overlapping ranges of a file.
pub(super) fn overlap(one: &Range<u64>, other: &Range<u64>) -> Error {
    Error::corrupt(format!(
        "VHDX region {}-{} overlaps with region {}-{}",
        one.start, one.end, other.start, other.end
    ))
}
