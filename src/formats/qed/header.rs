//! The header: 64 bytes, and after them the name of the backing file.

use crate::error::{Error, Result};
use crate::formats::block_map::TableShape;
use crate::formats::fields::{put, u32_le, u64_le};
use crate::storage::Storage;
use crate::units::SECTOR_SIZE;

/// The magic number.
pub(super) const MAGIC: &[u8; 4] = b"QED\0";
/// The length of the header without the name, in bytes.
pub(super) const LENGTH: usize = 64;
/// The longest name of a backing file, in bytes.
const LONGEST_NAME: u32 = 4095;
/// The length of a table entry in bytes.
const ENTRY_LENGTH: u64 = 8;

/// The feature bits.
pub(super) mod features {
    /// The header has the name of a backing file.
    pub(in super::super) const BACKING_FILE: u64 = 1;
    /// The tables may refer to clusters beyond the end of the file.
    pub(in super::super) const NEED_CHECK: u64 = 2;
    /// The backing file is raw and must not be probed.
    pub(in super::super) const BACKING_IS_RAW: u64 = 4;
    /// All known features.
    pub(super) const KNOWN: u64 = BACKING_FILE | NEED_CHECK | BACKING_IS_RAW;
}

/// A checked header.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct QedHeader {
    /// The cluster size in bytes.
    pub(super) cluster_size: u64,
    /// The length of a table in clusters.
    pub(super) table_size: u64,
    /// The length of the header in clusters.
    pub(super) header_size: u64,
    /// The feature bits, all of which are known.
    pub(super) features: u64,
    /// The compatible features, which a program may ignore.
    pub(super) compat_features: u64,
    /// The autoclear features, which a writer clears unless it knows them.
    pub(super) autoclear_features: u64,
    /// The offset of the L1 table in bytes.
    pub(super) l1_offset: u64,
    /// The size of the disk in bytes, a multiple of 512.
    pub(super) size: u64,
    /// The offset of the backing file's name in bytes.
    pub(super) backing_offset: u32,
    /// The backing file's name.
    pub(super) backing: Option<Vec<u8>>,
}

/// Returns true for a valid cluster size in bytes.
pub(super) fn is_cluster_size(size: u64) -> bool {
    size.is_power_of_two() && (4096..=64 << 20).contains(&size)
}

/// Returns true for a valid table size in clusters.
pub(super) fn is_table_size(size: u64) -> bool {
    size.is_power_of_two() && size <= 16
}

/// Returns the size of the largest disk in bytes, which may exceed the largest file.
pub(super) fn longest_disk(cluster_size: u64, table_size: u64) -> u128 {
    let entries = u128::from(cluster_size * table_size / ENTRY_LENGTH);
    u128::from(cluster_size) * entries * entries
}

/// Returns the size of the largest disk that QEMU accepts in bytes. QEMU computes it in 64 bits, and refuses images
/// with large clusters because of an overflow.
pub(super) fn longest_new_disk(cluster_size: u64, table_size: u64) -> u64 {
    let longest = longest_disk(cluster_size, table_size) & u128::from(u64::MAX);
    u64::try_from(longest).unwrap_or_default()
}

impl QedHeader {
    /// Reads the header of the image in `file`.
    ///
    /// # Errors
    /// Returns the system's error. Returns an error, in QEMU's words, if the header is invalid.
    pub(super) fn read(file: &dyn Storage) -> Result<Self> {
        let length = file.len()?;
        let mut bytes = [0; LENGTH];
        file.read_padded_at(0, &mut bytes, length)?;
        let mut header = Self::parse(&bytes, length)?;
        if header.features & features::BACKING_FILE != 0 {
            let name_length = u32_le(&bytes, 60);
            let end = u64::from(header.backing_offset) + u64::from(name_length);
            if end > header.cluster_size * header.header_size {
                return Err(Error::corrupt("QED backing filename offset is invalid"));
            }
            let unreadable = || Error::corrupt("Failed to read backing filename");
            if name_length > LONGEST_NAME {
                return Err(unreadable());
            }
            let mut name = vec![0; usize::try_from(name_length).unwrap_or_default()];
            let read = file.read_at(header.backing_offset.into(), &mut name)?;
            if read < name.len() {
                return Err(unreadable());
            }
            // As in QEMU, the name ends at its first zero byte.
            let end = name.iter().position(|byte| *byte == 0);
            name.truncate(end.unwrap_or(name.len()));
            header.backing = (!name.is_empty()).then_some(name);
        }
        Ok(header)
    }

    fn parse(bytes: &[u8; LENGTH], length: u64) -> Result<Self> {
        let short = |at: usize| u32_le(bytes, at);
        let long = |at: usize| u64_le(bytes, at);
        let wrong = |what: &str| Err(Error::corrupt(what));
        let header = Self {
            cluster_size: short(4).into(),
            table_size: short(8).into(),
            header_size: short(12).into(),
            features: long(16),
            compat_features: long(24),
            autoclear_features: long(32),
            l1_offset: long(40),
            size: long(48),
            backing_offset: short(56),
            backing: None,
        };
        if !bytes.starts_with(MAGIC) {
            return wrong("Image not in QED format");
        }
        let unknown = header.features & !features::KNOWN;
        if unknown != 0 {
            return Err(Error::unsupported(format!(
                "Unsupported QED features: {unknown:x}"
            )));
        }
        if !is_cluster_size(header.cluster_size) {
            return wrong("QED cluster size is invalid");
        }
        if !is_table_size(header.table_size) {
            return wrong("QED table size is invalid");
        }
        let longest = longest_disk(header.cluster_size, header.table_size);
        let is_addressable = i64::try_from(header.size).is_ok();
        if !header.size.is_multiple_of(SECTOR_SIZE)
            || u128::from(header.size) > longest
            || !is_addressable
        {
            return wrong("QED image size is invalid");
        }
        if !header.is_table_offset(header.l1_offset, length) {
            return wrong("QED table offset is invalid");
        }
        if header.header_size * header.cluster_size > u32::MAX.into() {
            return wrong("QED header size is too large");
        }
        Ok(header)
    }

    /// Returns the header of a new disk.
    pub(super) fn new(size: u64, cluster_size: u64, table_size: u64) -> Self {
        Self {
            cluster_size,
            table_size,
            header_size: 1,
            features: 0,
            compat_features: 0,
            autoclear_features: 0,
            l1_offset: cluster_size,
            size,
            backing_offset: 0,
            backing: None,
        }
    }

    /// Returns the header with a backing file, whose name is at byte `offset`, or without one.
    #[must_use]
    pub(super) fn with_backing(mut self, name: Option<&[u8]>, is_raw: bool, offset: u32) -> Self {
        self.features &= !(features::BACKING_FILE | features::BACKING_IS_RAW);
        self.backing = name.map(<[u8]>::to_vec);
        self.backing_offset = 0;
        if name.is_some() {
            self.backing_offset = offset;
            self.features |= features::BACKING_FILE;
            if is_raw {
                self.features |= features::BACKING_IS_RAW;
            }
        }
        self
    }

    /// Returns true if the backing file is marked as raw.
    pub(super) fn backing_is_raw(&self) -> bool {
        self.features & features::BACKING_IS_RAW != 0
    }

    /// Encodes the header without the name.
    pub(super) fn encode(&self) -> [u8; LENGTH] {
        let mut bytes = [0; LENGTH];
        let short = |value: u64| u32::try_from(value).unwrap_or_default().to_le_bytes();
        put(&mut bytes, 0, MAGIC);
        put(&mut bytes, 4, &short(self.cluster_size));
        put(&mut bytes, 8, &short(self.table_size));
        put(&mut bytes, 12, &short(self.header_size));
        put(&mut bytes, 16, &self.features.to_le_bytes());
        put(&mut bytes, 24, &self.compat_features.to_le_bytes());
        put(&mut bytes, 32, &self.autoclear_features.to_le_bytes());
        put(&mut bytes, 40, &self.l1_offset.to_le_bytes());
        put(&mut bytes, 48, &self.size.to_le_bytes());
        put(&mut bytes, 56, &self.backing_offset.to_le_bytes());
        let name_length = self.backing.as_ref().map_or(0, Vec::len) as u64;
        put(&mut bytes, 60, &short(name_length));
        bytes
    }

    /// Returns the length of a table in bytes.
    pub(super) fn table_length(&self) -> u64 {
        self.table_size * self.cluster_size
    }

    /// Returns the number of entries in a table.
    pub(super) fn table_entries(&self) -> u64 {
        self.table_length() / ENTRY_LENGTH
    }

    /// Returns the number of clusters of the disk.
    pub(super) fn clusters(&self) -> u64 {
        self.size.div_ceil(self.cluster_size)
    }

    /// Returns the places and the encoding of the tables.
    pub(super) fn shape(&self) -> TableShape {
        TableShape {
            is_big_endian: false,
            l1_offset: self.l1_offset,
            l1_entries: self.table_entries(),
            l2_entries: self.table_entries(),
            l2_alignment: self.cluster_size,
        }
    }

    /// Returns true if a cluster can start at `offset`, in a file of `length` bytes.
    pub(super) fn is_cluster_offset(&self, offset: u64, length: u64) -> bool {
        let least = self.header_size.saturating_mul(self.cluster_size);
        offset.is_multiple_of(self.cluster_size) && offset >= least && offset < length
    }

    /// Returns true if a table can start at `offset`, in a file of `length` bytes.
    pub(super) fn is_table_offset(&self, offset: u64, length: u64) -> bool {
        let end = offset.checked_add(self.table_length());
        self.is_cluster_offset(offset, length) && end.is_some_and(|end| end <= length)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        for (size, cluster_size, table_size) in
            [(0, 65536, 4), (512, 4096, 1), (1 << 40, 64 << 20, 16)]
        {
            let header = QedHeader::new(size, cluster_size, table_size);
            let read = QedHeader::parse(&header.encode(), 4 << 30).unwrap();
            assert_eq!(read, header);
        }
    }

    #[test]
    fn the_longest_disk_is_no_small_number() {
        assert_eq!(longest_disk(65536, 4), 64 << 40);
        assert_eq!(longest_disk(64 << 20, 16), 1 << 80);
        assert_eq!(longest_new_disk(65536, 4), 64 << 40);
        assert_eq!(longest_new_disk(64 << 20, 16), 0);
    }
}
