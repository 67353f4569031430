//! A table of 32-bit numbers in a file, read and changed page by page.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::pages::Pages;
use crate::error::{Error, Result};
use crate::storage::Storage;

/// The length of an entry in bytes.
const ENTRY_LENGTH: u64 = 4;
/// The length of a page in bytes.
const PAGE_LENGTH: u64 = 64 << 10;
/// The number of entries of a page.
const PAGE_ENTRIES: u64 = PAGE_LENGTH / ENTRY_LENGTH;

/// A table of 32-bit little-endian entries.
#[derive(Debug)]
pub struct EntryTable {
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

impl EntryTable {
    /// The table of `count` entries at `start`, in bytes from the start of the file.
    pub fn stored(storage: Arc<dyn Storage>, start: u64, count: u64) -> Self {
        Self {
            start,
            count,
            fresh: None,
            pages: Mutex::new(Pages::new(storage)),
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
        let (start, length) = self.page(index)?;
        let mut pages = self.lock();
        let bytes = pages.get_or(start, length, self.fresh_page(start).as_deref())?;
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
        let (start, length) = self.page(index)?;
        let mut pages = self.lock();
        pages.get_or(start, length, self.fresh_page(start).as_deref())?;
        let bytes = pages.change(start, length)?;
        let at = place(index);
        let entry = bytes.get_mut(at..at + 4);
        let entry = entry.ok_or_else(|| self.beyond(index))?;
        entry.copy_from_slice(&value.to_le_bytes());
        Ok(())
    }

    /// Stores the pages that have changed.
    ///
    /// # Errors
    /// Returns the system's error.
    pub fn store(&self) -> Result<()> {
        self.lock().store()
    }

    /// Stores every page of a new table.
    ///
    /// # Errors
    /// Returns the system's error.
    pub fn store_all(&self) -> Result<()> {
        for index in (0..self.count).step_by(usize::try_from(PAGE_ENTRIES).unwrap_or(1)) {
            let (start, length) = self.page(index)?;
            let mut pages = self.lock();
            pages.get_or(start, length, self.fresh_page(start).as_deref())?;
            pages.change(start, length)?;
            pages.store()?;
        }
        Ok(())
    }

    /// Returns the start and the length of the page that holds an entry, in bytes of the file.
    fn page(&self, index: u64) -> Result<(u64, usize)> {
        if index >= self.count {
            return Err(self.beyond(index));
        }
        let first = index / PAGE_ENTRIES * PAGE_ENTRIES;
        let entries = (self.count - first).min(PAGE_ENTRIES);
        let length = usize::try_from(entries * ENTRY_LENGTH).unwrap_or_default();
        Ok((self.start + first * ENTRY_LENGTH, length))
    }

    /// Returns what makes the page at `start` of a new table.
    fn fresh_page(&self, start: u64) -> Option<Box<dyn Fn() -> Vec<u8>>> {
        let fresh = self.fresh?;
        let first = (start - self.start) / ENTRY_LENGTH;
        let entries = usize::try_from((self.count - first).min(PAGE_ENTRIES)).unwrap_or_default();
        Some(Box::new(move || match fresh {
            Fresh::Same(value) => value.to_le_bytes().repeat(entries),
            Fresh::Identity => (first..)
                .take(entries)
                .flat_map(|index| u32::try_from(index).unwrap_or(u32::MAX).to_le_bytes())
                .collect(),
        }))
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
