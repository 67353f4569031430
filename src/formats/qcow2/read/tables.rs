//! Reading L1 and L2 tables from a file.
//!
//! The L1 table is read as a whole when the image is opened (at most 32 MiB). L2 tables are read on demand and kept
//! in a bounded cache with two generations. A table in use moves to the young generation. When that is full, it
//! becomes the old one, and the former old one is dropped. This approximates least-recently-used in constant time and
//! without a list.
//!
//! A sequential read of the disk needs one table after the other. On storage with a high latency, the following
//! tables are read ahead together with the requested one. Their number is that of the tables that were requested in
//! order before, so that random access causes no extra reads. It is limited by the size of one generation.
//!
//! Every table must be inside the file: missing bytes of a table don't count as zeroes.

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

/// The number of bytes of L2 tables in one generation of the cache, though it holds at least [`LEAST_TABLES`].
const GENERATION_BYTES: usize = 4 << 20;
const LEAST_TABLES: usize = 2;
/// The number of images of a backing chain that each have a cache of full size. Images below have smaller ones.
const FULL_CACHES: usize = 16;
/// The largest number of L1 entries without a table between two tables that still count as in order.
const MOST_GAP: u64 = 4096;

/// Reads a table of 8-byte entries. `what` is the name of the table in errors.
///
/// # Errors
/// Returns the system's error. Returns an error if the table isn't completely inside the file.
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

/// The state of sequential access to tables.
#[derive(Debug)]
struct InOrder {
    /// The range of L1 indexes of the tables that were read last.
    last: RangeInclusive<u64>,
    /// The number of tables that have been read in order.
    count: usize,
}

impl Default for InOrder {
    /// Starts at the beginning of the disk, where sequential reads begin.
    fn default() -> Self {
        Self {
            last: RangeInclusive::new(0, 0),
            count: 0,
        }
    }
}

/// The lookup of L2 tables by guest offset.
#[derive(Debug)]
pub struct Tables {
    storage: Arc<dyn Storage>,
    geometry: Geometry,
    l1: Vec<L1Entry>,
    /// The number of L1 entries according to the header.
    l1_entries: u64,
    cache: Mutex<Generations>,
    most_tables: usize,
    in_order: Mutex<InOrder>,
    pace: Pace,
}

impl Tables {
    /// Reads the active L1 table. With `salvage`, a truncated table is read up to the end of the file. A lookup of a
    /// missing entry is an error then.
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
            // An empty table may have any offset.
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

    /// Reduces the cache for an image that is `depth` images below another. So the memory for a backing chain grows
    /// only with the logarithm of its length.
    pub fn share_memory(&mut self, depth: usize) {
        let most = self.most_tables / (1 + depth / FULL_CACHES);
        self.most_tables = most.max(LEAST_TABLES);
    }

    /// Returns the host offset of the L2 table of L1 entry `l1_index`. Returns `None` if none of its clusters is
    /// allocated. That includes indexes beyond the L1 table of a snapshot of a smaller disk.
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
    /// Returns an error as [`l2_place`](Self::l2_place) does, or the system's. Returns an error if the table is
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
        // The table is read without the lock. It is harmless if two threads read the same table.
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

    /// Returns the indexes and host offsets of the following tables that are to be read with that of `l1_index`,
    /// which isn't in the cache. There are none if storage is fast, or if tables aren't requested in order.
    fn ahead(&self, l1_index: u64) -> Vec<(u64, HostOffset)> {
        let mut in_order = self.in_order.lock().unwrap_or_else(PoisonError::into_inner);
        if in_order.count > 0 && in_order.last.contains(&l1_index) {
            // Another thread is reading it, or it has been dropped from the cache since.
            return Vec::new();
        }
        let before = *in_order.last.end();
        let follows = l1_index.checked_sub(before).is_some_and(|gap| {
            gap <= MOST_GAP && (before + 1..l1_index).all(|index| self.stored(index).is_none())
        });
        in_order.count = if follows { in_order.count + 1 } else { 1 };
        let mut ahead = Vec::new();
        if follows && self.pace.waits() {
            // Together with the requested table, they fit into one generation.
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

    /// Returns the result of [`l2_place`](Self::l2_place), or `None` for an invalid entry.
    fn stored(&self, l1_index: u64) -> Option<HostOffset> {
        self.l2_place(l1_index).ok().flatten()
    }

    /// Reads a table and those in `ahead` into the cache. Returns `None` if the first can't be read; the caller's own
    /// read returns the error. Other errors are ignored until these tables are requested.
    fn read_ahead(
        &self,
        first: (u64, HostOffset),
        mut ahead: Vec<(u64, HostOffset)>,
    ) -> Option<Arc<L2Table>> {
        let length = self.storage.len().ok()?;
        let size = self.geometry.cluster_size();
        ahead.insert(0, first);
        // A table that extends beyond the end of the file is an error, and doesn't read as zeroes.
        ahead.retain(|(_, host)| host.0.checked_add(size).is_some_and(|end| end <= length));
        let mut tables = Vec::with_capacity(ahead.len());
        let storage = self.storage.as_ref();
        let pieces = Pieces::new(storage, length, self.geometry.cluster_len(), &self.pace);
        // An error ends the loop; the tables before it have been read.
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

    /// Returns an image with [`TABLES`] L2 tables, and an empty L1 entry before each. The first entry of each table
    /// is its number.
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

    /// Returns the number in a table. The L1 index of the table is odd.
    fn number(tables: &Tables, table: u64) -> Result<u64> {
        assert!(tables.l2(2 * table)?.is_none());
        let found = tables.l2(2 * table + 1)?.unwrap();
        Ok((found.get(0).unwrap().entry.0 >> 16) - 1)
    }

    /// Returns a delay of reads: a millisecond, and then until others are in flight.
    fn slow(until_in_flight: usize, after: u64) -> Slowness {
        Slowness {
            until_in_flight,
            after,
        }
    }

    #[test]
    fn tables_that_follow_are_read_together_where_reads_wait() {
        let before = opened(image()).0.count(Operation::Read);
        // The first three tables are read one by one, then batches of 5, 10 and 20, of which the last are in flight
        // at once.
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
        // These are too few to detect that reads are slow.
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
            // A table that failed in a batch is read again.
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
