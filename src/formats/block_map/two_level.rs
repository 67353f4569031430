//! Tables of 64-bit entries in two levels: an L1 table whose entries are the offsets of L2 tables.
//!
//! A new L2 table is stored before the L1 entry that refers to it. So a power cut never leaves an entry that refers
//! to something else.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::pages::Pages;
use super::space_at_end::SpaceAtEnd;
use crate::error::{Error, Result};
use crate::storage::Storage;

/// The length of an entry in bytes.
const ENTRY_LENGTH: u64 = 8;
/// The length of a page in bytes.
const PAGE_LENGTH: u64 = 64 << 10;
/// The number of changed pages that makes a flush due.
const MOST_CHANGED: usize = 256;

/// The places and the encoding of the tables.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TableShape {
    /// True if entries are big-endian.
    pub is_big_endian: bool,
    /// The offset of the L1 table in the file, in bytes.
    pub l1_offset: u64,
    /// The number of entries of the L1 table.
    pub l1_entries: u64,
    /// The number of entries of an L2 table.
    pub l2_entries: u64,
    /// The required alignment of L2 tables, in bytes.
    pub l2_alignment: u64,
}

impl TableShape {
    /// Returns the length of the L1 table in bytes.
    pub fn l1_length(&self) -> u64 {
        self.l1_entries.saturating_mul(ENTRY_LENGTH)
    }

    /// Returns the length of an L2 table in bytes.
    pub fn l2_length(&self) -> u64 {
        self.l2_entries.saturating_mul(ENTRY_LENGTH)
    }
}

/// Tables in two levels.
#[derive(Debug)]
pub struct TwoLevelTable {
    storage: Arc<dyn Storage>,
    shape: TableShape,
    tables: Mutex<LoadedTables>,
}

#[derive(Debug)]
struct LoadedTables {
    pages: Pages,
    /// The offsets of L2 tables to which the stored L1 table doesn't refer yet, by their L1 indexes.
    new: BTreeMap<u64, u64>,
    /// The L1 index and the offset of the L2 table that was looked up last.
    last: Option<(u64, u64)>,
}

impl TwoLevelTable {
    /// Returns the tables of a file.
    pub fn new(storage: Arc<dyn Storage>, shape: TableShape) -> Self {
        let tables = LoadedTables {
            pages: Pages::new(Arc::clone(&storage)),
            new: BTreeMap::new(),
            last: None,
        };
        Self {
            storage,
            shape,
            tables: Mutex::new(tables),
        }
    }

    /// Returns the shape of the tables.
    pub fn shape(&self) -> &TableShape {
        &self.shape
    }

    /// Returns the offset of the L2 table of an L1 entry, or `None` if there is none.
    ///
    /// # Errors
    /// Returns the system's error. Returns an error if there can't be a table at that offset.
    pub fn l2_offset(&self, number: u64) -> Result<Option<u64>> {
        self.find(&mut self.lock(), number)
    }

    /// Passes the byte ranges of the L1 table and of the L2 tables of the first `blocks` blocks to `each`.
    ///
    /// # Errors
    /// Returns an error as [`l2_offset`](Self::l2_offset) does.
    pub fn places(&self, blocks: u64, each: &mut dyn FnMut(Range<u64>)) -> Result<()> {
        let shape = &self.shape;
        each(shape.l1_offset..shape.l1_offset.saturating_add(shape.l1_length()));
        for number in 0..blocks.div_ceil(shape.l2_entries.max(1)) {
            if let Some(offset) = self.l2_offset(number)? {
                each(offset..offset.saturating_add(shape.l2_length()));
            }
        }
        Ok(())
    }

    /// Returns an L1 entry without checking it.
    ///
    /// # Errors
    /// Returns the system's error. Returns an error if there is no such entry.
    pub fn l1_entry(&self, number: u64) -> Result<u64> {
        let mut tables = self.lock();
        if let Some(offset) = tables.new.get(&number) {
            return Ok(*offset);
        }
        self.read_l1(&mut tables, number)
    }

    /// Returns the L2 entry of a block, or 0 if it has no L2 table.
    ///
    /// # Errors
    /// Returns an error as [`l2_offset`](Self::l2_offset) does.
    pub fn get(&self, block: u64) -> Result<u64> {
        let mut tables = self.lock();
        match self.find(&mut tables, block / self.shape.l2_entries)? {
            None => Ok(0),
            Some(table) => {
                let index = block % self.shape.l2_entries;
                self.read(&mut tables, table, self.shape.l2_entries, index)
            }
        }
    }

    /// Changes the L2 entry of a block in memory.
    ///
    /// # Errors
    /// Returns an error as [`l2_offset`](Self::l2_offset) does, or if the block has no L2 table.
    pub fn set(&self, block: u64, entry: u64) -> Result<()> {
        let mut tables = self.lock();
        let table = self.find(&mut tables, block / self.shape.l2_entries)?;
        let table = table.ok_or_else(|| Error::invalid("the block has no L2 table"))?;
        let index = block % self.shape.l2_entries;
        self.write(&mut tables, table, self.shape.l2_entries, index, entry)
    }

    /// Returns true if a block has an L2 table.
    ///
    /// # Errors
    /// Returns an error as [`l2_offset`](Self::l2_offset) does.
    pub fn has_table(&self, block: u64) -> Result<bool> {
        let found = self.l2_offset(block / self.shape.l2_entries)?;
        Ok(found.is_some())
    }

    /// Sets the offset of a block's L2 table. The file must read as zeroes there.
    pub fn add_table(&self, block: u64, offset: u64) {
        let number = block / self.shape.l2_entries;
        let mut tables = self.lock();
        tables.new.insert(number, offset);
        tables.last = Some((number, offset));
    }

    /// Allocates an L2 table for a block from `space`, at a multiple of `alignment`, unless it has one.
    ///
    /// # Errors
    /// Returns an error as [`l2_offset`](Self::l2_offset) and [`SpaceAtEnd::take_zeroed`] do.
    pub fn ensure_table(&self, block: u64, space: &SpaceAtEnd, alignment: u64) -> Result<()> {
        if !self.has_table(block)? {
            let offset = space.take_zeroed(self.shape.l2_length(), alignment)?;
            self.add_table(block, offset);
        }
        Ok(())
    }

    /// Changes an L1 entry in memory.
    ///
    /// # Errors
    /// Returns the system's error. Returns an error if there is no such entry.
    pub fn set_l1(&self, number: u64, entry: u64) -> Result<()> {
        let mut tables = self.lock();
        tables.last = None;
        let (start, count) = (self.shape.l1_offset, self.shape.l1_entries);
        self.write(&mut tables, start, count, number, entry)
    }

    /// Returns true if there are so many changes that a flush is due.
    pub fn should_store(&self) -> bool {
        self.lock().pages.changed() >= MOST_CHANGED
    }

    /// Writes the changes in the L2 tables.
    ///
    /// # Errors
    /// Returns the system's error.
    pub fn store_l2(&self) -> Result<()> {
        self.lock().pages.store()
    }

    /// Writes the changes: the L2 tables and, after a flush, the L1 entries of new ones.
    ///
    /// # Errors
    /// Returns the system's error.
    pub fn store(&self, flush: bool) -> Result<()> {
        let mut tables = self.lock();
        tables.pages.store()?;
        if tables.new.is_empty() {
            return Ok(());
        }
        self.storage.flush_if(flush)?;
        let new = tables.new.clone();
        let (start, count) = (self.shape.l1_offset, self.shape.l1_entries);
        for (number, offset) in new {
            self.write(&mut tables, start, count, number, offset)?;
        }
        tables.pages.store()?;
        tables.new.clear();
        Ok(())
    }

    fn find(&self, tables: &mut LoadedTables, number: u64) -> Result<Option<u64>> {
        if let Some((last, offset)) = tables.last
            && last == number
        {
            return Ok(Some(offset));
        }
        let offset = match tables.new.get(&number) {
            Some(offset) => *offset,
            None => match self.read_l1(tables, number)? {
                0 => return Ok(None),
                offset => self.checked(number, offset)?,
            },
        };
        tables.last = Some((number, offset));
        Ok(Some(offset))
    }

    /// Refuses an offset at which there can't be an L2 table.
    fn checked(&self, number: u64, offset: u64) -> Result<u64> {
        let end = offset.checked_add(self.shape.l2_length());
        let length = self.storage.len()?;
        let l1 = self.shape.l1_offset..self.shape.l1_offset.saturating_add(self.shape.l1_length());
        let is_within =
            end.is_some_and(|end| end <= length && (end <= l1.start || offset >= l1.end));
        if !is_within || !offset.is_multiple_of(self.shape.l2_alignment) {
            return Err(Error::corrupt(format!(
                "L1 entry {number} leads to offset {offset:#x}, where no L2 table can be"
            )));
        }
        Ok(offset)
    }

    fn read_l1(&self, tables: &mut LoadedTables, number: u64) -> Result<u64> {
        let (start, count) = (self.shape.l1_offset, self.shape.l1_entries);
        self.read(tables, start, count, number)
    }

    /// Reads an entry of the table with `count` entries at `start`.
    fn read(&self, tables: &mut LoadedTables, start: u64, count: u64, index: u64) -> Result<u64> {
        let (page, length, within) = place(start, count, index).ok_or_else(beyond)?;
        let bytes = tables.pages.get(page, length)?.get(within..within + 8);
        let bytes = bytes.and_then(|bytes| bytes.try_into().ok());
        let convert = match self.shape.is_big_endian {
            true => u64::from_be_bytes,
            false => u64::from_le_bytes,
        };
        bytes.map(convert).ok_or_else(beyond)
    }

    fn write(
        &self,
        tables: &mut LoadedTables,
        start: u64,
        count: u64,
        index: u64,
        entry: u64,
    ) -> Result<()> {
        let (page, length, within) = place(start, count, index).ok_or_else(beyond)?;
        let bytes = tables.pages.change(page, length)?;
        let bytes = bytes.get_mut(within..within + 8).ok_or_else(beyond)?;
        bytes.copy_from_slice(&match self.shape.is_big_endian {
            true => entry.to_be_bytes(),
            false => entry.to_le_bytes(),
        });
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, LoadedTables> {
        self.tables.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Returns the offset in the file and the length of the page with an entry, in bytes, and the entry's offset in the
/// page.
fn place(start: u64, count: u64, index: u64) -> Option<(u64, usize, usize)> {
    if index >= count {
        return None;
    }
    let at = index.checked_mul(ENTRY_LENGTH)?;
    let page = at / PAGE_LENGTH * PAGE_LENGTH;
    let length = (count.checked_mul(ENTRY_LENGTH)? - page).min(PAGE_LENGTH);
    let within = usize::try_from(at - page).ok()?;
    Some((
        start.checked_add(page)?,
        usize::try_from(length).ok()?,
        within,
    ))
}

fn beyond() -> Error {
    Error::corrupt("a block is beyond the end of the tables")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::{Change, MemoryStorage};

    const SHAPE: TableShape = TableShape {
        is_big_endian: true,
        l1_offset: 512,
        l1_entries: 4,
        l2_entries: 64,
        l2_alignment: 512,
    };

    fn tables(storage: &Arc<MemoryStorage>, shape: TableShape) -> TwoLevelTable {
        TwoLevelTable::new(
            Arc::<MemoryStorage>::clone(storage) as Arc<dyn Storage>,
            shape,
        )
    }

    #[test]
    fn a_new_table_is_stored_before_what_leads_to_it() {
        for is_big_endian in [true, false] {
            let shape = TableShape {
                is_big_endian,
                ..SHAPE
            };
            let storage = Arc::new(MemoryStorage::new(vec![0; 2048]).recording());
            let table = tables(&storage, shape);
            assert_eq!(table.get(70).unwrap(), 0);
            assert!(table.set(70, 9).is_err() && !table.has_table(70).unwrap());
            table.add_table(70, 1024);
            table.set(70, 0x0102).unwrap();
            assert_eq!(
                (table.get(70).unwrap(), table.get(71).unwrap()),
                (0x0102, 0)
            );
            table.store(true).unwrap();
            let changes: Vec<u64> = storage
                .take_record()
                .iter()
                .map(|change| match change {
                    Change::Write(offset, _) => *offset,
                    _ => 0,
                })
                .collect();
            assert_eq!(changes, [1024, 0, 512]);
            let again = tables(&storage, shape);
            assert_eq!((again.get(70).unwrap(), again.get(0).unwrap()), (0x0102, 0));
            assert!(again.get(256).is_err());
        }
    }

    #[test]
    fn offsets_where_no_table_can_be_are_refused() {
        for offset in [1, 511, 512, 1025, 1536, 2048, u64::MAX - 511] {
            let mut bytes = vec![0; 2047];
            bytes[520..528].copy_from_slice(&u64::to_be_bytes(offset));
            let table = tables(&Arc::new(MemoryStorage::new(bytes)), SHAPE);
            assert!(table.get(64).is_err(), "{offset}");
            assert_eq!(table.get(63).unwrap(), 0);
        }
    }
}
