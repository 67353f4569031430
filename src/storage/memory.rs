//! Memory as [`Storage`], for tests. It can be set up
//!
//! - to fail at the n-th operation of a kind, so that every error path can be tested;
//! - to end earlier than before, as a file that is truncated while it is read;
//! - to let reads wait for each other, as on a network that answers many at once;
//! - to record all changes, so that the state after any power cut can be built.

use std::ffi::OsStr;
use std::ops::Range;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use super::{Identity, NotShared, SHARED_UNIT, Storage};
use crate::error::{Error, Result};

/// A kind of operation that can be made to fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    /// [`Storage::read_at`].
    Read,
    /// [`Storage::write_at`].
    Write,
    /// [`Storage::set_len`].
    SetLen,
    /// [`Storage::flush`].
    Flush,
}

/// A planned failure: the `nth` operation of a kind (from 1) fails with the system's error number `errno`.
#[derive(Debug, Clone, Copy)]
pub struct Fault {
    /// The kind of operation that fails.
    pub operation: Operation,
    /// The number of the operation among those of its kind, from 1.
    pub nth: u64,
    /// The system's error number, such as 5 for an I/O error or 28 for a full disk.
    pub errno: i32,
}

/// A planned short read: the `nth` read (from 1) gives at most `bytes` bytes.
#[derive(Debug, Clone, Copy)]
pub struct ShortRead {
    /// The number of the read, from 1.
    pub nth: u64,
    /// The most bytes that it gives. With 0 the storage seems to end before.
    pub bytes: usize,
}

/// Reads that wait. The first few take a millisecond each. Each of the others waits until a number of reads are or
/// have been in flight at once.
#[derive(Debug, Clone, Copy)]
pub struct Slowness {
    /// The number of reads that must be in flight at once.
    pub until_in_flight: usize,
    /// The number of first reads that only take a millisecond.
    pub after: u64,
}

/// The time after which a read stops waiting for others, so that a test fails instead of hanging.
const WAIT_LIMIT: Duration = Duration::from_secs(20);

/// A recorded change of the storage.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// [`Storage::write_at`]: the offset and the data.
    Write(u64, Vec<u8>),
    /// [`Storage::set_len`], to that length.
    SetLen(u64),
    /// [`Storage::punch`].
    Punch(Range<u64>),
    /// [`Storage::flush`]: all changes before it are on stable storage.
    Flush,
}

impl Change {
    /// Applies the change to the contents of a storage.
    pub fn apply(&self, contents: &mut Vec<u8>) {
        let at = |offset: &u64| usize::try_from(*offset).unwrap_or(usize::MAX);
        match self {
            Self::Write(offset, data) => {
                let end = at(offset).saturating_add(data.len());
                if contents.len() < end {
                    contents.resize(end, 0);
                }
                if let Some(place) = contents.get_mut(at(offset)..end) {
                    place.copy_from_slice(data);
                }
            }
            Self::SetLen(length) => contents.resize(at(length), 0),
            Self::Punch(range) => {
                let end = at(&range.end).min(contents.len());
                if let Some(hole) = contents.get_mut(at(&range.start)..end) {
                    hole.fill(0);
                }
            }
            Self::Flush => {}
        }
    }
}

/// The block size in bytes in which holes are found, as in a file system.
const PAGE: usize = 4096;

/// A growable sequence of bytes in memory.
#[derive(Debug, Default)]
pub struct MemoryStorage {
    state: Mutex<MemoryState>,
    /// Notified when more reads are in flight than ever before.
    more_in_flight: Condvar,
}

#[derive(Debug, Default)]
struct MemoryState {
    data: Vec<u8>,
    faults: Vec<Fault>,
    short_reads: Vec<ShortRead>,
    counts: [u64; 4],
    is_device: bool,
    /// The number of bytes that were shared, where it shares.
    shared: Option<u64>,
    record: Option<Vec<Change>>,
    slowness: Option<Slowness>,
    in_flight: usize,
    most_in_flight: usize,
}

impl MemoryState {
    fn step(&mut self, operation: Operation) -> Result<()> {
        let index = operation as usize;
        let Some(count) = self.counts.get_mut(index) else {
            return Ok(());
        };
        *count += 1;
        let count = *count;
        match self
            .faults
            .iter()
            .find(|fault| fault.operation == operation && fault.nth == count)
        {
            Some(fault) => Err(Error::io(
                format!("{operation:?} {count} in memory"),
                std::io::Error::from_raw_os_error(fault.errno),
            )),
            None => Ok(()),
        }
    }
}

impl MemoryState {
    fn record(&mut self, change: impl FnOnce() -> Change) {
        if let Some(record) = &mut self.record {
            record.push(change());
        }
    }
}

impl MemoryStorage {
    /// Returns a storage with the contents `data`.
    pub fn new(data: Vec<u8>) -> Self {
        let storage = Self::default();
        storage.lock().data = data;
        storage
    }

    /// Returns the storage with a planned failure.
    #[must_use]
    pub fn with_fault(self, fault: Fault) -> Self {
        self.lock().faults.push(fault);
        self
    }

    /// Returns the storage with a planned short read. Its length stays unchanged, so that a caller expects all of it.
    #[must_use]
    pub fn with_short_read(self, short: ShortRead) -> Self {
        self.lock().short_reads.push(short);
        self
    }

    /// Returns the storage as a block device: with a fixed length and old contents.
    #[must_use]
    pub fn as_device(self) -> Self {
        self.lock().is_device = true;
        self
    }

    /// Returns the storage as a file of a file system that shares blocks, of 4096 bytes, with whatever storage.
    #[must_use]
    pub fn sharing(self) -> Self {
        self.lock().shared = Some(0);
        self
    }

    /// Returns the number of bytes that were shared.
    pub fn shared(&self) -> u64 {
        self.lock().shared.unwrap_or(0)
    }

    /// Returns the storage with a record of its changes from now on.
    #[must_use]
    pub fn recording(self) -> Self {
        self.lock().record = Some(Vec::new());
        self
    }

    /// Returns the storage with reads that wait.
    #[must_use]
    pub fn slow(self, slowness: Slowness) -> Self {
        self.lock().slowness = Some(slowness);
        self
    }

    /// Returns the most reads that have been in flight at once.
    pub fn most_in_flight(&self) -> usize {
        self.lock().most_in_flight
    }

    /// Returns the number of changes that have been recorded.
    pub fn recorded(&self) -> usize {
        self.lock().record.as_ref().map_or(0, Vec::len)
    }

    /// Takes the recorded changes, and ends the record.
    pub fn take_record(&self) -> Vec<Change> {
        self.lock().record.take().unwrap_or_default()
    }

    /// Returns a copy of the contents.
    pub fn contents(&self) -> Vec<u8> {
        self.lock().data.clone()
    }

    /// Returns the number of operations of a kind so far.
    pub fn count(&self, operation: Operation) -> u64 {
        self.lock()
            .counts
            .get(operation as usize)
            .copied()
            .unwrap_or(0)
    }

    /// Waits as [`Slowness`] says.
    fn wait(&self) {
        let mut state = self.lock();
        state.in_flight += 1;
        if state.in_flight > state.most_in_flight {
            state.most_in_flight = state.in_flight;
            self.more_in_flight.notify_all();
        }
        match state.slowness {
            None => {}
            Some(slowness) if state.counts.first().is_some_and(|it| *it < slowness.after) => {
                drop(state);
                thread::sleep(Duration::from_millis(1));
            }
            Some(slowness) => {
                let too_few =
                    |state: &mut MemoryState| state.most_in_flight < slowness.until_in_flight;
                let waited = self
                    .more_in_flight
                    .wait_timeout_while(state, WAIT_LIMIT, too_few);
                drop(waited.unwrap_or_else(PoisonError::into_inner));
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, MemoryState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn position(offset: u64) -> Result<usize> {
    usize::try_from(offset).map_err(|_| Error::invalid("offset beyond this machine's memory"))
}

impl Storage for MemoryStorage {
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<usize> {
        self.wait();
        let mut state = self.lock();
        state.in_flight -= 1;
        state.step(Operation::Read)?;
        let Some(rest) = state.data.get(position(offset)?..) else {
            return Ok(0);
        };
        let nth = state.counts.get(Operation::Read as usize);
        let short = state.short_reads.iter().find(|it| Some(&it.nth) == nth);
        let most = short.map_or(usize::MAX, |short| short.bytes);
        let count = rest.len().min(buf.len()).min(most);
        for (to, from) in buf.iter_mut().zip(rest).take(count) {
            *to = *from;
        }
        Ok(count)
    }

    fn write_at(&self, offset: u64, data: &[u8]) -> Result<()> {
        let mut state = self.lock();
        state.step(Operation::Write)?;
        let start = position(offset)?;
        let end = start + data.len();
        if state.data.len() < end {
            if state.is_device {
                let error = std::io::Error::from_raw_os_error(28);
                return Err(Error::io("writing to a device in memory", error));
            }
            state.data.resize(end, 0);
        }
        if let Some(place) = state.data.get_mut(start..end) {
            place.copy_from_slice(data);
        }
        state.record(|| Change::Write(offset, data.to_vec()));
        Ok(())
    }

    fn len(&self) -> Result<u64> {
        Ok(self.lock().data.len() as u64)
    }

    fn set_len(&self, len: u64) -> Result<()> {
        let mut state = self.lock();
        state.step(Operation::SetLen)?;
        if state.is_device && len != state.data.len() as u64 {
            let error = std::io::Error::from_raw_os_error(22);
            return Err(Error::io("resizing a device in memory", error));
        }
        state.data.resize(position(len)?, 0);
        state.record(|| Change::SetLen(len));
        Ok(())
    }

    fn punch(&self, range: Range<u64>) -> Result<bool> {
        let mut state = self.lock();
        state.step(Operation::Write)?;
        let end = position(range.end)?.min(state.data.len());
        if let Some(hole) = state.data.get_mut(position(range.start)?..end) {
            hole.fill(0);
        }
        state.record(|| Change::Punch(range));
        Ok(true)
    }

    fn reserve(&self, range: Range<u64>) -> Result<bool> {
        let mut state = self.lock();
        state.step(Operation::SetLen)?;
        if state.is_device {
            return Ok(false);
        }
        let len = range.end.max(state.data.len() as u64);
        state.data.resize(position(len)?, 0);
        state.record(|| Change::SetLen(len));
        Ok(true)
    }

    fn copy_from(&self, _: u64, _: &dyn Storage, _: u64, _: u64) -> Result<bool> {
        Ok(false)
    }

    fn share_from(
        &self,
        offset: u64,
        source: &dyn Storage,
        source_offset: u64,
        length: u64,
    ) -> std::result::Result<(), NotShared> {
        let refused = |why| NotShared { ever: false, why };
        if self.lock().shared.is_none() {
            return Err(NotShared::unsupported());
        }
        if [offset, source_offset, length]
            .iter()
            .any(|place| !place.is_multiple_of(SHARED_UNIT))
        {
            return Err(refused(Error::invalid("no whole blocks")));
        }
        let mut data = vec![0; position(length).map_err(refused)?];
        let read = source.read_at(source_offset, &mut data).map_err(refused)?;
        if read < data.len() {
            return Err(refused(Error::invalid("blocks beyond the source's end")));
        }
        self.write_at(offset, &data).map_err(refused)?;
        let mut state = self.lock();
        state.shared = state.shared.map(|shared| shared + length);
        Ok(())
    }

    fn may_share_with(&self, _: &dyn Storage) -> bool {
        self.lock().shared.is_some()
    }

    fn next_data(&self, offset: u64) -> Result<Option<Range<u64>>> {
        let state = self.lock();
        if position(offset)? >= state.data.len() {
            return Ok(None);
        }
        let start = position(offset)? / PAGE;
        let mut pages = state
            .data
            .chunks(PAGE)
            .enumerate()
            .skip(start)
            .map(|(index, page)| (index, page.iter().any(|byte| *byte != 0)));
        let Some((first, _)) = pages.find(|(_, data)| *data) else {
            return Ok(None);
        };
        let end = pages
            .find(|(_, data)| !data)
            .map_or(state.data.len(), |(index, _)| index * PAGE);
        Ok(Some(((first * PAGE) as u64).max(offset)..end as u64))
    }

    fn allocated(&self) -> Result<Option<u64>> {
        self.len().map(Some)
    }

    fn flush(&self) -> Result<()> {
        let mut state = self.lock();
        state.step(Operation::Flush)?;
        state.record(|| Change::Flush);
        Ok(())
    }

    fn starts_as_zeroes(&self) -> bool {
        !self.lock().is_device
    }

    fn identity(&self) -> Result<Identity> {
        Ok(Identity::unshared())
    }

    fn location(&self) -> &OsStr {
        OsStr::new("memory")
    }

    fn driver(&self) -> &'static str {
        "memory"
    }

    fn has_fixed_length(&self) -> bool {
        self.lock().is_device
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nth_operation_fails_and_no_other() {
        let storage = MemoryStorage::default().with_fault(Fault {
            operation: Operation::Write,
            nth: 2,
            errno: 28,
        });
        storage.write_at(0, b"one").unwrap();
        let error = storage.write_at(3, b"two").unwrap_err();
        assert!(error.to_string().ends_with("No space left on device"));
        storage.write_at(3, b"two").unwrap();
        assert_eq!(storage.contents(), b"onetwo");
    }

    #[test]
    fn the_nth_read_ends_early_and_no_other() {
        let short = ShortRead { nth: 2, bytes: 3 };
        let storage = MemoryStorage::new(b"abcdef".to_vec()).with_short_read(short);
        let read = || {
            let mut buffer = [b'-'; 5];
            let count = storage.read_at(1, &mut buffer).unwrap();
            (count, buffer)
        };
        assert_eq!(read(), (5, *b"bcdef"));
        assert_eq!(read(), (3, *b"bcd--"));
        assert_eq!(read(), (5, *b"bcdef"));
    }

    #[test]
    fn the_record_leads_to_the_same_contents() {
        let storage = MemoryStorage::new(b"before".to_vec()).recording();
        let mut contents = storage.contents();
        storage.write_at(3, b"after").unwrap();
        storage.flush().unwrap();
        storage.punch(0..2).unwrap();
        storage.set_len(7).unwrap();
        assert_eq!(storage.recorded(), 4);
        for change in storage.take_record() {
            change.apply(&mut contents);
        }
        assert_eq!(contents, b"\0\0fafte");
        assert_eq!(contents, storage.contents());
    }

    #[test]
    fn zero_pages_are_holes() {
        let mut data = vec![0; 3 * PAGE + 10];
        data[PAGE + 5] = 1;
        let storage = MemoryStorage::new(data);
        let page = PAGE as u64;
        assert_eq!(storage.next_data(0).unwrap(), Some(page..2 * page));
        assert_eq!(
            storage.next_data(page + 7).unwrap(),
            Some(page + 7..2 * page)
        );
        assert_eq!(storage.next_data(2 * page).unwrap(), None);
        // Beyond the end there is no data, even if the same page has some.
        let storage = MemoryStorage::new(vec![1; 100]);
        assert_eq!(storage.next_data(99).unwrap(), Some(99..100));
        assert_eq!(storage.next_data(100).unwrap(), None);
    }
}
