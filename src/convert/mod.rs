//! Copying the contents of one disk into a new one.
//!
//! The source says which parts hold data ([`chunks`]); the parts are cut into chunks and numbered in
//! guest order. Worker threads take chunks, read them (which decrypts), look for zeroes ([`zero`]),
//! then wait for their turn to reserve room in the target ([`turn`]) and write (which encrypts).
//! Only the reservation is done in order, and it is short; everything that costs time is done by
//! all workers at once. So the target is the same for any number of workers.
//!
//! The first error wins: it stops every worker at its next step and is what the caller gets. The
//! target is finished only when every chunk has been written.
//!
//! Memory: one chunk's buffer per worker, whatever the size of the disk.

mod chunks;
mod turn;
mod zero;

use std::num::NonZeroUsize;
use std::sync::{Mutex, PoisonError};
use std::thread;

use self::chunks::{Chunk, Chunks};
use self::turn::Turn;
use crate::error::{Error, Result};
use crate::formats::{Image, NewImage};
use crate::units::GuestOffset;

/// How much of the disk a worker takes at a time, in bytes, unless a cluster is larger. Big enough
/// that a system call's cost doesn't count, small enough to stay in a core's second-level cache.
const CHUNK_SIZE: usize = 512 << 10;

/// The most workers that are used without being asked for.
const MOST_WORKERS: usize = 16;

/// A worker's stack. It holds no buffers; callers limit our address space.
const STACK_SIZE: usize = 256 << 10;

/// How a copy is done.
#[derive(Debug, Clone, Copy)]
pub struct Settings {
    /// How many threads work on it.
    pub workers: NonZeroUsize,
}

impl Default for Settings {
    /// As many workers as the machine runs threads at once, up to 16.
    fn default() -> Self {
        let workers = thread::available_parallelism().unwrap_or(NonZeroUsize::MIN);
        let most = NonZeroUsize::new(MOST_WORKERS).unwrap_or(NonZeroUsize::MIN);
        Self {
            workers: workers.min(most),
        }
    }
}

/// Copies everything from `source` into `target` and finishes `target`.
///
/// # Errors
/// The first error of reading or writing, saying where.
pub fn copy(source: &dyn Image, target: &dyn NewImage, settings: Settings) -> Result<()> {
    let job = Job {
        source,
        target,
        chunks: Mutex::new(Chunks::new(
            source.size(),
            CHUNK_SIZE.max(target.allocation_unit()),
        )),
        turn: Turn::default(),
    };
    thread::scope(|scope| {
        // One worker is this thread, so that a machine that refuses new threads still gets it done.
        for number in 1..settings.workers.get() {
            let spawned = thread::Builder::new()
                .name(format!("convert-{number}"))
                .stack_size(STACK_SIZE)
                .spawn_scoped(scope, || job.work());
            if spawned.is_err() {
                break;
            }
        }
        job.work();
    });
    job.turn.into_result()?;
    target.finish()
}

/// What the workers share.
struct Job<'a> {
    source: &'a dyn Image,
    target: &'a dyn NewImage,
    chunks: Mutex<Chunks>,
    turn: Turn,
}

impl Job<'_> {
    /// Takes chunks until there are none, or until a worker failed.
    fn work(&self) {
        let mut buffer = Vec::new();
        loop {
            let next = {
                let mut chunks = self.chunks.lock().unwrap_or_else(PoisonError::into_inner);
                if self.turn.is_over() {
                    return;
                }
                chunks.next(self.source, self.target.starts_as_zeroes())
            };
            let done = match next {
                Ok(None) => return,
                Ok(Some(chunk)) => self.copy_chunk(&chunk, &mut buffer),
                Err(error) => Err(error),
            };
            if let Err(error) = done {
                self.turn.fail(error);
                return;
            }
        }
    }

    fn copy_chunk(&self, chunk: &Chunk, buffer: &mut Vec<u8>) -> Result<()> {
        let unit = self.target.allocation_unit();
        buffer.resize(chunk.length.next_multiple_of(unit), 0);
        self.read(chunk, buffer)?;
        let runs = if self.target.starts_as_zeroes() {
            zero::data_runs(buffer, &chunk.data, self.target.zero_unit())
        } else {
            chunk.data.clone()
        };
        let reserved = self.turn.take(chunk.number, || {
            self.target.reserve(chunk.guest, buffer.len(), &runs)
        });
        // `None`: another worker failed meanwhile.
        let Some(reservation) = reserved else {
            return Ok(());
        };
        self.target.write(&reservation?, buffer)
    }

    /// Fills `buffer` with the chunk's data, and with zeroes where it has none.
    fn read(&self, chunk: &Chunk, buffer: &mut [u8]) -> Result<()> {
        let mut end = 0;
        for run in &chunk.data {
            zero_fill(buffer, end..run.start);
            let guest = GuestOffset(chunk.guest.0 + run.start as u64);
            let part = buffer
                .get_mut(run.clone())
                .ok_or_else(|| Error::invalid("data beyond its chunk"))?;
            self.source.read_at(guest, part).map_err(|error| {
                error.context(format!("error while reading at byte {}", guest.0))
            })?;
            end = run.end;
        }
        zero_fill(buffer, end..buffer.len());
        Ok(())
    }
}

fn zero_fill(buffer: &mut [u8], range: std::ops::Range<usize>) {
    if let Some(part) = buffer.get_mut(range) {
        part.fill(0);
    }
}

#[cfg(test)]
mod tests;
