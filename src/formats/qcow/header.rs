//! The header: 48 bytes, which the name of the backing file and the L1 table follow.

use crate::error::{Error, Result};
use crate::formats::block_map::TableShape;
use crate::formats::encryption::EncryptionFormat;
use crate::formats::fields::{u32_be, u64_be};
use crate::storage::Storage;
use crate::units::SECTOR_SIZE;

/// The magic number.
pub(super) const MAGIC: &[u8; 4] = b"QFI\xfb";
/// The version.
pub(super) const VERSION: u32 = 1;
/// The length of the header in bytes.
pub(super) const LENGTH: usize = 48;
/// The longest name of a backing file, in bytes.
const LONGEST_NAME: u32 = 1023;
/// The largest number of L1 entries that QEMU accepts.
const MOST_L1_ENTRIES: u64 = i32::MAX as u64 / 8;

/// A checked header.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct QcowHeader {
    /// The size of the disk in bytes, a multiple of 512.
    pub(super) size: u64,
    /// The binary logarithm of the cluster size in bytes: 9 to 16.
    pub(super) cluster_bits: u32,
    /// The binary logarithm of the number of entries in an L2 table: 6 to 13.
    pub(super) l2_bits: u32,
    /// True if the data is encrypted.
    pub(super) is_encrypted: bool,
    /// The offset of the L1 table in bytes.
    pub(super) l1_offset: u64,
    /// The backing file's name.
    pub(super) backing: Option<Vec<u8>>,
}

impl QcowHeader {
    /// Reads the header of the image in `file`.
    ///
    /// # Errors
    /// Returns the system's error. Returns an error, in QEMU's words, if the header is invalid.
    pub(super) fn read(file: &dyn Storage) -> Result<Self> {
        let mut bytes = [0; LENGTH];
        file.read_padded_at(0, &mut bytes, file.len()?)?;
        let (mut header, name_offset, name_length) = Self::parse(&bytes)?;
        if name_offset != 0 {
            if name_length > LONGEST_NAME {
                return Err(Error::corrupt("Backing file name too long"));
            }
            let mut name = vec![0; usize::try_from(name_length).unwrap_or_default()];
            file.read_exact_at(name_offset, &mut name, "the name of the backing file")?;
            // As in QEMU, the name ends at its first zero byte.
            let end = name.iter().position(|byte| *byte == 0);
            name.truncate(end.unwrap_or(name.len()));
            header.backing = (!name.is_empty()).then_some(name);
        }
        Ok(header)
    }

    /// Returns the header, and the offset and the length of the name in bytes.
    fn parse(bytes: &[u8; LENGTH]) -> Result<(Self, u64, u32)> {
        let byte = |at: usize| bytes.get(at).copied().map_or(0, u32::from);
        let short = |at: usize| u32_be(bytes, at);
        let long = |at: usize| u64_be(bytes, at);
        let wrong = |what: &str| Err(Error::corrupt(what));
        if !bytes.starts_with(MAGIC) {
            return wrong("Image not in qcow format");
        }
        let version = short(4);
        if version != VERSION {
            let error =
                Error::unsupported(format!("qcow (v1) does not support qcow version {version}"));
            return Err(match version {
                2 | 3 => error.with_hint("Try the 'qcow2' driver instead."),
                _ => error,
            });
        }
        let size = long(24);
        if size <= 1 {
            return wrong("Image size is too small (must be at least 2 bytes)");
        }
        let (cluster_bits, l2_bits) = (byte(32), byte(33));
        if !(9..=16).contains(&cluster_bits) {
            return wrong("Cluster size must be between 512 and 64k");
        }
        if !(6..=13).contains(&l2_bits) {
            return wrong("L2 table size must be between 512 and 64k");
        }
        let method = short(36);
        if method > 1 {
            return wrong("invalid encryption method in qcow header");
        }
        let header = Self {
            size: size / SECTOR_SIZE * SECTOR_SIZE,
            cluster_bits,
            l2_bits,
            is_encrypted: method == 1,
            l1_offset: long(40),
            backing: None,
        };
        let reach = 1u64 << (cluster_bits + l2_bits);
        let is_too_large = size > u64::MAX - reach || size.div_ceil(reach) > MOST_L1_ENTRIES;
        if is_too_large || i64::try_from(size).is_err() {
            return wrong("Image too large");
        }
        Ok((header, long(8), short(16)))
    }

    /// Returns the header of a new disk of `size` bytes.
    ///
    /// # Errors
    /// Returns an error if the format doesn't support such a disk.
    pub(super) fn new(size: u64, backing: Option<Vec<u8>>, is_encrypted: bool) -> Result<Self> {
        // As in QEMU, clusters over a backing file have one sector, so that a write never copies from the backing
        // file.
        let (cluster_bits, l2_bits) = match backing {
            Some(_) => (9, 12),
            None => (12, 9),
        };
        let name = backing.as_ref().map_or(0, Vec::len);
        let header = Self {
            size,
            cluster_bits,
            l2_bits,
            is_encrypted,
            l1_offset: (LENGTH + name).next_multiple_of(8) as u64,
            backing,
        };
        if header.l1_entries() > MOST_L1_ENTRIES {
            return Err(Error::invalid("Image too large"));
        }
        Ok(header)
    }

    /// Encodes the header and the name.
    pub(super) fn encode(&self) -> Vec<u8> {
        let name = self.backing.as_deref().unwrap_or_default();
        let mut bytes = Vec::with_capacity(LENGTH + name.len());
        let name_offset = if name.is_empty() { 0 } else { LENGTH as u64 };
        let short = |number: usize| u32::try_from(number).unwrap_or_default().to_be_bytes();
        let byte = |bits: u32| u8::try_from(bits).unwrap_or_default();
        bytes.extend(MAGIC);
        bytes.extend(VERSION.to_be_bytes());
        bytes.extend(name_offset.to_be_bytes());
        bytes.extend(short(name.len()));
        bytes.extend([0; 4]);
        bytes.extend(self.size.to_be_bytes());
        bytes.extend([byte(self.cluster_bits), byte(self.l2_bits), 0, 0]);
        bytes.extend(short(self.is_encrypted.into()));
        bytes.extend(self.l1_offset.to_be_bytes());
        bytes.extend(name);
        bytes
    }

    /// Returns the length of the fields and of the name that follows them, in bytes.
    pub(super) fn length(&self) -> u64 {
        (LENGTH + self.backing.as_ref().map_or(0, Vec::len)) as u64
    }

    /// Returns the cluster size in bytes.
    pub(super) fn cluster_size(&self) -> u64 {
        1 << self.cluster_bits
    }

    /// Returns the number of L1 entries.
    pub(super) fn l1_entries(&self) -> u64 {
        self.size.div_ceil(1 << (self.cluster_bits + self.l2_bits))
    }

    /// Returns the end of the L1 table in bytes.
    pub(super) fn l1_end(&self) -> u64 {
        self.l1_offset.saturating_add(self.l1_entries() * 8)
    }

    /// Returns the places and the encoding of the tables.
    pub(super) fn shape(&self) -> TableShape {
        TableShape {
            is_big_endian: true,
            l1_offset: self.l1_offset,
            l1_entries: self.l1_entries(),
            l2_entries: 1 << self.l2_bits,
            // QEMU aligns the tables of new images, but doesn't require it of others.
            l2_alignment: 1,
        }
    }

    /// Returns the encryption format of the data.
    pub(super) fn encryption(&self) -> Option<EncryptionFormat> {
        self.is_encrypted.then_some(EncryptionFormat::Aes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        for backing in [None, Some(b"base".to_vec())] {
            let header = QcowHeader::new(5 << 20, backing, true).unwrap();
            let storage = crate::storage::MemoryStorage::new(header.encode());
            assert_eq!(QcowHeader::read(&storage).unwrap(), header);
        }
    }
}
