//! A table of 32-bit numbers in a file, read and changed page by page.
//!
//! A table is as long as its header says, up to gigabytes. So no more of it is in memory than a few pages,
//! and those that have changed and aren't stored yet.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::error::{Error, Result};
use crate::storage::Storage;

/// The length of an entry in bytes.
const ENTRY_LENGTH: u64 = 4;
/// The length of a page in bytes.
const PAGE_LENGTH: u64 = 64 << 10;
/// The number of entries of a page.
const PAGE_ENTRIES: u64 = PAGE_LENGTH / ENTRY_LENGTH;
/// The number of pages that are kept although they haven't changed.
const MOST_CLEAN: usize = 64;

/// A table of 32-bit little-endian entries.
#[derive(Debug)]
pub struct EntryTable {
    storage: Arc<dyn Storage>,
    start: u64,
    count: u64,
    /// The value of entries that were never stored, in a table that is new.
    fresh: Option<Fresh>,
    pages: Mutex<Pages>,
}

/// The entries of a new table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fresh {
    /// All the same.
    Same(u32),
    /// Each is its index.
    Identity,
}

#[derive(Debug, Default)]
struct Pages {
    loaded: HashMap<u64, Page>,
}

#[derive(Debug)]
struct Page {
    bytes: Vec<u8>,
    changed: bool,
}

impl EntryTable {
    /// The table of `count` entries at `start`, in bytes from the start of the file.
    pub fn stored(storage: Arc<dyn Storage>, start: u64, count: u64) -> Self {
        Self {
            storage,
            start,
            count,
            fresh: None,
            pages: Mutex::default(),
        }
    }

    /// The same of a new file.
    pub fn fresh(storage: Arc<dyn Storage>, start: u64, count: u64, fresh: Fresh) -> Self {
        Self {
            fresh: Some(fresh),
            ..Self::stored(storage, start, count)
        }
    }

    /// The number of entries.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// An entry.
    ///
    /// # Errors
    /// Returns an error if there is none of that index, or if it can't be read.
    pub fn get(&self, index: u64) -> Result<u32> {
        let mut pages = self.lock();
        let bytes = &self.page(&mut pages, index)?.bytes;
        let at = place(index);
        let entry = bytes
            .get(at..at + 4)
            .and_then(|bytes| bytes.try_into().ok());
        entry
            .map(u32::from_le_bytes)
            .ok_or_else(|| self.beyond(index))
    }

    /// Changes an entry in memory.
    ///
    /// # Errors
    /// Returns an error as [`get`](Self::get) does.
    pub fn set(&self, index: u64, value: u32) -> Result<()> {
        let mut pages = self.lock();
        let page = self.page(&mut pages, index)?;
        let at = place(index);
        let entry = page.bytes.get_mut(at..at + 4);
        let entry = entry.ok_or_else(|| self.beyond(index))?;
        entry.copy_from_slice(&value.to_le_bytes());
        page.changed = true;
        Ok(())
    }

    /// Stores the pages that have changed.
    ///
    /// # Errors
    /// Returns the system's error.
    pub fn store(&self) -> Result<()> {
        let mut pages = self.lock();
        let mut changed: Vec<_> = pages.loaded.iter_mut().collect();
        changed.retain(|(_, page)| page.changed);
        changed.sort_by_key(|(number, _)| **number);
        for (number, page) in changed {
            self.storage
                .write_at(self.start + number * PAGE_LENGTH, &page.bytes)?;
            page.changed = false;
        }
        Ok(())
    }

    /// Stores every page of a new table.
    ///
    /// # Errors
    /// Returns the system's error.
    pub fn store_all(&self) -> Result<()> {
        for index in (0..self.count).step_by(usize::try_from(PAGE_ENTRIES).unwrap_or(1)) {
            let mut pages = self.lock();
            let page = self.page(&mut pages, index)?;
            let at = self.start + index * ENTRY_LENGTH;
            self.storage.write_at(at, &page.bytes)?;
            page.changed = false;
        }
        Ok(())
    }

    /// The page that holds an entry.
    fn page<'p>(&self, pages: &'p mut MutexGuard<'_, Pages>, index: u64) -> Result<&'p mut Page> {
        if index >= self.count {
            return Err(self.beyond(index));
        }
        let number = index / PAGE_ENTRIES;
        let loaded = &mut pages.loaded;
        if !loaded.contains_key(&number) {
            if loaded.len() >= MOST_CLEAN {
                loaded.retain(|_, page| page.changed);
            }
            let entries = (self.count - number * PAGE_ENTRIES).min(PAGE_ENTRIES);
            let length = usize::try_from(entries * ENTRY_LENGTH).unwrap_or_default();
            let bytes = match self.fresh {
                Some(Fresh::Same(value)) => value.to_le_bytes().repeat(length / 4),
                Some(Fresh::Identity) => (number * PAGE_ENTRIES..)
                    .take(length / 4)
                    .flat_map(|index| u32::try_from(index).unwrap_or(u32::MAX).to_le_bytes())
                    .collect(),
                None => {
                    let mut bytes = vec![0; length];
                    let at = self.start + number * PAGE_LENGTH;
                    self.storage
                        .read_exact_at(at, &mut bytes, "the block map")?;
                    bytes
                }
            };
            let changed = false;
            loaded.insert(number, Page { bytes, changed });
        }
        loaded
            .get_mut(&number)
            .ok_or_else(|| Error::invalid("a page of the block map is lost"))
    }

    fn lock(&self) -> MutexGuard<'_, Pages> {
        self.pages.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn beyond(&self, index: u64) -> Error {
        Error::corrupt(format!(
            "block {index} is beyond the block map, which has {} entries",
            self.count
        ))
    }
}

/// Returns the place of an entry in its page, in bytes.
fn place(index: u64) -> usize {
    usize::try_from(index % PAGE_ENTRIES * ENTRY_LENGTH).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::MemoryStorage;

    fn entry(index: u64) -> u32 {
        u32::try_from(index).unwrap()
    }

    #[test]
    fn entries_are_changed_in_memory_and_stored_together() {
        let bytes: Vec<u8> = (0..3 * PAGE_ENTRIES)
            .flat_map(|at| entry(at).to_le_bytes())
            .collect();
        let storage = Arc::new(MemoryStorage::new([vec![9; 512], bytes].concat()));
        let file: Arc<dyn Storage> = Arc::<MemoryStorage>::clone(&storage);
        let table = EntryTable::stored(file, 512, 3 * PAGE_ENTRIES - 1);
        assert_eq!(
            table.get(PAGE_ENTRIES + 7).unwrap(),
            entry(PAGE_ENTRIES + 7)
        );
        table.set(PAGE_ENTRIES + 7, 5).unwrap();
        table.set(0, 6).unwrap();
        assert_eq!(table.get(PAGE_ENTRIES + 7).unwrap(), 5);
        let before = storage.contents();
        assert_eq!(before[512..516], [0; 4]);
        table.store().unwrap();
        let after = storage.contents();
        assert_eq!(after[512..516], 6u32.to_le_bytes());
        let changed = before
            .iter()
            .zip(&after)
            .filter(|(before, after)| before != after);
        assert_eq!(changed.count(), 3);
        let last = 3 * PAGE_ENTRIES - 2;
        assert_eq!(table.get(last).unwrap(), entry(last));
        assert!(table.get(last + 1).is_err());
    }

    #[test]
    fn a_table_that_is_cut_off_is_an_error() {
        let storage = Arc::new(MemoryStorage::new(vec![0; 600]));
        let table = EntryTable::stored(storage, 512, 100);
        assert!(table.get(0).is_err());
    }
}
