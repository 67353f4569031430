//! The job of a copy: the state that its workers share, and the steps of a worker for a chunk.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use super::buffer::Buffer;
use super::chunks::{BLOCK_SIZE, Chunk, Chunks, REQUEST_SIZE, Wanted};
use super::digest::{Algorithm, Digest};
use super::flow::{Flow, NextStep, Ready};
use super::place::Placement;
use super::processors::Processors;
use super::reading::read_runs;
use super::runs::lengths;
use super::sequential::{SequentialStage, Unreadable, salvage};
use super::settings::{Observer, Reflink, Settings, Throttle};
use super::share::BlockSharing;
use super::tally::{CopiedBytes, Tally};
use super::window::Watch;
use super::workers::{self, Workers};
use crate::error::{Error, Result};
use crate::formats::{Image, NewImage, Reservation};

/// The step in bytes in which progress within a long extent is reported. It is the length of a copy of `qemu-img`.
const PROGRESS_STEP: u64 = 2 << 20;

/// The most blocks of zeroes that are stored at once.
const MOST_IN_ROW: u64 = 256;

/// The state that the workers of a copy share.
pub(super) struct CopyJob<'a> {
    source: &'a dyn Image,
    target: &'a dyn NewImage,
    settings: Settings,
    observer: &'a dyn Observer,
    chunks: Mutex<Chunks>,
    placement: Placement<'a>,
    flow: Flow,
    processors: Processors,
    /// The number of threads at the start.
    threads: usize,
    /// The length of a chunk, in bytes.
    block: usize,
    /// The length of a chunk in bytes if requests wait.
    request: usize,
    /// The sharing of blocks instead of copying, if it is possible.
    sharing: Option<BlockSharing<'a>>,
    /// True if zeroes are handed out as rows of blocks, without a buffer for them.
    rows: bool,
    /// The stage that needs the chunks in guest order, if there is one.
    sequential: Option<SequentialStage<'a>>,
    throttle: Throttle,
    total: u64,
    done: AtomicU64,
    tally: Arc<Tally>,
}

impl<'a> CopyJob<'a> {
    /// Prepares a copy of `source` into `target`, with a checksum of the copied disk if an algorithm is given.
    ///
    /// # Errors
    /// Returns an error if the source's extents can't be read and the observer wants data to be counted. Returns an
    /// error if blocks must be shared and can't be.
    pub(super) fn new(
        source: &'a dyn Image,
        target: &'a dyn NewImage,
        settings: Settings,
        hashed: Option<Algorithm>,
        observer: &'a dyn Observer,
    ) -> Result<Self> {
        let block = BLOCK_SIZE.max(target.allocation_unit());
        let request = REQUEST_SIZE.max(block);
        let wanted = wanted(target, settings);
        let chunks = Chunks::new(source.size(), block, wanted, settings.salvage);
        let sequential =
            (hashed.is_some() || settings.salvage).then(|| SequentialStage::new(hashed, observer));
        // No stage needs the bytes of zeroes that are stored as metadata.
        let rows = target.backed().is_some()
            && settings.sparse.is_some()
            && sequential.is_none()
            && !target.compresses();
        let chunks = match rows {
            true => chunks.with_rows_of_zeroes(MOST_IN_ROW),
            false => chunks,
        };
        let total = if observer.counts_data() {
            chunks.data_bytes(source)?
        } else {
            source.size()
        };
        let tally = Arc::<Tally>::default();
        let sharing = match (&sequential, settings.reflink) {
            (None, _) => BlockSharing::new(source, target, settings, Arc::clone(&tally))?,
            (Some(_), Reflink::Always) => {
                return Err(Error::invalid(
                    "every byte has to be read for a checksum or to salvage what can be, so blocks \
                     can't be shared",
                ));
            }
            (Some(_), _) => None,
        };
        let threads = settings.threads();
        let writers = if target.writes_serially() { 1 } else { threads };
        let memory = request + source.memory_to_read() + target.memory_to_write();
        let windows = [threads, writers].map(|at_once| settings.window(at_once, memory));
        Ok(Self {
            source,
            target,
            settings,
            observer,
            chunks: Mutex::new(chunks),
            placement: Placement::new(target, settings.sparse, block),
            flow: Flow::new(windows, threads, block, (request, memory)),
            processors: Processors::new(threads),
            threads,
            block,
            request,
            sharing,
            rows,
            sequential,
            throttle: Throttle::new(settings.rate),
            total,
            done: AtomicU64::new(0),
            tally,
        })
    }

    /// Returns the total of the progress, in bytes.
    pub(super) fn total(&self) -> u64 {
        self.total
    }

    /// Returns the bytes that were copied so far.
    pub(super) fn bytes(&self) -> CopiedBytes {
        self.tally.bytes()
    }

    /// Copies everything. The caller finishes the target.
    ///
    /// # Errors
    /// Returns the first error of a worker.
    pub(super) fn run(&self) -> Result<Option<Digest>> {
        self.observer.progress(0, self.total);
        workers::run(self.threads, self);
        let copied = self.placement.take_result();
        let size = copied.is_ok().then(|| self.source.size());
        let sequential = self.sequential.as_ref();
        let digest = sequential.and_then(|sequential| sequential.finish(size));
        copied.map(|()| digest)
    }

    /// Returns the current length of a request, in bytes.
    fn request_length(&self) -> usize {
        if self.flow.is_wide() {
            self.request
        } else {
            self.block
        }
    }

    /// Ends the job for all workers with an error. The first error is kept.
    fn fail(&self, error: Error) {
        self.placement.fail(error);
        if let Some(sequential) = &self.sequential {
            sequential.stop();
        }
        self.flow.close();
    }

    /// Does steps until none are left, or until a worker has failed.
    fn tasks(&self, workers: &Arc<Workers<'_, '_>>) -> Result<()> {
        while let Some(task) = self.flow.next() {
            self.observer.go_on()?;
            match task {
                NextStep::Write(ready) => self.write(ready)?,
                NextStep::Read(buffer) => self.copy_next(buffer, workers)?,
            }
            Workers::grow_to(workers, self.flow.threads_to_read());
        }
        Ok(())
    }

    fn write(&self, mut ready: Ready) -> Result<()> {
        let watch = Watch::start();
        let data = ready.buffer.get(ready.length);
        self.target.write(&ready.reservation, data)?;
        self.tally.written.add(ready.reservation.bytes());
        self.flow.written(ready.buffer, ready.length, watch.times());
        Ok(())
    }

    /// Copies the next chunk. The buffer is taken before the chunk, since a worker with a chunk must not wait for
    /// later ones.
    fn copy_next(&self, buffer: Buffer, workers: &Arc<Workers<'_, '_>>) -> Result<()> {
        let next = {
            let mut chunks = self.chunks.lock().unwrap_or_else(PoisonError::into_inner);
            if self.placement.has_failed() {
                return Ok(());
            }
            let sharing = self.sharing.as_ref();
            let shared = sharing.map_or(0, |sharing| sharing.length(self.flow.is_wide()));
            let watch = Watch::start();
            let next = chunks.next(self.source, self.request_length().max(shared))?;
            self.flow.looked(watch.times());
            next
        };
        // If the look-up had to wait for tables, more threads start before this chunk has been read.
        if self.flow.is_wide() {
            Workers::grow_to(workers, self.flow.threads_to_read());
        }
        match next {
            Some(chunk) => self.copy_chunk(&chunk, buffer),
            None => {
                self.flow.read_all();
                Ok(())
            }
        }
    }

    fn copy_chunk(&self, chunk: &Chunk, mut buffer: Buffer) -> Result<()> {
        let bytes = match self.settings.sparse {
            // A target with a backing file stores zeroes too.
            None if self.target.backed().is_some() => lengths(&chunk.not_left(chunk.length)),
            _ => lengths(&chunk.data),
        };
        self.throttle.wait_for(bytes);
        self.tally.read.add(lengths(&chunk.data));
        let watch = Watch::start();
        if self.rows && chunk.data.is_empty() {
            self.copy_zeroes(chunk, &mut buffer)?;
            self.flow.read(chunk.length, watch.times());
            self.flow.free(buffer);
            self.report(chunk, bytes);
            return Ok(());
        }
        if let Some(sharing) = &self.sharing
            && sharing.concerns(chunk, self.request)?
        {
            let request = (self.request_length(), self.flow.is_wide());
            sharing.copy(chunk, &self.placement, &mut buffer, request)?;
            self.flow.read(chunk.length, watch.times());
            self.flow.free(buffer);
            self.report(chunk, bytes);
            return Ok(());
        }
        let length = chunk.length.next_multiple_of(self.target.allocation_unit());
        let data = buffer.get(length);
        let unreadable = self.read(chunk, data)?;
        self.flow.read(chunk.length, watch.times());
        if let Some(sequential) = &self.sequential {
            let disk = data.get(..chunk.length).unwrap_or_default();
            let done = sequential.take(chunk.number, chunk.guest, disk, unreadable);
            if done.is_none() {
                return Ok(());
            }
        }
        let Some(reservation) = self.place(chunk, data)? else {
            return Ok(());
        };
        self.flow.queue(Ready {
            reservation,
            buffer,
            length,
        });
        self.report(chunk, bytes);
        Ok(())
    }

    /// Processes a chunk's data, and reserves space for it. Returns `None` if a worker has failed. No worker occupies
    /// a processor while it waits for earlier chunks.
    fn place(&self, chunk: &Chunk, data: &mut [u8]) -> Result<Option<Reservation>> {
        let watch = Watch::start();
        let reservation = if self.target.compresses() {
            let compressed = self
                .processors
                .run(|| self.placement.compress(chunk, data))?;
            let unit = self.target.allocation_unit() as u64;
            self.tally.stored.add(compressed.parts.len() as u64 * unit);
            self.placement
                .reserve_compressed(chunk, data.len(), &compressed)?
        } else {
            let runs = self.processors.run(|| self.placement.stored(chunk, data));
            self.tally.stored.add(lengths(&runs));
            self.placement.reserve(chunk, data.len(), &runs)?
        };
        let Some(reservation) = reservation else {
            return Ok(None);
        };
        self.processors
            .run(|| self.target.encode(&reservation, data))?;
        self.flow.processed(data.len(), watch.times());
        Ok(Some(reservation))
    }

    /// Stores a row of blocks of zeroes at once. A terabyte of zeroes over a backing file is only metadata, so no
    /// buffers are filled for it.
    fn copy_zeroes(&self, row: &Chunk, buffer: &mut Buffer) -> Result<()> {
        let Some(reserved) = self.placement.reserve_zeroes(row)? else {
            return Ok(());
        };
        for (length, reservation) in reserved {
            if reservation.pieces.is_empty() {
                self.target.write_metadata(&reservation)?;
                continue;
            }
            // The target stores these zeroes as data.
            let data = buffer.get(length);
            data.fill(0);
            self.target.encode(&reservation, data)?;
            self.target.write(&reservation, data)?;
        }
        Ok(())
    }

    /// Reports to the observer that a chunk with `bytes` bytes of data is done, or nearly done.
    fn report(&self, chunk: &Chunk, bytes: u64) {
        let done = if self.observer.counts_data() {
            self.done.fetch_add(bytes, Ordering::Relaxed) + bytes
        } else {
            chunk.guest.0 + chunk.length as u64
        };
        let is_within_extent = bytes == chunk.length as u64 && done < self.total;
        let reported = if is_within_extent {
            done / PROGRESS_STEP * PROGRESS_STEP
        } else {
            done
        };
        self.observer.progress(reported.min(self.total), self.total);
    }

    /// Fills `buffer` with the chunk's data and with zeroes. With salvage, returns the parts that could not be read.
    fn read(&self, chunk: &Chunk, buffer: &mut [u8]) -> Result<Vec<Unreadable>> {
        let mut unreadable = Vec::new();
        read_runs(chunk, buffer, |guest, part| {
            match self.source.read_at(guest, part) {
                Err(_) if self.settings.salvage => {
                    salvage(self.source, guest, part, &mut unreadable);
                    Ok(())
                }
                other => other,
            }
        })?;
        Ok(unreadable)
    }
}

impl workers::Job for CopyJob<'_> {
    fn name(&self) -> &'static str {
        "convert"
    }

    fn work(&self, workers: &Arc<Workers<'_, '_>>) {
        if let Err(error) = self.tasks(workers) {
            self.fail(error);
        }
    }

    fn stop(&self) {
        self.fail(Error::invalid("a worker thread failed"));
    }
}

/// Returns the parts of the source that the target needs.
fn wanted(target: &dyn NewImage, settings: Settings) -> Wanted {
    match target.backed() {
        Some(below) => Wanted::DataAndZeroes {
            below,
            leave_unallocated: settings.leave_unallocated,
            write_zeroes: settings.sparse.is_none(),
        },
        None if target.starts_as_zeroes() && settings.sparse.is_some() => Wanted::Data,
        None => Wanted::Everything,
    }
}
