//! The bits of table entries: the only place that masks.
//!
//! An entry as read from a file is a newtype over `u64`; it turns into an enum that says what it
//! means, and can't be used in any other way. Bits that the specification reserves must be zero:
//! an entry that sets one was written by a future version or by chance, and neither may be guessed.

use std::ops::Range;

use super::geometry::Geometry;
use crate::units::HostOffset;

/// Bits 9 to 55: a host offset, in L1, standard L2 and refcount table entries.
const OFFSET_MASK: u64 = 0x00ff_ffff_ffff_fe00;
/// Bit 63: the refcount of what the entry leads to is exactly 1 (the specification's COPIED flag).
const COPIED: u64 = 1 << 63;
/// Bit 62 of an L2 entry: the cluster is compressed.
const COMPRESSED: u64 = 1 << 62;
/// Bit 0 of a standard L2 entry, version 3: the cluster reads as zeroes.
const ZERO: u64 = 1;
/// How many subclusters an extended L2 entry's cluster has.
pub const SUBCLUSTERS: u32 = 32;
/// Bits 0 to 8 of a refcount table entry are reserved.
const REFCOUNT_RESERVED: u64 = 0x1ff;
/// The unit in which a compressed cluster's length is given, in bytes.
const COMPRESSED_SECTOR: u64 = 512;

/// Why an entry is not valid.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EntryError {
    /// Bits are set that the specification reserves.
    Reserved,
    /// The offset is not at the start of a cluster.
    Unaligned(HostOffset),
    /// The zero flag is set in a version 2 image, which has none.
    ZeroFlagInVersion2,
    /// A subcluster, by its number in the cluster, is said to be stored where nothing is kept, or to
    /// be stored and to read as zeroes at once.
    Subcluster(u32),
}

impl std::fmt::Display for EntryError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Reserved => f.write_str("reserved bits are set"),
            Self::Unaligned(offset) => write!(f, "offset {offset} is not cluster-aligned"),
            Self::ZeroFlagInVersion2 => f.write_str("zero cluster in a version 2 image"),
            Self::Subcluster(number) => write!(f, "the bits of subcluster {number} contradict"),
        }
    }
}

/// An L1 table entry as stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct L1Entry(pub u64);

/// What an L1 entry means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum L1Target {
    /// No cluster of the range is stored.
    Unallocated,
    /// The L2 table's place, and whether the entry claims a refcount of exactly 1.
    Table {
        /// Where the L2 table is.
        host: HostOffset,
        /// The COPIED flag.
        copied: bool,
    },
}

impl L1Entry {
    /// An entry that leads to an L2 table with a refcount of 1.
    pub fn to_table(host: HostOffset) -> Self {
        Self(host.0 | COPIED)
    }

    /// Where the entry leads, aligned or not, whatever else is wrong with it; 0 for nowhere.
    pub fn host(self) -> HostOffset {
        HostOffset(self.0 & OFFSET_MASK)
    }

    /// Whether the COPIED flag is set.
    pub fn is_copied(self) -> bool {
        self.0 & COPIED != 0
    }

    /// Whether bits are set that the specification reserves.
    pub fn has_reserved_bits(self) -> bool {
        self.0 & !(OFFSET_MASK | COPIED) != 0
    }

    /// The entry with the COPIED flag set or cleared.
    #[must_use]
    pub fn with_copied(self, copied: bool) -> Self {
        Self(with_copied(self.0, copied))
    }

    /// What the entry means.
    ///
    /// # Errors
    /// Reserved bits, or an offset that is not cluster-aligned.
    pub fn target(self, geometry: Geometry) -> Result<L1Target, EntryError> {
        if self.0 & !(OFFSET_MASK | COPIED) != 0 {
            return Err(EntryError::Reserved);
        }
        let host = HostOffset(self.0 & OFFSET_MASK);
        if host.0 == 0 {
            return Ok(L1Target::Unallocated);
        }
        if !geometry.is_aligned(host) {
            return Err(EntryError::Unaligned(host));
        }
        Ok(L1Target::Table {
            host,
            copied: self.0 & COPIED != 0,
        })
    }
}

/// A standard (8-byte) L2 table entry as stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct L2Entry(pub u64);

/// What an L2 entry means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum L2Target {
    /// Nothing is stored here.
    Unallocated,
    /// Reads as zeroes; a cluster may be kept for it all the same.
    Zero {
        /// The cluster that is kept, and the COPIED flag.
        kept: Option<(HostOffset, bool)>,
    },
    /// The cluster's data.
    Data {
        /// Where the cluster is.
        host: HostOffset,
        /// The COPIED flag.
        copied: bool,
    },
    /// The cluster's data, compressed.
    Compressed(CompressedRange),
}

/// Where a compressed cluster's bytes are. They start at any byte; their length is only known in
/// sectors of 512 bytes, so the range may hold some bytes too many at its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CompressedRange {
    /// The first byte.
    pub host: HostOffset,
    /// How many bytes belong to the range, up to the end of its last sector.
    pub length: u64,
}

impl L2Entry {
    /// An entry for a cluster that reads as zeroes and has no place (standard entries of version 3).
    pub fn to_zeroes() -> Self {
        Self(ZERO)
    }

    /// An entry that leads to a data cluster with a refcount of 1.
    pub fn to_data(host: HostOffset) -> Self {
        Self(host.0 | COPIED)
    }

    /// An entry that reads as zeroes (version 3 only); a cluster with a refcount of 1 may be kept.
    pub fn to_zero(kept: Option<HostOffset>) -> Self {
        Self(kept.map_or(ZERO, |host| host.0 | COPIED | ZERO))
    }

    /// An entry that leads to a compressed cluster of `length` bytes, at least 1 and less than a
    /// cluster; the counterpart of what [`target`](Self::target) reads. It never has the COPIED flag.
    /// `None` when the offset has more bits than there is room for.
    pub fn to_compressed(geometry: Geometry, host: HostOffset, length: u64) -> Option<Self> {
        let x = compressed_offset_bits(geometry);
        let last = host.0.checked_add(length.checked_sub(1)?)?;
        let more_sectors = last / COMPRESSED_SECTOR - host.0 / COMPRESSED_SECTOR;
        let fits = last >> x == 0 && more_sectors >> (62 - x) == 0;
        fits.then_some(Self(COMPRESSED | more_sectors << x | host.0))
    }

    /// What the entry means; `zero_flag` says whether the image's version has zero clusters.
    ///
    /// # Errors
    /// Reserved bits, an offset that is not cluster-aligned, a zero flag in version 2.
    pub fn target(self, geometry: Geometry, zero_flag: bool) -> Result<L2Target, EntryError> {
        if self.0 & COMPRESSED != 0 {
            return Ok(L2Target::Compressed(self.compressed(geometry)));
        }
        if self.0 & !(OFFSET_MASK | COPIED | ZERO) != 0 {
            return Err(EntryError::Reserved);
        }
        let host = HostOffset(self.0 & OFFSET_MASK);
        if !geometry.is_aligned(host) {
            return Err(EntryError::Unaligned(host));
        }
        let copied = self.0 & COPIED != 0;
        if self.0 & ZERO != 0 {
            if !zero_flag {
                return Err(EntryError::ZeroFlagInVersion2);
            }
            return Ok(L2Target::Zero {
                kept: (host.0 != 0).then_some((host, copied)),
            });
        }
        if host.0 == 0 {
            return Ok(L2Target::Unallocated);
        }
        Ok(L2Target::Data { host, copied })
    }

    /// As [`target`](Self::target), in an image with an external data file: there offset 0 is a place
    /// like any other, and it is the COPIED flag that tells an entry that leads there.
    ///
    /// # Errors
    /// As [`target`](Self::target).
    pub fn target_in_data_file(
        self,
        geometry: Geometry,
        zero_flag: bool,
    ) -> Result<L2Target, EntryError> {
        let start = HostOffset(0);
        let target = self.target(geometry, zero_flag)?;
        Ok(match target {
            L2Target::Unallocated if self.is_copied() => L2Target::Data {
                host: start,
                copied: true,
            },
            L2Target::Zero { kept: None } if self.is_copied() => L2Target::Zero {
                kept: Some((start, true)),
            },
            other => other,
        })
    }

    fn compressed(self, geometry: Geometry) -> CompressedRange {
        let x = compressed_offset_bits(geometry);
        let host = self.0 & ((1 << x) - 1);
        let more_sectors = (self.0 & (COMPRESSED - 1)) >> x;
        CompressedRange {
            host: HostOffset(host),
            length: (more_sectors + 1) * COMPRESSED_SECTOR - host % COMPRESSED_SECTOR,
        }
    }

    /// Where the entry leads when nothing that is wrong with it is held against it, as `check` has to
    /// see it: reserved bits are ignored and offsets needn't be aligned. `data_file` says whether
    /// clusters of data are in another file, where offset 0 is a place like any other.
    pub fn lead(self, geometry: Geometry, data_file: bool) -> L2Lead {
        if self.0 & COMPRESSED != 0 {
            return L2Lead::Compressed(self.compressed(geometry));
        }
        let host = HostOffset(self.0 & OFFSET_MASK);
        let copied = self.is_copied();
        let zero = self.0 & ZERO != 0 && !geometry.has_subclusters();
        if host.0 != 0 || (data_file && copied && !zero) {
            return L2Lead::Stored { host, copied, zero };
        }
        if zero { L2Lead::Zero } else { L2Lead::Nothing }
    }

    /// Whether bits are set that the specification reserves; for entries that aren't compressed.
    pub fn has_reserved_bits(self) -> bool {
        self.0 & !(OFFSET_MASK | COPIED | ZERO) != 0
    }

    /// The entry with the COPIED flag set or cleared.
    #[must_use]
    pub fn with_copied(self, copied: bool) -> Self {
        Self(with_copied(self.0, copied))
    }

    /// An entry for a cluster that reads as zeroes and isn't kept; with subclusters it is their
    /// bitmap that says so.
    pub fn zero(geometry: Geometry) -> Self {
        Self(if geometry.has_subclusters() { 0 } else { ZERO })
    }

    /// Whether the COPIED flag is set; a compressed cluster must never have it.
    pub fn is_copied(self) -> bool {
        self.0 & COPIED != 0
    }
}

/// Where an L2 entry leads; see [`L2Entry::lead`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum L2Lead {
    /// Nowhere.
    Nothing,
    /// Nowhere: the cluster reads as zeroes.
    Zero,
    /// To a cluster.
    Stored {
        /// Where it is, aligned or not.
        host: HostOffset,
        /// The COPIED flag.
        copied: bool,
        /// Whether the cluster is only kept, and reads as zeroes.
        zero: bool,
    },
    /// To a compressed cluster.
    Compressed(CompressedRange),
}

fn with_copied(entry: u64, copied: bool) -> u64 {
    if copied {
        entry | COPIED
    } else {
        entry & !COPIED
    }
}

/// The second half of an extended L2 entry: what is stored of each of the cluster's 32 subclusters.
///
/// Bit n (0 to 31) is set when subcluster n is stored, bit 32 + n when it reads as zeroes; neither
/// when it is not stored here, never both.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SubclusterBitmap(pub u64);

/// How one subcluster is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Subcluster {
    /// Not in this image.
    Unallocated,
    /// It reads as zeroes.
    Zero,
    /// In the cluster that the entry leads to.
    Data,
}

impl SubclusterBitmap {
    /// All subclusters are stored.
    pub const ALL_DATA: Self = Self(0x0000_0000_ffff_ffff);
    /// All subclusters read as zeroes.
    pub const ALL_ZERO: Self = Self(0xffff_ffff_0000_0000);

    /// How subcluster `number` (0 to 31) is stored.
    ///
    /// # Errors
    /// Both of its bits are set.
    pub fn get(self, number: u32) -> Result<Subcluster, EntryError> {
        match (self.0 >> number & 1, self.0 >> (SUBCLUSTERS + number) & 1) {
            (0, 0) => Ok(Subcluster::Unallocated),
            (0, _) => Ok(Subcluster::Zero),
            (_, 0) => Ok(Subcluster::Data),
            _ => Err(EntryError::Subcluster(number)),
        }
    }

    /// Whether a subcluster is said to be stored and to read as zeroes at once.
    pub fn contradicts_itself(self) -> bool {
        self.0 >> SUBCLUSTERS & self.0 != 0
    }

    /// Whether a subcluster is stored.
    pub fn has_data(self) -> bool {
        self.0 & Self::ALL_DATA.0 != 0
    }

    /// The bitmap with zeroes where something was stored.
    #[must_use]
    pub fn without_data(self) -> Self {
        Self((self.0 | self.0 << SUBCLUSTERS) & Self::ALL_ZERO.0)
    }

    /// The bitmap with subcluster `number` (0 to 31) stored in that way.
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

/// An L2 table's entry for one cluster; the bitmap is there when entries have 16 bytes.
pub type L2Slot = (L2Entry, Option<SubclusterBitmap>);

/// An L2 table as stored: entries of 8 bytes, or of 16 with subclusters.
#[derive(Debug, Clone)]
pub struct L2Table {
    words: Box<[u64]>,
    extended: bool,
}

impl L2Table {
    /// The table of these 64-bit words.
    pub fn new(words: Vec<u64>, geometry: Geometry) -> Self {
        Self {
            words: words.into(),
            extended: geometry.has_subclusters(),
        }
    }

    /// Entry `index`; `None` beyond the table.
    pub fn get(&self, index: usize) -> Option<L2Slot> {
        if self.extended {
            let entry = self.words.get(2 * index..)?.first_chunk::<2>()?;
            return Some((L2Entry(entry[0]), Some(SubclusterBitmap(entry[1]))));
        }
        let word = self.words.get(index)?;
        Some((L2Entry(*word), None))
    }

    /// How many entries behind `index`, of at most so many, are the same but for an offset that grows
    /// by `step` with each. Entries of 16 bytes never are.
    pub fn repeats(&self, index: usize, step: u64, most: u64) -> u64 {
        let Some([first, behind @ ..]) = self.words.get(index..).filter(|_| !self.extended) else {
            return 0;
        };
        let most = usize::try_from(most).unwrap_or(usize::MAX);
        let mut expected = *first;
        let same = behind.iter().take(most).take_while(|word| {
            expected = expected.wrapping_add(step);
            // Flags stay: an offset that grows into them is none.
            **word == expected && (expected ^ first) & !OFFSET_MASK == 0
        });
        same.count() as u64
    }
}

/// Stores entry `index` of an L2 table, with its bitmap where entries have 16 bytes. `None`, and
/// nothing stored, beyond the table.
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

/// The specification's x of a compressed cluster descriptor, 62 − (cluster_bits − 8): bits 0 to x−1
/// are the offset, bits x to 61 the number of sectors beyond the first one.
fn compressed_offset_bits(geometry: Geometry) -> u32 {
    62 - (geometry.cluster_bits() - 8)
}

/// A refcount table entry as stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RefcountTableEntry(pub u64);

impl RefcountTableEntry {
    /// An entry that leads to a refcount block.
    pub fn to_block(host: HostOffset) -> Self {
        Self(host.0)
    }

    /// Where the refcount block is; `None` when all refcounts it would hold are 0.
    ///
    /// # Errors
    /// Reserved bits, or an offset that is not cluster-aligned.
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
}

impl RefcountTableEntry {
    /// Where the entry leads, aligned or not, whatever else is wrong with it; 0 for nowhere.
    pub fn host(self) -> HostOffset {
        HostOffset(self.0 & !REFCOUNT_RESERVED)
    }

    /// Whether bits are set that the specification reserves.
    pub fn has_reserved_bits(self) -> bool {
        self.0 & REFCOUNT_RESERVED != 0
    }
}

/// An entry of a bitmap's table as stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct BitmapTableEntry(pub u64);

/// What an entry of a bitmap's table means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BitmapTarget {
    /// All of its bits are the same.
    Uniform(bool),
    /// The cluster that holds the bits.
    Stored(HostOffset),
}

impl BitmapTableEntry {
    /// The entry that leads to a cluster of bits.
    pub fn to_cluster(host: HostOffset) -> Self {
        Self(host.0 & OFFSET_MASK)
    }

    /// What the entry means.
    ///
    /// # Errors
    /// Reserved bits, or an offset that is not cluster-aligned.
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

/// Sets a range of bits in a cluster of a bitmap, as far as it has them. The first bit is the least
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

/// Reads refcount `index` out of a refcount block with entries of `bits` bits (1 to 64, a power of
/// two). Entries narrower than a byte fill it from the least significant bit. `None` beyond the
/// block.
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

/// Stores refcount `index` in a refcount block; the counterpart of [`refcount_at`]. `None`, and
/// nothing stored, beyond the block or where the value needs more bits.
pub fn set_refcount(block: &mut [u8], bits: u32, index: usize, value: u64) -> Option<()> {
    if value.checked_shr(bits).is_some_and(|excess| excess != 0) {
        return None;
    }
    if bits < 8 {
        let per_byte = usize::try_from(8 / bits).ok()?;
        let byte = block.get_mut(index / per_byte)?;
        let shift = bits * u32::try_from(index % per_byte).ok()?;
        let mask = ((1u8 << bits) - 1) << shift;
        *byte = *byte & !mask | u8::try_from(value).ok()? << shift;
        return Some(());
    }
    let width = usize::try_from(bits / 8).ok()?;
    let start = index.checked_mul(width)?;
    let place = block.get_mut(start..start.checked_add(width)?)?;
    let bytes = value.to_be_bytes();
    place.copy_from_slice(bytes.get(bytes.len() - width..)?);
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn geometry(bits: u32) -> Geometry {
        Geometry::new(bits, false, 4).unwrap()
    }

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
    fn l1_entries() {
        let at = |entry| L1Entry(entry).target(geometry(16));
        assert_eq!(at(0), Ok(L1Target::Unallocated));
        assert_eq!(
            at(0x8000_0000_0004_0000),
            Ok(L1Target::Table {
                host: HostOffset(0x4_0000),
                copied: true
            })
        );
        assert_eq!(at(0x4000_0000_0004_0000), Err(EntryError::Reserved));
        assert_eq!(at(0x4_0001), Err(EntryError::Reserved));
        assert_eq!(
            at(0x4_0200),
            Err(EntryError::Unaligned(HostOffset(0x4_0200)))
        );
    }

    #[test]
    fn l2_entries() {
        let at = |entry| L2Entry(entry).target(geometry(16), true);
        assert_eq!(at(0), Ok(L2Target::Unallocated));
        assert_eq!(at(1), Ok(L2Target::Zero { kept: None }));
        assert_eq!(
            at(0x8000_0000_0005_0001),
            Ok(L2Target::Zero {
                kept: Some((HostOffset(0x5_0000), true))
            })
        );
        assert_eq!(
            at(0x5_0000),
            Ok(L2Target::Data {
                host: HostOffset(0x5_0000),
                copied: false
            })
        );
        assert_eq!(at(0x5_0002), Err(EntryError::Reserved));
        assert_eq!(at(0x2000_0000_0005_0000), Err(EntryError::Reserved));
        assert_eq!(
            L2Entry(1).target(geometry(16), false),
            Err(EntryError::ZeroFlagInVersion2)
        );
    }

    #[test]
    fn compressed_descriptors_split_by_cluster_size() {
        // 64 KiB clusters: 8 bits of sector count, 54 bits of offset.
        let range = L2Entry(0x4000_0000_0000_0000 | 3 << 54 | 0x5_0123).target(geometry(16), true);
        assert_eq!(
            range,
            Ok(L2Target::Compressed(CompressedRange {
                host: HostOffset(0x5_0123),
                length: 4 * 512 - 0x123
            }))
        );
        // 512-byte clusters: 1 bit of sector count, 61 bits of offset.
        let range = L2Entry(0x4000_0000_0000_0000 | 1 << 61 | 0x201).target(geometry(9), true);
        assert_eq!(
            range,
            Ok(L2Target::Compressed(CompressedRange {
                host: HostOffset(0x201),
                length: 1024 - 1
            }))
        );
    }

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
        let second = (L2Entry(3), Some(SubclusterBitmap(4)));
        assert_eq!(table.get(1), Some(second));
        assert_eq!(table.get(2), None);
    }

    #[test]
    fn where_damaged_entries_lead() {
        let at = |entry| L2Entry(entry).lead(geometry(16), false);
        assert_eq!(at(0), L2Lead::Nothing);
        assert_eq!(at(1), L2Lead::Zero);
        let stored = |host, copied, zero| L2Lead::Stored {
            host: HostOffset(host),
            copied,
            zero,
        };
        assert_eq!(at(0x8000_0000_0005_0201), stored(0x5_0200, true, true));
        assert_eq!(at(0x2000_0000_0005_0002), stored(0x5_0000, false, false));
        assert!(L2Entry(2).has_reserved_bits() && !L2Entry(1 | 1 << 63).has_reserved_bits());
        let external = L2Entry(1 << 63).lead(geometry(16), true);
        assert_eq!(external, stored(0, true, false));
        assert_eq!(L2Entry(512).with_copied(true).0, 1 << 63 | 512);
        assert_eq!(L1Entry(1 << 63 | 512).with_copied(false).0, 512);
        let bitmap = SubclusterBitmap(1 << 3 | 1 << 35);
        assert!(bitmap.contradicts_itself() && bitmap.has_data());
        assert_eq!(bitmap.without_data().0, 1 << 35);
    }

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

    #[test]
    fn compressed_descriptors_are_made_as_they_are_read() {
        for bits in 9..=21 {
            let geometry = geometry(bits);
            let size = geometry.cluster_size();
            for host in [size, size + 1, 3 * size + 511, 5 * size - 1, 7 * size + 300] {
                for length in [1, 2, 212, 511, size - 1] {
                    let entry = L2Entry::to_compressed(geometry, HostOffset(host), length).unwrap();
                    assert!(!entry.is_copied());
                    let Ok(L2Target::Compressed(range)) = entry.target(geometry, true) else {
                        panic!("not compressed: {entry:?}");
                    };
                    assert_eq!(range.host, HostOffset(host));
                    let end = (host + length).next_multiple_of(512);
                    assert_eq!(range.length, end - host, "{length} at {host}");
                }
            }
        }
        // 2 MiB clusters: 49 bits of offset.
        let at = |host| L2Entry::to_compressed(geometry(21), HostOffset(host), 2);
        assert!(at((1 << 49) - 2).is_some());
        assert!(at((1 << 49) - 1).is_none());
        // A literal one: 64 KiB clusters, 4 sectors from 0x50123 on.
        assert_eq!(
            L2Entry::to_compressed(geometry(16), HostOffset(0x5_0123), 3 * 512),
            Some(L2Entry(0x4000_0000_0000_0000 | 3 << 54 | 0x5_0123))
        );
    }

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
        // Too wide, or beyond the block.
        assert_eq!(stored(1, 0, 2), None);
        assert_eq!(stored(16, 0, 65_536), None);
        assert_eq!(stored(16, 4, 0), None);
        assert_eq!(stored(1, 64, 0), None);
    }
}
