//! The scheduler of reads and writes, and the buffers between them.
//!
//! Threads ask for the next step ([`Flow::next`]): a chunk that is ready is written, or else another one is read. Two
//! [`RequestWindow`]s limit the reads and the writes in flight. Data between its read and its write is in one of a
//! bounded number of buffers.
//!
//! A file system lets only one thread write to a file through the page cache at a time, and the others spin. Two
//! threads that write 1 GiB take 0.7 s of system time, and one takes 0.4 s. So the window of writes starts with one
//! for such targets. That thread writes the chunks of all others, which read and encrypt in other buffers meanwhile.
//! The window of writes widens like that of reads if writes wait.

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::buffer::Buffer;
use super::window::{RequestTimes, RequestWindow, SHORTEST_WAIT};
use crate::formats::Reservation;

/// The most memory of all buffers in bytes, unless the threads need more buffers than fit.
pub(super) const MOST_IN_FLIGHT: usize = 64 << 20;
/// The wait of a request from which on all of that memory is used. With shorter waits half of it is.
const LONG_WAIT: Duration = Duration::from_millis(10);
/// The most memory of all buffers in bytes while requests don't wait.
const MOST_WHILE_NARROW: usize = 32 << 20;

/// A chunk that is ready to be written: its reservation, its buffer, and its length.
pub(super) struct Ready {
    pub(super) reservation: Reservation,
    pub(super) buffer: Buffer,
    pub(super) length: usize,
}

/// The next step of a thread.
pub(super) enum NextStep {
    /// Read the next chunk, into this buffer.
    Read(Buffer),
    /// Write this chunk.
    Write(Ready),
}

/// The scheduler of requests and buffers; see the module's documentation.
pub(super) struct Flow {
    reads: RequestWindow,
    writes: RequestWindow,
    /// The length of a request in bytes if requests wait.
    request: usize,
    /// The processor time of the last chunk between its read and its write, scaled to the length of a request.
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
    /// True if all chunks have been read.
    read_all: bool,
    ended: bool,
}

impl Flow {
    /// Returns the scheduler of requests of at most `request` bytes, and of at most `block` bytes while they don't
    /// wait. Each request takes `memory` bytes, including that of its thread besides the buffer.
    pub(super) fn new(
        [reads, writes]: [RequestWindow; 2],
        threads: usize,
        block: usize,
        (request, memory): (usize, usize),
    ) -> Self {
        // Two for each thread and a few in the queue keep the writer busy.
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

    /// Returns true if requests wait, so that more and longer requests are faster.
    pub(super) fn is_wide(&self) -> bool {
        self.reads.is_wide() || self.writes.is_wide()
    }

    /// Returns the number of threads that can be busy while there is more to read.
    pub(super) fn threads_to_read(&self) -> usize {
        if self.is_wide() && self.lock().read_all {
            return self.threads;
        }
        self.threads()
    }

    /// Returns the number of threads for all requests that may be in flight.
    fn threads(&self) -> usize {
        if !self.is_wide() {
            return self.threads;
        }
        let requests = self.reads.width() + self.writes.width() + self.threads;
        requests.min(self.most_buffers()).max(self.threads)
    }

    /// Returns the current limit on the number of buffers.
    fn buffers(&self) -> usize {
        if !self.is_wide() {
            return self.buffers;
        }
        (self.threads() + self.threads).min(self.most_buffers())
    }

    /// Returns the most buffers for the current waits. New memory takes as long as a copy, and half of it is enough
    /// for several GB per second if requests wait for a few milliseconds.
    fn most_buffers(&self) -> usize {
        if self.reads.waits(LONG_WAIT) || self.writes.waits(LONG_WAIT) {
            self.most_buffers
        } else {
            (self.most_buffers / 2).max(self.buffers)
        }
    }

    /// Waits for the next step. Returns `None` if no steps are left for this thread, or if the job has ended.
    pub(super) fn next(&self) -> Option<NextStep> {
        let mut state = self.lock();
        loop {
            if state.ended {
                return None;
            }
            if state.writing < self.writes.width()
                && let Some(ready) = state.queue.pop_front()
            {
                state.writing += 1;
                return Some(NextStep::Write(ready));
            }
            if state.read_all && state.queue.is_empty() {
                // The others wait for steps that will not come.
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

    /// Records that a chunk of `length` bytes was read in `times`.
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

    /// Records that a chunk of `length` bytes was processed between read and write in `times`.
    pub(super) fn processed(&self, length: usize, times: RequestTimes) {
        *self.processing() = times.scaled(length, self.request).work;
    }

    /// Returns the processor time of a chunk besides this request. Before the first request of the other kind, that
    /// one is assumed to take as much as this one.
    fn work_with(&self, times: RequestTimes, other: &RequestWindow) -> Duration {
        other.work().unwrap_or(times.work) + *self.processing()
    }

    fn processing(&self) -> MutexGuard<'_, Duration> {
        self.processing
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Records the times of the look-up of a chunk. Reads of tables show that the storage waits before any read of
    /// data does.
    pub(super) fn looked(&self, times: RequestTimes) {
        let waited = times.wait >= SHORTEST_WAIT && !self.is_wide();
        if waited && self.reads.done(times, times.work) {
            self.changed.notify_all();
        }
    }

    /// Records that there is nothing more to read, and that the buffer for it isn't needed.
    pub(super) fn read_all(&self) {
        let mut state = self.lock();
        state.reading = state.reading.saturating_sub(1);
        state.read_all = true;
        drop(state);
        self.changed.notify_all();
    }

    /// Queues a chunk that is ready to be written. No thread is woken, since the caller asks for the next step
    /// itself.
    pub(super) fn queue(&self, ready: Ready) {
        self.lock().queue.push_back(ready);
    }

    /// Records that a chunk of `length` bytes was written in `times`.
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

    /// Frees a buffer.
    pub(super) fn free(&self, buffer: Buffer) {
        self.give_back(self.lock(), buffer);
    }

    fn give_back(&self, mut state: MutexGuard<'_, FlowState>, buffer: Buffer) {
        // The buffer is kept even if there are too many now, since new memory takes as long as a copy.
        state.free.push(buffer);
        // While requests don't wait, waking threads for each single buffer costs more than their work.
        let enough = state.free.len() == self.buffers.div_ceil(2) || state.queue.is_empty();
        drop(state);
        if self.is_wide() {
            self.changed.notify_one();
        } else if enough {
            self.changed.notify_all();
        }
    }

    /// Ends the job, and wakes all threads.
    pub(super) fn close(&self) {
        self.lock().ended = true;
        self.changed.notify_all();
    }

    fn lock(&self) -> MutexGuard<'_, FlowState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl FlowState {
    /// Returns a buffer if fewer than `most` are in use.
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
