//! Taking, applying and deleting internal snapshots.
//!
//! A snapshot is an L1 table of its own, and adds a reference to every cluster that the table refers to. Each of the
//! three operations takes effect by one write within a sector of the header. It changes the place of the snapshot
//! table, or the size of the disk and the place of the L1 table. Before that write, everything that the old header
//! refers to is kept; after it, only clusters that the new header doesn't refer to are freed. The order is:
//!
//! 1. Everything that can be refused is refused. Nothing has been written then.
//! 2. New tables are written to new clusters, to which nothing refers.
//! 3. The image is marked as dirty (version 3).
//! 4. Refcounts are incremented, and COPIED flags are cleared, in any order. Until another reference to the clusters
//!    is stored, a wrongly set flag and a refcount that is too high do no harm. *Flush*.
//! 5. The header changes. *Flush*.
//! 6. Refcounts are decremented, and clusters without references become holes. *Flush*: from here on a refcount of 1
//!    is reliable.
//! 7. COPIED flags are set. *Flush*.
//! 8. The dirty bit is cleared.
//!
//! A power cut before step 5 leaves the old state, a later one the new state. Some refcounts may be too high then,
//! and some flags missing. In version 3 they are repaired when the image is opened for writing.
//!
//! The memory in use is two L1 tables of at most 32 MiB each, one or two bits for each cluster of the file, and the
//! tables that are read at once. [`walk`] finds the references, [`flags`] changes the flags.

mod flags;
mod walk;

pub(super) use walk::{CountedL2, l2_tables};

use std::sync::Arc;

use super::super::check::refcounts::StoredRefcounts;
use super::super::check::references::References;
use super::super::entries::L1Entry;
use super::super::geometry::{ENTRY_SIZE, Geometry, MAX_L1_BYTES};
use super::super::header::{Header, MAX_SNAPSHOTS, TablePlace, Version, features, fields};
use super::super::read::tables::read_table;
use super::super::snapshots::{MAX_TABLE_BYTES, Snapshot, SnapshotTable};
use super::metadata::Metadata;
use super::open::open_state;
use crate::error::{Error, Result};
use crate::formats::snapshots::{NewSnapshot, SnapshotName};
use crate::storage::Storage;
use crate::units::{HostOffset, SECTOR_SIZE};

/// The longest name of a new snapshot in bytes; QEMU truncates longer ones.
const MAX_NAME: usize = 255;

/// Takes a snapshot of the image with this header, which must not be open elsewhere. With `flush`, the changes are
/// flushed to stable storage.
///
/// # Errors
/// Returns an error if the image has an external data file or too many snapshots, or if a refcount would exceed the
/// highest one; nothing was written then. Returns an error if metadata is damaged, or the system's error.
pub fn create_snapshot(
    storage: &Arc<dyn Storage>,
    header: &Header,
    new: &NewSnapshot,
    flush: bool,
) -> Result<()> {
    refuse_data_file(header)?;
    let mut table = SnapshotTable::read(storage.as_ref(), header)?.snapshots;
    if header.snapshots() >= MAX_SNAPSHOTS {
        return Err(too_large());
    }
    let mut change = SnapshotChange::open(storage, header, flush)?;
    let active = change.metadata.l1().to_vec();
    table.push(Snapshot {
        id: next_id(&table).to_string().into_bytes(),
        name: new.name.get(..MAX_NAME).unwrap_or(&new.name).to_vec(),
        stored_l1: TablePlace {
            host: HostOffset(0),
            entries: active.len() as u64,
        },
        vm_state_size: 0,
        vm_clock_nsec: 0,
        date_sec: new.date_sec,
        date_nsec: new.date_nsec,
        disk_size: header.size(),
        icount: Some(0),
        extra_data_size: 0,
        unknown_extra_data: Vec::new(),
    });
    check_length(&table)?;
    let tables = l2_tables(active.iter().copied(), change.geometry)?;
    let added = walk::references(storage, change.geometry, &tables)?;
    change.refuse_overflow(&added)?;

    let copy = change.write_l1(&active)?;
    if let Some(new) = table.last_mut() {
        new.stored_l1 = copy;
    }
    let place = change.write_table(&table)?;
    change.metadata.begin_recount()?;
    change.metadata.raise_all(&added)?;
    change.metadata.commit()?;
    let l1_host = change.metadata.l1_place().host;
    let never = |_| false;
    flags::set_l2_flags(storage.as_ref(), change.geometry, &tables, &never)?;
    flags::set_l1_flags(storage.as_ref(), change.geometry, &active, l1_host, &never)?;
    change.switch_table(&table, place)?;
    change.metadata.close()
}

/// Reverts the disk to a snapshot, including its size. The snapshot is kept. The image with this header must not be
/// open elsewhere. With `flush`, the changes are flushed to stable storage.
///
/// # Errors
/// Returns an error if there is no such snapshot, or if the image has bitmaps or an external data file. Returns an
/// error if the version doesn't allow another size, or if a refcount would exceed the highest one. Nothing was
/// written in these cases. Returns an error if metadata is damaged, or the system's error.
pub fn apply_snapshot(
    storage: &Arc<dyn Storage>,
    header: &Header,
    name: &SnapshotName,
    flush: bool,
) -> Result<()> {
    if header.bitmaps().is_some() {
        return Err(Error::invalid("Device has active dirty bitmaps"));
    }
    let failed = |error: Error| error.context("Failed to load snapshot");
    refuse_data_file(header).map_err(failed)?;
    let table = SnapshotTable::read(storage.as_ref(), header)?.snapshots;
    let not_found = || Error::invalid("Failed to load snapshot: No such file or directory");
    let index = find(name, &table).ok_or_else(not_found)?;
    let snapshot = table.get(index).ok_or_else(not_found)?;
    let geometry = header.geometry();
    let (size, entries) = size_and_entries(snapshot, header).map_err(failed)?;
    let stored = read_table(
        storage.as_ref(),
        snapshot.l1_table(geometry)?,
        "the snapshot's L1 table",
    )?;
    let mut then: Vec<L1Entry> = stored.into_iter().map(L1Entry).collect();
    then.resize(entries, L1Entry::default());
    let mut change = SnapshotChange::open(storage, header, flush)?;
    let now = change.metadata.l1().to_vec();
    // An L2 table to which both refer at the same index keeps its number of references.
    let other = |these: &[L1Entry], those: &[L1Entry]| {
        let is_other = |(index, entry): (usize, &L1Entry)| {
            let same = those.get(index).map(|entry| entry.host());
            (same != Some(entry.host())).then_some(*entry)
        };
        let others = these.iter().enumerate().filter_map(is_other);
        l2_tables(others, geometry)
    };
    let tables = other(&then, &now)?;
    let added = walk::references(storage, geometry, &tables)?;
    let removed = walk::references(storage, geometry, &other(&now, &then)?)?;
    change.refuse_overflow(&added).map_err(failed)?;

    let place = change.write_l1(&then)?;
    change.metadata.begin_recount()?;
    change.metadata.raise_all(&added)?;
    change.metadata.commit()?;
    flags::set_l2_flags(storage.as_ref(), geometry, &tables, &|_| false)?;
    change.metadata.flush()?;
    fields::set_size_and_l1(storage.as_ref(), size, place)?;
    change.metadata.flush()?;
    change.metadata.lower_all(&removed)?;
    let old = change.metadata.l1_place();
    change.free(old.host, old.entries * ENTRY_SIZE)?;
    // Every cluster of the disk is shared with the snapshot, so no flag has to be set.
    change.metadata.close()
}

/// Deletes a snapshot of the image with this header, which must not be open elsewhere. With `flush`, the changes are
/// flushed to stable storage.
///
/// # Errors
/// Returns an error if there is no such snapshot, or if the image has an external data file; nothing was written
/// then. Returns an error if metadata is damaged, or the system's error.
pub fn delete_snapshot(
    storage: &Arc<dyn Storage>,
    header: &Header,
    name: &SnapshotName,
    flush: bool,
) -> Result<()> {
    let mut table = SnapshotTable::read(storage.as_ref(), header)?.snapshots;
    let index = find(name, &table).ok_or_else(|| Error::invalid("snapshot not found"))?;
    refuse_data_file(header)?;
    let snapshot = table.remove(index);
    let geometry = header.geometry();
    let old = snapshot.l1_table(geometry)?;
    let l1 = read_table(storage.as_ref(), old, "the snapshot's L1 table")?;
    let tables = l2_tables(l1.into_iter().map(L1Entry), geometry)?;
    let removed = walk::references(storage, geometry, &tables)?;
    let mut change = SnapshotChange::open(storage, header, flush)?;

    let place = change.write_table(&table)?;
    change.metadata.begin_recount()?;
    change.metadata.commit()?;
    change.switch_table(&table, place)?;
    change.metadata.lower_all(&removed)?;
    change.free(old.host, old.entries * ENTRY_SIZE)?;
    change.set_flags()?;
    change.metadata.close()
}

/// An image whose snapshots are changed.
struct SnapshotChange<'a> {
    storage: &'a Arc<dyn Storage>,
    header: &'a Header,
    geometry: Geometry,
    metadata: Metadata,
}

impl<'a> SnapshotChange<'a> {
    fn open(storage: &'a Arc<dyn Storage>, header: &'a Header, flush: bool) -> Result<Self> {
        let (state, _) = open_state(storage, None, header, flush)?;
        Ok(Self {
            storage,
            header,
            geometry: header.geometry(),
            metadata: state.metadata,
        })
    }

    /// Refuses references that would make a refcount exceed the highest one.
    fn refuse_overflow(&mut self, added: &References) -> Result<()> {
        let Some(cluster) = self.metadata.first_overflow(added)? else {
            return Ok(());
        };
        let bits = self.geometry.refcount_bits();
        Err(Error::invalid(format!(
            "Invalid argument (cluster {cluster} would be in use more often than a refcount of {bits} \
             bits can say)"
        )))
    }

    /// Writes an L1 table without COPIED flags to new clusters.
    fn write_l1(&mut self, l1: &[L1Entry]) -> Result<TablePlace> {
        let entries = l1.iter().map(|entry| entry.with_copied(false));
        let bytes: Vec<u8> = entries.flat_map(|entry| entry.0.to_be_bytes()).collect();
        Ok(TablePlace {
            host: self.write_new(&bytes)?,
            entries: l1.len() as u64,
        })
    }

    /// Writes a snapshot table to new clusters. Returns offset 0 for a table without entries.
    fn write_table(&mut self, table: &[Snapshot]) -> Result<HostOffset> {
        let bytes: Vec<u8> = table.iter().flat_map(Snapshot::entry).collect();
        self.write_new(&bytes)
    }

    /// Writes bytes to new clusters, to which nothing refers yet. Returns offset 0 if there are no bytes.
    fn write_new(&mut self, bytes: &[u8]) -> Result<HostOffset> {
        if bytes.is_empty() {
            return Ok(HostOffset(0));
        }
        let host = self.metadata.allocate_run(bytes.len() as u64)?;
        self.storage.write_at(host.0, bytes)?;
        Ok(host)
    }

    /// Makes the header refer to a new snapshot table, after everything else is on stable storage, and frees the old
    /// one.
    fn switch_table(&mut self, table: &[Snapshot], place: HostOffset) -> Result<()> {
        let old = SnapshotTable::read(self.storage.as_ref(), self.header)?;
        let count = u32::try_from(table.len()).map_err(|_| too_large())?;
        self.metadata.flush()?;
        fields::set_snapshots(self.storage.as_ref(), count, place)?;
        self.metadata.flush()?;
        self.free(self.header.snapshots_offset(), old.length)
    }

    /// Frees the clusters of a table to which nothing refers any more.
    fn free(&mut self, host: HostOffset, bytes: u64) -> Result<()> {
        let first = self.geometry.host_cluster(host);
        let end = first + self.geometry.clusters(bytes);
        if first < end {
            self.metadata.free(first..end, true)?;
        }
        Ok(())
    }

    /// Sets the COPIED flags of all clusters to which only the active tables refer.
    fn set_flags(&mut self) -> Result<()> {
        // The first commit frees clusters, the second one stores their refcounts.
        self.metadata.commit()?;
        self.metadata.commit()?;
        let storage = self.storage.as_ref();
        // The commits may have moved the refcount table.
        let header = Header::read(storage)?;
        let stored = StoredRefcounts::read(storage, &header, storage.len()?)?;
        let is_one = |cluster| stored.is_one(cluster);
        let l1 = self.metadata.l1();
        let mut tables = l2_tables(l1.iter().copied(), self.geometry)?;
        // All clusters of a shared table are shared, too.
        tables.retain(|table| is_one(self.geometry.host_cluster(table.host)));
        flags::set_l2_flags(storage, self.geometry, &tables, &is_one)?;
        let host = self.metadata.l1_place().host;
        flags::set_l1_flags(storage, self.geometry, l1, host, &is_one)?;
        self.metadata.flush()
    }
}

/// Returns the size of the disk in bytes when the snapshot was taken, and the number of L1 entries that the size and
/// the snapshot's table need.
fn size_and_entries(snapshot: &Snapshot, header: &Header) -> Result<(u64, usize)> {
    let size = snapshot.disk_size;
    if size != header.size() && header.version() == Version::V2 {
        return Err(Error::unsupported(
            "Can't resize a v2 image which has snapshots",
        ));
    }
    if !size.is_multiple_of(SECTOR_SIZE) {
        return Err(Error::corrupt(format!(
            "the size of the snapshot's disk, {size} bytes, isn't in whole sectors"
        )));
    }
    let entries = header.geometry().l1_entries(size);
    let entries = entries.max(snapshot.stored_l1.entries);
    if size > i64::MAX.cast_unsigned() || entries > MAX_L1_BYTES / ENTRY_SIZE {
        return Err(Error::invalid("Image is too big"));
    }
    let entries = usize::try_from(entries).map_err(|_| Error::invalid("Image is too big"))?;
    Ok((size, entries))
}

fn find(name: &SnapshotName, table: &[Snapshot]) -> Option<usize> {
    name.find(table.iter().map(|one| (&*one.id, &*one.name)))
}

/// Returns the id of a new snapshot, which is above the present ones.
fn next_id(table: &[Snapshot]) -> u64 {
    let number = |id: &[u8]| {
        let digits = id.iter().take_while(|byte| byte.is_ascii_digit());
        digits.fold(0u64, |number, digit| {
            number
                .saturating_mul(10)
                .saturating_add(u64::from(digit - b'0'))
        })
    };
    let numbers = table.iter().map(|snapshot| number(&snapshot.id));
    numbers.max().unwrap_or(0).saturating_add(1)
}

fn check_length(table: &[Snapshot]) -> Result<()> {
    let length: usize = table.iter().map(|snapshot| snapshot.entry().len()).sum();
    if length as u64 > MAX_TABLE_BYTES {
        return Err(too_large());
    }
    Ok(())
}

fn too_large() -> Error {
    Error::invalid("File too large")
}

fn refuse_data_file(header: &Header) -> Result<()> {
    if header.has_incompatible(features::DATA_FILE) {
        return Err(Error::unsupported("Operation not supported"));
    }
    Ok(())
}
