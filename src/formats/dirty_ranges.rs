//! The parts of the disk that have been written, in bounded memory.
//!
//! They are kept for bitmaps, which may mark more than was written, and never less. So neighbours
//! are joined, and when there are too many parts all of them are taken more coarsely.

use std::collections::BTreeMap;
use std::ops::Range;

/// The number of parts that are told apart at the most.
const MOST_PARTS: usize = 1 << 16;

/// The parts that have been written; see the module's text.
#[derive(Debug)]
pub(in crate::formats) struct DirtyRanges {
    /// The unit, in bytes, at multiples of which parts start and end; a power of two.
    unit: u64,
    /// Disjoint, and not neighbours: start → end.
    parts: BTreeMap<u64, u64>,
}

impl DirtyRanges {
    /// Makes a list of no parts, which nobody asks about in finer steps than `unit`, a power of
    /// two.
    pub(in crate::formats) fn new(unit: u64) -> Self {
        Self {
            unit,
            parts: BTreeMap::new(),
        }
    }

    /// Adds a part.
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

    /// Returns all parts that are at least in part within `range`, in order, cut to it.
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
        // Units of 64 bytes leave no gap.
        assert_eq!(all(&written), [0..(1 + MOST_PARTS as u64) * 64]);
    }
}
