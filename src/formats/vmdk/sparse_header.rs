//! The header of a sparse extent: 512 bytes with the places of the grain directory and of an embedded descriptor.
//!
//! The fields are little-endian and, from the second on, not naturally aligned. Offsets and lengths are in sectors of
//! 512 bytes.

use byteorder::{ByteOrder as _, LittleEndian};

use super::grains::{EntryKind, GrainLayout};
use crate::error::{Error, Result};
use crate::formats::fields::{put, u32_le, u64_le};
use crate::storage::Storage;
use crate::units::SECTOR_SIZE;

/// The magic number.
pub(super) const MARK: &[u8; 4] = b"KDMV";
/// The length of the header in bytes.
pub(super) const LENGTH: usize = 512;
/// The value of the grain directory's offset if the footer has it.
pub(super) const AT_END: u64 = u64::MAX;
/// The largest grain in bytes. QEMU accepts up to 1 GiB, which a malicious file could make it allocate.
const LARGEST_GRAIN: u64 = 64 << 20;
/// The largest number of entries in a grain table and in a grain directory.
const MOST_GRAIN_ENTRIES: u32 = 512;
const MOST_TABLES: u64 = 32 << 20;
/// The length of the end of a streamOptimized extent, in bytes: a footer marker, the footer, and an end-of-stream
/// marker.
const FOOTER_LENGTH: u64 = 3 * SECTOR_SIZE;
/// The largest number of sectors of zeroes after it.
const MOST_ZERO_SECTORS: u64 = 127;
/// The type of a footer marker.
const FOOTER_MARKER: u32 = 3;
/// The only compression algorithm: deflate, in zlib streams.
pub(super) const DEFLATE: u16 = 1;
/// The bytes that a transfer in text mode would change.
const LINE_ENDS: [u8; 4] = *b"\n \r\n";

/// The bits of the flags.
pub(super) mod flag {
    /// The bytes that detect a transfer in text mode are valid.
    pub(in crate::formats::vmdk) const LINE_ENDS: u32 = 1;
    /// There is a second grain directory, with copies of the grain tables.
    pub(in crate::formats::vmdk) const SECOND_DIRECTORY: u32 = 2;
    /// An entry of 1 marks a grain of zeroes.
    pub(in crate::formats::vmdk) const ZERO_GRAINS: u32 = 4;
    /// Grains are compressed.
    pub(in crate::formats::vmdk) const COMPRESSED: u32 = 1 << 16;
    /// Grains and metadata have markers before them.
    pub(in crate::formats::vmdk) const MARKERS: u32 = 1 << 17;
}

/// The offsets of fields, in bytes.
mod at {
    pub(super) const VERSION: usize = 4;
    pub(super) const FLAGS: usize = 8;
    pub(super) const CAPACITY: usize = 12;
    pub(super) const GRAIN: usize = 20;
    pub(super) const DESCRIPTOR: usize = 28;
    pub(super) const DESCRIPTOR_LENGTH: usize = 36;
    pub(super) const GRAIN_ENTRIES: usize = 44;
    pub(super) const SECOND_DIRECTORY: usize = 48;
    pub(super) const DIRECTORY: usize = 56;
    pub(super) const OVERHEAD: usize = 64;
    pub(super) const LINE_ENDS: usize = 73;
    pub(super) const COMPRESSION: usize = 77;
}

/// The fields of a header as stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct SparseHeader {
    pub(super) version: u32,
    pub(super) flags: u32,
    /// The size of the disk in sectors of 512 bytes.
    pub(super) capacity: u64,
    /// The length of a grain in sectors.
    pub(super) grain: u64,
    /// The offset and the length of the descriptor, in sectors; 0 if it isn't embedded.
    pub(super) descriptor: u64,
    pub(super) descriptor_length: u64,
    /// The number of entries in a grain table.
    pub(super) grain_entries: u32,
    /// The offset of the second grain directory, in sectors.
    pub(super) second_directory: u64,
    /// The offset of the grain directory in sectors, or [`AT_END`].
    pub(super) directory: u64,
    /// The number of sectors before the first grain.
    pub(super) overhead: u64,
    /// The compression algorithm; 1 is deflate.
    pub(super) compression: u16,
}

impl SparseHeader {
    /// Parses the header in the first sector of a file. Returns `None` if it has another magic number.
    pub(super) fn parse(bytes: &[u8; LENGTH]) -> Option<Self> {
        let number = |at: usize| u32_le(bytes, at);
        let long = |at: usize| u64_le(bytes, at);
        bytes.starts_with(MARK).then(|| Self {
            version: number(at::VERSION),
            flags: number(at::FLAGS),
            capacity: long(at::CAPACITY),
            grain: long(at::GRAIN),
            descriptor: long(at::DESCRIPTOR),
            descriptor_length: long(at::DESCRIPTOR_LENGTH),
            grain_entries: number(at::GRAIN_ENTRIES),
            second_directory: long(at::SECOND_DIRECTORY),
            directory: long(at::DIRECTORY),
            overhead: long(at::OVERHEAD),
            compression: LittleEndian::read_u16(bytes.get(at::COMPRESSION..).unwrap_or_default()),
        })
    }

    /// Reads the header of an extent, which a streamOptimized one may have at its end.
    ///
    /// # Errors
    /// Returns the system's error. Returns an error, in QEMU's words where it has any, if a field is invalid or if
    /// the file is truncated.
    pub(super) fn read(file: &dyn Storage) -> Result<Self> {
        let length = file.len()?;
        let mut bytes = [0; LENGTH];
        file.read_padded_at(0, &mut bytes, length)?;
        let header = Self::parse(&bytes).ok_or_else(|| {
            Error::corrupt("Image not in VMDK format: an extent has no KDMV mark")
        })?;
        let header = match header.directory {
            AT_END => header.footer(file, length)?,
            _ => header,
        };
        header.check(&bytes, length)?;
        Ok(header)
    }

    /// Reads the footer of a streamOptimized extent. Zeroes may follow it if the file was copied in blocks, which
    /// QEMU refuses.
    fn footer(&self, file: &dyn Storage, length: u64) -> Result<Self> {
        self.find_footer(file, length).map(|(_, footer)| footer)
    }

    /// Returns the offset of the footer's marker in bytes, and the footer.
    fn find_footer(&self, file: &dyn Storage, length: u64) -> Result<(u64, Self)> {
        let invalid = || Error::corrupt("Invalid footer");
        let mut end = length / SECTOR_SIZE * SECTOR_SIZE;
        for _ in 0..=MOST_ZERO_SECTORS {
            let start = end.checked_sub(FOOTER_LENGTH).ok_or_else(invalid)?;
            let mut sectors = [[0; LENGTH]; 3];
            file.read_exact_at(start, sectors.as_flattened_mut(), "the footer")?;
            let [marker, footer, last] = &sectors;
            if last.iter().any(|byte| *byte != 0) {
                return Err(invalid());
            }
            let number = |at: usize| u32_le(marker, at);
            if number(8) == 0 && number(12) == FOOTER_MARKER {
                let footer = Self::parse(footer).ok_or_else(invalid)?;
                let is_same = (footer.capacity, footer.grain) == (self.capacity, self.grain);
                if footer.directory == AT_END || !is_same {
                    return Err(invalid());
                }
                return Ok((start, footer));
            }
            end -= SECTOR_SIZE;
        }
        Err(invalid())
    }

    fn check(&self, start: &[u8; LENGTH], length: u64) -> Result<()> {
        if self.version > 3 {
            return Err(Error::unsupported(format!(
                "Unsupported VMDK version {}",
                self.version
            )));
        }
        if self.grain_entries > MOST_GRAIN_ENTRIES {
            return Err(Error::corrupt("L2 table size too big"));
        }
        if self.grain_entries == 0 || self.grain == 0 {
            return Err(Error::corrupt("L1 entry size is invalid"));
        }
        let is_grain = |grain: u64| grain <= LARGEST_GRAIN;
        if !self.grain.checked_mul(SECTOR_SIZE).is_some_and(is_grain) {
            return Err(Error::corrupt("Invalid granularity, image may be corrupt"));
        }
        if self.tables() > MOST_TABLES {
            return Err(Error::corrupt("L1 size too big"));
        }
        if self.capacity > i64::MAX.unsigned_abs() / SECTOR_SIZE {
            return Err(Error::corrupt("the disk of the image is too large"));
        }
        // A streamOptimized extent has its tables at the end, so only its grains show if it is complete.
        let least = self.overhead.saturating_mul(SECTOR_SIZE);
        if least > length {
            return Err(Error::corrupt(format!(
                "File truncated, expecting at least {least} bytes"
            )));
        }
        // QEMU checks only the algorithm, and reads grains with an unknown one as uncompressed.
        if self.flags & flag::COMPRESSED != 0 && !self.is_compressed() {
            return Err(Error::unsupported(format!(
                "unsupported method {} of compression",
                self.compression
            )));
        }
        // QEMU ignores these bytes.
        let ends = start.get(at::LINE_ENDS..at::LINE_ENDS + LINE_ENDS.len());
        if self.flags & flag::LINE_ENDS != 0 && ends != Some(&LINE_ENDS[..]) {
            return Err(Error::corrupt(
                "the image was damaged by a transfer that changes the ends of lines",
            ));
        }
        Ok(())
    }

    /// Returns the size of the disk in bytes.
    pub(super) fn size(&self) -> u64 {
        self.capacity.saturating_mul(SECTOR_SIZE)
    }

    /// Returns the length of a grain in bytes.
    pub(super) fn grain_size(&self) -> u64 {
        self.grain.saturating_mul(SECTOR_SIZE)
    }

    /// Returns the number of grain tables.
    pub(super) fn tables(&self) -> u64 {
        let covered = self.grain.saturating_mul(self.grain_entries.into());
        self.capacity.div_ceil(covered.max(1))
    }

    /// Returns true if grains are compressed.
    pub(super) fn is_compressed(&self) -> bool {
        self.compression == DEFLATE
    }

    /// Returns the layout of the extent.
    pub(super) fn layout(&self) -> GrainLayout {
        let has_second = self.flags & flag::SECOND_DIRECTORY != 0 && self.second_directory != 0;
        GrainLayout {
            size: self.size(),
            grain: self.grain_size(),
            entries: self.grain_entries.into(),
            directory: self.directory.saturating_mul(SECTOR_SIZE),
            second_directory: has_second.then(|| self.second_directory.saturating_mul(SECTOR_SIZE)),
            kind: EntryKind::Sectors {
                has_zero: self.flags & flag::ZERO_GRAINS != 0,
                is_compressed: self.is_compressed(),
                has_markers: self.flags & flag::MARKERS != 0,
            },
            next_free: None,
        }
    }

    /// Encodes the header.
    pub(super) fn encode(&self) -> [u8; LENGTH] {
        let mut bytes = [0; LENGTH];
        put(&mut bytes, 0, MARK);
        put(&mut bytes, at::VERSION, &self.version.to_le_bytes());
        put(&mut bytes, at::FLAGS, &self.flags.to_le_bytes());
        put(&mut bytes, at::CAPACITY, &self.capacity.to_le_bytes());
        put(&mut bytes, at::GRAIN, &self.grain.to_le_bytes());
        put(&mut bytes, at::DESCRIPTOR, &self.descriptor.to_le_bytes());
        put(
            &mut bytes,
            at::DESCRIPTOR_LENGTH,
            &self.descriptor_length.to_le_bytes(),
        );
        put(
            &mut bytes,
            at::GRAIN_ENTRIES,
            &self.grain_entries.to_le_bytes(),
        );
        put(
            &mut bytes,
            at::SECOND_DIRECTORY,
            &self.second_directory.to_le_bytes(),
        );
        put(&mut bytes, at::DIRECTORY, &self.directory.to_le_bytes());
        put(&mut bytes, at::OVERHEAD, &self.overhead.to_le_bytes());
        put(&mut bytes, at::LINE_ENDS, &LINE_ENDS);
        put(&mut bytes, at::COMPRESSION, &self.compression.to_le_bytes());
        bytes
    }
}

/// Returns the offset of the marker before the footer in bytes, if the first header in `file` says that there is one.
///
/// # Errors
/// Returns the system's error, or an error if there is no footer although there should be one.
pub(super) fn footer_marker(file: &dyn Storage) -> Result<Option<u64>> {
    let length = file.len()?;
    let mut bytes = [0; LENGTH];
    file.read_padded_at(0, &mut bytes, length)?;
    let header = SparseHeader::parse(&bytes).filter(|header| header.directory == AT_END);
    let found = header.map(|header| header.find_footer(file, length));
    Ok(found.transpose()?.map(|(start, _)| start))
}
