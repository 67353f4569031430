//! The encoding of table entries. No other module masks their bits.
//!
//! An entry as read from a file is a newtype over `u64`, which must be decoded into an enum to be used. Bits that the
//! specification reserves must be zero. An entry in which one is set is damaged or from a future version, and its
//! meaning is unknown.
//!
//! There is a file for each kind of table: L1 ([`mod@l1`]), L2 ([`mod@l2`], [`subclusters`], [`l2_table`]), refcounts
//! ([`refcounts`]) and persistent bitmaps ([`bitmaps`]). This file has their common parts.

mod bitmaps;
mod l1;
mod l2;
mod l2_table;
mod refcounts;
mod subclusters;

pub use bitmaps::{BitmapTableEntry, BitmapTarget, set_bitmap_bits};
pub use l1::{L1Entry, L1Target};
pub use l2::{CompressedRange, L2Entry, L2Lead, L2Target};
pub use l2_table::{L2Slot, L2Table, set_l2};
pub use refcounts::{
    RefcountTableEntry, count_zeroes, first_zero, refcount_at, set_refcount, set_refcounts,
};
pub use subclusters::{SUBCLUSTERS, Subcluster, SubclusterBitmap};

use crate::units::HostOffset;

/// Bits 9 to 55: a host offset, in L1, standard L2 and refcount table entries.
const OFFSET_MASK: u64 = 0x00ff_ffff_ffff_fe00;
/// Bit 63, the specification's COPIED flag: the refcount of the cluster is exactly 1.
const COPIED: u64 = 1 << 63;

/// The reason why an entry is invalid.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EntryError {
    /// Bits are set that the specification reserves.
    Reserved,
    /// The offset isn't cluster-aligned.
    Unaligned(HostOffset),
    /// The zero flag is set in a version 2 image, which has no such flag.
    ZeroFlagInVersion2,
    /// The subcluster with this index is marked as allocated in an unallocated cluster, or as both allocated and
    /// reading as zeroes.
    Subcluster(u32),
}

impl std::fmt::Display for EntryError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Reserved => f.write_str("reserved bits are set"),
            Self::Unaligned(offset) => write!(f, "offset {offset} is not cluster-aligned"),
            Self::ZeroFlagInVersion2 => f.write_str("zero cluster in a version 2 image"),
            Self::Subcluster(number) => write!(f, "the bits of subcluster {number} contradict"),
        }
    }
}

/// Returns an L1 or L2 entry with the COPIED flag set or cleared.
fn with_copied(entry: u64, copied: bool) -> u64 {
    if copied {
        entry | COPIED
    } else {
        entry & !COPIED
    }
}

/// Returns a geometry with clusters of `1 << bits` bytes, for the tests of entries.
#[cfg(test)]
fn geometry(bits: u32) -> super::geometry::Geometry {
    super::geometry::Geometry::new(bits, false, 4).unwrap()
}
