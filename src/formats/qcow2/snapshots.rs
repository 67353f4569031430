//! The snapshot table.
//!
//! Each internal snapshot is an L1 table of its own, with a name, an id, and the VM state that QEMU saved. The
//! snapshot table is a list of entries of variable length, each aligned to 8 bytes, so it must be read from the
//! start. The limits are QEMU's: 65536 snapshots, 1024 bytes of extra data each, and 64 MiB for the table. The table
//! must be inside the file, so that its memory is limited by the file's length.
//!
//! The place of a snapshot's L1 table is checked only when it is used ([`Snapshot::l1_table`]), so that a damaged
//! snapshot doesn't prevent listing the others.

use byteorder::{BigEndian, ReadBytesExt as _};

use super::geometry::{ENTRY_SIZE, Geometry, MAX_L1_BYTES};
use super::header::{Header, TablePlace, Version};
use crate::error::{Error, Result};
use crate::storage::Storage;
use crate::units::HostOffset;

/// The length of an entry's fixed part in bytes.
const FIXED_LENGTH: usize = 40;
/// The largest table that QEMU accepts, in bytes.
pub const MAX_TABLE_BYTES: u64 = 64 << 20;
/// The largest extra data of a snapshot that QEMU accepts, in bytes.
pub const MAX_EXTRA_DATA: u32 = 1024;
/// The extra data that version 3 requires, in bytes: VM state size, disk size.
const LEAST_EXTRA_DATA: u32 = 16;
/// The length of the known extra data in bytes: VM state size, disk size, instruction count.
const KNOWN_EXTRA_DATA: usize = 24;

/// An internal snapshot, as an entry of the table stores it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    /// Its id, as text, unique in the image.
    pub id: Vec<u8>,
    /// Its name, not necessarily unique.
    pub name: Vec<u8>,
    /// The place of its L1 table, unchecked; see [`Snapshot::l1_table`].
    pub stored_l1: TablePlace,
    /// The size of the saved VM state in bytes, or 0 without one.
    pub vm_state_size: u64,
    /// The time for which the guest had been running, in nanoseconds.
    pub vm_clock_nsec: u64,
    /// The time at which it was taken, in seconds since 1970 (UTC).
    pub date_sec: u32,
    /// The nanoseconds within the second.
    pub date_nsec: u32,
    /// The size of the disk at that time, in bytes.
    pub disk_size: u64,
    /// The number of instructions that the guest had executed, if it was recorded.
    pub icount: Option<u64>,
    /// The length of the stored extra data in bytes. Missing fields have defaults.
    pub extra_data_size: u32,
    /// Extra data with an unknown meaning, which is kept when the table is rewritten.
    pub unknown_extra_data: Vec<u8>,
}

impl Snapshot {
    /// Returns the place of the snapshot's L1 table.
    ///
    /// # Errors
    /// Returns an error if the table is larger than QEMU accepts, or isn't cluster-aligned.
    pub fn l1_table(&self, geometry: Geometry) -> Result<TablePlace> {
        let place = self.stored_l1;
        if place.entries > MAX_L1_BYTES / ENTRY_SIZE {
            return Err(Error::corrupt("Snapshot L1 table too large"));
        }
        if !geometry.is_aligned(place.host) || place.host.0 > i64::MAX.cast_unsigned() {
            return Err(Error::corrupt("Snapshot L1 table offset invalid"));
        }
        Ok(place)
    }

    /// Returns true if the entry has all fields that the specification requires for the version. Version 3 requires
    /// the 64-bit VM state size and the disk size.
    pub fn is_complete(&self, version: Version) -> bool {
        version == Version::V2 || self.extra_data_size >= LEAST_EXTRA_DATA
    }

    /// Encodes the entry, with the padding and all known extra data.
    pub fn entry(&self) -> Vec<u8> {
        let short = |bytes: &[u8]| u16::try_from(bytes.len()).unwrap_or(u16::MAX);
        let extra_data_size = KNOWN_EXTRA_DATA + self.unknown_extra_data.len();
        let mut bytes = Vec::with_capacity(FIXED_LENGTH + extra_data_size + 64);
        bytes.extend(self.stored_l1.host.0.to_be_bytes());
        bytes.extend(
            u32::try_from(self.stored_l1.entries)
                .unwrap_or(u32::MAX)
                .to_be_bytes(),
        );
        bytes.extend(short(&self.id).to_be_bytes());
        bytes.extend(short(&self.name).to_be_bytes());
        bytes.extend(self.date_sec.to_be_bytes());
        bytes.extend(self.date_nsec.to_be_bytes());
        bytes.extend(self.vm_clock_nsec.to_be_bytes());
        // A size that doesn't fit into 32 bits is stored only in the extra data.
        bytes.extend(u32::try_from(self.vm_state_size).unwrap_or(0).to_be_bytes());
        bytes.extend(
            u32::try_from(extra_data_size)
                .unwrap_or(u32::MAX)
                .to_be_bytes(),
        );
        bytes.extend(self.vm_state_size.to_be_bytes());
        bytes.extend(self.disk_size.to_be_bytes());
        bytes.extend(self.icount.unwrap_or(u64::MAX).to_be_bytes());
        bytes.extend(&self.unknown_extra_data);
        bytes.extend(&self.id);
        bytes.extend(&self.name);
        bytes.resize(bytes.len().next_multiple_of(8), 0);
        bytes
    }
}

/// The snapshot table as read.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SnapshotTable {
    /// The snapshots in the order of the table.
    pub snapshots: Vec<Snapshot>,
    /// The table's length in bytes.
    pub length: u64,
    /// The number of snapshots whose entries are beyond the end of the file.
    pub missing: u32,
}

/// Reads an image's internal snapshots.
///
/// # Errors
/// Returns an error as [`SnapshotTable::read`] does.
pub fn read_snapshots(storage: &dyn Storage, header: &Header) -> Result<Vec<Snapshot>> {
    SnapshotTable::read(storage, header).map(|table| table.snapshots)
}

impl SnapshotTable {
    /// Reads the snapshot table.
    ///
    /// # Errors
    /// Returns the system's error. Returns an error if the table isn't completely inside the file or exceeds QEMU's
    /// limits.
    pub fn read(storage: &dyn Storage, header: &Header) -> Result<Self> {
        let table = Self::read_what_is_there(storage, header)?;
        if table.missing > 0 {
            return Err(Error::corrupt(format!(
                "the snapshot table at offset {} is cut off by the end of the file: {} of {} entries \
                 are missing",
                header.snapshots_offset(),
                table.missing,
                header.snapshots()
            )));
        }
        Ok(table)
    }

    /// Reads the entries of the snapshot table that are completely inside the file.
    ///
    /// # Errors
    /// Returns the system's error. Returns an error if the table exceeds QEMU's limits.
    pub fn read_what_is_there(storage: &dyn Storage, header: &Header) -> Result<Self> {
        let start = header.snapshots_offset();
        let file = storage.len()?;
        let mut table = Self::default();
        for index in 0..header.snapshots() {
            // Entries are aligned relative to the file, and the table starts at a cluster.
            let at = table.length.next_multiple_of(8);
            let host = HostOffset(start.0.saturating_add(at));
            let Some((snapshot, length)) = read_entry(storage, host, index, header, file)? else {
                table.missing = header.snapshots() - index;
                break;
            };
            table.length = at + length;
            if table.length > MAX_TABLE_BYTES {
                return Err(Error::corrupt("Snapshot table is too big"));
            }
            table.snapshots.push(snapshot);
        }
        Ok(table)
    }
}

/// Reads the entry at `host`. Also returns its length in bytes, without the padding. Returns `None` if it isn't
/// completely inside the file, which has `file` bytes.
fn read_entry(
    storage: &dyn Storage,
    host: HostOffset,
    index: u32,
    header: &Header,
    file: u64,
) -> Result<Option<(Snapshot, u64)>> {
    let mut fixed = [0; FIXED_LENGTH];
    if storage.read_padded_at(host.0, &mut fixed, file)? < fixed.len() {
        return Ok(None);
    }
    let cut_off = |_| Error::corrupt("Failed to read snapshot table");
    let r = &mut fixed.as_slice();
    let l1_offset = r.read_u64::<BigEndian>().map_err(cut_off)?;
    let l1_entries = r.read_u32::<BigEndian>().map_err(cut_off)?;
    let id_length = usize::from(r.read_u16::<BigEndian>().map_err(cut_off)?);
    let name_length = usize::from(r.read_u16::<BigEndian>().map_err(cut_off)?);
    let date_sec = r.read_u32::<BigEndian>().map_err(cut_off)?;
    let date_nsec = r.read_u32::<BigEndian>().map_err(cut_off)?;
    let vm_clock_nsec = r.read_u64::<BigEndian>().map_err(cut_off)?;
    let small_vm_state_size = r.read_u32::<BigEndian>().map_err(cut_off)?;
    let extra_data_size = r.read_u32::<BigEndian>().map_err(cut_off)?;
    if extra_data_size > MAX_EXTRA_DATA {
        return Err(Error::corrupt(format!(
            "Too much extra metadata in snapshot table entry {index}"
        )));
    }
    let extra_length = usize::try_from(extra_data_size).unwrap_or(usize::MAX);
    // The lengths are at most 1 KiB and twice 64 KiB.
    let mut rest = vec![0; extra_length + id_length + name_length];
    if storage.read_padded_at(host.0 + FIXED_LENGTH as u64, &mut rest, file)? < rest.len() {
        return Ok(None);
    }
    let (extra, strings) = rest.split_at_checked(extra_length).unwrap_or_default();
    let (id, name) = strings.split_at_checked(id_length).unwrap_or_default();
    let (known, unknown) = extra
        .split_at_checked(KNOWN_EXTRA_DATA)
        .unwrap_or((extra, &[]));
    let (fields, _) = known.as_chunks();
    let field = |index: usize| fields.get(index).copied().map(u64::from_be_bytes);
    let snapshot = Snapshot {
        id: c_string(id),
        name: c_string(name),
        stored_l1: TablePlace {
            host: HostOffset(l1_offset),
            entries: u64::from(l1_entries),
        },
        vm_state_size: field(0).unwrap_or_else(|| u64::from(small_vm_state_size)),
        vm_clock_nsec,
        date_sec,
        date_nsec,
        disk_size: field(1).unwrap_or_else(|| header.size()),
        icount: field(2).filter(|count| *count != u64::MAX),
        extra_data_size,
        unknown_extra_data: unknown.to_vec(),
    };
    Ok(Some((snapshot, (FIXED_LENGTH + rest.len()) as u64)))
}

/// Returns the bytes before the first zero byte, as a C program would read the string.
fn c_string(bytes: &[u8]) -> Vec<u8> {
    let end = bytes.iter().position(|byte| *byte == 0);
    bytes
        .get(..end.unwrap_or(bytes.len()))
        .unwrap_or(bytes)
        .to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::MemoryStorage;

    const TABLE: usize = 4096;

    /// Returns a version 3 image with clusters of 4 KiB, whose header has `count` snapshots and whose snapshot table
    /// is `entries`.
    fn image(count: u32, entries: &[u8]) -> MemoryStorage {
        let mut bytes = vec![0; TABLE];
        bytes[..8].copy_from_slice(b"QFI\xfb\0\0\0\x03");
        bytes[20..24].copy_from_slice(&12u32.to_be_bytes());
        bytes[24..32].copy_from_slice(&(1u64 << 20).to_be_bytes());
        bytes[36..40].copy_from_slice(&1u32.to_be_bytes());
        bytes[48..56].copy_from_slice(&8192u64.to_be_bytes());
        bytes[56..60].copy_from_slice(&1u32.to_be_bytes());
        bytes[60..64].copy_from_slice(&count.to_be_bytes());
        bytes[64..72].copy_from_slice(&(TABLE as u64).to_be_bytes());
        bytes[96..100].copy_from_slice(&4u32.to_be_bytes());
        bytes[100..104].copy_from_slice(&104u32.to_be_bytes());
        bytes.extend(entries);
        MemoryStorage::new(bytes)
    }

    fn read(count: u32, entries: &[u8]) -> Result<SnapshotTable> {
        let storage = image(count, entries);
        SnapshotTable::read(&storage, &Header::read(&storage).unwrap())
    }

    /// Returns the fixed part of an entry, with an id and a name of one byte each.
    fn fixed(extra: u32) -> Vec<u8> {
        let mut entry = vec![0, 0, 0, 0, 0, 0, 0x50, 0, 0, 0, 0, 2, 0, 1, 0, 1];
        entry.extend([0, 0, 0, 9, 0, 0, 0, 8]);
        entry.extend([0, 0, 0, 0, 0, 0, 0, 7]);
        entry.extend([0, 0, 0, 6]);
        entry.extend(extra.to_be_bytes());
        entry
    }

    #[test]
    fn entries_old_and_new() {
        let mut entries = fixed(0);
        entries.extend(b"1a");
        entries.resize(48, 0);
        entries.extend(fixed(26));
        for field in [1u64 << 40, 1 << 30, 12] {
            entries.extend(field.to_be_bytes());
        }
        entries.extend(b"??2b");
        let table = read(2, &entries).unwrap();
        assert_eq!(table.length, 48 + 40 + 26 + 2);
        let [old, new] = &table.snapshots[..] else {
            panic!("{table:?}");
        };
        assert_eq!((&old.id[..], &old.name[..]), (&b"1"[..], &b"a"[..]));
        let place = old.l1_table(Geometry::new(12, false, 4).unwrap()).unwrap();
        assert_eq!((place.host, place.entries), (HostOffset(0x5000), 2));
        assert_eq!((old.date_sec, old.date_nsec, old.vm_clock_nsec), (9, 8, 7));
        assert_eq!(
            (old.vm_state_size, old.disk_size, old.icount),
            (6, 1 << 20, None)
        );
        assert_eq!((&new.id[..], &new.name[..]), (&b"2"[..], &b"b"[..]));
        assert_eq!((new.vm_state_size, new.disk_size), (1 << 40, 1 << 30));
        assert_eq!(new.icount, Some(12));
        assert_eq!(new.unknown_extra_data, b"??");
        // The old entry lacks the fields that version 3 requires. Encoding it adds them with the same values.
        assert!(!old.is_complete(Version::V3) && old.is_complete(Version::V2));
        assert!(new.is_complete(Version::V3));
        let entries = [old.entry(), new.entry()].concat();
        let again = read(2, &entries).unwrap();
        let completed = Snapshot {
            extra_data_size: 24,
            ..old.clone()
        };
        assert_eq!(again.snapshots, [completed, new.clone()]);
    }

    #[test]
    fn what_is_missing_or_too_big_is_refused() {
        let cut_off = read(1, &fixed(0)[..39]).unwrap_err().to_string();
        assert!(cut_off.contains("snapshot table"), "{cut_off}");
        read(1, &fixed(0)).unwrap_err();
        let mut entry = fixed(1025);
        entry.resize(4000, 0);
        let extra = read(1, &entry).unwrap_err().to_string();
        assert_eq!(extra, "Too much extra metadata in snapshot table entry 0");
        // A table of 65536 entries would be longer than the file.
        let mut entry = fixed(0);
        entry.extend(b"1a");
        read(65_536, &entry).unwrap_err();
        let storage = image(65_536, &entry);
        let header = Header::read(&storage).unwrap();
        let table = SnapshotTable::read_what_is_there(&storage, &header).unwrap();
        assert_eq!((table.snapshots.len(), table.missing), (1, 65_535));
        assert_eq!(read(0, &[]).unwrap(), SnapshotTable::default());
    }

    #[test]
    fn an_l1_table_in_an_odd_place_is_refused_when_it_is_needed() {
        let mut entry = fixed(0);
        entry.extend(b"1a");
        entry[7] = 8;
        let geometry = Geometry::new(12, false, 4).unwrap();
        let table = read(1, &entry).unwrap();
        table.snapshots[0].l1_table(geometry).unwrap_err();
        entry[7] = 0;
        entry[8] = 1;
        let table = read(1, &entry).unwrap();
        table.snapshots[0].l1_table(geometry).unwrap_err();
    }
}
