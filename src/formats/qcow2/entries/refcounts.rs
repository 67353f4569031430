//! Entries of the refcount table, and refcounts of all widths.

use std::ops::Range;

use super::EntryError;
use crate::formats::qcow2::geometry::Geometry;
use crate::units::HostOffset;

/// Bits 0 to 8 of a refcount table entry are reserved.
const REFCOUNT_RESERVED: u64 = 0x1ff;

/// A refcount table entry as stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RefcountTableEntry(pub u64);

impl RefcountTableEntry {
    /// Returns the entry that refers to a refcount block.
    pub fn to_block(host: HostOffset) -> Self {
        Self(host.0)
    }

    /// Returns the host offset of the refcount block, or `None` if there is none, so that all of its refcounts are 0.
    ///
    /// # Errors
    /// Returns an error if reserved bits are set, or if the offset is not cluster-aligned.
    pub fn block(self, geometry: Geometry) -> Result<Option<HostOffset>, EntryError> {
        if self.has_reserved_bits() {
            return Err(EntryError::Reserved);
        }
        let host = HostOffset(self.0);
        if !geometry.is_aligned(host) {
            return Err(EntryError::Unaligned(host));
        }
        Ok((host.0 != 0).then_some(host))
    }

    /// Returns the host offset in the entry, aligned or not, without checking the other bits. 0 is no offset.
    pub fn host(self) -> HostOffset {
        HostOffset(self.0 & !REFCOUNT_RESERVED)
    }

    /// Returns true if bits are set that the specification reserves.
    pub fn has_reserved_bits(self) -> bool {
        self.0 & REFCOUNT_RESERVED != 0
    }
}

/// Returns refcount `index` of a refcount block with entries of `bits` bits (1 to 64, a power of two). Entries
/// narrower than a byte start at its least significant bit. Returns `None` if the index is beyond the block.
pub fn refcount_at(block: &[u8], bits: u32, index: usize) -> Option<u64> {
    if bits < 8 {
        let per_byte = usize::try_from(8 / bits).ok()?;
        let byte = block.get(index / per_byte)?;
        let shift = bits * u32::try_from(index % per_byte).ok()?;
        return Some(u64::from(byte >> shift) & ((1 << bits) - 1));
    }
    let width = usize::try_from(bits / 8).ok()?;
    let start = index.checked_mul(width)?;
    let bytes = block.get(start..start.checked_add(width)?)?;
    Some(
        bytes
            .iter()
            .fold(0, |value, byte| value << 8 | u64::from(*byte)),
    )
}

/// Returns the index of the first refcount of 0 from `from` on, or `None` if the block has none.
pub fn first_zero(block: &[u8], bits: u32, from: usize) -> Option<usize> {
    // A large image has millions of refcounts before the first free cluster, so the default width has a fast path.
    if bits == 16 {
        let (entries, _) = block.as_chunks::<2>();
        let zero = entries
            .get(from..)?
            .iter()
            .position(|entry| *entry == [0; 2]);
        return Some(from + zero?);
    }
    let all = (from..).map_while(|index| Some((index, refcount_at(block, bits, index)?)));
    let mut zeroes = all.filter(|(_, refcount)| *refcount == 0);
    zeroes.next().map(|(index, _)| index)
}

/// Stores refcount `index` in a refcount block; the inverse of [`refcount_at`]. Returns `None`, and stores nothing,
/// if the index is beyond the block or if the value needs more bits.
pub fn set_refcount(block: &mut [u8], bits: u32, index: usize, value: u64) -> Option<()> {
    if bits >= 8 {
        return set_refcounts(block, bits, index..index.checked_add(1)?, value);
    }
    if value >> bits != 0 {
        return None;
    }
    let per_byte = usize::try_from(8 / bits).ok()?;
    let byte = block.get_mut(index / per_byte)?;
    let shift = bits * u32::try_from(index % per_byte).ok()?;
    let mask = ((1u8 << bits) - 1) << shift;
    *byte = *byte & !mask | u8::try_from(value).ok()? << shift;
    Some(())
}

/// Stores the same value in all refcounts of a range. Returns `None` as [`set_refcount`] does. If a part of the range
/// is beyond the block, the refcounts before may have been stored.
pub fn set_refcounts(block: &mut [u8], bits: u32, range: Range<usize>, value: u64) -> Option<()> {
    if bits < 8 {
        return range
            .into_iter()
            .try_for_each(|index| set_refcount(block, bits, index, value));
    }
    if value.checked_shr(bits).is_some_and(|excess| excess != 0) {
        return None;
    }
    let width = usize::try_from(bits / 8).ok()?;
    let bytes = value.to_be_bytes();
    let bytes = bytes.get(bytes.len() - width..)?;
    let range = range.start.checked_mul(width)?..range.end.checked_mul(width)?;
    for place in block.get_mut(range)?.chunks_exact_mut(width) {
        place.copy_from_slice(bytes);
    }
    Some(())
}

/// Returns the number of consecutive refcounts of 0 at the start of a range.
pub fn count_zeroes(block: &[u8], bits: u32, range: Range<usize>) -> usize {
    let is_zero = |index: &usize| refcount_at(block, bits, *index) == Some(0);
    let mut next = range.start;
    let width = usize::try_from(bits / 8).unwrap_or(0);
    if width > 0 {
        // This skips 64 bytes at a time, as long as all of them are 0.
        let start = next.saturating_mul(width);
        let end = range.end.saturating_mul(width);
        let bytes = block.get(start..end).unwrap_or_default();
        let (groups, _) = bytes.as_chunks::<64>();
        let zeroes = groups.iter().take_while(|group| **group == [0; 64]);
        next += zeroes.count() * 64 / width;
    }
    next - range.start + (next..range.end).take_while(is_zero).count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refcounts_of_every_width() {
        let block = [0b1110_0100, 0xff, 0, 1, 0, 0, 0, 2];
        assert_eq!(refcount_at(&block, 1, 2), Some(1));
        assert_eq!(refcount_at(&block, 1, 3), Some(0));
        assert_eq!(refcount_at(&block, 2, 1), Some(1));
        assert_eq!(refcount_at(&block, 2, 3), Some(3));
        assert_eq!(refcount_at(&block, 4, 1), Some(0b1110));
        assert_eq!(refcount_at(&block, 8, 1), Some(0xff));
        assert_eq!(refcount_at(&block, 16, 1), Some(1));
        assert_eq!(refcount_at(&block, 32, 1), Some(2));
        assert_eq!(refcount_at(&block, 64, 0), Some(0xe4ff_0001_0000_0002));
        assert_eq!(refcount_at(&block, 16, 4), None);
        assert_eq!(refcount_at(&block, 1, 64), None);
    }

    #[test]
    fn refcounts_are_stored_in_every_width_without_touching_their_neighbours() {
        let stored = |bits, index, value| {
            let mut block = [0xff; 8];
            set_refcount(&mut block, bits, index, value).map(|()| block)
        };
        let starts =
            |bits, index, value| stored(bits, index, value).map(|block| block[..2].to_vec());
        assert_eq!(starts(1, 2, 0), Some(vec![0b1111_1011, 0xff]));
        assert_eq!(starts(1, 8, 0), Some(vec![0xff, 0b1111_1110]));
        assert_eq!(starts(2, 1, 1), Some(vec![0b1111_0111, 0xff]));
        assert_eq!(starts(4, 1, 2), Some(vec![0x2f, 0xff]));
        assert_eq!(starts(8, 1, 2), Some(vec![0xff, 2]));
        assert_eq!(starts(16, 0, 0x1234), Some(vec![0x12, 0x34]));
        assert_eq!(stored(32, 1, 7), Some([255, 255, 255, 255, 0, 0, 0, 7]));
        assert_eq!(stored(64, 0, 1 << 63), Some([128, 0, 0, 0, 0, 0, 0, 0]));
        // The value needs more bits, or the index is beyond the block.
        assert_eq!(stored(1, 0, 2), None);
        assert_eq!(stored(16, 0, 65_536), None);
        assert_eq!(stored(16, 4, 0), None);
        assert_eq!(stored(1, 64, 0), None);
    }

    #[test]
    fn many_refcounts_are_stored_and_counted_in_every_width() {
        for bits in [1, 2, 4, 8, 16, 32, 64] {
            let count = 8192 / usize::try_from(bits).unwrap();
            for (start, end) in [(0, count), (3, 3), (5, 77), (count - 1, count)] {
                let mut block = [0; 1024];
                set_refcounts(&mut block, bits, start..end, 1).unwrap();
                for index in 0..count {
                    let expected = u64::from((start..end).contains(&index));
                    assert_eq!(refcount_at(&block, bits, index), Some(expected));
                }
                let zeroes = if start < end { start } else { count };
                assert_eq!(count_zeroes(&block, bits, 0..count), zeroes);
                assert_eq!(count_zeroes(&block, bits, end..count), count - end);
                let free = if start == 0 { end } else { 0 };
                assert_eq!(first_zero(&block, bits, 0), (free < count).then_some(free));
                assert_eq!(
                    first_zero(&block, bits, start),
                    (end < count).then_some(end)
                );
                assert_eq!(first_zero(&block, bits, count), None);
            }
            let mut block = [0; 1024];
            let last = count - 1..count + 1;
            assert_eq!(set_refcounts(&mut block, bits, last, 1), None);
        }
    }
}
