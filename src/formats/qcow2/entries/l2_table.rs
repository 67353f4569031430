//! L2 tables as a whole: the entries and, with extended L2 entries, their bitmaps.

use super::{L2Entry, OFFSET_MASK, SubclusterBitmap};
use crate::formats::qcow2::geometry::Geometry;

/// The L2 entry of one cluster, with its subcluster bitmap.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct L2Slot {
    /// The entry.
    pub entry: L2Entry,
    /// The subcluster bitmap, if entries have 16 bytes.
    pub bitmap: Option<SubclusterBitmap>,
}

impl L2Slot {
    /// Returns the slot of an unallocated cluster.
    pub fn unallocated(geometry: Geometry) -> Self {
        let bitmap = geometry.has_subclusters();
        Self {
            entry: L2Entry::default(),
            bitmap: bitmap.then(SubclusterBitmap::default),
        }
    }

    /// Returns the slot of a cluster without subclusters.
    pub fn of_entry(entry: L2Entry) -> Self {
        Self {
            entry,
            bitmap: None,
        }
    }

    /// Encodes the entry, and the bitmap if there is one.
    pub fn bytes(self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(16);
        self.append_to(&mut bytes);
        bytes
    }

    /// Appends the encoded slot.
    pub fn append_to(self, bytes: &mut Vec<u8>) {
        bytes.extend(self.entry.0.to_be_bytes());
        if let Some(bitmap) = self.bitmap {
            bytes.extend(bitmap.0.to_be_bytes());
        }
    }

    /// Returns the slot of a cluster with subclusters.
    pub fn with_bitmap(entry: L2Entry, bitmap: SubclusterBitmap) -> Self {
        Self {
            entry,
            bitmap: Some(bitmap),
        }
    }
}

/// An L2 table as stored: entries of 8 bytes, or extended entries of 16 bytes.
#[derive(Debug, Clone)]
pub struct L2Table {
    words: Box<[u64]>,
    extended: bool,
}

impl L2Table {
    /// Returns the table of these 64-bit words.
    pub fn new(words: Vec<u64>, geometry: Geometry) -> Self {
        Self {
            words: words.into(),
            extended: geometry.has_subclusters(),
        }
    }

    /// Returns entry `index`; `None` beyond the table.
    pub fn get(&self, index: usize) -> Option<L2Slot> {
        if self.extended {
            let entry = self.words.get(2 * index..)?.first_chunk::<2>()?;
            return Some(L2Slot::with_bitmap(
                L2Entry(entry[0]),
                SubclusterBitmap(entry[1]),
            ));
        }
        let word = self.words.get(index)?;
        Some(L2Slot::of_entry(L2Entry(*word)))
    }

    /// Returns the number of entries after `index`, at most `most`, that are equal to it except for an offset that
    /// grows by `step` with each. Returns 0 for extended entries.
    pub fn repeats(&self, index: usize, step: u64, most: u64) -> u64 {
        let Some([first, behind @ ..]) = self.words.get(index..).filter(|_| !self.extended) else {
            return 0;
        };
        let most = usize::try_from(most).unwrap_or(usize::MAX);
        let mut expected = *first;
        let same = behind.iter().take(most).take_while(|word| {
            expected = expected.wrapping_add(step);
            // An offset that overflows into the flags ends the run.
            **word == expected && (expected ^ first) & !OFFSET_MASK == 0
        });
        same.count() as u64
    }
}

/// Stores entry `index` of an L2 table, with its bitmap for extended entries. Returns `None`, and stores nothing, if
/// the index is beyond the table.
pub fn set_l2(
    table: &mut [u8],
    geometry: Geometry,
    index: usize,
    entry: L2Entry,
    bitmap: SubclusterBitmap,
) -> Option<()> {
    let (words, _) = table.as_chunks_mut();
    if !geometry.has_subclusters() {
        *words.get_mut(index)? = entry.0.to_be_bytes();
        return Some(());
    }
    let pair = words.get_mut(2 * index..)?.first_chunk_mut::<2>()?;
    *pair = [entry.0.to_be_bytes(), bitmap.0.to_be_bytes()];
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::formats::qcow2::entries::geometry;
    use crate::units::HostOffset;

    #[test]
    fn entries_repeat_as_long_as_only_the_offset_grows() {
        let table = |words: &[u64]| L2Table::new(words.to_vec(), geometry(16));
        let data = table(&[0x5_0000, 0x6_0000, 0x7_0000, 0x9_0000, 0xa_0000]);
        assert_eq!(data.repeats(0, 0x1_0000, 9), 2);
        assert_eq!(data.repeats(0, 0x1_0000, 1), 1);
        assert_eq!(data.repeats(3, 0x1_0000, 9), 1);
        assert_eq!(data.repeats(4, 0x1_0000, 9), 0);
        assert_eq!(data.repeats(5, 0x1_0000, 9), 0);
        let flags = table(&[1 << 63 | 0x5_0000, 0x6_0000]);
        assert_eq!(flags.repeats(0, 0x1_0000, 9), 0);
        let last = table(&[0x00ff_ffff_ffff_0000, 0x0100_0000_0000_0000]);
        assert_eq!(last.repeats(0, 0x1_0000, 9), 0);
        assert_eq!(table(&[0, 0, 0, 1]).repeats(0, 0, 9), 2);
        let extended = Geometry::new(16, true, 4).unwrap();
        let extended = L2Table::new(vec![0; 8], extended);
        assert_eq!(extended.repeats(0, 0, 9), 0);
    }

    #[test]
    fn entries_are_stored_with_their_bitmap_where_there_is_one() {
        let (entry, bitmap) = (L2Entry::to_data(HostOffset(0x5_0000)), SubclusterBitmap(7));
        let mut table = [0; 32];
        assert!(set_l2(&mut table, geometry(16), 1, entry, bitmap).is_some());
        assert_eq!(table[8..18], [0x80, 0, 0, 0, 0, 5, 0, 0, 0, 0]);
        let extended = Geometry::new(16, true, 4).unwrap();
        let mut table = [0; 32];
        assert!(set_l2(&mut table, extended, 1, entry, bitmap).is_some());
        assert_eq!(table[16..24], [0x80, 0, 0, 0, 0, 5, 0, 0]);
        assert_eq!(table[24..], [0, 0, 0, 0, 0, 0, 0, 7]);
        assert!(set_l2(&mut table, extended, 2, entry, bitmap).is_none());
    }

    #[test]
    fn extended_tables_have_pairs() {
        let geometry = Geometry::new(16, true, 4).unwrap();
        let table = L2Table::new(vec![1, 2, 3, 4], geometry);
        let second = L2Slot::with_bitmap(L2Entry(3), SubclusterBitmap(4));
        assert_eq!(table.get(1), Some(second));
        assert_eq!(table.get(2), None);
    }
}
