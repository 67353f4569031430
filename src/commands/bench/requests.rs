//! Many requests to one disk, with a given number of them in flight.
//!
//! Each thread does one request after the other, so there are as many threads as requests in flight, or as many as
//! the system allows. Disks are read and written in whole sectors of 512 bytes. An unaligned request reads whole
//! sectors, and a write does a read-modify-write, only one at a time.

use std::ops::Range;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use super::plan::RequestPlan;
use crate::error::{Error, Result};
use crate::formats::{Image, WritableImage};
use crate::units::{GuestOffset, SECTOR_LEN, SECTOR_SIZE};

/// The most threads, for any depth.
const MOST_THREADS: u64 = 1024;

/// The stack of a thread in bytes. Buffers aren't on it.
const STACK: usize = 256 << 10;

/// The disk of the requests, and their kind.
#[derive(Clone, Copy)]
pub(super) enum Requests<'a> {
    /// Reading.
    Reads(&'a dyn Image),
    /// Writing.
    Writes(&'a dyn WritableImage),
}

/// A run of requests.
pub(super) struct RequestRun<'a> {
    plan: RequestPlan,
    requests: Requests<'a>,
    size: u64,
    progress: Mutex<RunProgress>,
    /// Notified when a request or a flush has completed.
    ended: Condvar,
    /// Locked for the read-modify-write of partial sectors.
    parts: Mutex<()>,
}

/// The state of a run.
#[derive(Default)]
struct RunProgress {
    sent: u64,
    under_way: u64,
    /// True if a flush waits for the requests in flight, so that no more are sent.
    draining: bool,
    error: Option<Error>,
}

/// The next step of a thread.
enum NextRequest {
    /// Does the request with this number, and a flush after it if the second field is true.
    Send(u64, bool),
    End,
}

impl<'a> RequestRun<'a> {
    pub(super) fn new(plan: RequestPlan, requests: Requests<'a>) -> Self {
        Self {
            plan,
            requests,
            size: match requests {
                Requests::Reads(image) => image.size(),
                Requests::Writes(image) => image.size(),
            },
            progress: Mutex::default(),
            ended: Condvar::new(),
            parts: Mutex::default(),
        }
    }

    /// Does all requests, and returns the time that they took.
    ///
    /// # Errors
    /// Returns the first error.
    pub(super) fn run(&self) -> Result<Duration> {
        let threads = self.plan.depth.min(self.plan.count).min(MOST_THREADS);
        let start = Instant::now();
        thread::scope(|scope| {
            for _ in 1..threads {
                let builder = thread::Builder::new().stack_size(STACK);
                if builder.spawn_scoped(scope, || self.work()).is_err() {
                    break;
                }
            }
            self.work();
        });
        let time = start.elapsed();
        match self.lock().error.take() {
            Some(error) => Err(error),
            None => Ok(time),
        }
    }

    fn lock(&self) -> MutexGuard<'_, RunProgress> {
        self.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Does requests until none are left, or until one has failed.
    fn work(&self) {
        let done = self.make_requests();
        if let Err(error) = done {
            let mut progress = self.lock();
            progress.error.get_or_insert(error);
            drop(progress);
            self.ended.notify_all();
        }
    }

    fn make_requests(&self) -> Result<()> {
        let mut buffer = self.buffer()?;
        while let NextRequest::Send(number, is_flushed) = self.next() {
            let done = self.make_request(number, &mut buffer);
            let mut progress = self.lock();
            progress.under_way -= 1;
            if let Err(error) = done {
                progress.draining = false;
                return Err(error);
            }
            if is_flushed && self.plan.drains {
                while progress.under_way > 0 && progress.error.is_none() {
                    let waited = self.ended.wait(progress);
                    progress = waited.unwrap_or_else(PoisonError::into_inner);
                }
            }
            drop(progress);
            let flushed = match is_flushed {
                true => self.flush(),
                false => Ok(()),
            };
            if is_flushed {
                self.lock().draining = false;
            }
            self.ended.notify_all();
            flushed?;
        }
        Ok(())
    }

    /// Returns the buffer for one request, with room for its partial sectors.
    fn buffer(&self) -> Result<Vec<u8>> {
        let sectors = self.plan.size.saturating_add(2 * SECTOR_LEN);
        let mut buffer = Vec::new();
        buffer.try_reserve_exact(sectors).map_err(|_| {
            let size = self.plan.size;
            Error::invalid(format!("not enough memory for requests of {size} bytes"))
        })?;
        buffer.resize(sectors, self.plan.pattern.unwrap_or(0));
        Ok(buffer)
    }

    /// Waits until the next request may be sent, and returns it.
    fn next(&self) -> NextRequest {
        let mut progress = self.lock();
        while progress.draining && progress.error.is_none() {
            let waited = self.ended.wait(progress);
            progress = waited.unwrap_or_else(PoisonError::into_inner);
        }
        if progress.sent == self.plan.count || progress.error.is_some() {
            return NextRequest::End;
        }
        let number = progress.sent;
        progress.sent += 1;
        progress.under_way += 1;
        let left = self.plan.count - progress.sent;
        let interval = self.plan.flush_interval;
        let is_flushed = interval > 0 && left.is_multiple_of(interval);
        progress.draining = is_flushed && self.plan.drains;
        NextRequest::Send(number, is_flushed)
    }

    /// Returns the part of the disk of a request.
    fn range_of(&self, number: u64) -> Range<u64> {
        let size = self.plan.size as u64;
        let start = match number {
            0 => self.plan.offset,
            _ if self.size <= size => 0,
            number => {
                let way = u128::from(number) * u128::from(self.plan.step);
                let start = (u128::from(self.plan.offset) + way) % u128::from(self.size);
                u64::try_from(start).unwrap_or(0)
            }
        };
        start..start.saturating_add(size)
    }

    fn make_request(&self, number: u64, buffer: &mut [u8]) -> Result<()> {
        let failed = |error: Error| error.context("Failed request");
        let range = self.range_of(number);
        if range.end > self.size {
            return Err(failed(Error::invalid("Input/output error")));
        }
        let sectors = range.start / SECTOR_SIZE * SECTOR_SIZE;
        let length = range.end.next_multiple_of(SECTOR_SIZE) - sectors;
        let buffer = usize::try_from(length)
            .ok()
            .and_then(|length| buffer.get_mut(..length))
            .ok_or_else(|| Error::invalid("a request longer than its buffer"))?;
        let offset = GuestOffset(sectors);
        let image = match self.requests {
            Requests::Reads(image) => return image.read_at(offset, buffer).map_err(failed),
            Requests::Writes(image) => image,
        };
        if sectors == range.start && length == self.plan.size as u64 {
            return image.write_at(offset, buffer).map_err(failed);
        }
        let _alone = self.parts.lock().unwrap_or_else(PoisonError::into_inner);
        image.read_at(offset, buffer).map_err(failed)?;
        let within = usize::try_from(range.start - sectors).unwrap_or(usize::MAX);
        let part = buffer
            .get_mut(within..)
            .and_then(|rest| rest.get_mut(..self.plan.size))
            .ok_or_else(|| Error::invalid("a request longer than its buffer"))?;
        part.fill(self.plan.pattern.unwrap_or(0));
        image.write_at(offset, buffer).map_err(failed)
    }

    fn flush(&self) -> Result<()> {
        match self.requests {
            Requests::Reads(_) => Ok(()),
            Requests::Writes(image) => image
                .flush()
                .map_err(|error| error.context("Failed flush request")),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::formats::driver::{Load, WriteParts};
    use crate::formats::{Format, raw::RawImage};
    use crate::storage::{Fault, MemoryStorage, Operation, Slowness};

    const PLAN: RequestPlan = RequestPlan {
        count: 64,
        depth: 16,
        size: 4096,
        offset: 0,
        step: 4096,
        pattern: None,
        flush_interval: 0,
        drains: true,
    };

    /// None of the reads completes before the wanted number is in flight.
    #[test]
    fn as_many_requests_are_under_way_as_were_asked_for() {
        let slow = Slowness {
            until_in_flight: 16,
            after: 0,
        };
        let storage = Arc::new(MemoryStorage::new(vec![1; 1 << 20]).slow(slow));
        let image = RawImage::open(Arc::<MemoryStorage>::clone(&storage)).unwrap();
        RequestRun::new(PLAN, Requests::Reads(&image))
            .run()
            .unwrap();
        assert_eq!(storage.most_in_flight(), 16);
        assert_eq!(storage.count(Operation::Read), 64);
    }

    fn write(plan: RequestPlan, storage: MemoryStorage) -> (Result<Duration>, Arc<MemoryStorage>) {
        let storage = Arc::new(storage);
        let file = Arc::<MemoryStorage>::clone(&storage);
        let file = Format::RAW.load(file, Load::Use).unwrap();
        let image = file.open_writable(WriteParts {
            flush: true,
            ..WriteParts::default()
        });
        let image = image.unwrap();
        let time = RequestRun::new(plan, Requests::Writes(image.as_ref())).run();
        (time, storage)
    }

    #[test]
    fn flushes_come_after_so_many_requests_whether_these_are_waited_for_or_not() {
        for drains in [true, false] {
            for depth in [1, 4] {
                let plan = RequestPlan {
                    depth,
                    pattern: Some(7),
                    flush_interval: 10,
                    drains,
                    ..PLAN
                };
                let (time, storage) = write(plan, MemoryStorage::new(vec![1; 1 << 18]));
                time.unwrap();
                assert_eq!(storage.count(Operation::Flush), 7, "{drains} {depth}");
                assert_eq!(storage.contents(), vec![7; 1 << 18]);
            }
        }
    }

    #[test]
    fn a_request_that_fails_ends_the_run() {
        for operation in [Operation::Write, Operation::Flush] {
            let plan = RequestPlan {
                count: 1 << 40,
                pattern: Some(7),
                flush_interval: 16,
                ..PLAN
            };
            let fault = Fault {
                operation,
                nth: 9,
                errno: 5,
            };
            let storage = MemoryStorage::new(vec![1; 1 << 20]).with_fault(fault);
            let message = write(plan, storage).0.unwrap_err().to_string();
            let expected = match operation {
                Operation::Write => "Failed request: ",
                _ => "Failed flush request: ",
            };
            assert!(message.starts_with(expected), "{message}");
        }
    }

    /// Checks that other bytes in the same sectors don't change.
    #[test]
    fn requests_of_any_bytes_write_no_others() {
        let plan = RequestPlan {
            count: 100,
            size: 300,
            offset: 77,
            step: 700,
            pattern: Some(7),
            ..PLAN
        };
        let (time, storage) = write(plan, MemoryStorage::new(vec![1; 71_680]));
        time.unwrap();
        let mut expected = vec![1; 71_680];
        for at in 0..100 {
            let start = 77 + 700 * at;
            expected[start..start + 300].fill(7);
        }
        assert!(storage.contents() == expected);
    }
}
