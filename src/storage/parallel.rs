//! Reading of many pieces of a storage, in parallel if reads wait.
//!
//! Over a network a read takes milliseconds, however small it is, and any number of reads can be in flight. From the
//! page cache it takes microseconds of processor time, and more threads than processors only slow each other down.
//! Which of the two it is can't be known beforehand, so the reads are timed. A [`Pace`] counts the recent reads that
//! waited, and threads are added during the work once reads turn out to wait.
//!
//! The pieces are divided into batches. Within a batch each thread takes the next piece, so that a slow one delays no
//! other. Adjacent pieces are read with one request. [`IN_FLIGHT`] bounds the memory for any number of pieces.

use std::ops::Range;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use super::Storage;
use crate::error::Result;

/// The total length of the pieces of a batch, in bytes.
const BATCH: usize = 8 << 20;
/// The fewest pieces of a batch, and the fewest for which threads are started beforehand.
const LEAST_PIECES: usize = 8;
/// The limit on the bytes in flight, unless it is less than a piece for each processor.
const IN_FLIGHT: usize = 4 << 20;
/// The length of a request in bytes, unless a piece is larger.
const REQUEST: usize = 128 << 10;
/// The most threads if reads don't wait. More would be limited by memory bandwidth.
const MOST_WORKING: usize = 8;
/// The most threads if reads wait.
const MOST_WAITING: usize = 64;
/// The stack of a thread in bytes, which is enough for reading and checking a table.
const STACK: usize = 128 << 10;

/// The memory in bytes that must be free before another thread is started. A process may have a limit (RLIMIT_AS),
/// and threads must not take the memory that the work needs.
const SPARE: usize = 32 << 20;

/// The time limits for a read and for each of its bytes, above which the read counts as one that waited. The page
/// cache takes a tenth of that.
const PROMPT: Duration = Duration::from_micros(100);
const PROMPT_BYTE: Duration = Duration::from_nanos(1);
/// The number by which recent reads that waited must exceed the others before threads are added. A single slow read
/// may only have been preempted.
const ENOUGH: u32 = 3;
const MOST_REMEMBERED: u32 = 6;

/// The record of recent reads that waited.
#[derive(Debug, Default)]
pub struct Pace {
    waited: AtomicU32,
}

impl Pace {
    /// Returns true if reads wait.
    pub fn waits(&self) -> bool {
        self.waited.load(Ordering::Relaxed) >= ENOUGH
    }

    /// Does a read of `bytes` bytes, and records if it waited.
    pub fn time<R>(&self, bytes: usize, read: impl FnOnce() -> R) -> R {
        let start = Instant::now();
        let result = read();
        let bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
        self.note(start.elapsed() > PROMPT + PROMPT_BYTE * bytes);
        result
    }

    fn note(&self, waited: bool) {
        let update = |count: u32| {
            Some(if waited {
                count.saturating_add(1).min(MOST_REMEMBERED)
            } else {
                count.saturating_sub(1)
            })
        };
        let _ = self
            .waited
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, update);
    }
}

/// Pieces of one length in a storage.
#[derive(Debug, Clone, Copy)]
pub struct Pieces<'a> {
    storage: &'a dyn Storage,
    /// The length of the storage in bytes. A piece has zeroes beyond it.
    length: u64,
    /// The length of a piece in bytes.
    size: usize,
    pace: &'a Pace,
}

impl<'a> Pieces<'a> {
    /// Returns pieces of `size` bytes of a storage that was `length` bytes long when it was opened.
    pub fn new(storage: &'a dyn Storage, length: u64, size: usize, pace: &'a Pace) -> Self {
        Self {
            storage,
            length,
            size: size.max(1),
            pace,
        }
    }

    /// Reads the piece at `place` of each item, and calls `make` with it in one of several threads. Calls
    /// `take` with the results in the order of the items.
    ///
    /// # Errors
    /// Returns the first error of a read or `make` in the order of the items, or of `take`.
    pub fn each<T: Sync, R: Send>(
        &self,
        items: &[T],
        place: impl Fn(&T) -> u64 + Sync,
        make: impl Fn(&T, &[u8]) -> Result<R> + Sync,
        mut take: impl FnMut(R) -> Result<()>,
    ) -> Result<()> {
        let mut buffers = Vec::new();
        for batch in items.chunks((BATCH / self.size).max(LEAST_PIECES)) {
            let results = self.batch(batch, &place, &make, &mut buffers);
            for (_, result) in results {
                take(result?)?;
            }
        }
        Ok(())
    }

    /// Returns the results for one batch, in order. `buffers` are reused from earlier batches.
    fn batch<T: Sync, R: Send>(
        &self,
        batch: &[T],
        place: &(impl Fn(&T) -> u64 + Sync),
        make: &(impl Fn(&T, &[u8]) -> Result<R> + Sync),
        buffers: &mut Vec<Vec<u8>>,
    ) -> Vec<(usize, Result<R>)> {
        let groups = self.groups(batch.iter().map(place));
        let longest = groups.iter().map(Range::len).max().unwrap_or(0) * self.size;
        let (working, waiting) = threads(longest);
        let next = AtomicUsize::new(0);
        let done = Mutex::new(Vec::with_capacity(batch.len()));
        let spare = Mutex::new(std::mem::take(buffers));
        // One thread allocates all buffers, since the allocator gives each thread that allocates its own arena.
        let buffer = || {
            let mut buffer = lock(&spare).pop().unwrap_or_default();
            buffer.resize(longest, 0);
            buffer
        };
        let step = |buffer: &mut Vec<u8>| {
            let group = groups.get(next.fetch_add(1, Ordering::Relaxed));
            let Some(items) =
                group.and_then(|group| Some((group.start, batch.get(group.clone())?)))
            else {
                return false;
            };
            let made = self.group(items.1, place, make, buffer);
            lock(&done).extend((items.0..).zip(made));
            true
        };
        thread::scope(|scope| {
            let mut threads = 1;
            let mut own = buffer();
            loop {
                let wanted = match self.pace.waits() {
                    true => waiting,
                    false if batch.len() < LEAST_PIECES => 1,
                    false => working,
                };
                while threads < wanted && next.load(Ordering::Relaxed) < groups.len() {
                    if !has_memory() {
                        // The existing threads do the work. No more are started for this batch.
                        threads = usize::MAX;
                        break;
                    }
                    let mut buffer = buffer();
                    let (step, spare) = (&step, &spare);
                    let work = move || {
                        while step(&mut buffer) {}
                        lock(spare).push(buffer);
                    };
                    let builder = thread::Builder::new().stack_size(STACK);
                    if builder.spawn_scoped(scope, work).is_err() {
                        threads = usize::MAX;
                        break;
                    }
                    threads += 1;
                }
                if !step(&mut own) {
                    lock(&spare).push(own);
                    break;
                }
            }
        });
        *buffers = spare.into_inner().unwrap_or_else(PoisonError::into_inner);
        let mut done = done.into_inner().unwrap_or_else(PoisonError::into_inner);
        done.sort_unstable_by_key(|(index, _)| *index);
        done
    }

    /// Returns the groups of pieces that are read with one request: adjacent pieces completely inside the storage.
    fn groups(&self, places: impl Iterator<Item = u64>) -> Vec<Range<usize>> {
        let size = self.size as u64;
        let mut groups: Vec<Range<usize>> = Vec::new();
        let mut end = None;
        for (index, place) in places.enumerate() {
            let piece_end = place.checked_add(size).filter(|end| *end <= self.length);
            match groups.last_mut() {
                Some(last)
                    if end == Some(place)
                        && piece_end.is_some()
                        && (last.len() + 1) * self.size <= REQUEST =>
                {
                    last.end = index + 1;
                }
                _ => groups.push(index..index + 1),
            }
            end = piece_end;
        }
        groups
    }

    /// Reads adjacent pieces, and calls `make` with each.
    fn group<T, R>(
        &self,
        items: &[T],
        place: &impl Fn(&T) -> u64,
        make: &impl Fn(&T, &[u8]) -> Result<R>,
        buffer: &mut [u8],
    ) -> Vec<Result<R>> {
        let start = items.first().map_or(0, place);
        let buffer = buffer
            .get_mut(..items.len() * self.size)
            .unwrap_or_default();
        let read = self.pace.time(buffer.len(), || {
            self.storage.read_padded_at(start, buffer, self.length)
        });
        let together = items.len() == 1 || read.is_ok();
        let mut failed = read.err();
        let parts = items.iter().zip(buffer.chunks_exact_mut(self.size));
        let read_and_make = |(item, part): (&T, &mut [u8])| {
            if !together {
                // The pieces are read one by one, so that only one that can't be read is in error.
                self.storage
                    .read_padded_at(place(item), part, self.length)?;
            } else if let Some(error) = failed.take() {
                return Err(error);
            }
            make(item, part)
        };
        parts.map(read_and_make).collect()
    }
}

/// Returns the numbers of threads for requests of at most `longest` bytes: if they don't wait, and if they do.
fn threads(longest: usize) -> (usize, usize) {
    let processors = thread::available_parallelism().map_or(1, usize::from);
    let working = processors.min(MOST_WORKING);
    let in_flight = IN_FLIGHT / longest.max(1);
    (working, in_flight.clamp(working, MOST_WAITING))
}

/// Returns true if there is memory for another thread. The memory isn't touched, so that the test is cheap.
fn has_memory() -> bool {
    let mut spare = Vec::<u8>::new();
    let is_free = spare.try_reserve_exact(SPARE).is_ok();
    // Without a use the compiler may remove the allocation, and assume that it succeeds.
    std::hint::black_box(spare.as_ptr());
    is_free
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::for_tests::run_alone;
    use crate::storage::{Fault, MemoryStorage, Operation, Slowness};

    const SIZE: usize = 64 << 10;

    /// Returns a storage of `pieces` pieces, each filled with its number.
    fn numbered(pieces: u8) -> MemoryStorage {
        MemoryStorage::new((0..pieces).flat_map(|number| [number; SIZE]).collect())
    }

    fn read(storage: &MemoryStorage, pace: &Pace, places: &[u64]) -> Result<Vec<u8>> {
        let mut taken = Vec::new();
        let length = storage.len()?;
        Pieces::new(storage, length, SIZE, pace).each(
            places,
            |place| *place,
            |_, bytes| {
                assert_eq!(bytes.len(), SIZE);
                assert!(bytes[1..SIZE - 1].iter().all(|byte| *byte == bytes[0]));
                Ok(bytes[0])
            },
            |result| {
                taken.push(result);
                Ok(())
            },
        )?;
        Ok(taken)
    }

    fn backwards(pieces: u8) -> (Vec<u64>, Vec<u8>) {
        let numbers: Vec<u8> = (0..pieces).rev().collect();
        let places = numbers
            .iter()
            .map(|number| u64::from(*number) * SIZE as u64);
        (places.collect(), numbers)
    }

    #[test]
    fn results_come_in_order() {
        let (places, numbers) = backwards(200);
        let taken = read(&numbered(200), &Pace::default(), &places).unwrap();
        assert_eq!(taken, numbers);
    }

    #[test]
    fn many_wait_at_once_where_reads_wait() {
        let storage = numbered(100).slow(Slowness {
            until_in_flight: 40,
            after: ENOUGH.into(),
        });
        let (places, numbers) = backwards(100);
        // The first reads take a millisecond. After that none completes before 40 are in flight.
        let taken = read(&storage, &Pace::default(), &places).unwrap();
        assert_eq!(taken, numbers);
        assert!(storage.most_in_flight() >= 40);
        assert_eq!(storage.count(Operation::Read), 100);
    }

    #[test]
    fn a_few_pieces_take_no_threads() {
        let storage = numbered(3);
        let (places, numbers) = backwards(3);
        assert_eq!(read(&storage, &Pace::default(), &places).unwrap(), numbers);
        assert_eq!(storage.most_in_flight(), 1);
    }

    /// A limit is for a whole process and can't be raised again, so this test runs alone.
    #[test]
    fn threads_leave_memory_for_the_work() {
        // A thread must have no arena of its own, in which it could find memory although none is left.
        let variables = [("GLIBC_TUNABLES", "glibc.malloc.arena_max=1")];
        let name = "storage::parallel::tests::threads_leave_memory_for_the_work";
        run_alone(name, &variables, with_little_memory);
    }

    fn with_little_memory() {
        use rustix::process::{Resource, Rlimit, setrlimit};
        let storage = numbered(100).slow(Slowness {
            until_in_flight: 1,
            after: 1000,
        });
        let (places, numbers) = backwards(100);
        let status = std::fs::read_to_string("/proc/self/status").unwrap();
        let line = status.lines().find(|line| line.starts_with("VmSize:"));
        let number = line.and_then(|line| line.split_whitespace().nth(1));
        let used = number.unwrap().parse::<u64>().unwrap() << 10;
        let limit = Some(used + (SPARE / 2) as u64);
        let limits = Rlimit {
            current: limit,
            maximum: limit,
        };
        setrlimit(Resource::As, limits).unwrap();
        let pace = Pace::default();
        assert_eq!(read(&storage, &pace, &places).unwrap(), numbers);
        assert!(pace.waits());
        assert_eq!(storage.most_in_flight(), 1);
    }

    #[test]
    fn neighbours_are_read_together() {
        let storage = numbered(20);
        let places: Vec<u64> = (0..20).map(|number| number * SIZE as u64).collect();
        let taken = read(&storage, &Pace::default(), &places).unwrap();
        assert_eq!(taken, (0..20).collect::<Vec<u8>>());
        assert_eq!(storage.count(Operation::Read), 20 / 2);
        // A piece that reaches beyond the end is read alone, and ends with zeroes.
        storage.set_len(20 * SIZE as u64 - 1).unwrap();
        let pair = [18 * SIZE as u64, 19 * SIZE as u64];
        assert_eq!(read(&storage, &Pace::default(), &pair).unwrap()[0], 18);
        assert_eq!(storage.count(Operation::Read), 20 / 2 + 2);
    }

    #[test]
    fn a_failure_is_the_failure_of_one_piece() {
        let fault = |nth| Fault {
            operation: Operation::Read,
            nth,
            errno: 5,
        };
        let pair = [0, SIZE as u64];
        let once = numbered(2).with_fault(fault(1));
        assert_eq!(read(&once, &Pace::default(), &pair).unwrap(), [0, 1]);
        let twice = numbered(2).with_fault(fault(1)).with_fault(fault(3));
        let mut taken = 0;
        let error = Pieces::new(&twice, 2 * SIZE as u64, SIZE, &Pace::default()).each(
            &pair,
            |place| *place,
            |_, _| Ok(()),
            |()| {
                taken += 1;
                Ok(())
            },
        );
        let error = error.unwrap_err().to_string();
        assert!(error.starts_with("Read 3 in memory"), "{error}");
        assert_eq!(taken, 1);
    }

    #[test]
    fn one_slow_read_is_no_reason_for_threads() {
        let pace = Pace::default();
        for waited in [true, true, false, true, false, false, true] {
            pace.note(waited);
            assert!(!pace.waits());
        }
        pace.note(true);
        pace.note(true);
        assert!(pace.waits());
    }
}
