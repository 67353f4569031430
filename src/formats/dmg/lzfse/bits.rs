//! A reader of bits that starts at the end of a payload.

/// The bits of a payload, from the last to the first.
pub(super) struct BitsFromEnd<'a> {
    bytes: &'a [u8],
    /// The number of bits that are left.
    left: usize,
}

impl<'a> BitsFromEnd<'a> {
    /// Starts at the end of `bytes`. The `unused` highest bits of the last byte, at most 7, are skipped. Returns
    /// `None` if there are fewer bits, or if one of the skipped bits is set.
    pub(super) fn new(bytes: &'a [u8], unused: usize) -> Option<Self> {
        let left = bytes.len().checked_mul(8)?.checked_sub(unused)?;
        let last = bytes.last().map_or(0, |byte| usize::from(*byte));
        (unused < 8 && last << unused <= 0xff).then_some(Self { bytes, left })
    }

    /// Returns the next `count` bits, at most 32, as a number. Returns `None` if fewer are left.
    pub(super) fn take(&mut self, count: u32) -> Option<u32> {
        let start = self.left.checked_sub(usize::try_from(count).ok()?)?;
        self.left = start;
        let tail = self.bytes.get(start / 8..)?;
        let word = match tail.first_chunk() {
            Some(word) => u64::from_le_bytes(*word),
            None => {
                let bytes = tail.iter().rev();
                bytes.fold(0, |word, byte| word << 8 | u64::from(*byte))
            }
        };
        let bits = word >> (start % 8) & ((1u64 << count.min(32)) - 1);
        u32::try_from(bits).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bits_come_from_the_end() {
        let bytes = [0b0011_0101, 1, 2, 3, 4, 5, 6, 7, 8, 0b0000_0110];
        let mut bits = BitsFromEnd::new(&bytes, 5).unwrap();
        assert_eq!(bits.take(2), Some(0b11));
        assert_eq!(bits.take(0), Some(0));
        assert_eq!(bits.take(9), Some(0b0_0000_1000));
        assert_eq!(bits.take(32), Some(0x0706_0504));
        assert_eq!(bits.take(24), Some(0x0003_0201));
        assert_eq!(bits.take(7), Some(0b001_1010));
        assert_eq!(bits.take(2), None);
        assert_eq!(bits.take(1), Some(1));
        assert_eq!(bits.take(1), None);
        assert!(BitsFromEnd::new(&bytes, 6).is_none());
        assert!(BitsFromEnd::new(&bytes, 8).is_none());
        assert!(BitsFromEnd::new(&[], 1).is_none());
        assert_eq!(BitsFromEnd::new(&[], 0).unwrap().take(0), Some(0));
    }
}
