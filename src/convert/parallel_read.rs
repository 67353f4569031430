//! Reading of a disk by many threads: the common part of comparisons, checksums and rebases.
//!
//! Chunks with data are handed out in guest order, each to a worker with its own buffers. If reads wait there are
//! more workers and longer chunks. The first error stops all workers at their next chunk.

use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::buffer::Buffer;
use super::chunks::{BLOCK_SIZE, REQUEST_SIZE};
use super::chunks::{Chunk, Chunks, Wanted};
use super::flow::MOST_IN_FLIGHT;
use super::settings::Settings;
use super::window::{RequestWindow, Watch};
use super::workers::{self, Job, Workers};
use crate::error::{Error, Result};
use crate::formats::Image;

/// The number of buffers of a worker.
const BUFFERS: usize = 2;

/// The work on a chunk.
pub(super) trait ReadStep: Sync {
    /// Reads a chunk into the buffers, calls `read`, and then works on the chunk. Returns `false` to end the pass
    /// without an error.
    ///
    /// # Errors
    /// Returns an error to end the pass, which returns the first one.
    fn step(&self, chunk: &Chunk, buffers: &mut [Buffer; BUFFERS], read: &dyn Fn())
    -> Result<bool>;

    /// Wakes the workers that wait for another one, since a worker has failed.
    fn stop(&self) {}
}

/// Does `step` for all chunks with data of the first `size` bytes of `disk`. With `salvage`, parts with damaged
/// metadata count as data.
///
/// # Errors
/// Returns the first error of a step or of finding data.
pub(super) fn parallel_read(
    disk: &dyn Image,
    size: u64,
    salvage: bool,
    workers: NonZeroUsize,
    step: &dyn ReadStep,
) -> Result<()> {
    let chunks = Chunks::new(size, BLOCK_SIZE, Wanted::Data, salvage);
    parallel_read_chunks(disk, chunks, BLOCK_SIZE, workers, step)
}

/// Does the same as [`parallel_read`] for `chunks` with blocks of `block` bytes.
///
/// # Errors
/// Returns the first error of a step or of finding data.
pub(super) fn parallel_read_chunks(
    disk: &dyn Image,
    chunks: Chunks,
    block: usize,
    workers: NonZeroUsize,
    step: &dyn ReadStep,
) -> Result<()> {
    let threads = Settings {
        workers,
        ..Settings::default()
    }
    .threads();
    let request = REQUEST_SIZE.max(block);
    let most = MOST_IN_FLIGHT / (BUFFERS * request + disk.memory_to_read());
    let pass = ParallelRead {
        disk,
        step,
        chunks: Mutex::new(chunks),
        reads: RequestWindow::new(threads, most, threads),
        ended: AtomicBool::new(false),
        error: Mutex::new(None),
    };
    workers::run(threads, &pass);
    let error = pass.error.into_inner();
    match error.unwrap_or_else(PoisonError::into_inner) {
        Some(error) => Err(error),
        None => Ok(()),
    }
}

struct ParallelRead<'a> {
    disk: &'a dyn Image,
    step: &'a dyn ReadStep,
    chunks: Mutex<Chunks>,
    reads: RequestWindow,
    ended: AtomicBool,
    error: Mutex<Option<Error>>,
}

impl Job for ParallelRead<'_> {
    fn name(&self) -> &'static str {
        "read"
    }

    fn work(&self, workers: &Arc<Workers<'_, '_>>) {
        if let Err(error) = self.steps(workers) {
            let mut first = self.error.lock().unwrap_or_else(PoisonError::into_inner);
            first.get_or_insert(error);
            drop(first);
            self.stop();
        }
    }

    fn stop(&self) {
        self.ended.store(true, Ordering::Relaxed);
        self.step.stop();
    }
}

impl ParallelRead<'_> {
    fn steps(&self, workers: &Arc<Workers<'_, '_>>) -> Result<()> {
        let mut buffers = <[Buffer; BUFFERS]>::default();
        while let Some(chunk) = self.next()? {
            let watch = Watch::start();
            let read = || {
                if self.reads.done(watch.times(), Duration::ZERO) {
                    Workers::grow_to(workers, self.reads.width());
                }
            };
            if !self.step.step(&chunk, &mut buffers, &read)? {
                self.ended.store(true, Ordering::Relaxed);
                return Ok(());
            }
        }
        Ok(())
    }

    fn next(&self) -> Result<Option<Chunk>> {
        let mut chunks = self.chunks.lock().unwrap_or_else(PoisonError::into_inner);
        if self.ended.load(Ordering::Relaxed) {
            return Ok(None);
        }
        let most = if self.reads.is_wide() {
            REQUEST_SIZE
        } else {
            0
        };
        chunks.next(self.disk, most)
    }
}
