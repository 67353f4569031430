//! Persistent bitmaps, as the image stores them.
//!
//! A header extension points to the bitmap directory, whose entries point to bitmap tables. Their entries point to
//! clusters of bits. A bit covers as many bytes of the disk as the bitmap's granularity says. All of this is valid
//! only while autoclear bit 0 is set. A program that doesn't know bitmaps clears that bit when it writes, and the
//! bitmaps are outdated from then on. The limits are QEMU's.

use std::collections::{BTreeMap, HashSet};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use byteorder::{BigEndian, ReadBytesExt as _};

use super::entries::{BitmapTableEntry, BitmapTarget};
use super::geometry::Geometry;
use super::header::{Header, TablePlace};
use super::read::tables::read_table;
use crate::error::{Error, Result, printable};
use crate::formats::bitmaps::{BitmapBits, PersistentBitmap, by_clusters};
use crate::storage::{Pace, Pieces, Storage};
use crate::units::HostOffset;

/// The largest number of entries in a bitmap table.
const MAX_TABLE_ENTRIES: u32 = 0x800_0000;
/// The largest bitmap in bytes.
pub(super) const MAX_BITMAP_BYTES: u64 = 0x2000_0000;
/// The longest name in bytes.
pub(super) const MAX_NAME: u16 = 1023;
/// The granularity as a power of two: 512 bytes to 2 GiB.
const GRANULARITY_BITS: std::ops::RangeInclusive<u8> = 9..=31;
/// The only bitmap type that the specification defines: dirty tracking.
const DIRTY_TRACKING: u8 = 1;
/// The length of a directory entry without its name, in bytes.
const FIXED_LENGTH: usize = 24;
/// The offset of the flags in a directory entry, in bytes.
const FLAGS_AT: u64 = 12;

const IN_USE: u32 = 1 << 0;
const AUTO: u32 = 1 << 1;

/// The number of bytes of bits to read ahead, if clusters are smaller than that.
const AHEAD_BYTES: usize = 2 << 20;

/// The bits of a stored bitmap. Bits are read front to back, so some clusters are read ahead: many in one batch if
/// the storage is slow.
#[derive(Debug)]
struct StoredBits {
    storage: Arc<dyn Storage>,
    geometry: Geometry,
    bitmap: Bitmap,
    /// The bitmap table, once bits have been read.
    table: OnceLock<Vec<BitmapTableEntry>>,
    pace: Pace,
    /// The clusters that were read ahead, by their indexes in the table.
    ahead: Mutex<BTreeMap<u64, Vec<u8>>>,
}

impl StoredBits {
    /// Copies bits from the cluster at `host`, whose table entry is `index`, from byte `within` of the cluster on.
    fn copy(&self, index: u64, host: HostOffset, within: u64, part: &mut [u8]) -> Result<()> {
        let mut ahead = self.ahead.lock().unwrap_or_else(PoisonError::into_inner);
        if !ahead.contains_key(&index) {
            *ahead = self.read_ahead(index)?;
        }
        let Some(cluster) = ahead.get(&index) else {
            // The file may end inside a cluster, after its last bits.
            let from = host.0.saturating_add(within);
            return self.storage.read_exact_at(from, part, "a bitmap's bits");
        };
        let start = position(within);
        let bits = cluster.get(start..start.saturating_add(part.len()));
        part.copy_from_slice(bits.ok_or_else(|| Error::corrupt("a bitmap's bits are cut off"))?);
        Ok(())
    }

    /// Reads clusters of bits from table entry `index` on, up to one that isn't complete in the file.
    fn read_ahead(&self, index: u64) -> Result<BTreeMap<u64, Vec<u8>>> {
        let length = self.storage.len()?;
        let size = self.geometry.cluster_len();
        let next = (index..).zip(self.table()?.iter().skip(position(index)));
        let next = next.filter_map(|(index, entry)| match entry.target(self.geometry) {
            Ok(BitmapTarget::Stored(host)) => Some((index, host)),
            _ => None,
        });
        let next: Vec<_> = next
            .take((AHEAD_BYTES / size).max(1))
            .take_while(|(_, host)| {
                let end = host.0.checked_add(self.geometry.cluster_size());
                end.is_some_and(|end| end <= length)
            })
            .collect();
        let mut ahead = BTreeMap::new();
        Pieces::new(self.storage.as_ref(), length, size, &self.pace).each(
            &next,
            |(_, host)| host.0,
            |(index, _), bytes| Ok((*index, bytes.to_vec())),
            |(index, bytes)| {
                ahead.insert(index, bytes);
                Ok(())
            },
        )?;
        Ok(ahead)
    }

    fn table(&self) -> Result<&[BitmapTableEntry]> {
        if let Some(table) = self.table.get() {
            return Ok(table);
        }
        let table = self.bitmap.read_table(self.storage.as_ref())?;
        Ok(self.table.get_or_init(|| table))
    }
}

fn position(number: u64) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}

impl BitmapBits for StoredBits {
    fn read(&self, offset: u64, buf: &mut [u8]) -> Result<bool> {
        let table = self.table()?;
        let mut any = false;
        by_clusters(
            self.geometry.cluster_size(),
            offset,
            buf,
            |index, within, part| {
                let entry = table.get(position(index)).copied().unwrap_or_default();
                let target = entry.target(self.geometry).map_err(|why| {
                    Error::corrupt(format!("entry {index} of a bitmap's table: {why}"))
                })?;
                match target {
                    BitmapTarget::Uniform(set) => {
                        part.fill(if set { 0xff } else { 0 });
                        any |= set;
                    }
                    BitmapTarget::Stored(host) => {
                        self.copy(index, host, within, part)?;
                        any |= part.iter().any(|byte| *byte != 0);
                    }
                }
                Ok(())
            },
        )?;
        Ok(any)
    }
}

/// A persistent bitmap.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bitmap {
    /// Its name.
    pub name: Vec<u8>,
    /// The number of bytes of the disk that one bit covers: a power of two from 512 bytes to 2 GiB.
    pub granularity: u64,
    /// The `in_use` flag: a program didn't store the bitmap after its last change, so that the bits are outdated.
    pub in_use: bool,
    /// The `auto` flag: QEMU updates the bitmap from the time it opens the image.
    pub auto: bool,
    /// The place of the bitmap table.
    pub table: TablePlace,
    /// The host offset of its directory entry.
    pub entry: HostOffset,
}

impl Bitmap {
    /// Returns the bitmap of the image in `storage` in the form that all formats share.
    pub fn persistent(&self, storage: &Arc<dyn Storage>, geometry: Geometry) -> PersistentBitmap {
        PersistentBitmap {
            name: self.name.clone(),
            granularity: self.granularity,
            in_use: self.in_use,
            auto: self.auto,
            bits: Arc::new(StoredBits {
                storage: Arc::clone(storage),
                geometry,
                bitmap: self.clone(),
                table: OnceLock::new(),
                pace: Pace::default(),
                ahead: Mutex::default(),
            }),
        }
    }

    /// Returns the host offset of the entry's flags, which are within one sector, and their bytes with the given
    /// `in_use` flag.
    pub(super) fn flags(&self, in_use: bool) -> (u64, [u8; 4]) {
        let bit = |is_set, bit| if is_set { bit } else { 0 };
        let flags = bit(in_use, IN_USE) | bit(self.auto, AUTO);
        (self.entry.0.saturating_add(FLAGS_AT), flags.to_be_bytes())
    }

    /// Encodes the directory entry, with the padding.
    pub(super) fn directory_entry(&self) -> Vec<u8> {
        let (_, flags) = self.flags(self.in_use);
        let entries = u32::try_from(self.table.entries).unwrap_or(u32::MAX);
        let name_length = u16::try_from(self.name.len()).unwrap_or(u16::MAX);
        let granularity_bits = u8::try_from(self.granularity.trailing_zeros()).unwrap_or(u8::MAX);
        let mut bytes = Vec::with_capacity(FIXED_LENGTH + self.name.len() + 8);
        bytes.extend(self.table.host.0.to_be_bytes());
        bytes.extend(entries.to_be_bytes());
        bytes.extend(flags);
        bytes.push(DIRTY_TRACKING);
        bytes.push(granularity_bits);
        bytes.extend(name_length.to_be_bytes());
        bytes.extend(0u32.to_be_bytes()); // no extra data
        bytes.extend(&self.name);
        bytes.resize(bytes.len().next_multiple_of(8), 0);
        bytes
    }

    /// Reads the bitmap's table.
    ///
    /// # Errors
    /// Returns an error as [`read_table`] does.
    pub fn read_table(&self, storage: &dyn Storage) -> Result<Vec<BitmapTableEntry>> {
        let table = read_table(storage, self.table, "a bitmap's table")?;
        Ok(table.into_iter().map(BitmapTableEntry).collect())
    }
}

/// Reads the bitmap directory. Returns an empty list if the image has no bitmaps or if they are outdated.
///
/// # Errors
/// Returns the system's error. Returns an error if a part of the directory is beyond the end of the file, or if QEMU
/// refuses it.
pub fn read_bitmaps(storage: &dyn Storage, header: &Header) -> Result<Vec<Bitmap>> {
    let Some(place) = header.bitmaps() else {
        return Ok(Vec::new());
    };
    if place.length == 0 {
        return Err(Error::corrupt("Requested bitmap directory size is zero"));
    }
    let what = "the bitmap directory";
    let end = place.directory.0.checked_add(place.length);
    let file_end = storage.len()?;
    if end.is_none_or(|end| end > file_end) {
        return Err(Error::corrupt(format!(
            "{what} at offset {} ({} bytes) is beyond the end of the file ({file_end} bytes)",
            place.directory, place.length
        )));
    }
    let length = usize::try_from(place.length).map_err(|_| broken())?;
    let mut directory = vec![0; length];
    storage.read_exact_at(place.directory.0, &mut directory, what)?;
    let mut rest = directory.as_slice();
    let mut bitmaps = Vec::new();
    let mut names = HashSet::new();
    while !rest.is_empty() {
        let at = place.length - rest.len() as u64;
        let entry = HostOffset(place.directory.0 + at);
        let (bitmap, length) = parse_entry(rest, entry, header)?;
        if bitmaps.len() as u64 >= u64::from(place.count) {
            return Err(Error::corrupt(
                "More bitmaps found than specified in header extension",
            ));
        }
        if !names.insert(bitmap.name.clone()) {
            let name = printable(&String::from_utf8_lossy(&bitmap.name));
            return Err(Error::corrupt(format!("Bitmap already exists: {name}")));
        }
        bitmaps.push(bitmap);
        rest = rest.get(length..).ok_or_else(broken)?;
    }
    if bitmaps.len() as u64 != u64::from(place.count) {
        return Err(Error::corrupt(
            "Less bitmaps found than specified in header extension",
        ));
    }
    Ok(bitmaps)
}

/// Returns the length in bytes of the directory entry of a bitmap with a name of `name` bytes.
pub(super) fn entry_length(name: usize) -> u64 {
    (FIXED_LENGTH + name).next_multiple_of(8) as u64
}

fn broken() -> Error {
    Error::corrupt("Broken bitmap directory")
}

/// The fixed fields of a directory entry.
struct EntryFields {
    table_offset: HostOffset,
    table_entries: u32,
    flags: u32,
    kind: u8,
    granularity_bits: u8,
    name_length: u16,
    extra_length: u32,
}

impl EntryFields {
    fn read(bytes: &[u8]) -> Result<Self> {
        let cut_off = |_| broken();
        let r = &mut bytes.get(..FIXED_LENGTH).ok_or_else(broken)?;
        Ok(Self {
            table_offset: HostOffset(r.read_u64::<BigEndian>().map_err(cut_off)?),
            table_entries: r.read_u32::<BigEndian>().map_err(cut_off)?,
            flags: r.read_u32::<BigEndian>().map_err(cut_off)?,
            kind: r.read_u8().map_err(cut_off)?,
            granularity_bits: r.read_u8().map_err(cut_off)?,
            name_length: r.read_u16::<BigEndian>().map_err(cut_off)?,
            extra_length: r.read_u32::<BigEndian>().map_err(cut_off)?,
        })
    }

    fn in_use(&self) -> bool {
        self.flags & IN_USE != 0
    }

    /// Returns true if the fields satisfy QEMU's constraints.
    fn is_valid(&self, header: &Header) -> bool {
        let geometry = header.geometry();
        let bitmap_bytes = u64::from(self.table_entries) * geometry.cluster_size();
        let covered = (u128::from(bitmap_bytes) * 8) << u32::from(self.granularity_bits.min(64));
        self.table_entries != 0
            && self.table_entries <= MAX_TABLE_ENTRIES
            && self.table_offset.0 != 0
            && geometry.is_aligned(self.table_offset)
            && GRANULARITY_BITS.contains(&self.granularity_bits)
            && self.flags & !(IN_USE | AUTO) == 0
            && self.name_length <= MAX_NAME
            && self.kind == DIRTY_TRACKING
            && bitmap_bytes <= MAX_BITMAP_BYTES
            && (self.in_use() || u128::from(header.size()) <= covered)
    }

    /// Returns true if the table has the right length for the disk. QEMU reads the bits of bitmaps that aren't in
    /// use, and requires that. A bitmap in use may be older than a resize of the disk.
    fn fits(&self, header: &Header) -> bool {
        let granularity = 1 << u32::from(self.granularity_bits.min(63));
        let bytes = header.size().div_ceil(granularity).div_ceil(8);
        self.in_use() || header.geometry().clusters(bytes) == u64::from(self.table_entries)
    }
}

/// Parses a directory entry. Also returns its length, with the padding.
fn parse_entry(bytes: &[u8], entry: HostOffset, header: &Header) -> Result<(Bitmap, usize)> {
    let fields = EntryFields::read(bytes)?;
    if fields.extra_length != 0 {
        return Err(Error::unsupported("Bitmap extra data is not supported"));
    }
    let end = FIXED_LENGTH + usize::from(fields.name_length);
    let length = end.next_multiple_of(8);
    let name = bytes.get(FIXED_LENGTH..end).ok_or_else(broken)?;
    if length > bytes.len() {
        return Err(broken());
    }
    let shown = || printable(&String::from_utf8_lossy(name));
    if !fields.is_valid(header) {
        return Err(Error::corrupt(format!(
            "Bitmap '{}' doesn't satisfy the constraints",
            shown()
        )));
    }
    if !fields.fits(header) {
        return Err(Error::corrupt(format!(
            "Could not read bitmap '{}' from image: its table has {} entries, which isn't what the disk's size \
             asks for",
            shown(),
            fields.table_entries
        )));
    }
    let bitmap = Bitmap {
        name: name
            .split(|byte| *byte == 0)
            .next()
            .unwrap_or(name)
            .to_vec(),
        granularity: 1 << fields.granularity_bits,
        in_use: fields.in_use(),
        auto: fields.flags & AUTO != 0,
        table: TablePlace {
            host: fields.table_offset,
            entries: u64::from(fields.table_entries),
        },
        entry,
    };
    Ok((bitmap, length))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::{MemoryStorage, Slowness};

    /// Returns a version 3 image with clusters of 4 KiB and a disk of 1 MiB. Its bitmap directory is at 4096.
    fn image(count: u32, directory: &[u8]) -> MemoryStorage {
        let mut bytes = vec![0; 4096];
        bytes[..8].copy_from_slice(b"QFI\xfb\0\0\0\x03");
        bytes[20..24].copy_from_slice(&12u32.to_be_bytes());
        bytes[24..32].copy_from_slice(&(1u64 << 20).to_be_bytes());
        bytes[36..40].copy_from_slice(&1u32.to_be_bytes());
        bytes[48..56].copy_from_slice(&8192u64.to_be_bytes());
        bytes[56..60].copy_from_slice(&1u32.to_be_bytes());
        bytes[95] = 1;
        bytes[96..100].copy_from_slice(&4u32.to_be_bytes());
        bytes[100..104].copy_from_slice(&104u32.to_be_bytes());
        bytes[104..112].copy_from_slice(&[0x23, 0x85, 0x28, 0x75, 0, 0, 0, 24]);
        bytes[112..116].copy_from_slice(&count.to_be_bytes());
        bytes[120..128].copy_from_slice(&(directory.len() as u64).to_be_bytes());
        bytes[128..136].copy_from_slice(&4096u64.to_be_bytes());
        bytes.extend(directory);
        MemoryStorage::new(bytes)
    }

    fn read(storage: &MemoryStorage) -> Result<Vec<Bitmap>> {
        read_bitmaps(storage, &Header::read(storage)?)
    }

    const ENTRY: [u8; 32] =
        *b"\0\0\0\0\0\0\x30\0\0\0\0\x01\0\0\0\x02\x01\x10\0\x03\0\0\0\0abc\0\0\0\0\0";

    #[test]
    fn an_entry_is_read() {
        assert_eq!(
            read(&image(1, &ENTRY)).unwrap(),
            [Bitmap {
                name: b"abc".to_vec(),
                granularity: 65536,
                in_use: false,
                auto: true,
                table: TablePlace {
                    host: HostOffset(0x3000),
                    entries: 1
                },
                entry: HostOffset(4096),
            }]
        );
        // Without the autoclear bit the bitmaps are ignored.
        let storage = image(1, &ENTRY);
        storage.write_at(95, &[0]).unwrap();
        assert_eq!(read(&storage).unwrap(), []);
    }

    #[test]
    fn each_field_has_its_limits() {
        for (at, value) in [
            (0, 0x80),
            (6, 0),
            (7, 8),
            (11, 0),
            (8, 0x10),
            (12, 1),
            (15, 4),
            (16, 2),
            (17, 8),
            (17, 32),
            (18, 4),
            (20, 1),
        ] {
            let mut entry = ENTRY;
            entry[at] = value;
            // A table offset beyond the file is detected when the table is read; all other errors are detected here.
            assert_eq!(read(&image(1, &entry)).is_err(), at != 0, "{at}");
        }
        read(&image(2, &ENTRY)).unwrap_err();
        read(&image(1, &[ENTRY, ENTRY].concat())).unwrap_err();
        read(&image(1, &ENTRY[..24])).unwrap_err();
        read(&image(1, &ENTRY[..27])).unwrap_err();
        read(&image(0, &ENTRY)).unwrap_err();
        read(&image(1, &[])).unwrap_err();
    }

    #[test]
    fn a_bitmap_too_short_for_the_disk_must_be_in_use() {
        let mut entry = ENTRY;
        // One cluster of bits with a granularity of 512 bytes covers 16 MiB.
        entry[17] = 9;
        let storage = image(1, &entry);
        read(&storage).unwrap();
        storage.write_at(24, &(17u64 << 20).to_be_bytes()).unwrap();
        storage.write_at(36, &9u32.to_be_bytes()).unwrap();
        read(&storage).unwrap_err();
        storage.write_at(4096 + 15, &[1]).unwrap();
        assert!(read(&storage).unwrap()[0].in_use);
    }

    #[test]
    fn bits_are_read_together_where_reads_wait() {
        // There are 64 clusters of bits, none adjacent to another. The file ends in the last one, after its bits.
        let (geometry, clusters) = (Geometry::new(12, false, 4).unwrap(), 64u64);
        let host = |index: u64| 8192 + index * 8192;
        let mut bytes = vec![0; usize::try_from(host(clusters - 1)).unwrap()];
        for index in 0..clusters {
            let at = 4096 + usize::try_from(index * 8).unwrap();
            bytes[at..at + 8].copy_from_slice(&host(index).to_be_bytes());
        }
        for index in 0..clusters - 1 {
            let at = usize::try_from(host(index)).unwrap();
            bytes[at..at + 4096].fill(u8::try_from(index + 1).unwrap());
        }
        bytes.extend([64; 1000]);
        let slow = Slowness {
            until_in_flight: 16,
            after: 10,
        };
        let storage = Arc::new(MemoryStorage::new(bytes).slow(slow));
        let bitmap = Bitmap {
            name: b"b".to_vec(),
            granularity: 512,
            in_use: false,
            auto: true,
            table: TablePlace {
                host: HostOffset(4096),
                entries: clusters,
            },
            entry: HostOffset(0),
        };
        let target: Arc<dyn Storage> = Arc::<MemoryStorage>::clone(&storage);
        let bits = bitmap.persistent(&target, geometry).bits;
        let mut buffer = [0; 1000];
        for offset in (0..clusters * 4096 - 3096).step_by(1000) {
            let length = (clusters * 4096 - 3096 - offset).min(1000);
            let part = &mut buffer[..usize::try_from(length).unwrap()];
            assert!(bits.read(offset, part).unwrap());
            let expected = |at: u64| u8::try_from((offset + at) / 4096 + 1).unwrap();
            assert!((0..).zip(&*part).all(|(at, byte)| *byte == expected(at)));
        }
        assert!(storage.most_in_flight() >= 16);
        let mut beyond = [0; 2000];
        bits.read(clusters * 4096 - 4096, &mut beyond).unwrap_err();
    }
}
