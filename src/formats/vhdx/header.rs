//! The two headers, of which the one with the higher sequence number is current, and the file type identifier.
//!
//! A change is written to the header that isn't current, which becomes current once it is complete and its checksum
//! is correct. The other fields are kept as they were read.

use uuid::Uuid;

use super::checksum::{is_right, seal};
use super::layout::MIB;
use crate::error::{Error, Result};
use crate::formats::fields::{put, u32_le, u64_le};
use crate::formats::refusals::without_text;
use crate::storage::Storage;
use crate::units::SECTOR_LEN;

/// The signature of the file type identifier.
pub(super) const IDENTIFIER: &[u8] = b"vhdxfile";
/// The offsets of the headers, in bytes.
const OFFSETS: [u64; 2] = [64 << 10, 128 << 10];
/// The length of a header in bytes.
const LENGTH: usize = 4096;
/// The signature of a header.
const MARK: &[u8] = b"head";

/// The offsets of fields, in bytes.
mod at {
    pub(super) const SEQUENCE: usize = 8;
    pub(super) const FILE_WRITE: usize = 16;
    pub(super) const DATA_WRITE: usize = 32;
    pub(super) const LOG_ID: usize = 48;
    pub(super) const LOG_VERSION: usize = 64;
    pub(super) const VERSION: usize = 66;
    pub(super) const LOG_LENGTH: usize = 68;
    pub(super) const LOG_OFFSET: usize = 72;
}

/// Returns the file type identifier of a new image, padded to a sector: the signature, and the name of the creator in
/// UTF-16.
pub(super) fn identifier() -> Vec<u8> {
    let mut bytes = IDENTIFIER.to_vec();
    bytes.extend("cowhide".encode_utf16().flat_map(u16::to_le_bytes));
    bytes.resize(SECTOR_LEN, 0);
    bytes
}

/// The current header.
#[derive(Clone)]
pub(super) struct VhdxHeader {
    bytes: [u8; LENGTH],
    /// The index of its offset in [`OFFSETS`].
    place: usize,
}

impl VhdxHeader {
    /// Reads the file type identifier and the headers of the image in `file`.
    ///
    /// # Errors
    /// Returns the system's error. Returns an error, in QEMU's words, if no header is valid, or if the current one
    /// contradicts itself.
    pub(super) fn read(file: &dyn Storage) -> Result<Self> {
        let length = file.len()?;
        let mut start = [0; IDENTIFIER.len()];
        file.read_padded_at(0, &mut start, length)?;
        if start != IDENTIFIER {
            return Err(without_text(file, "Invalid argument"));
        }
        let mut found: Vec<Self> = Vec::new();
        for (place, offset) in OFFSETS.into_iter().enumerate() {
            let mut bytes = [0; LENGTH];
            file.read_padded_at(offset, &mut bytes, length)?;
            let header = Self { bytes, place };
            if header.is_usable() {
                found.push(header);
            }
        }
        let invalid = || Error::corrupt("No valid VHDX header found");
        let header = match <[Self; 2]>::try_from(found) {
            Ok([one, other]) if one.sequence() == other.sequence() => {
                // Some programs write two identical headers.
                Some(one).filter(|one| one.bytes == other.bytes)
            }
            Ok([one, other]) if one.sequence() > other.sequence() => Some(one),
            Ok([_, other]) => Some(other),
            Err(found) => found.into_iter().next(),
        };
        let header = header.ok_or_else(invalid)?;
        let log = header.log_offset();
        let is_log_placed = log >= MIB && log.is_multiple_of(MIB);
        let has_length = header.log_length().is_multiple_of(MIB) && header.log_length() > 0;
        if header.number(at::LOG_VERSION) & 0xffff != 0
            || !is_log_placed
            || (header.log_id().is_some() && !has_length)
        {
            return Err(without_text(file, "Invalid argument"));
        }
        Ok(header)
    }

    /// Returns the header of a new image, whose log is at `log_offset` and has `log_length` bytes.
    pub(super) fn new(log_offset: u64, log_length: u32) -> Self {
        let mut header = Self {
            bytes: [0; LENGTH],
            place: 0,
        };
        header.put(0, MARK);
        header.put(at::VERSION, &1u16.to_le_bytes());
        header.put(at::LOG_LENGTH, &log_length.to_le_bytes());
        header.put(at::LOG_OFFSET, &log_offset.to_le_bytes());
        header
    }

    fn is_usable(&self) -> bool {
        let version = self.number(at::VERSION) & 0xffff;
        self.bytes.starts_with(MARK) && version == 1 && is_right(&self.bytes)
    }

    fn number(&self, at: usize) -> u32 {
        u32_le(&self.bytes, at)
    }

    fn put(&mut self, at: usize, field: &[u8]) {
        put(&mut self.bytes, at, field);
    }

    fn sequence(&self) -> u64 {
        u64_le(&self.bytes, at::SEQUENCE)
    }

    /// Returns the offset of the log in bytes, a multiple of 1 MiB.
    pub(super) fn log_offset(&self) -> u64 {
        u64_le(&self.bytes, at::LOG_OFFSET)
    }

    /// Returns the length of the log in bytes, a multiple of 1 MiB if the log isn't empty.
    pub(super) fn log_length(&self) -> u64 {
        self.number(at::LOG_LENGTH).into()
    }

    /// Returns the data write identifier, which every writer changes.
    pub(super) fn data_id(&self) -> [u8; 16] {
        let id = self.bytes.get(at::DATA_WRITE..at::DATA_WRITE + 16);
        id.and_then(|id| id.try_into().ok()).unwrap_or_default()
    }

    /// Returns the identifier of the valid log entries, or `None` if the log is empty.
    pub(super) fn log_id(&self) -> Option<[u8; 16]> {
        let id = self.bytes.get(at::LOG_ID..at::LOG_ID + 16)?;
        let id: [u8; 16] = id.try_into().ok()?;
        Some(id).filter(|id| *id != [0; 16])
    }

    /// Writes the header over the one that isn't current, with the next sequence number.
    fn write(&mut self, file: &dyn Storage) -> Result<()> {
        let sequence = self.sequence().wrapping_add(1);
        self.put(at::SEQUENCE, &sequence.to_le_bytes());
        self.place = 1 - self.place.min(1);
        seal(&mut self.bytes);
        let offset = OFFSETS.get(self.place).copied().unwrap_or_default();
        file.write_at(offset, &self.bytes)
    }

    /// Writes both headers, one after the other, so that one of them is always valid. With `flush`, flushes to stable
    /// storage after each.
    fn write_both(&mut self, file: &dyn Storage, flush: bool) -> Result<()> {
        for _ in OFFSETS {
            self.write(file)?;
            file.flush_if(flush)?;
        }
        Ok(())
    }

    /// Changes the file write and data write identifiers, as the specification requires of a writer before its first
    /// change.
    ///
    /// # Errors
    /// Returns the system's error.
    pub(super) fn mark_changed(&mut self, file: &dyn Storage, flush: bool) -> Result<()> {
        self.put(at::FILE_WRITE, &Uuid::new_v4().to_bytes_le());
        self.put(at::DATA_WRITE, &Uuid::new_v4().to_bytes_le());
        self.write_both(file, flush)
    }

    /// Marks the log as empty.
    ///
    /// # Errors
    /// Returns the system's error.
    pub(super) fn end_log(&mut self, file: &dyn Storage, flush: bool) -> Result<()> {
        self.put(at::FILE_WRITE, &Uuid::new_v4().to_bytes_le());
        self.put(at::LOG_ID, &[0; 16]);
        self.write_both(file, flush)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::MemoryStorage;

    fn image() -> MemoryStorage {
        let mut start = vec![0; 1 << 20];
        start[..8].copy_from_slice(IDENTIFIER);
        let storage = MemoryStorage::new(start);
        VhdxHeader::new(MIB, 1 << 20)
            .mark_changed(&storage, true)
            .unwrap();
        storage
    }

    fn message(bytes: Vec<u8>) -> String {
        let error = VhdxHeader::read(&MemoryStorage::new(bytes)).err();
        error.unwrap().to_string()
    }

    #[test]
    fn the_later_header_counts_and_the_other_stands_in() {
        let storage = image();
        let mut header = VhdxHeader::read(&storage).unwrap();
        assert_eq!((header.log_offset(), header.log_length()), (MIB, MIB));
        let before = header.sequence();
        header.write(&storage).unwrap();
        assert_eq!(VhdxHeader::read(&storage).unwrap().sequence(), before + 1);
        let mut bytes = storage.contents();
        let offset = usize::try_from(OFFSETS[header.place]).unwrap();
        bytes[offset + 100] ^= 1;
        let other = VhdxHeader::read(&MemoryStorage::new(bytes.clone())).unwrap();
        assert_eq!(other.sequence(), before);
        let offset = usize::try_from(OFFSETS[other.place]).unwrap();
        bytes[offset + 100] ^= 1;
        assert_eq!(message(bytes), "No valid VHDX header found");
    }

    #[test]
    fn headers_of_one_number_have_to_be_the_same() {
        let mut bytes = image().contents();
        let (one, other) = (64 << 10, 128 << 10);
        bytes.copy_within(one..one + LENGTH, other);
        VhdxHeader::read(&MemoryStorage::new(bytes.clone())).unwrap();
        bytes[other + at::FILE_WRITE] ^= 1;
        seal(&mut bytes[other..other + LENGTH]);
        assert_eq!(message(bytes), "No valid VHDX header found");
    }

    #[test]
    fn fields_of_the_log_are_checked() {
        let cases: [(usize, u32, bool); 5] = [
            (at::LOG_VERSION, 0x0001_0001, true),
            (at::LOG_OFFSET, 0, true),
            (at::LOG_OFFSET, 0x0010_0200, true),
            (at::LOG_LENGTH, 512, false),
            (at::LOG_ID, 1, false),
        ];
        for (at, value, is_wrong) in cases {
            let mut bytes = image().contents();
            for offset in [64 << 10, 128 << 10] {
                bytes[offset + at..offset + at + 4].copy_from_slice(&value.to_le_bytes());
                seal(&mut bytes[offset..offset + LENGTH]);
            }
            let read = VhdxHeader::read(&MemoryStorage::new(bytes));
            assert_eq!(read.is_err(), is_wrong, "{at}");
        }
    }
}
