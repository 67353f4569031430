//! A page cache for the tables of a file.
//!
//! The header determines the length of tables, which may be gigabytes. So only a few pages are in memory, and those
//! that have changed and aren't stored yet.

use std::collections::HashMap;
use std::sync::Arc;

use crate::error::{Error, Result};
use crate::storage::Storage;

/// The number of unchanged pages in the cache.
const MOST_CLEAN: usize = 64;

/// The pages in memory, by their offsets in the file.
#[derive(Debug)]
pub(super) struct Pages {
    storage: Arc<dyn Storage>,
    loaded: HashMap<u64, Page>,
    changed: usize,
}

#[derive(Debug)]
struct Page {
    bytes: Vec<u8>,
    is_changed: bool,
}

impl Pages {
    /// Returns an empty cache for a file.
    pub(super) fn new(storage: Arc<dyn Storage>) -> Self {
        Self {
            storage,
            loaded: HashMap::new(),
            changed: 0,
        }
    }

    /// Returns the page of `length` bytes at `start`, in bytes from the start of the file.
    ///
    /// # Errors
    /// Returns the system's error. Returns an error if the file ends before the page does.
    pub(super) fn get(&mut self, start: u64, length: usize) -> Result<&[u8]> {
        self.get_or(start, length, None)
    }

    /// Returns a page as [`get`](Self::get) does. If the page isn't in memory, its contents are those of `fresh`, or
    /// are read from the file without it.
    ///
    /// # Errors
    /// Returns an error as [`get`](Self::get) does.
    pub(super) fn get_or(
        &mut self,
        start: u64,
        length: usize,
        fresh: Option<&dyn Fn() -> Vec<u8>>,
    ) -> Result<&[u8]> {
        if !self.loaded.contains_key(&start) {
            if self.loaded.len() >= MOST_CLEAN + self.changed {
                self.loaded.retain(|_, page| page.is_changed);
            }
            let bytes = match fresh {
                Some(fresh) => fresh(),
                None => {
                    let mut bytes = vec![0; length];
                    self.storage
                        .read_exact_at(start, &mut bytes, "the block map")?;
                    bytes
                }
            };
            let is_changed = false;
            self.loaded.insert(start, Page { bytes, is_changed });
        }
        let page = self.loaded.get(&start);
        page.map(|page| &*page.bytes).ok_or_else(lost)
    }

    /// Returns a page as [`get`](Self::get) does, in order to change it.
    ///
    /// # Errors
    /// Returns an error as [`get`](Self::get) does.
    pub(super) fn change(&mut self, start: u64, length: usize) -> Result<&mut [u8]> {
        self.get(start, length)?;
        let page = self.loaded.get_mut(&start).ok_or_else(lost)?;
        self.changed += usize::from(!page.is_changed);
        page.is_changed = true;
        Ok(&mut page.bytes)
    }

    /// Returns the number of pages that have changed and aren't stored.
    pub(super) fn changed(&self) -> usize {
        self.changed
    }

    /// Writes the pages that have changed.
    ///
    /// # Errors
    /// Returns the system's error.
    pub(super) fn store(&mut self) -> Result<()> {
        let mut changed: Vec<_> = self.loaded.iter_mut().collect();
        changed.retain(|(_, page)| page.is_changed);
        changed.sort_by_key(|(start, _)| **start);
        for (start, page) in changed {
            self.storage.write_at(*start, &page.bytes)?;
            page.is_changed = false;
            self.changed -= 1;
        }
        Ok(())
    }
}

fn lost() -> Error {
    Error::invalid("a page of the block map is lost")
}
