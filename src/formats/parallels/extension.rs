//! The format extension: a cluster with a list of features. The only supported feature is the dirty bitmap.
//!
//! The cluster starts with a magic number and the MD5 of the rest. Features follow, each with a magic number and a
//! length, up to one with magic number 0. A dirty bitmap records what has changed since the last backup. It has an
//! identifier, and a table of the clusters with its bits.

use std::ops::Range;

use byteorder::{ByteOrder as _, LittleEndian};
use uuid::Uuid;

use super::header::ParallelsHeader;
use crate::crypto::HashAlgorithm;
use crate::error::{Error, Result};
use crate::formats::fields::{u32_le, u64_le};
use crate::storage::Storage;
use crate::units::SECTOR_SIZE;

/// The magic number of the extension.
const MARK: u64 = 0xab23_4cef_23dc_ea87;
/// The range of the MD5 of all bytes after it.
const SUM: Range<usize> = 8..24;
/// The length of a feature's header in bytes.
const FEATURE_HEADER: usize = 24;
/// The magic number of a dirty bitmap.
const BITMAP: u64 = 0x2038_5fae_252c_b34a;
/// The length of a bitmap's header before its table, in bytes.
const BITMAP_HEADER: usize = 32;
/// The largest cluster of an extension in bytes. Known ones have 1 MiB.
const LONGEST: u64 = 64 << 20;
/// The largest granularity of a bitmap in sectors: 2 GiB.
const COARSEST: u64 = 1 << 22;

/// The decoded entry of a bitmap's table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum BitsCluster {
    /// All bits are 0.
    Clear,
    /// All bits are 1.
    Set,
    /// The offset of the cluster of bits in the file, in bytes.
    At(u64),
}

/// A dirty bitmap.
#[derive(Debug, Clone)]
pub(super) struct DirtyBitmap {
    /// Its identifier, as text.
    pub(super) name: String,
    /// The number of bytes of the disk that one bit covers.
    pub(super) granularity: u64,
    /// The entries of its table.
    pub(super) clusters: Vec<BitsCluster>,
    /// The offset of its table in the extension, in bytes.
    table: usize,
}

/// A checked extension.
#[derive(Debug, Clone)]
pub(super) struct FormatExtension {
    /// The bytes of its cluster.
    bytes: Vec<u8>,
    /// The bitmaps.
    pub(super) bitmaps: Vec<DirtyBitmap>,
}

fn wrong<T>(text: impl Into<String>) -> Result<T> {
    Err(Error::corrupt(text))
}

impl FormatExtension {
    /// Reads the extension according to the header, or returns `None` if there is none.
    ///
    /// # Errors
    /// Returns the system's error. Returns an error, in QEMU's words where it has any, if the extension is damaged or
    /// has an unsupported feature.
    pub(super) fn read(file: &dyn Storage, header: &ParallelsHeader) -> Result<Option<Self>> {
        if header.extension == 0 {
            return Ok(None);
        }
        let mut mark = [0; 8];
        file.read_padded_at(header.extension, &mut mark, file.len()?)?;
        let mark = u64::from_le_bytes(mark);
        if mark != MARK {
            return wrong(format!(
                "Wrong parallels Format Extension magic: {mark:#x}, expected: {MARK:#x}"
            ));
        }
        if header.cluster_size > LONGEST {
            return Err(Error::unsupported(
                "this version doesn't read format extensions of more than 64 MiB",
            ));
        }
        let mut bytes = vec![0; usize::try_from(header.cluster_size).unwrap_or(0)];
        file.read_exact_at(header.extension, &mut bytes, "the format extension")?;
        if bytes.get(SUM) != Some(&sum(&bytes)) {
            return wrong(
                "Wrong checksum in Format Extension header. Format extension is corrupted.",
            );
        }
        let mut bitmaps = Vec::new();
        let mut at = SUM.end;
        loop {
            let rest = bytes.get(at..).unwrap_or_default();
            if rest.len() < FEATURE_HEADER {
                return wrong(format!(
                    "Can not read feature header, as remaining bytes ({}) in Format Extension is \
                     less than Feature header size ({FEATURE_HEADER})",
                    rest.len()
                ));
            }
            let (mark, flags) = (u64_le(rest, 0), u64_le(rest, 8));
            let length = usize::try_from(u32_le(rest, 16)).unwrap_or(usize::MAX);
            if mark == 0 {
                break;
            }
            if flags != 0 {
                return wrong("Flags for extension feature are unsupported");
            }
            let end = length.checked_add(FEATURE_HEADER);
            let Some(data) = end.and_then(|end| rest.get(FEATURE_HEADER..end)) else {
                return wrong("Feature data_size exceedes Format Extension cluster");
            };
            if mark != BITMAP {
                return wrong(format!("Unknown feature: {mark:#x}"));
            }
            at += FEATURE_HEADER;
            bitmaps.push(DirtyBitmap::parse(data, at, header, file.len()?)?);
            at += length.next_multiple_of(8);
        }
        Ok(Some(Self { bytes, bitmaps }))
    }

    /// Returns the offsets of all clusters to which the extension refers, in bytes.
    pub(super) fn clusters(&self) -> impl Iterator<Item = u64> {
        let clusters = self.bitmaps.iter().flat_map(|bitmap| &bitmap.clusters);
        clusters.filter_map(|cluster| match cluster {
            BitsCluster::At(place) => Some(*place),
            BitsCluster::Clear | BitsCluster::Set => None,
        })
    }

    /// Sets an entry of a bitmap's table to the cluster at byte `place`.
    ///
    /// # Errors
    /// Returns an error if there is no such bitmap, or no such entry.
    pub(super) fn refer(&mut self, bitmap: usize, entry: usize, place: u64) -> Result<()> {
        let lost = || Error::invalid("a dirty bitmap has no such entry");
        let bitmap = self.bitmaps.get_mut(bitmap).ok_or_else(lost)?;
        *bitmap.clusters.get_mut(entry).ok_or_else(lost)? = BitsCluster::At(place);
        let at = bitmap.table + 8 * entry;
        let field = self.bytes.get_mut(at..at + 8).ok_or_else(lost)?;
        LittleEndian::write_u64(field, place / SECTOR_SIZE);
        Ok(())
    }

    /// Encodes the extension's cluster.
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut bytes = self.bytes.clone();
        let sum = sum(&bytes);
        if let Some(field) = bytes.get_mut(SUM) {
            field.copy_from_slice(&sum);
        }
        bytes
    }
}

/// Returns the MD5 of an extension's bytes after the MD5 field.
fn sum(bytes: &[u8]) -> [u8; 16] {
    let digest = HashAlgorithm::Md5.digest(&[bytes.get(SUM.end..).unwrap_or_default()]);
    digest.first_chunk().copied().unwrap_or_default()
}

impl DirtyBitmap {
    /// Parses a bitmap from its data, which is at byte `at` of the extension, in a file of `length` bytes.
    fn parse(data: &[u8], at: usize, header: &ParallelsHeader, length: u64) -> Result<Self> {
        if data.len() < BITMAP_HEADER {
            return wrong(format!(
                "Too small Bitmap Feature area in Parallels Format Extension: {} bytes, expected \
                 at least {BITMAP_HEADER} bytes",
                data.len()
            ));
        }
        let (size, sectors) = (u64_le(data, 0), header.size / SECTOR_SIZE);
        if size != sectors {
            return wrong(format!(
                "Bitmap size (in sectors) {} differs from disk size in sectors {sectors}",
                size.cast_signed()
            ));
        }
        let (granularity, entries) = (u64::from(u32_le(data, 24)), u32_le(data, 28));
        let table = data.get(BITMAP_HEADER..).unwrap_or_default();
        if u64::from(entries) * 8 > table.len() as u64 {
            return wrong("Bitmaps feature corrupted: l1 table exceeds extension data_size");
        }
        if !granularity.is_power_of_two() || granularity > COARSEST {
            return wrong("the granularity of a dirty bitmap is impossible");
        }
        let granularity = granularity * SECTOR_SIZE;
        let expected = header
            .size
            .div_ceil(granularity)
            .div_ceil(8 * header.cluster_size);
        if u64::from(entries) != expected {
            return wrong(format!(
                "Bitmap table size {entries} does not correspond to bitmap size and cluster size. \
                 Expected {expected}"
            ));
        }
        let count = usize::try_from(entries).unwrap_or(usize::MAX);
        let entries = table.chunks_exact(8).take(count);
        let clusters = entries.map(|entry| match u64_le(entry, 0) {
            0 => Ok(BitsCluster::Clear),
            1 => Ok(BitsCluster::Set),
            sector => {
                let place = sector.checked_mul(SECTOR_SIZE);
                let end = place.and_then(|place| place.checked_add(header.cluster_size));
                match (place, end) {
                    (Some(place), Some(end)) if end <= length => Ok(BitsCluster::At(place)),
                    _ => wrong("Failed to read bitmap data cluster"),
                }
            }
        });
        let id = data.get(8..).and_then(|id| id.first_chunk());
        Ok(Self {
            name: Uuid::from_bytes(id.copied().unwrap_or_default()).to_string(),
            granularity,
            clusters: clusters.collect::<Result<_>>()?,
            table: at + BITMAP_HEADER,
        })
    }
}
