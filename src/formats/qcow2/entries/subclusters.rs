//! Subcluster bitmaps of extended L2 entries, with the state of a cluster's 32 subclusters.

use super::EntryError;

/// The number of subclusters in a cluster with an extended L2 entry.
pub const SUBCLUSTERS: u32 = 32;

/// The second half of an extended L2 entry: the state of each of the cluster's 32 subclusters.
///
/// Bit n (0 to 31) is set if subcluster n is allocated, and bit 32 + n if it reads as zeroes. If neither is set, it
/// is unallocated. It is invalid to set both ("Extended L2 Entries" in the specification).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SubclusterBitmap(pub u64);

/// The way in which one subcluster is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Subcluster {
    /// Not allocated in this image.
    Unallocated,
    /// Reads as zeroes.
    Zero,
    /// Allocated in the cluster that the entry refers to.
    Data,
}

impl SubclusterBitmap {
    /// All subclusters are allocated.
    pub const ALL_DATA: Self = Self(0x0000_0000_ffff_ffff);
    /// All subclusters read as zeroes.
    pub const ALL_ZERO: Self = Self(0xffff_ffff_0000_0000);

    /// Returns the state of subcluster `number` (0 to 31).
    ///
    /// # Errors
    /// Returns an error if both of its bits are set.
    pub fn get(self, number: u32) -> Result<Subcluster, EntryError> {
        match (self.0 >> number & 1, self.0 >> (SUBCLUSTERS + number) & 1) {
            (0, 0) => Ok(Subcluster::Unallocated),
            (0, _) => Ok(Subcluster::Zero),
            (_, 0) => Ok(Subcluster::Data),
            _ => Err(EntryError::Subcluster(number)),
        }
    }

    /// Returns true if a subcluster is marked as both allocated and reading as zeroes.
    pub fn contradicts_itself(self) -> bool {
        self.0 >> SUBCLUSTERS & self.0 != 0
    }

    /// Returns true if a subcluster is allocated.
    pub fn has_data(self) -> bool {
        self.0 & Self::ALL_DATA.0 != 0
    }

    /// Returns the bitmap with all allocated subclusters changed to zeroes.
    #[must_use]
    pub fn without_data(self) -> Self {
        Self((self.0 | self.0 << SUBCLUSTERS) & Self::ALL_ZERO.0)
    }

    /// Returns the bitmap with the state of subcluster `number` (0 to 31) changed.
    #[must_use]
    pub fn with(self, number: u32, state: Subcluster) -> Self {
        let cleared = self.0 & !(1 << number | 1 << (SUBCLUSTERS + number));
        Self(match state {
            Subcluster::Unallocated => cleared,
            Subcluster::Zero => cleared | 1 << (SUBCLUSTERS + number),
            Subcluster::Data => cleared | 1 << number,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn subclusters_have_two_bits() {
        let bitmap = SubclusterBitmap(1 << 3 | 1 << 36 | 1 << 5 | 1 << 37);
        assert_eq!(bitmap.get(2), Ok(Subcluster::Unallocated));
        assert_eq!(bitmap.get(3), Ok(Subcluster::Data));
        assert_eq!(bitmap.get(4), Ok(Subcluster::Zero));
        assert_eq!(bitmap.get(5), Err(EntryError::Subcluster(5)));
        assert_eq!(bitmap.with(5, Subcluster::Unallocated).0, 1 << 3 | 1 << 36);
        for number in 0..32 {
            assert_eq!(SubclusterBitmap::ALL_DATA.get(number), Ok(Subcluster::Data));
            assert_eq!(SubclusterBitmap::ALL_ZERO.get(number), Ok(Subcluster::Zero));
            let zero = SubclusterBitmap::ALL_DATA.with(number, Subcluster::Zero);
            assert_eq!(zero.get(number), Ok(Subcluster::Zero));
        }
        let bitmap = SubclusterBitmap(1 << 3 | 1 << 35);
        assert!(bitmap.contradicts_itself() && bitmap.has_data());
        assert_eq!(bitmap.without_data().0, 1 << 35);
    }
}
