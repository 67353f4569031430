//! Who writes, and in which buffer.
//!
//! A file system lets one thread at a time write to a file through the page cache: the others don't
//! sleep meanwhile, they spin. Two threads that write 1 GiB burn 0.7 s of system time where one burns
//! 0.4, and sixteen would burn far more. So for such targets workers put what is ready to be written
//! into a queue. Whoever finds nobody writing writes, until the queue is empty; everybody else goes
//! on reading and encrypting in another buffer. The writer never waits for a lock and is never
//! waited for, except by those for whom no buffer is left.
//!
//! Targets that can take several writes at once (block devices, and files past the cache) are written
//! by every worker for itself.

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use super::buffer::Buffer;
use crate::error::Result;
use crate::formats::Reservation;

/// How much memory the buffers take together at the most, in bytes, unless there are more workers
/// than that has room for.
const MOST_MEMORY: usize = 32 << 20;

/// A chunk that is ready to be written: where, in which buffer, and how much of that.
pub(super) struct Ready {
    pub(super) reservation: Reservation,
    pub(super) buffer: Buffer,
    pub(super) length: usize,
}

/// The buffers, and what waits to be written.
pub(super) struct Writer {
    state: Mutex<State>,
    changed: Condvar,
    /// How many buffers must be free before those who wait for one are woken. To wake them for each
    /// would cost more than what they do with it.
    enough: usize,
}

struct State {
    free: Vec<Buffer>,
    queue: VecDeque<Ready>,
    writing: bool,
    closed: bool,
}

impl Writer {
    /// A writer for so many workers, with chunks of at most `chunk_size` bytes.
    pub(super) fn new(workers: usize, chunk_size: usize) -> Self {
        // Two for each worker and a few to wait in the queue keep the writer busy.
        let buffers = (2 * workers + 4).min(MOST_MEMORY / chunk_size);
        let buffers = buffers.max(workers + 1);
        Self {
            state: Mutex::new(State {
                free: std::iter::repeat_with(Buffer::default)
                    .take(buffers)
                    .collect(),
                queue: VecDeque::with_capacity(buffers),
                writing: false,
                closed: false,
            }),
            changed: Condvar::new(),
            enough: buffers.div_ceil(2),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A free buffer, as soon as there is one; `None` when the job is over.
    pub(super) fn buffer(&self) -> Option<Buffer> {
        let mut state = self
            .changed
            .wait_while(self.lock(), |state| !state.closed && state.free.is_empty())
            .unwrap_or_else(PoisonError::into_inner);
        if state.closed {
            return None;
        }
        state.free.pop()
    }

    /// Gives a buffer back.
    pub(super) fn free(&self, buffer: Buffer) {
        self.lock().free.push(buffer);
        self.changed.notify_all();
    }

    /// Queues a chunk, and unless somebody else is writing, writes everything that is in the queue,
    /// what others add meanwhile included.
    ///
    /// # Errors
    /// The first error of `write`; what is left in the queue is of no use then.
    pub(super) fn queue(
        &self,
        ready: Ready,
        write: impl Fn(&mut Ready) -> Result<()>,
    ) -> Result<()> {
        let mut state = self.lock();
        state.queue.push_back(ready);
        if state.writing {
            return Ok(());
        }
        state.writing = true;
        while let Some(mut ready) = state.queue.pop_front() {
            drop(state);
            let written = write(&mut ready);
            state = self.lock();
            state.free.push(ready.buffer);
            if state.free.len() == self.enough || state.queue.is_empty() {
                self.changed.notify_all();
            }
            if let Err(error) = written {
                state.queue.clear();
                state.writing = false;
                return Err(error);
            }
        }
        state.writing = false;
        Ok(())
    }

    /// The job is over: nobody waits for a buffer any more.
    pub(super) fn close(&self) {
        self.lock().closed = true;
        self.changed.notify_all();
    }
}
