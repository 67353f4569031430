//! Going through a disk with many threads without writing: what comparing and checksums have in
//! common.
//!
//! Chunks that hold data are handed out in guest order, each to one worker with a buffer or two of its
//! own. The first error stops all workers at their next chunk.

use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use super::buffer::Buffer;
use super::chunks::{Chunk, Chunks, Wanted};
use super::{CHUNK_SIZE, workers};
use crate::error::{Error, Result};
use crate::formats::Image;

/// What a worker does with a chunk, in which it may use two buffers.
pub(super) trait Step: Sync {
    /// `false` ends the scan without an error.
    ///
    /// # Errors
    /// End the scan too, and the first is what its caller gets.
    fn step(&self, chunk: &Chunk, buffers: &mut [Buffer; 2]) -> Result<bool>;

    /// Somebody failed: whoever waits for another worker must not any more.
    fn stop(&self) {}
}

/// Does `step` for all chunks of the first `size` bytes of `disk` that hold data; with `salvage` places
/// whose metadata is damaged count as data.
///
/// # Errors
/// The first error of a step or of finding data.
pub(super) fn scan(
    disk: &dyn Image,
    size: u64,
    salvage: bool,
    workers: NonZeroUsize,
    step: &dyn Step,
) -> Result<()> {
    let scan = Scan {
        disk,
        step,
        chunks: Mutex::new(Chunks::new(size, CHUNK_SIZE, Wanted::Data, salvage)),
        over: AtomicBool::new(false),
        error: Mutex::new(None),
    };
    workers::run("scan", workers, &|| scan.stop(), &|| scan.work());
    let error = scan.error.into_inner();
    match error.unwrap_or_else(PoisonError::into_inner) {
        Some(error) => Err(error),
        None => Ok(()),
    }
}

struct Scan<'a> {
    disk: &'a dyn Image,
    step: &'a dyn Step,
    chunks: Mutex<Chunks>,
    over: AtomicBool,
    error: Mutex<Option<Error>>,
}

impl Scan<'_> {
    fn work(&self) {
        if let Err(error) = self.steps() {
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

    fn steps(&self) -> Result<()> {
        let mut buffers = <[Buffer; 2]>::default();
        while let Some(chunk) = self.next()? {
            if !self.step.step(&chunk, &mut buffers)? {
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
        chunks.next(self.disk)
    }
}
