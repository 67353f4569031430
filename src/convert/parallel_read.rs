//! Going through a disk with many threads without writing: what comparing and checksums have in
//! common.
//!
//! Chunks that hold data are handed out in guest order, each to one worker with a buffer or two of its
//! own. Where reads wait there are more workers, and longer chunks. The first error stops all workers at
//! their next chunk.

use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::buffer::Buffer;
use super::chunks::{Chunk, Chunks, Wanted};
use super::flow::MOST_IN_FLIGHT;
use super::window::{RequestWindow, Watch};
use super::workers::{self, Job, Workers};
use super::{BLOCK_SIZE, REQUEST_SIZE, Settings};
use crate::error::{Error, Result};
use crate::formats::Image;

/// How many buffers a worker has.
const BUFFERS: usize = 2;

/// What a worker does with a chunk, in which it may use two buffers.
pub(super) trait ReadStep: Sync {
    /// Reads a chunk, calls `read`, and does with it what is to be done. `false` ends the pass over the disk
    /// without an error.
    ///
    /// # Errors
    /// Returns the first error to the caller of the pass, which it ends too.
    fn step(&self, chunk: &Chunk, buffers: &mut [Buffer; BUFFERS], read: &dyn Fn())
    -> Result<bool>;

    /// Somebody failed: whoever waits for another worker must not any more.
    fn stop(&self) {}
}

/// Does `step` for all chunks of the first `size` bytes of `disk` that hold data; with `salvage` places
/// whose metadata is damaged count as data.
///
/// # Errors
/// The first error of a step or of finding data.
pub(super) fn parallel_read(
    disk: &dyn Image,
    size: u64,
    salvage: bool,
    workers: NonZeroUsize,
    step: &dyn ReadStep,
) -> Result<()> {
    let threads = Settings {
        workers,
        ..Settings::default()
    }
    .threads();
    let most = MOST_IN_FLIGHT / (BUFFERS * REQUEST_SIZE + disk.memory_to_read());
    let pass = ParallelRead {
        disk,
        step,
        chunks: Mutex::new(Chunks::new(size, BLOCK_SIZE, Wanted::Data, salvage)),
        reads: RequestWindow::new(threads, most, threads),
        over: AtomicBool::new(false),
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
    over: AtomicBool,
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
        self.over.store(true, Ordering::Relaxed);
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
                self.over.store(true, Ordering::Relaxed);
                return Ok(());
            }
        }
        Ok(())
    }

    fn next(&self) -> Result<Option<Chunk>> {
        let mut chunks = self.chunks.lock().unwrap_or_else(PoisonError::into_inner);
        if self.over.load(Ordering::Relaxed) {
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
