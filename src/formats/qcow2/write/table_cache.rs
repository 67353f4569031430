//! A write-back cache of tables of one cluster each.
//!
//! The cache doesn't order writes: its owner determines when changed tables are written. Only unchanged tables are
//! evicted, so the cache can exceed its limit while tables are changed. [`TableCache::should_store`] tells when to
//! write them.

use std::collections::HashMap;
use std::ops::Range;

use crate::error::Result;
use crate::storage::Storage;
use crate::units::{HostOffset, SECTOR_SIZE};

/// The number of bytes of tables in a cache, though it holds at least [`LEAST_TABLES`].
const CACHE_BYTES: usize = 2 << 20;
const LEAST_TABLES: usize = 4;

/// A table in the cache.
#[derive(Debug)]
struct CachedTable {
    host: HostOffset,
    bytes: Vec<u8>,
    /// The range of bytes that differs from the stored table.
    changed: Option<Range<usize>>,
    used: u64,
}

/// Tables of one kind, by their index in the L1 table or the refcount table.
#[derive(Debug)]
pub(super) struct TableCache {
    tables: HashMap<u64, CachedTable>,
    clock: u64,
    most: usize,
    changed: usize,
}

impl TableCache {
    /// Returns an empty cache for tables of `table_bytes` bytes.
    pub(super) fn new(table_bytes: usize) -> Self {
        Self {
            tables: HashMap::new(),
            clock: 0,
            most: (CACHE_BYTES / table_bytes.max(1)).max(LEAST_TABLES),
            changed: 0,
        }
    }

    /// Returns the bytes of a table, or `None` if it isn't in the cache.
    pub(super) fn get(&mut self, index: u64) -> Option<&[u8]> {
        self.clock += 1;
        let table = self.tables.get_mut(&index)?;
        table.used = self.clock;
        Some(&table.bytes)
    }

    /// Returns a range of bytes of a table in order to change them. Returns `None` if the table isn't in the cache,
    /// or if the range is beyond its end.
    pub(super) fn change(&mut self, index: u64, range: Range<usize>) -> Option<&mut [u8]> {
        let table = self.tables.get_mut(&index)?;
        let bytes = table.bytes.get_mut(range.clone())?;
        table.changed = Some(match table.changed.take() {
            Some(changed) => changed.start.min(range.start)..changed.end.max(range.end),
            None => {
                self.changed += 1;
                range
            }
        });
        Some(bytes)
    }

    /// Adds a table with its stored contents.
    pub(super) fn insert(&mut self, index: u64, host: HostOffset, bytes: Vec<u8>) {
        self.make_space();
        self.clock += 1;
        let table = CachedTable {
            host,
            bytes,
            changed: None,
            used: self.clock,
        };
        self.replace(index, table);
    }

    /// Adds a table that isn't stored at `host` yet, so that all of it counts as changed.
    pub(super) fn insert_new(&mut self, index: u64, host: HostOffset, bytes: Vec<u8>) {
        let length = bytes.len();
        self.insert(index, host, bytes);
        self.change(index, 0..length);
    }

    /// Writes all changes, and removes all tables, before another writer changes them in the file.
    ///
    /// # Errors
    /// Returns an error as [`write_changed`](Self::write_changed) does.
    pub(super) fn leave(&mut self, storage: &dyn Storage) -> Result<()> {
        self.write_changed(storage)?;
        self.tables.clear();
        Ok(())
    }

    /// Removes a table without writing its changes.
    pub(super) fn remove(&mut self, index: u64) {
        let table = self.tables.remove(&index);
        if table.is_some_and(|table| table.changed.is_some()) {
            self.changed -= 1;
        }
    }

    fn replace(&mut self, index: u64, table: CachedTable) {
        if let Some(old) = self.tables.insert(index, table)
            && old.changed.is_some()
        {
            self.changed -= 1;
        }
    }

    /// Evicts the older half of the unchanged tables if the cache is full.
    fn make_space(&mut self) {
        if self.tables.len() < self.most {
            return;
        }
        let unchanged = self.tables.values().filter(|table| table.changed.is_none());
        let mut ages: Vec<u64> = unchanged.map(|table| table.used).collect();
        ages.sort_unstable();
        let Some(median) = ages.get(ages.len() / 2).copied() else {
            return;
        };
        self.tables
            .retain(|_, table| table.changed.is_some() || table.used > median);
    }

    /// Returns true if any table has changed.
    pub(super) fn has_changed(&self) -> bool {
        self.changed > 0
    }

    /// Returns true if at least half as many tables have changed as the cache may hold.
    pub(super) fn should_store(&self) -> bool {
        self.changed * 2 >= self.most
    }

    /// Writes all changed parts, in whole sectors and in ascending order of host offsets.
    ///
    /// # Errors
    /// Returns the system's error. Some tables may have been written then.
    pub(super) fn write_changed(&mut self, storage: &dyn Storage) -> Result<()> {
        let changed = self.tables.values_mut();
        let mut changed: Vec<_> = changed.filter(|table| table.changed.is_some()).collect();
        changed.sort_unstable_by_key(|table| table.host);
        let sector = usize::try_from(SECTOR_SIZE).unwrap_or(1);
        for table in changed {
            let Some(range) = table.changed.clone() else {
                continue;
            };
            let start = range.start / sector * sector;
            let end = range.end.next_multiple_of(sector).min(table.bytes.len());
            if let Some(bytes) = table.bytes.get(start..end) {
                storage.write_at(table.host.0 + start as u64, bytes)?;
            }
            table.changed = None;
            self.changed -= 1;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::MemoryStorage;

    #[test]
    fn only_changed_sectors_are_written() {
        let storage = MemoryStorage::new(vec![1; 8192]);
        let mut cache = TableCache::new(4096);
        cache.insert(7, HostOffset(4096), vec![2; 4096]);
        cache.change(7, 1000..1100).unwrap().fill(3);
        cache.write_changed(&storage).unwrap();
        assert!(!cache.has_changed());
        let bytes = storage.contents();
        assert!(bytes[..4096 + 512].iter().all(|byte| *byte == 1));
        assert!(bytes[4096 + 1000..4096 + 1100].iter().all(|b| *b == 3));
        assert!(bytes[4096 + 1536..].iter().all(|byte| *byte == 1));
    }

    #[test]
    fn changed_tables_are_never_dropped_and_old_ones_are() {
        let mut cache = TableCache::new(CACHE_BYTES / 8);
        cache.insert(0, HostOffset(0), vec![0; 16]);
        cache.change(0, 0..1).unwrap()[0] = 9;
        for index in 1..100 {
            cache.insert(index, HostOffset(index << 20), vec![0; 16]);
            assert!(cache.tables.len() <= 9);
        }
        assert_eq!(cache.get(0).unwrap()[0], 9);
        assert!(cache.get(1).is_none());
        assert!(cache.get(99).is_some());
        assert!(!cache.should_store());
    }
}
