//! L1 and L2 tables as read from a file.
//!
//! The L1 table is read whole when the image is opened (at most 32 MiB). L2 tables are read when
//! needed and kept in a cache of bounded size with two generations: what is used is moved into the
//! young one, and when that is full it becomes the old one and the old one is dropped. That is
//! nearly least-recently-used, in constant time and without a list.
//!
//! Every table must lie inside the file: bytes that are missing from a table are not zeroes.

use std::collections::HashMap;
use std::mem;
use std::sync::{Arc, Mutex, PoisonError};

use super::entries::{L1Entry, L1Target, L2Table};
use super::geometry::{ENTRY_SIZE, Geometry};
use super::header::{Header, TablePlace};
use crate::error::{Error, Result};
use crate::storage::Storage;
use crate::units::HostOffset;

/// How many bytes of L2 tables one generation of the cache may hold, though never fewer than
/// [`LEAST_TABLES`].
const GENERATION_BYTES: usize = 4 << 20;
const LEAST_TABLES: usize = 2;
/// How many images of a chain may each keep as many tables as one alone; those below keep fewer.
const FULL_CACHES: usize = 16;

/// Reads a table of 8-byte entries; `what` names it in errors.
///
/// # Errors
/// The system's error, or that the table isn't completely inside the file.
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

/// The way from a guest offset to its L2 table.
#[derive(Debug)]
pub struct Tables {
    storage: Arc<dyn Storage>,
    geometry: Geometry,
    l1: Vec<L1Entry>,
    /// How many L1 entries there ought to be.
    l1_entries: u64,
    cache: Mutex<Generations>,
    most_tables: usize,
}

impl Tables {
    /// Reads the active L1 table. To salvage what can be, a table that the file's end cuts off is read as
    /// far as it goes; then it's an error to ask for what isn't there.
    ///
    /// # Errors
    /// As [`read_table`].
    pub fn open(storage: Arc<dyn Storage>, header: &Header, salvage: bool) -> Result<Self> {
        let geometry = header.geometry();
        let mut place = header.l1();
        let l1_entries = place.entries;
        if salvage {
            let left = storage.len()?.saturating_sub(place.host.0);
            place.entries = place.entries.min(left / ENTRY_SIZE);
            // An empty table is anywhere.
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
            most_tables: (GENERATION_BYTES / geometry.cluster_len()).max(LEAST_TABLES),
        })
    }

    /// Keeps fewer tables, as those of an image that is so many images below another: what a chain keeps
    /// grows with the logarithm of its length.
    pub fn share_memory(&mut self, depth: usize) {
        let most = self.most_tables / (1 + depth / FULL_CACHES);
        self.most_tables = most.max(LEAST_TABLES);
    }

    /// Where the L2 table of L1 entry `l1_index` is; `None` when no cluster of it is stored, as beyond
    /// the table of a snapshot that was taken when the disk was smaller.
    ///
    /// # Errors
    /// An invalid entry.
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

    /// The L2 table of L1 entry `l1_index`.
    ///
    /// # Errors
    /// As [`l2_place`](Self::l2_place), the system's error, or a table beyond the end of the file.
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
        let place = TablePlace {
            host,
            entries: self.geometry.cluster_size() / ENTRY_SIZE,
        };
        let what = format!("the L2 table of L1 entry {l1_index}");
        let table = read_table(self.storage.as_ref(), place, &what)?;
        let table = Arc::new(L2Table::new(table, self.geometry));
        let mut cache = self.cache.lock().unwrap_or_else(PoisonError::into_inner);
        cache.insert(l1_index, &table, self.most_tables);
        Ok(Some(table))
    }
}
