//! Entries of L1 tables, which refer to L2 tables.

use super::{COPIED, EntryError, OFFSET_MASK, with_copied};
use crate::formats::qcow2::geometry::Geometry;
use crate::units::HostOffset;

/// An L1 table entry as stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct L1Entry(pub u64);

/// The meaning of an L1 entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum L1Target {
    /// No cluster of the range is allocated.
    Unallocated,
    /// An L2 table.
    Table {
        /// The host offset of the L2 table.
        host: HostOffset,
        /// The COPIED flag: the refcount of the L2 table is exactly 1.
        copied: bool,
    },
}

impl L1Entry {
    /// Returns the entry for an L2 table with a refcount of 1.
    pub fn to_table(host: HostOffset) -> Self {
        Self(host.0 | COPIED)
    }

    /// Returns the host offset in the entry, aligned or not, without checking the other bits. 0 is no offset.
    pub fn host(self) -> HostOffset {
        HostOffset(self.0 & OFFSET_MASK)
    }

    /// Returns true if the COPIED flag is set.
    pub fn is_copied(self) -> bool {
        self.0 & COPIED != 0
    }

    /// Returns true if bits are set that the specification reserves.
    pub fn has_reserved_bits(self) -> bool {
        self.0 & !(OFFSET_MASK | COPIED) != 0
    }

    /// Returns the entry with the COPIED flag set or cleared.
    #[must_use]
    pub fn with_copied(self, copied: bool) -> Self {
        Self(with_copied(self.0, copied))
    }

    /// Decodes the entry ("L1 table entry" in the specification).
    ///
    /// # Errors
    /// Returns an error if reserved bits are set, or if the offset is not cluster-aligned.
    pub fn target(self, geometry: Geometry) -> Result<L1Target, EntryError> {
        if self.0 & !(OFFSET_MASK | COPIED) != 0 {
            return Err(EntryError::Reserved);
        }
        let host = HostOffset(self.0 & OFFSET_MASK);
        if host.0 == 0 {
            return Ok(L1Target::Unallocated);
        }
        if !geometry.is_aligned(host) {
            return Err(EntryError::Unaligned(host));
        }
        Ok(L1Target::Table {
            host,
            copied: self.0 & COPIED != 0,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::formats::qcow2::entries::geometry;

    #[test]
    fn l1_entries() {
        let at = |entry| L1Entry(entry).target(geometry(16));
        assert_eq!(at(0), Ok(L1Target::Unallocated));
        assert_eq!(
            at(0x8000_0000_0004_0000),
            Ok(L1Target::Table {
                host: HostOffset(0x4_0000),
                copied: true
            })
        );
        assert_eq!(at(0x4000_0000_0004_0000), Err(EntryError::Reserved));
        assert_eq!(at(0x4_0001), Err(EntryError::Reserved));
        assert_eq!(
            at(0x4_0200),
            Err(EntryError::Unaligned(HostOffset(0x4_0200)))
        );
        assert_eq!(L1Entry(1 << 63 | 512).with_copied(false).0, 512);
    }
}
