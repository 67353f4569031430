//! The footer: 512 bytes that describe the disk, at the end of the file and, for a dynamic image, also at its start.
//!
//! It is kept as it was read, so that unused fields stay unchanged.

use byteorder::{BigEndian, ByteOrder as _};
use jiff::Timestamp;
use uuid::Uuid;

use super::geometry::Chs;
use crate::error::{Error, Result};
use crate::formats::fields::{put, u32_be, u64_be};
use crate::options::Values;
use crate::units::SECTOR_SIZE;

/// The cookie at the start of a footer.
pub(super) const MARK: &[u8] = b"conectix";
/// The length of a footer in bytes.
pub(super) const LENGTH: usize = 512;
/// The largest disk in bytes: 2040 GiB.
pub(super) const LONGEST: u64 = 0xff00_0000 * SECTOR_SIZE;
/// The Unix time of the epoch of footers, in seconds: the start of 2000.
const EPOCH: i64 = 946_684_800;

/// The option that selects one of the two sizes in a footer.
pub(super) const SIZE_RULE: &str = "force_size_calc";

/// The offsets of fields, in bytes.
mod at {
    pub(super) const FEATURES: usize = 8;
    pub(super) const VERSION: usize = 12;
    pub(super) const DATA_OFFSET: usize = 16;
    pub(super) const TIME: usize = 24;
    pub(super) const CREATOR: usize = 28;
    pub(super) const CREATOR_VERSION: usize = 32;
    pub(super) const CREATOR_SYSTEM: usize = 36;
    pub(super) const ORIGINAL_SIZE: usize = 40;
    pub(super) const CURRENT_SIZE: usize = 48;
    pub(super) const GEOMETRY: usize = 56;
    pub(super) const KIND: usize = 60;
    pub(super) const CHECKSUM: usize = 64;
    pub(super) const UUID: usize = 68;
}

/// The type of a disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum DiskKind {
    /// All of the disk is in the file.
    Fixed,
    /// Blocks are allocated when they are written.
    Dynamic,
    /// A dynamic disk whose unallocated sectors are in the parent.
    Differencing,
    /// An unknown type.
    Other,
}

/// The rule for the field from which the size of the disk is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum SizeRule {
    /// The field that the image's creator uses.
    #[default]
    OfCreator,
    /// The geometry.
    Geometry,
    /// The current size in bytes.
    CurrentSize,
}

impl SizeRule {
    /// Returns the rule in the options of a node.
    ///
    /// # Errors
    /// Returns an error if there is no such rule.
    pub(super) fn of(options: &Values) -> Result<Self> {
        match options.text(SIZE_RULE) {
            None => Ok(Self::OfCreator),
            Some("chs") => Ok(Self::Geometry),
            Some("current_size") => Ok(Self::CurrentSize),
            Some(other) => Err(Error::invalid(format!(
                "Invalid size calculation mode: '{other}'"
            ))),
        }
    }
}

/// A footer with a correct checksum.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct VhdFooter {
    bytes: [u8; LENGTH],
}

impl VhdFooter {
    /// Parses a footer. Returns `None` if it has no cookie.
    ///
    /// # Errors
    /// Returns an inner error if its checksum is wrong.
    pub(super) fn parse(bytes: &[u8; LENGTH]) -> Option<Result<Self>> {
        if !bytes.starts_with(MARK) {
            return None;
        }
        let stored = u32_be(bytes, at::CHECKSUM);
        Some(match stored == checksum(bytes, at::CHECKSUM) {
            true => Ok(Self { bytes: *bytes }),
            false => Err(Error::corrupt("Incorrect header checksum")),
        })
    }

    /// Returns the footer of a new disk of `size` bytes. `is_exact` marks the current size as valid.
    pub(super) fn new(size: u64, geometry: Chs, kind: DiskKind, is_exact: bool) -> Self {
        let mut bytes = [0; LENGTH];
        let (data_offset, kind) = match kind {
            DiskKind::Fixed => (u64::MAX, 2u32),
            _ => (LENGTH as u64, 3),
        };
        let time = Timestamp::now().as_second().saturating_sub(EPOCH);
        put(&mut bytes, 0, MARK);
        put(&mut bytes, at::FEATURES, &2u32.to_be_bytes());
        put(&mut bytes, at::VERSION, &0x0001_0000u32.to_be_bytes());
        put(&mut bytes, at::DATA_OFFSET, &data_offset.to_be_bytes());
        put(
            &mut bytes,
            at::TIME,
            &u32::try_from(time).unwrap_or_default().to_be_bytes(),
        );
        // Readers choose one of the two sizes by the creator application.
        put(
            &mut bytes,
            at::CREATOR,
            if is_exact { b"qem2" } else { b"qemu" },
        );
        put(
            &mut bytes,
            at::CREATOR_VERSION,
            &0x0005_0003u32.to_be_bytes(),
        );
        put(&mut bytes, at::CREATOR_SYSTEM, b"Wi2k");
        put(&mut bytes, at::ORIGINAL_SIZE, &size.to_be_bytes());
        put(&mut bytes, at::CURRENT_SIZE, &size.to_be_bytes());
        put(&mut bytes, at::GEOMETRY, &geometry.cylinders.to_be_bytes());
        put(
            &mut bytes,
            at::GEOMETRY + 2,
            &[geometry.heads, geometry.sectors],
        );
        put(&mut bytes, at::KIND, &kind.to_be_bytes());
        put(&mut bytes, at::UUID, Uuid::new_v4().as_bytes());
        let sum = checksum(&bytes, at::CHECKSUM);
        put(&mut bytes, at::CHECKSUM, &sum.to_be_bytes());
        Self { bytes }
    }

    /// Returns the bytes of the footer.
    pub(super) fn bytes(&self) -> &[u8; LENGTH] {
        &self.bytes
    }

    /// Returns the type of the disk.
    pub(super) fn kind(&self) -> DiskKind {
        match u32_be(&self.bytes, at::KIND) {
            2 => DiskKind::Fixed,
            3 => DiskKind::Dynamic,
            4 => DiskKind::Differencing,
            _ => DiskKind::Other,
        }
    }

    /// Returns the unique id of the disk.
    pub(super) fn id(&self) -> [u8; 16] {
        let id = self.bytes.get(at::UUID..at::UUID + 16);
        id.and_then(|id| id.try_into().ok()).unwrap_or_default()
    }

    /// Returns the offset of the dynamic disk header in bytes, which is all ones for a fixed disk.
    pub(super) fn data_offset(&self) -> u64 {
        u64_be(&self.bytes, at::DATA_OFFSET)
    }

    /// Returns the current size in bytes, rounded down to whole sectors.
    fn current_size(&self) -> u64 {
        let size = u64_be(&self.bytes, at::CURRENT_SIZE);
        size / SECTOR_SIZE * SECTOR_SIZE
    }

    fn geometry(&self) -> Chs {
        let bytes = field(&self.bytes, at::GEOMETRY);
        let small = |at: usize| bytes.get(at).copied().unwrap_or_default();
        Chs {
            cylinders: BigEndian::read_u16(bytes),
            heads: small(2),
            sectors: small(3),
        }
    }

    /// Returns true if the creator of the image uses the geometry. Only Virtual PC does, and QEMU unless `force_size`
    /// was set.
    fn is_by_geometry(&self) -> bool {
        let creator = field(&self.bytes, at::CREATOR);
        let goes_by = creator.starts_with(b"vpc ") || creator.starts_with(b"qemu");
        goes_by && !self.geometry().is_greatest()
    }

    /// Returns the size of the disk in bytes, a multiple of 512.
    pub(super) fn size(&self, rule: SizeRule) -> u64 {
        let by_geometry = match rule {
            SizeRule::OfCreator => self.is_by_geometry(),
            SizeRule::Geometry => !self.geometry().is_greatest(),
            SizeRule::CurrentSize => false,
        };
        match by_geometry {
            true => self.geometry().bytes(),
            false => self.current_size(),
        }
    }

    /// Returns true if the creator uses the geometry and the current size is larger. Data at the end of the disk
    /// would be lost silently then.
    pub(super) fn loses_end(&self) -> bool {
        self.is_by_geometry() && self.current_size() > self.geometry().bytes()
    }
}

/// Returns the bytes of a structure from a field on.
fn field(bytes: &[u8], at: usize) -> &[u8] {
    bytes.get(at..).unwrap_or_default()
}

/// Returns the checksum of a structure: the ones' complement of the sum of its bytes, except for the checksum's own
/// four bytes at `at`.
pub(super) fn checksum(bytes: &[u8], at: usize) -> u32 {
    let bytes = bytes.iter().enumerate();
    let counted = bytes.filter(|(place, _)| !(at..at + 4).contains(place));
    !counted.map(|(_, byte)| u32::from(*byte)).sum::<u32>()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn changed(at: usize, value: &[u8]) -> VhdFooter {
        let geometry = Chs::at_least(10 << 11);
        let footer = VhdFooter::new(geometry.bytes(), geometry, DiskKind::Dynamic, false);
        let mut bytes = *footer.bytes();
        bytes[at..at + value.len()].copy_from_slice(value);
        let sum = checksum(&bytes, at::CHECKSUM);
        bytes[at::CHECKSUM..at::CHECKSUM + 4].copy_from_slice(&sum.to_be_bytes());
        VhdFooter::parse(&bytes).unwrap().unwrap()
    }

    #[test]
    fn the_creator_decides_which_size_counts() {
        let by_geometry = Chs::at_least(10 << 11).bytes();
        let larger = (20u64 << 20).to_be_bytes();
        for (creator, expected) in [
            (b"vpc ", by_geometry),
            (b"qemu", by_geometry),
            (b"qem2", 20 << 20),
            (b"win ", 20 << 20),
            (b"vbox", 20 << 20),
            (b"d2v\0", 20 << 20),
        ] {
            let mut footer = changed(at::CURRENT_SIZE, &larger);
            footer.bytes[at::CREATOR..at::CREATOR + 4].copy_from_slice(creator);
            assert_eq!(footer.size(SizeRule::OfCreator), expected, "{creator:?}");
            assert_eq!(footer.size(SizeRule::Geometry), by_geometry);
            assert_eq!(footer.size(SizeRule::CurrentSize), 20 << 20);
            assert_eq!(footer.loses_end(), expected == by_geometry);
        }
        let greatest = changed(at::GEOMETRY, &[0xff, 0xff, 16, 255]);
        assert_eq!(greatest.size(SizeRule::OfCreator), by_geometry);
        assert_eq!(
            changed(at::CURRENT_SIZE, &[0; 8]).size(SizeRule::CurrentSize),
            0
        );
    }

    #[test]
    fn a_wrong_checksum_is_noticed() {
        let footer = changed(at::UUID, b"0123456789abcdef");
        assert_eq!(footer.kind(), DiskKind::Dynamic);
        let mut bytes = *footer.bytes();
        bytes[100] ^= 1;
        let error = VhdFooter::parse(&bytes).unwrap().unwrap_err();
        assert_eq!(error.to_string(), "Incorrect header checksum");
        assert!(VhdFooter::parse(&[0; LENGTH]).is_none());
    }

    #[test]
    fn each_disk_has_an_identifier_of_its_own() {
        let geometry = Chs::greatest();
        let footer = || VhdFooter::new(1 << 20, geometry, DiskKind::Fixed, true);
        let uuid = |footer: &VhdFooter| footer.bytes[at::UUID..at::UUID + 16].to_vec();
        assert_ne!(uuid(&footer()), uuid(&footer()));
        assert_eq!(footer().size(SizeRule::OfCreator), 1 << 20);
        assert_eq!(footer().data_offset(), u64::MAX);
    }
}
