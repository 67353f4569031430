//! The grain tables of an extent that is written to in place.
//!
//! A new grain is allocated at the end of the file. If there are two grain directories, its entry is set in both
//! grain tables, which are stored as a whole. A missing grain table is allocated, whereas QEMU overwrites the header.
//! The order of writes is that of [`BlockAllocator`]: data, then grain tables, then the grain directories that refer
//! to new ones.

use super::grains::{Grain, GrainMap, GrainTable, GrainTableState, read_directory};
use crate::error::{Error, Result};
use crate::formats::block_map::BlockAllocator;
use crate::formats::zeroes::make_zero;
use crate::units::{HostOffset, SECTOR_SIZE};

/// The number of changed tables that makes a flush due.
const MOST_CHANGED: usize = 4096;
/// The largest length of a file that entries can address, in bytes.
const MOST_BYTES: u64 = SECTOR_SIZE << 32;

impl GrainMap {
    /// Prepares the allocation of space at the end of the file. `flushes` says if flushes reach stable storage.
    ///
    /// # Errors
    /// Returns the system's error. Returns an error if the second grain directory can't be read.
    pub(super) fn find_space(&self, flushes: bool) -> Result<()> {
        let length = self.file.len()?;
        let mut state = self.lock();
        state.flushes = flushes;
        state.end = length.next_multiple_of(self.layout.grain);
        if let Some(start) = self.layout.second_directory {
            state.second = read_directory(self.file.as_ref(), &self.layout, start, length)?;
        }
        Ok(())
    }

    /// Allocates a range at the end, which reads as zeroes.
    fn take(&self, state: &mut GrainTableState, length: u64) -> Result<u64> {
        let start = state.end;
        let end = start + length;
        if end > MOST_BYTES {
            return Err(Error::unsupported(
                "an extent of a VMDK image has at most 2 TiB",
            ));
        }
        let stored = self.file.len()?;
        if stored > start || !self.file.starts_as_zeroes() {
            make_zero(self.file.as_ref(), start..end)?;
        }
        if stored < end {
            self.file.set_len(end)?;
        }
        state.handed_out = end;
        state.end = end.next_multiple_of(self.layout.grain);
        Ok(start)
    }

    /// Allocates the grain tables with an index, unless they exist.
    fn make_table(&self, state: &mut GrainTableState, table: u64) -> Result<()> {
        let index = usize::try_from(table).unwrap_or(usize::MAX);
        let length = self.layout.table_length();
        if state.directory.get(index) == Some(&0) {
            let place = self.take(state, length)?;
            let bytes = vec![0; usize::try_from(length).unwrap_or(0)];
            let is_changed = true;
            state.changed += 1;
            state.loaded.insert(table, GrainTable { bytes, is_changed });
            if let Some(entry) = state.directory.get_mut(index) {
                *entry = place;
            }
            state.has_new_tables = true;
        }
        if state.second.get(index) == Some(&0) {
            let place = self.take(state, length)?;
            if let Some(entry) = state.second.get_mut(index) {
                *entry = place;
            }
            state.has_new_tables = true;
        }
        Ok(())
    }

    /// Replaces the contents of a grain table, and allocates new space for it at the end.
    ///
    /// # Errors
    /// Returns the system's error. Returns an error if there is no space.
    pub(super) fn replace_table(
        &self,
        state: &mut GrainTableState,
        table: u64,
        bytes: Vec<u8>,
    ) -> Result<()> {
        let index = usize::try_from(table).unwrap_or(usize::MAX);
        if let Some(place) = state.directory.get_mut(index) {
            *place = 0;
        }
        self.make_table(state, table)?;
        if let Some(made) = state.loaded.get_mut(&table) {
            made.bytes = bytes;
        }
        Ok(())
    }

    /// Changes an entry in memory.
    ///
    /// # Errors
    /// Returns an error if its grain table can't be read, or if there is no space for one.
    pub(super) fn set_entry(
        &self,
        state: &mut GrainTableState,
        grain: u64,
        entry: u32,
    ) -> Result<()> {
        let table = grain / self.layout.entries;
        self.make_table(state, table)?;
        let lost = || Error::invalid(format!("grain {grain} has no entry"));
        let found = self.table(state, table)?.ok_or_else(lost)?;
        let at = usize::try_from(grain % self.layout.entries * 4).unwrap_or(usize::MAX);
        let place = found
            .bytes
            .get_mut(at..)
            .and_then(|rest| rest.first_chunk_mut());
        *place.ok_or_else(lost)? = entry.to_le_bytes();
        let was_changed = std::mem::replace(&mut found.is_changed, true);
        state.changed += usize::from(!was_changed);
        Ok(())
    }

    /// Marks a grain that isn't allocated as zero, so that it hides the backing file.
    ///
    /// # Errors
    /// Returns an error if its grain table can't be read, or if there is no space for one.
    pub(super) fn enter_zero(&self, grain: u64) -> Result<()> {
        self.set_entry(&mut self.lock(), grain, 1)
    }

    fn store_directory(&self, start: u64, places: &[u64]) -> Result<()> {
        let sectors = places.iter().map(|place| place / SECTOR_SIZE);
        let bytes: Vec<u8> = sectors
            .flat_map(|sector| u32::try_from(sector).unwrap_or(0).to_le_bytes())
            .collect();
        self.file.write_at(start, &bytes)
    }

    /// Writes all changes.
    fn store(&self, state: &mut GrainTableState) -> Result<()> {
        let mut changed: Vec<_> = state.loaded.iter_mut().collect();
        changed.retain(|(_, table)| table.is_changed);
        changed.sort_by_key(|(number, _)| **number);
        for (number, table) in &mut changed {
            let index = usize::try_from(**number).unwrap_or(usize::MAX);
            let places = [state.directory.get(index), state.second.get(index)];
            for place in places.into_iter().flatten() {
                self.file.write_at(*place, &table.bytes)?;
            }
        }
        if state.has_new_tables {
            self.file.flush_if(state.flushes)?;
            self.store_directory(self.layout.directory, &state.directory)?;
            if let Some(start) = self.layout.second_directory {
                self.store_directory(start, &state.second)?;
            }
        }
        if let Some(place) = self.layout.next_free {
            let sector = u32::try_from(state.end / SECTOR_SIZE).unwrap_or(u32::MAX);
            self.file.write_at(place, &sector.to_le_bytes())?;
        }
        for (_, table) in &mut changed {
            table.is_changed = false;
        }
        state.has_new_tables = false;
        state.changed = 0;
        Ok(())
    }
}

impl BlockAllocator for GrainMap {
    fn allocate(&self, block: u64) -> Result<HostOffset> {
        let mut state = self.lock();
        self.make_table(&mut state, block / self.layout.entries)?;
        let place = self.take(&mut state, self.layout.grain)?;
        let sector = u32::try_from(place / SECTOR_SIZE)
            .map_err(|_| Error::unsupported("an extent of a VMDK image has at most 2 TiB"))?;
        debug_assert!(!matches!(self.entry(&mut state, block), Ok(Grain::At(_))));
        self.set_entry(&mut state, block, sector)?;
        Ok(HostOffset(place))
    }

    fn commit(&self) -> Result<()> {
        let mut state = self.lock();
        self.store(&mut state)
    }

    fn should_store(&self) -> bool {
        self.lock().changed >= MOST_CHANGED
    }
}
