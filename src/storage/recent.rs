//! A storage that remembers the tables that were read last.
//!
//! A change of a snapshot reads the same few tables again and again: to find out if it is possible, to do it, and to
//! finish it. That takes nothing in the page cache, and a request each time on a network. Only short reads are
//! remembered, since long ones are of many tables in a row, which nobody reads twice in a short time.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::{Filter, NotShared, Storage};
use crate::error::Result;

/// The longest read that is remembered, in bytes.
const LONGEST: usize = 64 << 10;
/// The number of reads that are remembered: up to 1 MiB.
const MOST: usize = 16;

/// A storage with the last short reads of it. Nobody else may change it meanwhile.
#[derive(Debug)]
pub struct RecentReads {
    storage: Arc<dyn Storage>,
    state: Mutex<RecentState>,
}

#[derive(Debug, Default)]
struct RecentState {
    /// The reads, the last one at the end.
    reads: VecDeque<RecentRead>,
    /// The number of changes that have begun or ended.
    changes: u64,
}

/// The bytes of a read.
#[derive(Debug)]
struct RecentRead {
    offset: u64,
    bytes: Vec<u8>,
}

impl RecentRead {
    fn end(&self) -> u64 {
        self.offset.saturating_add(self.bytes.len() as u64)
    }

    /// Returns the remembered bytes of a range, or `None` if any is missing.
    fn part(&self, offset: u64, length: usize) -> Option<&[u8]> {
        let skipped = usize::try_from(offset.checked_sub(self.offset)?).ok()?;
        self.bytes.get(skipped..)?.get(..length)
    }

    /// Replaces the bytes that are written at `offset`.
    fn update(&mut self, offset: u64, data: &[u8]) {
        let start = offset.max(self.offset);
        let end = offset.saturating_add(data.len() as u64).min(self.end());
        let within = |base: u64| -> Option<Range<usize>> {
            let at = |place: u64| usize::try_from(place.checked_sub(base)?).ok();
            Some(at(start)?..at(end)?)
        };
        let (Some(own), Some(new)) = (within(self.offset), within(offset)) else {
            return;
        };
        if let (Some(own), Some(new)) = (self.bytes.get_mut(own), data.get(new)) {
            own.copy_from_slice(new);
        }
    }
}

impl RecentReads {
    /// Returns the storage with nothing remembered.
    pub fn new(storage: Arc<dyn Storage>) -> Self {
        Self {
            storage,
            state: Mutex::default(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, RecentState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes a change, and forgets all reads that overlap with it.
    fn change<T>(&self, range: &Range<u64>, change: impl FnOnce(&dyn Storage) -> T) -> T {
        self.lock().changes += 1;
        let changed = change(self.storage.as_ref());
        let mut state = self.lock();
        state.changes += 1;
        let reads = &mut state.reads;
        reads.retain(|read| read.end() <= range.start || range.end <= read.offset);
        changed
    }
}

impl Filter for RecentReads {
    fn inner(&self) -> &dyn Storage {
        self.storage.as_ref()
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<usize> {
        if buf.len() > LONGEST {
            return self.storage.read_at(offset, buf);
        }
        let mut state = self.lock();
        let known = state.reads.iter().enumerate();
        let mut known =
            known.filter_map(|(index, read)| Some((index, read.part(offset, buf.len())?)));
        if let Some((index, bytes)) = known.next() {
            buf.copy_from_slice(bytes);
            let read = state.reads.remove(index);
            state.reads.extend(read);
            return Ok(buf.len());
        }
        let changes = state.changes;
        drop(state);
        let read = self.storage.read_at(offset, buf)?;
        let mut state = self.lock();
        // A change meanwhile may or may not be in these bytes. One that hasn't ended replaces them when it does.
        if read == buf.len() && state.changes == changes {
            if state.reads.len() == MOST {
                state.reads.pop_front();
            }
            state.reads.push_back(RecentRead {
                offset,
                bytes: buf.to_vec(),
            });
        }
        Ok(read)
    }

    fn write_at(&self, offset: u64, data: &[u8]) -> Result<()> {
        self.lock().changes += 1;
        let written = self.storage.write_at(offset, data);
        let mut state = self.lock();
        state.changes += 1;
        match &written {
            Ok(()) => state
                .reads
                .iter_mut()
                .for_each(|read| read.update(offset, data)),
            // Any part of it may have been written.
            Err(_) => state.reads.clear(),
        }
        written
    }

    fn set_len(&self, len: u64) -> Result<()> {
        self.change(&(len..u64::MAX), |storage| storage.set_len(len))
    }

    fn punch(&self, range: Range<u64>) -> Result<bool> {
        self.change(&range.clone(), |storage| storage.punch(range))
    }

    fn copy_from(
        &self,
        offset: u64,
        source: &dyn Storage,
        source_offset: u64,
        length: u64,
    ) -> Result<bool> {
        let range = offset..offset.saturating_add(length);
        self.change(&range, |storage| {
            storage.copy_from(offset, source, source_offset, length)
        })
    }

    fn share_from(
        &self,
        offset: u64,
        source: &dyn Storage,
        source_offset: u64,
        length: u64,
    ) -> std::result::Result<(), NotShared> {
        let range = offset..offset.saturating_add(length);
        self.change(&range, |storage| {
            storage.share_from(offset, source, source_offset, length)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::{Fault, MemoryStorage, Operation};

    fn recent(memory: MemoryStorage) -> (Arc<MemoryStorage>, Box<dyn Storage>) {
        let memory = Arc::new(memory);
        let storage: Arc<dyn Storage> = Arc::<MemoryStorage>::clone(&memory);
        (memory, Box::new(RecentReads::new(storage)))
    }

    fn read(storage: &dyn Storage, offset: u64, length: usize) -> Vec<u8> {
        let mut buf = vec![9; length];
        let read = storage.read_at(offset, &mut buf).unwrap();
        buf.truncate(read);
        buf
    }

    #[test]
    fn a_read_is_made_once() {
        let (memory, storage) = recent(MemoryStorage::new((0..200).collect()));
        assert_eq!(
            read(storage.as_ref(), 10, 100),
            (10..110).collect::<Vec<u8>>()
        );
        assert_eq!(
            read(storage.as_ref(), 10, 100),
            (10..110).collect::<Vec<u8>>()
        );
        assert_eq!(
            read(storage.as_ref(), 20, 90),
            (20..110).collect::<Vec<u8>>()
        );
        assert_eq!(memory.count(Operation::Read), 1);
        assert_eq!(
            read(storage.as_ref(), 20, 91),
            (20..111).collect::<Vec<u8>>()
        );
        assert_eq!(memory.count(Operation::Read), 2);
        // The end of the storage may move.
        assert_eq!(
            read(storage.as_ref(), 190, 20),
            (190..200).collect::<Vec<u8>>()
        );
        assert_eq!(read(storage.as_ref(), 190, 20).len(), 10);
        assert_eq!(memory.count(Operation::Read), 4);
    }

    #[test]
    fn changes_are_seen() {
        let (memory, storage) = recent(MemoryStorage::new(vec![1; 300]));
        for (offset, length) in [(0, 100), (50, 100), (100, 100), (200, 100)] {
            read(storage.as_ref(), offset, length);
        }
        storage.write_at(90, &[2; 20]).unwrap();
        assert_eq!(
            read(storage.as_ref(), 0, 100),
            [[1; 90].as_slice(), &[2; 10]].concat()
        );
        assert_eq!(
            read(storage.as_ref(), 100, 100),
            [[2; 10].as_slice(), &[1; 90]].concat()
        );
        assert_eq!(memory.count(Operation::Read), 4);
        storage.punch(60..70).unwrap();
        assert_eq!(
            read(storage.as_ref(), 60, 12),
            [[0; 10].as_slice(), &[1; 2]].concat()
        );
        storage.set_len(250).unwrap();
        assert_eq!(read(storage.as_ref(), 200, 100).len(), 50);
        assert_eq!(read(storage.as_ref(), 100, 3), [2; 3]);
    }

    #[test]
    fn a_failed_write_leaves_nothing_remembered() {
        let fault = Fault {
            operation: Operation::Write,
            nth: 1,
            errno: 5,
        };
        let (memory, storage) = recent(MemoryStorage::new(vec![1; 100]).with_fault(fault));
        read(storage.as_ref(), 0, 100);
        assert!(storage.write_at(0, &[2; 10]).is_err());
        read(storage.as_ref(), 0, 100);
        assert_eq!(memory.count(Operation::Read), 2);
    }

    #[test]
    fn the_oldest_read_is_forgotten() {
        let (memory, storage) = recent(MemoryStorage::new(vec![1; 4096]));
        for offset in 0..=MOST as u64 {
            read(storage.as_ref(), offset * 100, 100);
        }
        let before = memory.count(Operation::Read);
        read(storage.as_ref(), 100, 100);
        assert_eq!(memory.count(Operation::Read), before);
        read(storage.as_ref(), 0, 100);
        assert_eq!(memory.count(Operation::Read), before + 1);
    }
}
