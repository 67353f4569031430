//! L1 and L2 tables as read from a file.
//!
//! The L1 table is read whole when the image is opened (at most 32 MiB). L2 tables are read when needed and
//! kept in a cache of bounded size with two generations. A table that is used is moved into the young one.
//! When that is full it becomes the old one, and the old one is dropped. That is nearly least-recently-used,
//! in constant time and without a list.
//!
//! A walk through the disk needs one table after the other. Where reads wait, as behind a network, those that
//! follow are then read at once with the one that is asked for. They are as many as were asked for in order
//! before, so that random access costs nothing. They are at most as many as one generation holds.
//!
//! Every table must lie inside the file: bytes that are missing from a table are not zeroes.

use std::collections::HashMap;
use std::mem;
use std::ops::RangeInclusive;
use std::sync::{Arc, Mutex, PoisonError};

use crate::error::{Error, Result};
use crate::formats::qcow2::entries::{L1Entry, L1Target, L2Table};
use crate::formats::qcow2::geometry::{ENTRY_SIZE, Geometry};
use crate::formats::qcow2::header::{Header, TablePlace};
use crate::storage::{Pace, Pieces, Storage};
use crate::units::HostOffset;

/// The number of bytes of L2 tables that one generation of the cache may hold, though never fewer than
/// [`LEAST_TABLES`].
const GENERATION_BYTES: usize = 4 << 20;
const LEAST_TABLES: usize = 2;
/// The number of images of a chain that may each keep as many tables as one alone; those below keep fewer.
const FULL_CACHES: usize = 16;
/// The number of L1 entries without a table that may lie between two tables that still are in order.
const MOST_GAP: u64 = 4096;

/// Reads a table of 8-byte entries; `what` names it in errors.
///
/// # Errors
/// Returns the system's error, or an error if the table isn't completely inside the file.
pub fn read_table(storage: &dyn Storage, place: TablePlace, what: &str) -> Result<Vec<u64>> {
    let length = storage.len()?;
    let bytes = place.entries * ENTRY_SIZE;
    let end = place.host.0.checked_add(bytes);
    if end.is_none_or(|end| end > length) {
        return Err(Error::corrupt(format!(
            "{what} at offset {} ({bytes} bytes) is beyond the end of the file ({length} bytes)",
            place.host
        )));
    }
    let bytes = usize::try_from(bytes).map_err(|_| Error::corrupt(format!("{what} is too big")))?;
    let mut table = vec![0; bytes];
    storage.read_exact_at(place.host.0, &mut table, what)?;
    Ok(decode(&table))
}

/// Decodes big-endian entries.
pub fn decode(table: &[u8]) -> Vec<u64> {
    let (entries, _) = table.as_chunks();
    entries.iter().copied().map(u64::from_be_bytes).collect()
}

#[derive(Debug, Default)]
struct Generations {
    young: HashMap<u64, Arc<L2Table>>,
    old: HashMap<u64, Arc<L2Table>>,
}

impl Generations {
    fn get(&mut self, l1_index: u64, most: usize) -> Option<Arc<L2Table>> {
        if let Some(table) = self.young.get(&l1_index) {
            return Some(Arc::clone(table));
        }
        let table = self.old.remove(&l1_index)?;
        self.insert(l1_index, &table, most);
        Some(table)
    }

    fn insert(&mut self, l1_index: u64, table: &Arc<L2Table>, most: usize) {
        if self.young.len() >= most {
            self.old = mem::take(&mut self.young);
        }
        self.young.insert(l1_index, Arc::clone(table));
    }
}

/// The tables that have been read in the order of the disk.
#[derive(Debug)]
struct InOrder {
    /// The tables that were read last, by their L1 indexes.
    last: RangeInclusive<u64>,
    /// The number of tables that have been read in order.
    count: usize,
}

impl Default for InOrder {
    /// Starts at the beginning of the disk, where walks begin.
    fn default() -> Self {
        Self {
            last: RangeInclusive::new(0, 0),
            count: 0,
        }
    }
}

/// The way from a guest offset to its L2 table.
#[derive(Debug)]
pub struct Tables {
    storage: Arc<dyn Storage>,
    geometry: Geometry,
    l1: Vec<L1Entry>,
    /// The number of L1 entries that there ought to be.
    l1_entries: u64,
    cache: Mutex<Generations>,
    most_tables: usize,
    in_order: Mutex<InOrder>,
    pace: Pace,
}

impl Tables {
    /// Reads the active L1 table. With `salvage`, a table that the file's end cuts off is read as far as it
    /// goes. A look-up of a missing entry is an error then.
    ///
    /// # Errors
    /// Returns the errors of [`read_table`].
    pub fn open(storage: Arc<dyn Storage>, header: &Header, salvage: bool) -> Result<Self> {
        let geometry = header.geometry();
        let mut place = header.l1();
        let l1_entries = place.entries;
        if salvage {
            let left = storage.len()?.saturating_sub(place.host.0);
            place.entries = place.entries.min(left / ENTRY_SIZE);
            // An empty table may be anywhere.
            if place.entries == 0 {
                place.host = HostOffset(0);
            }
        }
        let l1 = read_table(storage.as_ref(), place, "the L1 table")?;
        Ok(Self {
            storage,
            geometry,
            l1: l1.into_iter().map(L1Entry).collect(),
            l1_entries,
            cache: Mutex::default(),
            in_order: Mutex::default(),
            pace: Pace::default(),
            most_tables: (GENERATION_BYTES / geometry.cluster_len()).max(LEAST_TABLES),
        })
    }

    /// Keeps fewer tables, as for an image that is `depth` images below another. So the memory for a chain
    /// grows with the logarithm of its length.
    pub fn share_memory(&mut self, depth: usize) {
        let most = self.most_tables / (1 + depth / FULL_CACHES);
        self.most_tables = most.max(LEAST_TABLES);
    }

    /// Returns the place of the L2 table of L1 entry `l1_index`. Returns `None` when no cluster of it is
    /// stored, as beyond the table of a snapshot that was taken when the disk was smaller.
    ///
    /// # Errors
    /// Returns an error if the entry is invalid.
    pub fn l2_place(&self, l1_index: u64) -> Result<Option<HostOffset>> {
        let invalid = |why: &dyn std::fmt::Display| {
            Error::corrupt(format!("L1 entry {l1_index} is invalid: {why}"))
        };
        let index = usize::try_from(l1_index).unwrap_or(usize::MAX);
        let Some(entry) = self.l1.get(index) else {
            if l1_index < self.l1_entries {
                return Err(invalid(&"it is beyond the end of the file"));
            }
            return Ok(None);
        };
        match entry.target(self.geometry) {
            Ok(L1Target::Unallocated) => Ok(None),
            Ok(L1Target::Table { host, .. }) => Ok(Some(host)),
            Err(why) => Err(invalid(&why)),
        }
    }

    /// Returns the L2 table of L1 entry `l1_index`.
    ///
    /// # Errors
    /// Returns an error as [`l2_place`](Self::l2_place) does, or the system's, or an error if the table is
    /// beyond the end of the file.
    pub fn l2(&self, l1_index: u64) -> Result<Option<Arc<L2Table>>> {
        let Some(host) = self.l2_place(l1_index)? else {
            return Ok(None);
        };
        let cached = |cache: &Mutex<Generations>| {
            let mut cache = cache.lock().unwrap_or_else(PoisonError::into_inner);
            cache.get(l1_index, self.most_tables)
        };
        if let Some(table) = cached(&self.cache) {
            return Ok(Some(table));
        }
        // Read without the lock; that two threads may read the same table does no harm.
        let ahead = self.ahead(l1_index);
        if !ahead.is_empty()
            && let Some(table) = self.read_ahead((l1_index, host), ahead)
        {
            return Ok(Some(table));
        }
        let place = TablePlace {
            host,
            entries: self.geometry.cluster_size() / ENTRY_SIZE,
        };
        let what = format!("the L2 table of L1 entry {l1_index}");
        let read = || read_table(self.storage.as_ref(), place, &what);
        let table = self.pace.time(self.geometry.cluster_len(), read)?;
        let table = Arc::new(L2Table::new(table, self.geometry));
        let mut cache = self.cache.lock().unwrap_or_else(PoisonError::into_inner);
        cache.insert(l1_index, &table, self.most_tables);
        Ok(Some(table))
    }

    /// Returns the tables that are to be read with the one of `l1_index`, which isn't in the cache: those
    /// that follow, with their places. There are none where reads don't wait, or where tables aren't asked
    /// for in order.
    fn ahead(&self, l1_index: u64) -> Vec<(u64, HostOffset)> {
        let mut in_order = self.in_order.lock().unwrap_or_else(PoisonError::into_inner);
        if in_order.count > 0 && in_order.last.contains(&l1_index) {
            // Another thread is reading it, or many others have been read since.
            return Vec::new();
        }
        let before = *in_order.last.end();
        let follows = l1_index.checked_sub(before).is_some_and(|gap| {
            gap <= MOST_GAP && (before + 1..l1_index).all(|index| self.stored(index).is_none())
        });
        in_order.count = if follows { in_order.count + 1 } else { 1 };
        let mut ahead = Vec::new();
        if follows && self.pace.waits() {
            // All of them, with the one that is asked for, are no more than a generation holds.
            let most = in_order.count.min(self.most_tables.saturating_sub(1));
            let following = l1_index.saturating_add(1)..=l1_index.saturating_add(MOST_GAP);
            let following = following.filter_map(|index| Some((index, self.stored(index)?)));
            ahead.extend(following.take(most));
        }
        let end = ahead.last().map_or(l1_index, |(index, _)| *index);
        in_order.last = l1_index..=end;
        in_order.count += ahead.len();
        ahead
    }

    /// Returns what [`l2_place`](Self::l2_place) does, where nothing is wrong with the entry.
    fn stored(&self, l1_index: u64) -> Option<HostOffset> {
        self.l2_place(l1_index).ok().flatten()
    }

    /// Reads a table and those `ahead` into the cache. Returns `None` where the first can't be read, which a
    /// read of its own will tell. Others that can't be read are left for callers that ask for them.
    fn read_ahead(
        &self,
        first: (u64, HostOffset),
        mut ahead: Vec<(u64, HostOffset)>,
    ) -> Option<Arc<L2Table>> {
        let length = self.storage.len().ok()?;
        let size = self.geometry.cluster_size();
        ahead.insert(0, first);
        // A table that reaches beyond the end is an error, and not zeroes.
        ahead.retain(|(_, host)| host.0.checked_add(size).is_some_and(|end| end <= length));
        let mut tables = Vec::with_capacity(ahead.len());
        let storage = self.storage.as_ref();
        let pieces = Pieces::new(storage, length, self.geometry.cluster_len(), &self.pace);
        // An error ends it: tables before it have been read.
        let _ = pieces.each(
            &ahead,
            |(_, host)| host.0,
            |(index, _), bytes| {
                let table = L2Table::new(decode(bytes), self.geometry);
                Ok((*index, Arc::new(table)))
            },
            |table| {
                tables.push(table);
                Ok(())
            },
        );
        let mut cache = self.cache.lock().unwrap_or_else(PoisonError::into_inner);
        for (index, table) in &tables {
            cache.insert(*index, table, self.most_tables);
        }
        let asked_for = tables.into_iter().next();
        asked_for.and_then(|(index, table)| (index == first.0).then_some(table))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::formats::qcow2::header::Header;
    use crate::storage::{Fault, MemoryStorage, Operation, Slowness};

    const CLUSTER: u64 = 64 << 10;
    const TABLES: u64 = 40;

    /// Makes an image whose L1 table leads to so many L2 tables, with an empty entry before each. The first
    /// entry of each table is its number.
    fn image() -> MemoryStorage {
        let mut bytes = vec![0; usize::try_from((2 + 2 * TABLES) * CLUSTER).unwrap()];
        bytes[..8].copy_from_slice(b"QFI\xfb\0\0\0\x03");
        bytes[20..24].copy_from_slice(&16u32.to_be_bytes());
        bytes[24..32].copy_from_slice(&((2 * TABLES) << 29).to_be_bytes());
        bytes[36..40].copy_from_slice(&u32::try_from(2 * TABLES).unwrap().to_be_bytes());
        bytes[40..48].copy_from_slice(&CLUSTER.to_be_bytes());
        bytes[96..100].copy_from_slice(&4u32.to_be_bytes());
        bytes[100..104].copy_from_slice(&104u32.to_be_bytes());
        for table in 0..TABLES {
            let host = (2 + 2 * table) * CLUSTER;
            let entry = usize::try_from(CLUSTER + (2 * table + 1) * 8).unwrap();
            bytes[entry..entry + 8].copy_from_slice(&(host | 1 << 63).to_be_bytes());
            let start = usize::try_from(host).unwrap();
            bytes[start..start + 8].copy_from_slice(&((table + 1) << 16).to_be_bytes());
        }
        MemoryStorage::new(bytes)
    }

    fn opened(storage: MemoryStorage) -> (Arc<MemoryStorage>, Tables) {
        let storage = Arc::new(storage);
        let header = Header::read_for_check(storage.as_ref()).unwrap();
        let tables = Tables::open(Arc::<MemoryStorage>::clone(&storage), &header, false).unwrap();
        (storage, tables)
    }

    /// Returns the number of a table; its L1 index is odd.
    fn number(tables: &Tables, table: u64) -> Result<u64> {
        assert!(tables.l2(2 * table)?.is_none());
        let found = tables.l2(2 * table + 1)?.unwrap();
        Ok((found.get(0).unwrap().entry.0 >> 16) - 1)
    }

    /// Makes reads wait: a millisecond, and then for others.
    fn slow(until_in_flight: usize, after: u64) -> Slowness {
        Slowness {
            until_in_flight,
            after,
        }
    }

    #[test]
    fn tables_that_follow_are_read_together_where_reads_wait() {
        let before = opened(image()).0.count(Operation::Read);
        // Three tables by themselves, then batches of 5, 10 and 20, of which the last must be under way at once.
        let (storage, tables) = opened(image().slow(slow(20, before + 18)));
        for table in 0..TABLES {
            assert_eq!(number(&tables, table).unwrap(), table);
        }
        assert!(storage.most_in_flight() >= 20);
        assert_eq!(storage.count(Operation::Read) - before, TABLES);
    }

    #[test]
    fn none_is_read_that_isnt_asked_for_where_reads_dont_wait() {
        let (storage, tables) = opened(image());
        let before = storage.count(Operation::Read);
        // These are fewer than it takes to find that reads wait.
        for table in 0..3 {
            number(&tables, table).unwrap();
        }
        assert_eq!(storage.count(Operation::Read) - before, 3);
    }

    #[test]
    fn jumping_around_reads_nothing_ahead() {
        let (storage, tables) = opened(image().slow(slow(1, 1000)));
        let before = storage.count(Operation::Read);
        for table in (0..TABLES).rev() {
            assert_eq!(number(&tables, table).unwrap(), table);
        }
        assert_eq!(storage.count(Operation::Read) - before, TABLES);
        assert_eq!(storage.most_in_flight(), 1);
    }

    #[test]
    fn what_fails_ahead_fails_when_it_is_asked_for() {
        let before = opened(image()).0.count(Operation::Read);
        for nth in 1..=TABLES {
            let fault = Fault {
                operation: Operation::Read,
                nth: before + nth,
                errno: 5,
            };
            let storage = image().slow(slow(1, 1000)).with_fault(fault);
            let (_, tables) = opened(storage);
            let read: Vec<_> = (0..TABLES).map(|table| number(&tables, table)).collect();
            let failed = read.iter().filter(|result| result.is_err()).count();
            // A table that was read ahead is read again.
            assert!(failed <= 1, "{nth}: {read:?}");
            for (table, number) in (0..).zip(read) {
                assert!(number.is_err() || number.unwrap() == table);
            }
        }
    }

    #[test]
    fn a_table_beyond_the_end_is_an_error_of_its_own() {
        let storage = image().slow(slow(1, 1000));
        let last = (2 + 2 * (TABLES - 1)) * CLUSTER;
        storage.set_len(last + CLUSTER - 1).unwrap();
        let (_, tables) = opened(storage);
        for table in 0..TABLES - 1 {
            assert_eq!(number(&tables, table).unwrap(), table);
        }
        let error = number(&tables, TABLES - 1).unwrap_err().to_string();
        assert!(error.contains("is beyond the end of the file"), "{error}");
    }
}
