//! Going through a disk with many threads without writing: what comparing and checksums have in
//! common.
//!
//! Chunks that hold data are handed out in guest order, each to one worker with a buffer or two of its
//! own. The first error stops all workers at their next chunk.

use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;

use super::buffer::Buffer;
use super::chunks::{Chunk, Chunks, Wanted};
use super::{CHUNK_SIZE, Observer, STACK_SIZE};
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

/// Does `step` for all chunks of the first `size` bytes of `disk` that hold data.
///
/// # Errors
/// The first error of a step or of finding data.
pub(super) fn scan(
    disk: &dyn Image,
    size: u64,
    workers: NonZeroUsize,
    observer: &dyn Observer,
    step: &dyn Step,
) -> Result<()> {
    let scan = Scan {
        disk,
        size,
        observer,
        step,
        chunks: Mutex::new(Chunks::new(size, CHUNK_SIZE, Wanted::Data, false)),
        over: AtomicBool::new(false),
        error: Mutex::new(None),
    };
    observer.progress(0, size);
    thread::scope(|scope| {
        for number in 1..workers.get() {
            let spawned = thread::Builder::new()
                .name(format!("scan-{number}"))
                .stack_size(STACK_SIZE)
                .spawn_scoped(scope, || scan.work());
            if spawned.is_err() {
                break;
            }
        }
        scan.work();
    });
    match scan
        .error
        .into_inner()
        .unwrap_or_else(PoisonError::into_inner)
    {
        Some(error) => Err(error),
        None => {
            observer.progress(size, size);
            Ok(())
        }
    }
}

struct Scan<'a> {
    disk: &'a dyn Image,
    size: u64,
    observer: &'a dyn Observer,
    step: &'a dyn Step,
    chunks: Mutex<Chunks>,
    over: AtomicBool,
    error: Mutex<Option<Error>>,
}

impl Scan<'_> {
    fn work(&self) {
        // A worker that panics must not leave the others waiting for it for ever.
        let watch = StopOnPanic(self);
        if let Err(error) = self.steps() {
            let mut first = self.error.lock().unwrap_or_else(PoisonError::into_inner);
            first.get_or_insert(error);
            drop(first);
            self.stop();
        }
        drop(watch);
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
            let end = chunk.guest.0 + chunk.length as u64;
            self.observer.progress(end.min(self.size), self.size);
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

struct StopOnPanic<'a>(&'a Scan<'a>);

impl Drop for StopOnPanic<'_> {
    fn drop(&mut self) {
        if thread::panicking() {
            self.0.stop();
        }
    }
}
