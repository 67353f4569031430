//! The written ranges of a disk, kept in bounded memory.
//!
//! They serve to update bitmaps, in which a bit may be set for an unchanged part, but never missing for a changed
//! one. So adjacent ranges are joined, and if there are too many the granularity of all of them is doubled.

use std::collections::BTreeMap;
use std::ops::Range;

/// The largest number of separate ranges.
const MOST_PARTS: usize = 1 << 16;

/// The written ranges of a disk; see the module's documentation.
#[derive(Debug)]
pub(in crate::formats) struct DirtyRanges {
    /// The granularity in bytes, a power of two. Ranges start and end at multiples of it.
    unit: u64,
    /// The start and the end of each range. The ranges are disjoint and not adjacent.
    parts: BTreeMap<u64, u64>,
}

impl DirtyRanges {
    /// Returns an empty list. `unit` is the smallest granularity of its users in bytes, a power of two.
    pub(in crate::formats) fn new(unit: u64) -> Self {
        Self {
            unit,
            parts: BTreeMap::new(),
        }
    }

    /// Adds a range.
    pub(in crate::formats) fn add(&mut self, part: &Range<u64>) {
        self.insert(part);
        while self.parts.len() > MOST_PARTS {
            self.unit = self.unit.saturating_mul(2);
            for (start, end) in std::mem::take(&mut self.parts) {
                self.insert(&(start..end));
            }
        }
    }

    fn insert(&mut self, part: &Range<u64>) {
        if part.is_empty() {
            return;
        }
        let mut start = part.start / self.unit * self.unit;
        let mut end = part.end.div_ceil(self.unit).saturating_mul(self.unit);
        while let Some((other, other_end)) = self.parts.range(..=end).next_back() {
            if *other_end < start {
                break;
            }
            let other = *other;
            start = start.min(other);
            end = end.max(*other_end);
            self.parts.remove(&other);
        }
        self.parts.insert(start, end);
    }

    /// Returns the ranges that overlap `range`, in order, clipped to it.
    pub(in crate::formats) fn within(
        &self,
        range: Range<u64>,
    ) -> impl Iterator<Item = Range<u64>> + '_ {
        let before = self.parts.range(..range.start).next_back();
        let others = self.parts.range(range.start..range.end.max(range.start));
        let cut =
            move |(start, end): (&u64, &u64)| (*start).max(range.start)..(*end).min(range.end);
        before
            .into_iter()
            .chain(others)
            .map(cut)
            .filter(|part| !part.is_empty())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(written: &DirtyRanges) -> Vec<Range<u64>> {
        written.within(0..u64::MAX).collect()
    }

    #[test]
    fn parts_are_joined_and_found() {
        let mut written = DirtyRanges::new(16);
        for part in [100..101, 0..16, 33..34, 17..18, 200..200, 90..97] {
            written.add(&part);
        }
        assert_eq!(all(&written), [0..48, 80..112]);
        written.add(&(40..100));
        assert_eq!(all(&written), [0..112]);
        written.add(&(128..129));
        let within: Vec<_> = written.within(10..130).collect();
        assert_eq!(within, [10..112, 128..130]);
        assert_eq!(written.within(112..128).count(), 0);
    }

    #[test]
    fn too_many_are_taken_more_coarsely() {
        let mut written = DirtyRanges::new(16);
        for number in 0..1 + MOST_PARTS as u64 {
            written.add(&(number * 64..number * 64 + 1));
        }
        // With a granularity of 64 bytes the ranges have no gap.
        assert_eq!(all(&written), [0..(1 + MOST_PARTS as u64) * 64]);
    }
}
