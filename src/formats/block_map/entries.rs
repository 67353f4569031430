//! A table of numbers of 32 or 64 bits in a file, which is read and changed page by page, since it may have
//! gigabytes.

use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use byteorder::{BigEndian, ByteOrder as _, LittleEndian};

use super::pages::Pages;
use crate::error::{Error, Result};
use crate::storage::Storage;

/// The length of a page in bytes.
const PAGE_LENGTH: u64 = 64 << 10;

/// The encoding of an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EntryForm {
    /// 32 bits, little-endian.
    Little32,
    /// 32 bits, big-endian.
    Big32,
    /// 64 bits, little-endian.
    Little64,
    /// 64 bits, big-endian.
    Big64,
}

impl EntryForm {
    /// Returns the length of an entry in bytes.
    pub fn length(self) -> u64 {
        match self {
            Self::Little32 | Self::Big32 => 4,
            Self::Little64 | Self::Big64 => 8,
        }
    }

    /// Returns the number of entries in a page.
    fn page_entries(self) -> u64 {
        PAGE_LENGTH / self.length()
    }

    /// Decodes the number in the bytes of an entry.
    fn number(self, bytes: &[u8]) -> u64 {
        match self {
            Self::Little32 | Self::Little64 => LittleEndian::read_uint(bytes, bytes.len()),
            Self::Big32 | Self::Big64 => BigEndian::read_uint(bytes, bytes.len()),
        }
    }

    /// Encodes a number into the bytes of an entry.
    fn put(self, bytes: &mut [u8], number: u64) {
        let big = number.to_be_bytes();
        let first = big.len() - bytes.len().min(big.len());
        bytes.copy_from_slice(big.get(first..).unwrap_or_default());
        if matches!(self, Self::Little32 | Self::Little64) {
            bytes.reverse();
        }
    }
}

/// A table of entries with the same encoding.
pub struct EntryTable {
    form: EntryForm,
    start: u64,
    count: u64,
    /// The initial entries, if the table is new.
    fresh: Option<Fresh>,
    pages: Mutex<Pages>,
}

/// The initial entries of a new table.
pub enum Fresh {
    /// All entries are the same.
    Same(u64),
    /// Each entry is its index.
    Identity,
    /// Each entry is a function of its index.
    Computed(Box<dyn Fn(u64) -> u64 + Send + Sync>),
}

impl Fresh {
    fn entry(&self, index: u64) -> u64 {
        match self {
            Self::Same(value) => *value,
            Self::Identity => index,
            Self::Computed(of) => of(index),
        }
    }
}

impl EntryTable {
    /// Returns the existing table of `count` entries at `start`, in bytes from the start of the file.
    pub fn stored(storage: Arc<dyn Storage>, form: EntryForm, start: u64, count: u64) -> Self {
        Self {
            form,
            start,
            count,
            fresh: None,
            pages: Mutex::new(Pages::new(storage)),
        }
    }

    /// Returns a new table of `count` entries at `start`, with initial entries that aren't stored yet.
    pub fn fresh(
        storage: Arc<dyn Storage>,
        form: EntryForm,
        start: u64,
        count: u64,
        fresh: Fresh,
    ) -> Self {
        Self {
            fresh: Some(fresh),
            ..Self::stored(storage, form, start, count)
        }
    }

    /// Returns the number of entries.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// Returns an entry.
    ///
    /// # Errors
    /// Returns an error if the index is beyond the table, or if the entry can't be read.
    pub fn get(&self, index: u64) -> Result<u64> {
        let (start, length) = self.page(index)?;
        let mut pages = self.lock();
        let bytes = pages.get_or(start, length, self.fresh_page(start).as_deref())?;
        let entry = bytes.get(self.place(index));
        entry
            .map(|bytes| self.form.number(bytes))
            .ok_or_else(|| self.beyond(index))
    }

    /// Changes an entry in memory. The upper bits of a number that is longer than an entry are lost.
    ///
    /// # Errors
    /// Returns an error as [`get`](Self::get) does.
    pub fn set(&self, index: u64, value: u64) -> Result<()> {
        let (start, length) = self.page(index)?;
        let mut pages = self.lock();
        pages.get_or(start, length, self.fresh_page(start).as_deref())?;
        let bytes = pages.change(start, length)?;
        let entry = bytes.get_mut(self.place(index));
        let entry = entry.ok_or_else(|| self.beyond(index))?;
        self.form.put(entry, value);
        Ok(())
    }

    /// Writes the pages that have changed.
    ///
    /// # Errors
    /// Returns the system's error.
    pub fn store(&self) -> Result<()> {
        self.lock().store()
    }

    /// Writes all pages of a new table.
    ///
    /// # Errors
    /// Returns the system's error.
    pub fn store_all(&self) -> Result<()> {
        let step = usize::try_from(self.form.page_entries()).unwrap_or(1);
        for index in (0..self.count).step_by(step) {
            let (start, length) = self.page(index)?;
            let mut pages = self.lock();
            pages.get_or(start, length, self.fresh_page(start).as_deref())?;
            pages.change(start, length)?;
            pages.store()?;
        }
        Ok(())
    }

    /// Returns the offset in the file and the length of the page with an entry, in bytes.
    fn page(&self, index: u64) -> Result<(u64, usize)> {
        if index >= self.count {
            return Err(self.beyond(index));
        }
        let step = self.form.page_entries();
        let first = index / step * step;
        let entries = (self.count - first).min(step);
        let length = usize::try_from(entries * self.form.length()).unwrap_or_default();
        Ok((self.start + first * self.form.length(), length))
    }

    /// Returns the function that makes the page at `start` of a new table, or `None` if the table isn't new.
    fn fresh_page(&self, start: u64) -> Option<Box<dyn Fn() -> Vec<u8> + '_>> {
        let fresh = self.fresh.as_ref()?;
        let first = (start - self.start) / self.form.length();
        let entries = (self.count - first).min(self.form.page_entries());
        Some(Box::new(move || {
            let width = usize::try_from(self.form.length()).unwrap_or_default();
            let length = usize::try_from(entries).unwrap_or_default() * width;
            let mut bytes = vec![0; length];
            for (index, entry) in (first..).zip(bytes.chunks_exact_mut(width)) {
                self.form.put(entry, fresh.entry(index));
            }
            bytes
        }))
    }

    /// Returns the range of an entry in its page, in bytes.
    fn place(&self, index: u64) -> Range<usize> {
        let start = index % self.form.page_entries() * self.form.length();
        let place = |at: u64| usize::try_from(at).unwrap_or_default();
        place(start)..place(start + self.form.length())
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::MemoryStorage;

    const FORMS: [EntryForm; 4] = [
        EntryForm::Little32,
        EntryForm::Big32,
        EntryForm::Little64,
        EntryForm::Big64,
    ];

    #[test]
    fn entries_are_changed_in_memory_and_stored_together() {
        for form in FORMS {
            let width = usize::try_from(form.length()).unwrap();
            let stored = |number: u64| match form {
                EntryForm::Little32 | EntryForm::Little64 => number.to_le_bytes()[..width].to_vec(),
                EntryForm::Big32 | EntryForm::Big64 => number.to_be_bytes()[8 - width..].to_vec(),
            };
            let page = form.page_entries();
            let bytes: Vec<u8> = (0..3 * page).flat_map(stored).collect();
            let storage = Arc::new(MemoryStorage::new([vec![9; 512], bytes].concat()));
            let file: Arc<dyn Storage> = Arc::<MemoryStorage>::clone(&storage);
            let table = EntryTable::stored(file, form, 512, 3 * page - 1);
            assert_eq!(table.get(page + 7).unwrap(), page + 7);
            table.set(page + 7, 5).unwrap();
            table.set(0, 6).unwrap();
            assert_eq!(table.get(page + 7).unwrap(), 5);
            let before = storage.contents();
            assert_eq!(before[512..512 + width], stored(0));
            table.store().unwrap();
            let after = storage.contents();
            assert_eq!(after[512..512 + width], stored(6));
            let start = 512 + usize::try_from(page + 7).unwrap() * width;
            assert_eq!(after[start..start + width], stored(5));
            let mut expected = before;
            expected[512..512 + width].copy_from_slice(&stored(6));
            expected[start..start + width].copy_from_slice(&stored(5));
            assert!(after == expected);
            let last = 3 * page - 2;
            assert_eq!(table.get(last).unwrap(), last);
            assert!(table.get(last + 1).is_err());
        }
    }

    #[test]
    fn new_tables_are_stored_as_a_whole() {
        for form in FORMS {
            let width = usize::try_from(form.length()).unwrap();
            let count = form.page_entries() + 3;
            let double = Fresh::Computed(Box::new(|index| index * 2));
            for (fresh, times, more) in [
                (Fresh::Same(7), 0, 7),
                (Fresh::Identity, 1, 0),
                (double, 2, 0),
            ] {
                let storage = Arc::new(MemoryStorage::default());
                let file: Arc<dyn Storage> = Arc::<MemoryStorage>::clone(&storage);
                let table = EntryTable::fresh(file, form, 0, count, fresh);
                table.set(1, 77).unwrap();
                table.store_all().unwrap();
                assert_eq!(
                    storage.contents().len(),
                    usize::try_from(count).unwrap() * width
                );
                let table = EntryTable::stored(storage, form, 0, count);
                for index in (0..count).filter(|index| *index != 1) {
                    assert_eq!(table.get(index).unwrap(), index * times + more);
                }
                assert_eq!(table.get(1).unwrap(), 77);
            }
        }
    }

    #[test]
    fn a_table_that_is_cut_off_is_an_error() {
        let storage = Arc::new(MemoryStorage::new(vec![0; 600]));
        let table = EntryTable::stored(storage, EntryForm::Little32, 512, 100);
        assert!(table.get(0).is_err());
    }
}
