//! The reads and writes under way, and the buffers between them.
//!
//! Threads ask for something to do ([`Flow::next`]): a chunk that is ready is written, or else another one is
//! read. Two [`RequestWindow`]s say how many may read and how many may write at once. Data on its way from a
//! read to a write is in one of a bounded number of buffers.
//!
//! A file system lets one thread at a time write to a file through the page cache; the others don't sleep
//! meanwhile, they spin. Two threads that write 1 GiB burn 0.7 s of system time where one burns 0.4. So the
//! window of writes starts with one for such targets. That thread writes all that others bring, while they go
//! on reading and encrypting in other buffers. The window of writes widens like that of reads if writes wait.

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::buffer::Buffer;
use super::window::{RequestTimes, RequestWindow, SHORTEST_WAIT};
use crate::formats::Reservation;

/// The most memory that the buffers take together, in bytes, unless there are more threads at work than that
/// has room for.
pub(super) const MOST_IN_FLIGHT: usize = 64 << 20;
/// The wait from which on all of it is used; half of it where requests wait less.
const LONG_WAIT: Duration = Duration::from_millis(10);
/// The memory that they take while requests don't wait.
const MOST_WHILE_NARROW: usize = 32 << 20;

/// A chunk that is ready to be written: where, in which buffer, and how much of that.
pub(super) struct Ready {
    pub(super) reservation: Reservation,
    pub(super) buffer: Buffer,
    pub(super) length: usize,
}

/// Something to do.
pub(super) enum NextStep {
    /// Read the next chunk, into this buffer.
    Read(Buffer),
    /// Write this chunk.
    Write(Ready),
}

/// The requests and the buffers; see the module's text.
pub(super) struct Flow {
    reads: RequestWindow,
    writes: RequestWindow,
    /// The length of a request where requests wait, in bytes.
    request: usize,
    /// The time for which the last chunk kept a processor busy between reading and writing, scaled to the
    /// length of a request.
    processing: Mutex<Duration>,
    /// The number of threads while requests don't wait.
    threads: usize,
    /// The number of buffers while requests don't wait.
    buffers: usize,
    /// The limit on the number of buffers.
    most_buffers: usize,
    state: Mutex<FlowState>,
    changed: Condvar,
}

#[derive(Default)]
struct FlowState {
    free: Vec<Buffer>,
    /// The number of buffers, free or not.
    buffers: usize,
    queue: VecDeque<Ready>,
    reading: usize,
    writing: usize,
    /// There is nothing more to read.
    read_all: bool,
    over: bool,
}

impl Flow {
    /// Returns the flow of requests of at most `request` bytes, and of at most `block` bytes while they don't
    /// wait. Each takes `memory` bytes, with what its thread needs beside the buffer.
    pub(super) fn new(
        [reads, writes]: [RequestWindow; 2],
        threads: usize,
        block: usize,
        (request, memory): (usize, usize),
    ) -> Self {
        // Two for each thread and a few to wait in the queue keep the writer busy.
        let buffers = (2 * threads + 4).min(MOST_WHILE_NARROW / block);
        let buffers = buffers.max(threads + 1);
        Self {
            reads,
            writes,
            request,
            processing: Mutex::default(),
            threads,
            buffers,
            most_buffers: (MOST_IN_FLIGHT / memory.max(1)).max(buffers),
            state: Mutex::default(),
            changed: Condvar::new(),
        }
    }

    /// Returns true if requests wait, so that more of them, and longer ones, are worth having.
    pub(super) fn is_wide(&self) -> bool {
        self.reads.is_wide() || self.writes.is_wide()
    }

    /// Returns the number of threads that have something to do, where there is more to read.
    pub(super) fn threads_to_read(&self) -> usize {
        if self.is_wide() && self.lock().read_all {
            return self.threads;
        }
        self.threads()
    }

    /// Returns the number of threads that the requests take which may be under way.
    fn threads(&self) -> usize {
        if !self.is_wide() {
            return self.threads;
        }
        let requests = self.reads.width() + self.writes.width() + self.threads;
        requests.min(self.most_buffers()).max(self.threads)
    }

    /// Returns the number of buffers that there may be now.
    fn buffers(&self) -> usize {
        if !self.is_wide() {
            return self.buffers;
        }
        (self.threads() + self.threads).min(self.most_buffers())
    }

    /// Returns the most buffers that there may be, with waits like those now. New memory takes as long as a
    /// copy. Half of it is enough for several GB a second where requests wait for a few milliseconds.
    fn most_buffers(&self) -> usize {
        if self.reads.waits(LONG_WAIT) || self.writes.waits(LONG_WAIT) {
            self.most_buffers
        } else {
            (self.most_buffers / 2).max(self.buffers)
        }
    }

    /// Waits for something to do. `None` when there is nothing more that the others don't do, or when the
    /// job is over.
    pub(super) fn next(&self) -> Option<NextStep> {
        let mut state = self.lock();
        loop {
            if state.over {
                return None;
            }
            if state.writing < self.writes.width()
                && let Some(ready) = state.queue.pop_front()
            {
                state.writing += 1;
                return Some(NextStep::Write(ready));
            }
            if state.read_all && state.queue.is_empty() {
                // The others wait for what isn't to come.
                self.changed.notify_all();
                return None;
            }
            if !state.read_all
                && state.reading < self.reads.width()
                && let Some(buffer) = state.buffer(self.buffers())
            {
                state.reading += 1;
                return Some(NextStep::Read(buffer));
            }
            state = self
                .changed
                .wait(state)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// A chunk of `length` bytes has been read, which took so long.
    pub(super) fn read(&self, length: usize, times: RequestTimes) {
        let times = times.scaled(length, self.request);
        let widened = self.reads.done(times, self.work_with(times, &self.writes));
        let mut state = self.lock();
        let was_full = state.reading >= self.reads.width();
        state.reading = state.reading.saturating_sub(1);
        drop(state);
        if widened {
            self.changed.notify_all();
        } else if was_full {
            self.changed.notify_one();
        }
    }

    /// A chunk of `length` bytes has been made what is stored, which took so long.
    pub(super) fn processed(&self, length: usize, times: RequestTimes) {
        *self.processing() = times.scaled(length, self.request).work;
    }

    /// The work that a request's chunk makes beside the request itself. Before there has been a request of
    /// the other kind, that is taken for as much work as this one.
    fn work_with(&self, times: RequestTimes, other: &RequestWindow) -> Duration {
        other.work().unwrap_or(times.work) + *self.processing()
    }

    fn processing(&self) -> MutexGuard<'_, Duration> {
        self.processing
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// It took so long to find a chunk. Tables that must be waited for tell of the storage before any data does.
    pub(super) fn looked(&self, times: RequestTimes) {
        let waited = times.wait >= SHORTEST_WAIT && !self.is_wide();
        if waited && self.reads.done(times, times.work) {
            self.changed.notify_all();
        }
    }

    /// There is nothing more to read, and the buffer that was for it isn't needed.
    pub(super) fn read_all(&self) {
        let mut state = self.lock();
        state.reading = state.reading.saturating_sub(1);
        state.read_all = true;
        drop(state);
        self.changed.notify_all();
    }

    /// A chunk is ready to be written. Who brings it asks for something to do next.
    pub(super) fn queue(&self, ready: Ready) {
        self.lock().queue.push_back(ready);
    }

    /// A chunk of `length` bytes has been written, which took so long.
    pub(super) fn written(&self, buffer: Buffer, length: usize, times: RequestTimes) {
        let times = times.scaled(length, self.request);
        let widened = self.writes.done(times, self.work_with(times, &self.reads));
        let mut state = self.lock();
        state.writing = state.writing.saturating_sub(1);
        self.give_back(state, buffer);
        if widened {
            self.changed.notify_all();
        }
    }

    /// A buffer isn't needed any more.
    pub(super) fn free(&self, buffer: Buffer) {
        self.give_back(self.lock(), buffer);
    }

    fn give_back(&self, mut state: MutexGuard<'_, FlowState>, buffer: Buffer) {
        // Kept, though there may be fewer now: the system takes as long for new memory as for a copy.
        state.free.push(buffer);
        // While requests don't wait, to wake those without a buffer for each would cost more than what
        // they do with it.
        let enough = state.free.len() == self.buffers.div_ceil(2) || state.queue.is_empty();
        drop(state);
        if self.is_wide() {
            self.changed.notify_one();
        } else if enough {
            self.changed.notify_all();
        }
    }

    /// The job is over: nobody waits any more.
    pub(super) fn close(&self) {
        self.lock().over = true;
        self.changed.notify_all();
    }

    fn lock(&self) -> MutexGuard<'_, FlowState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl FlowState {
    /// A buffer, where fewer than `most` are in use.
    fn buffer(&mut self, most: usize) -> Option<Buffer> {
        if let Some(buffer) = self.free.pop() {
            return Some(buffer);
        }
        (self.buffers < most).then(|| {
            self.buffers += 1;
            Buffer::default()
        })
    }
}
