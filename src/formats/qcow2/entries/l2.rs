//! Entries of L2 tables, which refer to data clusters and compressed clusters.

use super::{COPIED, EntryError, OFFSET_MASK, with_copied};
use crate::formats::qcow2::geometry::Geometry;
use crate::units::HostOffset;

/// Bit 62 of an L2 entry: the cluster is compressed.
const COMPRESSED: u64 = 1 << 62;
/// Bit 0 of a standard L2 entry, version 3: the cluster reads as zeroes.
const ZERO: u64 = 1;
/// The unit of a compressed cluster's length, in bytes.
const COMPRESSED_SECTOR: u64 = 512;

/// A standard (8-byte) L2 table entry as stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct L2Entry(pub u64);

/// The meaning of an L2 entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum L2Target {
    /// The cluster isn't allocated.
    Unallocated,
    /// Reads as zeroes. A cluster may be allocated nevertheless.
    Zero {
        /// The host offset of the preallocated cluster, and the COPIED flag.
        kept: Option<(HostOffset, bool)>,
    },
    /// A data cluster.
    Data {
        /// The host offset of the cluster.
        host: HostOffset,
        /// The COPIED flag.
        copied: bool,
    },
    /// A compressed cluster.
    Compressed(CompressedRange),
}

/// The bytes of a compressed cluster. They may start at any byte. Their length is stored in sectors of 512 bytes, so
/// that the range may extend beyond the end of the compressed data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CompressedRange {
    /// The host offset of the first byte.
    pub host: HostOffset,
    /// The length of the range in bytes, up to the end of its last sector.
    pub length: u64,
}

impl L2Entry {
    /// Returns the entry of a data cluster with a refcount of 1.
    pub fn to_data(host: HostOffset) -> Self {
        Self(host.0 | COPIED)
    }

    /// Returns the standard entry of a cluster that reads as zeroes (version 3 only). `kept` is an allocated cluster
    /// with a refcount of 1.
    pub fn to_zero(kept: Option<HostOffset>) -> Self {
        Self(kept.map_or(ZERO, |host| host.0 | COPIED | ZERO))
    }

    /// Returns the entry of a cluster that reads as zeroes and isn't allocated (version 3 only). With extended L2
    /// entries, the bitmap marks the zeroes.
    pub fn to_unallocated_zero(geometry: Geometry) -> Self {
        match geometry.has_subclusters() {
            true => Self::default(),
            false => Self::to_zero(None),
        }
    }

    /// Returns the entry of a compressed cluster of `length` bytes, at least 1 and less than the cluster size. It is
    /// the inverse of [`target`](Self::target). The COPIED flag is never set. Returns `None` if the offset doesn't
    /// fit into its bits.
    pub fn to_compressed(geometry: Geometry, host: HostOffset, length: u64) -> Option<Self> {
        let x = compressed_offset_bits(geometry);
        let last = host.0.checked_add(length.checked_sub(1)?)?;
        let more_sectors = last / COMPRESSED_SECTOR - host.0 / COMPRESSED_SECTOR;
        let fits = last >> x == 0 && more_sectors >> (62 - x) == 0;
        fits.then_some(Self(COMPRESSED | more_sectors << x | host.0))
    }

    /// Decodes the entry. `zero_flag` is true if the image's version has zero clusters.
    ///
    /// # Errors
    /// Returns an error if reserved bits are set, if the offset is not cluster-aligned, or if a zero flag is
    /// set in version 2.
    pub fn target(self, geometry: Geometry, zero_flag: bool) -> Result<L2Target, EntryError> {
        if self.0 & COMPRESSED != 0 {
            return Ok(L2Target::Compressed(self.compressed(geometry)));
        }
        if self.has_reserved_bits() {
            return Err(EntryError::Reserved);
        }
        let host = HostOffset(self.0 & OFFSET_MASK);
        if !geometry.is_aligned(host) {
            return Err(EntryError::Unaligned(host));
        }
        let copied = self.0 & COPIED != 0;
        // With extended L2 entries, zeroes are recorded only in the bitmap.
        if self.0 & ZERO != 0 && !geometry.has_subclusters() {
            if !zero_flag {
                return Err(EntryError::ZeroFlagInVersion2);
            }
            return Ok(L2Target::Zero {
                kept: (host.0 != 0).then_some((host, copied)),
            });
        }
        if host.0 == 0 {
            return Ok(L2Target::Unallocated);
        }
        Ok(L2Target::Data { host, copied })
    }

    /// Decodes the entry as [`target`](Self::target) does, in an image with an external data file. In that file 0 is
    /// a valid offset, and the COPIED flag marks an allocated cluster there.
    ///
    /// # Errors
    /// Returns an error as [`target`](Self::target) does.
    pub fn target_in_data_file(
        self,
        geometry: Geometry,
        zero_flag: bool,
    ) -> Result<L2Target, EntryError> {
        let start = HostOffset(0);
        let target = self.target(geometry, zero_flag)?;
        Ok(match target {
            L2Target::Unallocated if self.is_copied() => L2Target::Data {
                host: start,
                copied: true,
            },
            L2Target::Zero { kept: None } if self.is_copied() => L2Target::Zero {
                kept: Some((start, true)),
            },
            other => other,
        })
    }

    fn compressed(self, geometry: Geometry) -> CompressedRange {
        let x = compressed_offset_bits(geometry);
        let host = self.0 & ((1 << x) - 1);
        let more_sectors = (self.0 & (COMPRESSED - 1)) >> x;
        CompressedRange {
            host: HostOffset(host),
            length: (more_sectors + 1) * COMPRESSED_SECTOR - host % COMPRESSED_SECTOR,
        }
    }

    /// Decodes the entry without checking it, as `check` needs it: reserved bits are ignored and offsets may be
    /// unaligned. `data_file` is true if data clusters are in an external data file, where 0 is a valid offset.
    pub fn lead(self, geometry: Geometry, data_file: bool) -> L2Lead {
        if self.0 & COMPRESSED != 0 {
            return L2Lead::Compressed(self.compressed(geometry));
        }
        let host = HostOffset(self.0 & OFFSET_MASK);
        let copied = self.is_copied();
        let zero = self.0 & ZERO != 0 && !geometry.has_subclusters();
        if host.0 != 0 || (data_file && copied && !zero) {
            return L2Lead::Stored { host, copied, zero };
        }
        if zero { L2Lead::Zero } else { L2Lead::Nothing }
    }

    /// Returns true if bits are set that the specification reserves. Must not be called for compressed clusters.
    pub fn has_reserved_bits(self) -> bool {
        self.0 & !(OFFSET_MASK | COPIED | ZERO) != 0
    }

    /// Returns the entry with the COPIED flag set or cleared.
    #[must_use]
    pub fn with_copied(self, copied: bool) -> Self {
        Self(with_copied(self.0, copied))
    }

    /// Returns true if the COPIED flag is set; a compressed cluster must never have it.
    pub fn is_copied(self) -> bool {
        self.0 & COPIED != 0
    }
}

/// The cluster that an L2 entry refers to; see [`L2Entry::lead`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum L2Lead {
    /// None: the cluster isn't allocated.
    Nothing,
    /// None: the cluster reads as zeroes.
    Zero,
    /// A cluster.
    Stored {
        /// Its host offset, aligned or not.
        host: HostOffset,
        /// The COPIED flag.
        copied: bool,
        /// True if the cluster is allocated but reads as zeroes.
        zero: bool,
    },
    /// A compressed cluster.
    Compressed(CompressedRange),
}

/// Returns x of the specification's "Compressed Clusters Descriptor": 62 − (cluster_bits − 8). Bits 0 to x−1 are the
/// offset, and bits x to 61 are the number of additional sectors of 512 bytes.
fn compressed_offset_bits(geometry: Geometry) -> u32 {
    62 - (geometry.cluster_bits() - 8)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::formats::qcow2::entries::geometry;

    #[test]
    fn l2_entries() {
        let at = |entry| L2Entry(entry).target(geometry(16), true);
        assert_eq!(at(0), Ok(L2Target::Unallocated));
        assert_eq!(at(1), Ok(L2Target::Zero { kept: None }));
        assert_eq!(
            at(0x8000_0000_0005_0001),
            Ok(L2Target::Zero {
                kept: Some((HostOffset(0x5_0000), true))
            })
        );
        assert_eq!(
            at(0x5_0000),
            Ok(L2Target::Data {
                host: HostOffset(0x5_0000),
                copied: false
            })
        );
        assert_eq!(at(0x5_0002), Err(EntryError::Reserved));
        assert_eq!(at(0x2000_0000_0005_0000), Err(EntryError::Reserved));
        assert_eq!(
            L2Entry(1).target(geometry(16), false),
            Err(EntryError::ZeroFlagInVersion2)
        );
    }

    #[test]
    fn compressed_descriptors_split_by_cluster_size() {
        // 64 KiB clusters have 8 bits of sector count, 54 bits of offset.
        let range = L2Entry(0x4000_0000_0000_0000 | 3 << 54 | 0x5_0123).target(geometry(16), true);
        assert_eq!(
            range,
            Ok(L2Target::Compressed(CompressedRange {
                host: HostOffset(0x5_0123),
                length: 4 * 512 - 0x123
            }))
        );
        // 512-byte clusters have 1 bit of sector count, 61 bits of offset.
        let range = L2Entry(0x4000_0000_0000_0000 | 1 << 61 | 0x201).target(geometry(9), true);
        assert_eq!(
            range,
            Ok(L2Target::Compressed(CompressedRange {
                host: HostOffset(0x201),
                length: 1024 - 1
            }))
        );
    }

    #[test]
    fn compressed_descriptors_are_made_as_they_are_read() {
        for bits in 9..=21 {
            let geometry = geometry(bits);
            let size = geometry.cluster_size();
            for host in [size, size + 1, 3 * size + 511, 5 * size - 1, 7 * size + 300] {
                for length in [1, 2, 212, 511, size - 1] {
                    let entry = L2Entry::to_compressed(geometry, HostOffset(host), length).unwrap();
                    assert!(!entry.is_copied());
                    let Ok(L2Target::Compressed(range)) = entry.target(geometry, true) else {
                        panic!("not compressed: {entry:?}");
                    };
                    assert_eq!(range.host, HostOffset(host));
                    let end = (host + length).next_multiple_of(512);
                    assert_eq!(range.length, end - host, "{length} at {host}");
                }
            }
        }
        // 2 MiB clusters have 49 bits of offset.
        let at = |host| L2Entry::to_compressed(geometry(21), HostOffset(host), 2);
        assert!(at((1 << 49) - 2).is_some());
        assert!(at((1 << 49) - 1).is_none());
        // The literal entry is 4 sectors from 0x50123 on, with clusters of 64 KiB.
        assert_eq!(
            L2Entry::to_compressed(geometry(16), HostOffset(0x5_0123), 3 * 512),
            Some(L2Entry(0x4000_0000_0000_0000 | 3 << 54 | 0x5_0123))
        );
    }

    #[test]
    fn where_damaged_entries_lead() {
        let at = |entry| L2Entry(entry).lead(geometry(16), false);
        assert_eq!(at(0), L2Lead::Nothing);
        assert_eq!(at(1), L2Lead::Zero);
        let stored = |host, copied, zero| L2Lead::Stored {
            host: HostOffset(host),
            copied,
            zero,
        };
        assert_eq!(at(0x8000_0000_0005_0201), stored(0x5_0200, true, true));
        assert_eq!(at(0x2000_0000_0005_0002), stored(0x5_0000, false, false));
        assert!(L2Entry(2).has_reserved_bits() && !L2Entry(1 | 1 << 63).has_reserved_bits());
        let external = L2Entry(1 << 63).lead(geometry(16), true);
        assert_eq!(external, stored(0, true, false));
        assert_eq!(L2Entry(512).with_copied(true).0, 1 << 63 | 512);
    }
}
