//! Entries of bitmap tables, and the bits in the clusters that they refer to.

use std::ops::Range;

use super::{EntryError, OFFSET_MASK};
use crate::formats::qcow2::geometry::Geometry;
use crate::units::HostOffset;

/// A bitmap table entry as stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct BitmapTableEntry(pub u64);

/// The meaning of a bitmap table entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BitmapTarget {
    /// All bits have the same value.
    Uniform(bool),
    /// The host offset of the cluster of bits.
    Stored(HostOffset),
}

impl BitmapTableEntry {
    /// Returns the entry that refers to a cluster of bits.
    pub fn to_cluster(host: HostOffset) -> Self {
        Self(host.0 & OFFSET_MASK)
    }

    /// Decodes the entry ("Bitmap table" in the specification).
    ///
    /// # Errors
    /// Returns an error if reserved bits are set, or if the offset is not cluster-aligned.
    pub fn target(self, geometry: Geometry) -> Result<BitmapTarget, EntryError> {
        let host = HostOffset(self.0 & OFFSET_MASK);
        let ones = self.0 & 1 != 0;
        if self.0 & !(OFFSET_MASK | 1) != 0 || (host.0 != 0 && ones) {
            return Err(EntryError::Reserved);
        }
        if !geometry.is_aligned(host) {
            return Err(EntryError::Unaligned(host));
        }
        Ok(if host.0 == 0 {
            BitmapTarget::Uniform(ones)
        } else {
            BitmapTarget::Stored(host)
        })
    }
}

/// Sets a range of bits in a cluster of a bitmap, as far as they are in `bytes`. The first bit is the least
/// significant one of the first byte.
pub fn set_bitmap_bits(bytes: &mut [u8], bits: Range<u64>) {
    let first = usize::try_from(bits.start / 8).unwrap_or(usize::MAX);
    let end = usize::try_from(bits.end.div_ceil(8)).unwrap_or(usize::MAX);
    let end = end.min(bytes.len());
    let Some(touched) = bytes.get_mut(first..end) else {
        return;
    };
    for (byte, number) in touched.iter_mut().zip(bits.start / 8..) {
        let from = bits.start.saturating_sub(number * 8).min(8);
        let to = bits.end.saturating_sub(number * 8).min(8);
        *byte |= (from..to).fold(0, |mask, bit| mask | 1 << bit);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::formats::qcow2::entries::geometry;

    #[test]
    fn bits_of_bitmaps_start_with_the_least_significant() {
        let mut bytes = [0; 4];
        set_bitmap_bits(&mut bytes, 3..3);
        assert_eq!(bytes, [0; 4]);
        set_bitmap_bits(&mut bytes, 6..17);
        assert_eq!(bytes, [0xc0, 0xff, 1, 0]);
        set_bitmap_bits(&mut bytes, 0..1);
        set_bitmap_bits(&mut bytes, 31..99);
        set_bitmap_bits(&mut bytes, 99..100);
        assert_eq!(bytes, [0xc1, 0xff, 1, 0x80]);
    }

    #[test]
    fn bitmap_table_entries() {
        let at = |entry| BitmapTableEntry(entry).target(geometry(16));
        assert_eq!(at(0), Ok(BitmapTarget::Uniform(false)));
        assert_eq!(at(1), Ok(BitmapTarget::Uniform(true)));
        assert_eq!(at(0x3_0000), Ok(BitmapTarget::Stored(HostOffset(0x3_0000))));
        assert_eq!(at(0x3_0001), Err(EntryError::Reserved));
        assert_eq!(at(2), Err(EntryError::Reserved));
        assert_eq!(at(1 << 56), Err(EntryError::Reserved));
        assert_eq!(
            at(0x3_0200),
            Err(EntryError::Unaligned(HostOffset(0x3_0200)))
        );
    }
}
