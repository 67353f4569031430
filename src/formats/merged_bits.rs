//! The union of several bitmaps, each with its own granularity.
//!
//! A bit of the result is set if a set bit of any source covers a part of the same range of the disk. So the result
//! may mark more than a finer source, and marks everything that a coarser source does. The bits are computed when
//! they are read; the result is never in memory as a whole.

use std::ops::Range;
use std::sync::Arc;

use super::bitmaps::BitmapBits;
use crate::error::Result;

/// The number of bytes that are read from a source at once.
const STEP: u64 = 64 << 10;

/// A source and its granularity in bytes, a power of two.
pub type BitsSource = (Arc<dyn BitmapBits>, u64);

/// The union of bitmaps of one disk; see the module's documentation.
pub struct MergedBits {
    /// The number of bytes of the disk that a bit covers, a power of two.
    granularity: u64,
    /// The number of bits.
    count: u64,
    sources: Vec<BitsSource>,
}

impl MergedBits {
    /// Returns the union of `sources` with this granularity in bytes, a power of two, for a disk of `size` bytes.
    /// Without sources no bit is set.
    pub fn new(size: u64, granularity: u64, sources: Vec<BitsSource>) -> Self {
        Self {
            granularity,
            count: size.div_ceil(granularity.max(1)),
            sources,
        }
    }

    /// Sets those bits of `buf` that a source sets. The first bit in `buf` has the index `first`.
    fn add(&self, source: &BitsSource, first: u64, buf: &mut [u8]) -> Result<()> {
        let (bits, granularity) = source;
        if *granularity == self.granularity {
            return self.add_same(bits.as_ref(), first, buf);
        }
        let end = self.count.min(first.saturating_add(buf.len() as u64 * 8));
        // A bit of the source covers `coarser` bits of the result, or a bit of the result covers `finer` bits of the
        // source.
        let coarser = (granularity / self.granularity).max(1);
        let finer = (self.granularity / granularity.max(&1)).max(1);
        let wanted =
            first.saturating_mul(finer) / coarser..(end.saturating_mul(finer)).div_ceil(coarser);
        let mut at = wanted.start / 8;
        let last = wanted.end.div_ceil(8);
        let mut part = Vec::new();
        while at < last {
            let length = STEP.min(last - at);
            part.resize(usize::try_from(length).unwrap_or(0), 0);
            if bits.read(at, &mut part)? {
                for (index, byte) in (at..).zip(&part) {
                    for bit in set_bits(*byte) {
                        let bit = index * 8 + bit;
                        if wanted.contains(&bit) {
                            let start = bit / finer * coarser;
                            let marked = start.max(first)..(start + coarser).min(end);
                            mark(
                                buf,
                                marked.start - first..marked.end.max(marked.start) - first,
                            );
                        }
                    }
                }
            }
            at += length;
        }
        Ok(())
    }

    /// Sets the bits of a source that has the same granularity.
    fn add_same(&self, bits: &dyn BitmapBits, first: u64, buf: &mut [u8]) -> Result<()> {
        let mut part = vec![0; buf.len()];
        if !bits.read(first / 8, &mut part)? {
            return Ok(());
        }
        for ((byte, more), at) in buf.iter_mut().zip(part).zip((first..).step_by(8)) {
            *byte |= match self.count.saturating_sub(at) {
                left @ 0..8 => more & ((1 << left) - 1),
                _ => more,
            };
        }
        Ok(())
    }
}

impl BitmapBits for MergedBits {
    fn read(&self, offset: u64, buf: &mut [u8]) -> Result<bool> {
        buf.fill(0);
        let first = offset.saturating_mul(8);
        if first < self.count {
            for source in &self.sources {
                self.add(source, first, buf)?;
            }
        }
        Ok(buf.iter().any(|byte| *byte != 0))
    }
}

/// Returns the positions of the bits that are set in a byte.
fn set_bits(byte: u8) -> impl Iterator<Item = u64> {
    (0..8).filter(move |bit| byte >> bit & 1 != 0)
}

/// Sets a range of bits, as far as `buf` has them.
pub(super) fn mark(buf: &mut [u8], bits: Range<u64>) {
    let mut bit = bits.start;
    while bit < bits.end {
        let Some(byte) = usize::try_from(bit / 8).ok().and_then(|at| buf.get_mut(at)) else {
            return;
        };
        if bit.is_multiple_of(8) && bits.end - bit >= 8 {
            *byte = 0xff;
            bit += 8;
        } else {
            *byte |= 1 << (bit % 8);
            bit += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The bits of a bitmap in memory.
    struct Stored(Vec<u8>);

    impl BitmapBits for Stored {
        fn read(&self, offset: u64, buf: &mut [u8]) -> Result<bool> {
            for (at, byte) in buf.iter_mut().enumerate() {
                let at = usize::try_from(offset).unwrap() + at;
                *byte = self.0.get(at).copied().unwrap_or(0);
            }
            Ok(buf.iter().any(|byte| *byte != 0))
        }
    }

    /// Returns the indices of the bits that are set in the union of bitmaps.
    fn merged(size: u64, granularity: u64, sources: &[(u64, &[u64])]) -> Vec<u64> {
        let sources = sources.iter().map(|(granularity, set)| {
            let mut bytes = vec![0; usize::try_from(size / granularity / 8 + 1).unwrap()];
            set.iter().for_each(|bit| mark(&mut bytes, *bit..bit + 1));
            (Arc::new(Stored(bytes)) as Arc<dyn BitmapBits>, *granularity)
        });
        let bits = MergedBits::new(size, granularity, sources.collect());
        let mut set = Vec::new();
        // The pieces aren't aligned to those of the sources.
        for offset in (0..size / granularity / 8 + 1).step_by(3) {
            let mut buf = [0xee; 3];
            let any = bits.read(offset, &mut buf).unwrap();
            let found: Vec<u64> = (0..24)
                .filter(|bit| buf[bit / 8] >> (bit % 8) & 1 != 0)
                .map(|bit| offset * 8 + bit as u64)
                .collect();
            assert_eq!(any, !found.is_empty());
            set.extend(found);
        }
        set
    }

    #[test]
    fn bits_of_one_granularity_are_put_together() {
        let set = merged(100 << 9, 512, &[(512, &[0, 7, 99]), (512, &[7, 8, 64])]);
        assert_eq!(set, [0, 7, 8, 64, 99]);
        assert!(merged(100 << 9, 512, &[]).is_empty());
    }

    #[test]
    fn a_coarse_bit_stands_for_all_fine_ones_up_to_the_end_of_the_disk() {
        assert_eq!(merged(21 << 9, 512, &[(2048, &[1, 5])]), [4, 5, 6, 7, 20]);
        let all: Vec<u64> = (64..100).collect();
        assert_eq!(merged(100 << 9, 512, &[(64 << 9, &[1])]), all);
    }

    #[test]
    fn any_fine_bit_marks_the_coarse_one() {
        assert_eq!(
            merged(1 << 20, 4096, &[(512, &[7, 8, 300, 303, 2047])]),
            [0, 1, 37, 255]
        );
        assert_eq!(
            merged(3 << 20, 1 << 20, &[(512, &[4096]), (4096, &[1])]),
            [0, 2]
        );
    }
}
