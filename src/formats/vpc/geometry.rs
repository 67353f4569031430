//! The geometry of a disk: cylinders, heads and sectors per track (CHS).
//!
//! The specification derives a geometry from a size, and rounds down. Virtual PC uses the product as the size of the
//! disk, so a new disk gets the next size that has a geometry.

use crate::units::SECTOR_SIZE;

/// The largest geometry: 127 GiB, which also means that the current size is valid.
const GREATEST: Chs = Chs {
    cylinders: 65535,
    heads: 16,
    sectors: 255,
};

/// A geometry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Chs {
    pub(super) cylinders: u16,
    pub(super) heads: u8,
    /// The number of sectors per track.
    pub(super) sectors: u8,
}

impl Chs {
    /// Returns the largest geometry.
    pub(super) fn greatest() -> Self {
        GREATEST
    }

    /// Returns true for the largest geometry, with which the current size may be any.
    pub(super) fn is_greatest(self) -> bool {
        self == GREATEST
    }

    /// Returns the size of the disk in sectors.
    pub(super) fn total(self) -> u64 {
        u64::from(self.cylinders) * u64::from(self.heads) * u64::from(self.sectors)
    }

    /// Returns the size of the disk in bytes.
    pub(super) fn bytes(self) -> u64 {
        self.total() * SECTOR_SIZE
    }

    /// Returns the specification's geometry for a disk of `total` sectors. It has at most as many.
    fn of_sectors(total: u64) -> Self {
        let total = total.min(GREATEST.total());
        let (tracks, heads, sectors) = if total >= 65535 * 16 * 63 {
            (total / 255, 16, 255)
        } else {
            let tracks = total / 17;
            let heads = tracks.div_ceil(1024).max(4);
            if heads <= 16 && tracks < heads * 1024 {
                (tracks, heads, 17)
            } else if total / 31 < 16 * 1024 {
                (total / 31, 16, 31)
            } else {
                (total / 63, 16, 63)
            }
        };
        let small = |number: u64| u8::try_from(number).unwrap_or(u8::MAX);
        Self {
            cylinders: u16::try_from(tracks / heads).unwrap_or(u16::MAX),
            heads: small(heads),
            sectors: small(sectors),
        }
    }

    /// Returns the smallest of the specification's geometries with at least `total` sectors, or the largest one if
    /// none is large enough. A disk of 0 sectors has no cylinders.
    pub(super) fn at_least(total: u64) -> Self {
        if total == 0 {
            return Self {
                cylinders: 0,
                heads: 0,
                sectors: 0,
            };
        }
        let wanted = total.min(GREATEST.total());
        let geometries = (wanted..=GREATEST.total()).map(Self::of_sectors);
        let mut enough = geometries.filter(|geometry| geometry.total() >= wanted);
        enough.next().unwrap_or(GREATEST)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_rounded_up_to_a_geometry() {
        let cases: [(u64, u64, (u16, u8, u8)); 14] = [
            (0, 0, (0, 0, 0)),
            (1, 34816, (1, 4, 17)),
            (1 << 20, 1_079_296, (31, 4, 17)),
            (5_242_881, 5_257_216, (151, 4, 17)),
            (10 << 20, 10_514_432, (302, 4, 17)),
            (34 << 20, 35_686_400, (820, 5, 17)),
            (127 << 20, 133_171_200, (1020, 15, 17)),
            (128 << 20, 134_250_496, (964, 16, 17)),
            (250 << 20, 262_176_768, (508, 16, 63)),
            (504 << 20, 528_482_304, (1024, 16, 63)),
            (1 << 30, 1_073_995_776, (2081, 16, 63)),
            (31 << 30, 33_286_127_616, (64496, 16, 63)),
            (32 << 30, 34_361_303_040, (16449, 16, 255)),
            (127 << 30, 136_365_219_840, (65279, 16, 255)),
        ];
        for (wanted, size, (cylinders, heads, sectors)) in cases {
            let found = Chs::at_least(wanted.div_ceil(SECTOR_SIZE));
            let expected = Chs {
                cylinders,
                heads,
                sectors,
            };
            assert_eq!((found, found.bytes()), (expected, size), "{wanted}");
        }
        assert!(Chs::at_least(128 << 21).is_greatest());
        assert!(Chs::at_least(u64::MAX).is_greatest());
    }
}
