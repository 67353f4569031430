//! Copying the contents of one disk into a new one; [`mod@compare`] has a room within, as it works alike.
//!
//! The source says which parts hold data ([`chunks`]); the parts are cut into chunks and numbered in
//! guest order. Worker threads take chunks, read them (which decrypts), look for zeroes ([`zero`]),
//! compress, wait for their turn to reserve room in the target ([`turn`]), encrypt, and write
//! ([`writer`]). Only the reservation is done in order, and it is short; everything that costs time is done by all
//! workers at once. So the target is the same for any number of workers.
//!
//! A checksum of the disk needs the chunks in order too, before they are encrypted ([`in_order`]).
//!
//! The first error wins: it stops every worker at its next step and is what the caller gets. The
//! target is finished only when every chunk has been written.
//!
//! Memory: a few chunks' buffers for each worker, whatever the size of the disk.

mod buffer;
mod checksum;
mod chunks;
pub mod compare;
mod crew;
mod digest;
mod in_order;
mod scan;
mod settings;
mod turn;
mod workers;
mod writer;
mod zero;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

pub use checksum::checksum;
pub use digest::{Algorithm, Digest};
pub use settings::{MOST_WORKERS, Observer, Settings};

use self::buffer::Buffer;
use self::chunks::{Chunk, Chunks, Wanted, gaps};
use self::crew::{Crew, Watch};
use self::in_order::{InOrder, Unreadable};
use self::settings::Throttle;
use self::turn::Turn;
use self::writer::{Ready, Writer};
use crate::error::{Error, Result};
use crate::formats::{ExtentKind, Image, NewImage, Reservation, Run};
use crate::storage::Storage;
use crate::units::GuestOffset;

/// How much of the disk a worker takes at a time, in bytes, unless a cluster is larger. Big enough
/// that a system call's cost doesn't count, small enough to stay in a core's second-level cache.
const CHUNK_SIZE: usize = 256 << 10;

/// How many chunks of zeroes are done in one turn, at most.
const MOST_IN_ROW: u64 = 256;
/// Targets that leave out zeroes inside of clusters do so in at most this unit, in bytes.
const FINEST_UNIT: usize = 4096;

/// Copies everything from `source` into `target` and finishes `target`.
///
/// # Errors
/// The first error of reading or writing, saying where.
pub fn copy(
    source: &dyn Image,
    target: &dyn NewImage,
    settings: Settings,
    observer: &dyn Observer,
) -> Result<()> {
    copy_and_hash(source, target, settings, None, observer).map(drop)
}

/// As [`copy`], and gives the checksum of the disk that was copied, where one is wanted. Nothing is
/// copied within the system then, since every byte has to be seen.
///
/// # Errors
/// As [`copy`].
pub fn copy_and_hash(
    source: &dyn Image,
    target: &dyn NewImage,
    mut settings: Settings,
    algorithm: Option<Algorithm>,
    observer: &dyn Observer,
) -> Result<Option<Digest>> {
    settings.copy_offload &= algorithm.is_none();
    // What a target leaves to its backing file isn't read.
    let hashed = algorithm.filter(|_| target.backed().is_none());
    let chunk_size = CHUNK_SIZE.max(target.allocation_unit());
    let chunks = Chunks::new(
        source.size(),
        chunk_size,
        wanted(target, settings),
        settings.salvage,
    );
    let in_order = (hashed.is_some() || settings.salvage).then(|| InOrder::new(hashed, observer));
    // Nobody wants to see the bytes of zeroes that are all metadata.
    let rows = target.backed().is_some()
        && settings.sparse.is_some()
        && in_order.is_none()
        && !target.packs();
    let chunks = match rows {
        true => chunks.with_rows_of_zeroes(MOST_IN_ROW),
        false => chunks,
    };
    let total = if observer.counts_data() {
        chunks.data_bytes(source)?
    } else {
        source.size()
    };
    let job = Job {
        source,
        target,
        settings,
        observer,
        chunks: Mutex::new(chunks),
        turn: Turn::default(),
        crew: Crew::new(target.packs()),
        is_backed: target.backed().is_some(),
        in_order,
        chunk_size,
        rows,
        writer: Writer::new(settings.workers.get(), chunk_size),
        throttle: Throttle::new(settings.rate),
        total,
        done: AtomicU64::new(0),
    };
    observer.progress(0, total);
    let failed = || job.stop(Error::invalid("a worker thread failed"));
    workers::run("convert", settings.workers, &failed, &|| job.work());
    let copied = job.turn.into_result();
    let size = copied.is_ok().then(|| source.size());
    let digest = job.in_order.and_then(|in_order| in_order.finish(size));
    copied?;
    let digest = match (digest, algorithm) {
        (None, Some(algorithm)) => Some(checksum(source, algorithm, settings.workers, &())?),
        (digest, _) => digest,
    };
    target.finish()?;
    observer.progress(total, total);
    Ok(digest)
}

/// What of the source the target has to be told.
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

/// What the workers share.
struct Job<'a> {
    source: &'a dyn Image,
    target: &'a dyn NewImage,
    settings: Settings,
    observer: &'a dyn Observer,
    chunks: Mutex<Chunks>,
    turn: Turn,
    crew: Crew,
    /// Whether the target has a backing file.
    is_backed: bool,
    /// How long a chunk is that holds data, at most.
    chunk_size: usize,
    /// Whether zeroes come in rows of chunks, without a buffer for them.
    rows: bool,
    /// For what needs the chunks in order, where there is something.
    in_order: Option<InOrder<'a>>,
    writer: Writer,
    throttle: Throttle,
    total: u64,
    done: AtomicU64,
}

impl Job<'_> {
    /// Takes chunks until there are none, or until a worker failed.
    fn work(&self) {
        if let Err(error) = self.copy_chunks() {
            self.stop(error);
        }
    }

    /// Ends the job for all workers; the first error is kept.
    fn stop(&self, error: Error) {
        self.turn.fail(error);
        self.crew.dismiss();
        if let Some(in_order) = &self.in_order {
            in_order.stop();
        }
        self.writer.close();
    }

    fn copy_chunks(&self) -> Result<()> {
        let number = self.crew.join();
        loop {
            self.crew.wait(number);
            // First the buffer, then the chunk: whoever has a chunk must not wait for those behind it.
            let Some(buffer) = self.writer.buffer() else {
                return Ok(());
            };
            let next = {
                let mut chunks = self.chunks.lock().unwrap_or_else(PoisonError::into_inner);
                if self.turn.is_over() {
                    return Ok(());
                }
                chunks.next(self.source)?
            };
            let Some(chunk) = next else {
                self.crew.dismiss();
                self.writer.free(buffer);
                return Ok(());
            };
            self.copy_chunk(&chunk, buffer)?;
        }
    }

    fn copy_chunk(&self, chunk: &Chunk, mut buffer: Buffer) -> Result<()> {
        let bytes = match self.settings.sparse {
            // Zeroes are written too.
            None if self.is_backed => lengths(&chunk.told(chunk.length)),
            _ => lengths(&chunk.data),
        };
        self.throttle.wait_for(bytes);
        if self.rows && chunk.data.is_empty() {
            self.copy_zeroes(chunk, &mut buffer)?;
            self.writer.free(buffer);
            self.report(chunk, bytes);
            return Ok(());
        }
        let length = chunk.length.next_multiple_of(self.target.allocation_unit());
        let plain = (self.source.plain_storage(), self.target.plain_storage());
        if let (true, (Some(from), Some(to))) = (self.settings.copy_offload, plain) {
            self.offload(chunk, buffer.get(length), from, to)?;
            self.writer.free(buffer);
            self.report(chunk, bytes);
            return Ok(());
        }
        let data = buffer.get(length);
        let watch = Watch::start();
        let unreadable = self.read(chunk, data)?;
        let (_, waited) = watch.times();
        if let Some(in_order) = &self.in_order {
            let disk = data.get(..chunk.length).unwrap_or_default();
            let done = in_order.take(chunk.number, chunk.guest, disk, unreadable);
            if done.is_none() {
                return Ok(());
            }
        }
        let runs = self.runs_to_write(chunk, data);
        let reservation = if self.target.packs() {
            self.pack(chunk, data, &runs, waited)?
        } else {
            self.reserve(chunk, length, &runs)?
        };
        let Some(reservation) = reservation else {
            return Ok(());
        };
        self.target.encode(&reservation, data)?;
        if self.target.writes_serially() {
            let ready = Ready {
                reservation,
                buffer,
                length,
            };
            self.writer.queue(ready, |ready| {
                let data = ready.buffer.get(ready.length);
                self.target.write(&ready.reservation, data)
            })?;
        } else {
            self.target.write(&reservation, data)?;
            self.writer.free(buffer);
        }
        self.report(chunk, bytes);
        Ok(())
    }

    /// Stores a row of chunks without data, in one turn: a terabyte of zeroes over a backing file is a
    /// matter of metadata, and not worth filling buffers for.
    fn copy_zeroes(&self, row: &Chunk, buffer: &mut Buffer) -> Result<()> {
        let unit = self.target.allocation_unit();
        let reserve = || {
            (0..row.length)
                .step_by(self.chunk_size)
                .map(|start| {
                    let length = self.chunk_size.min(row.length - start);
                    let length = length.next_multiple_of(unit);
                    let guest = GuestOffset(row.guest.0 + start as u64);
                    let zeroes = gaps(&row.left, length);
                    let reservation = self.target.reserve(guest, length, &[], &zeroes)?;
                    Ok((length, reservation))
                })
                .collect::<Result<Vec<_>>>()
        };
        let Some(reserved) = self.turn.take(row.number, reserve).transpose()? else {
            return Ok(());
        };
        for (length, reservation) in reserved {
            if reservation.pieces.is_empty() {
                self.target.write_metadata(&reservation)?;
                continue;
            }
            // The target stores these zeroes after all.
            let data = buffer.get(length);
            data.fill(0);
            self.target.encode(&reservation, data)?;
            self.target.write(&reservation, data)?;
        }
        Ok(())
    }

    /// Tells the observer that a chunk with so many bytes of data is done, or as good as done.
    fn report(&self, chunk: &Chunk, bytes: u64) {
        let done = if self.observer.counts_data() {
            self.done.fetch_add(bytes, Ordering::Relaxed) + bytes
        } else {
            chunk.guest.0 + chunk.length as u64
        };
        self.observer.progress(done.min(self.total), self.total);
    }

    /// What of a chunk is written: all of it, or what isn't zero.
    fn runs_to_write(&self, chunk: &Chunk, buffer: &[u8]) -> Vec<Run> {
        match self.settings.sparse {
            Some(sparse) if self.target.starts_as_zeroes() || self.is_backed => {
                // A finer search than the target's own only where that was asked for and the target
                // isn't one that writes whole clusters.
                let (unit, least) = match self.target.zero_unit() {
                    // However short a run of zeroes is, to pack it costs more than a gap.
                    unit if self.target.packs() => (unit, unit),
                    unit if unit <= FINEST_UNIT => (unit.min(1 << sparse.ilog2()), sparse.get()),
                    unit => (unit, sparse.get()),
                };
                let mut runs = Vec::new();
                // One part after the other: zeroes before and after what is left must not be joined.
                for part in chunk.told(buffer.len()) {
                    let data = within(&chunk.data, &part);
                    runs.extend(zero::data_runs(buffer, &data, unit, least));
                }
                runs
            }
            _ => chunk.told(buffer.len()),
        }
    }

    /// Waits for this chunk's turn and reserves room for it. `None` when a worker failed meanwhile.
    fn reserve(&self, chunk: &Chunk, length: usize, runs: &[Run]) -> Result<Option<Reservation>> {
        let zeroes = self.zeroes_to_write(chunk, length, runs);
        self.turn
            .take(chunk.number, || {
                self.target.reserve(chunk.guest, length, runs, &zeroes)
            })
            .transpose()
    }

    /// Packs a chunk's data, and then as [`reserve`](Self::reserve).
    fn pack(
        &self,
        chunk: &Chunk,
        data: &mut [u8],
        runs: &[Run],
        waited: Duration,
    ) -> Result<Option<Reservation>> {
        let zeroes = self.zeroes_to_write(chunk, data.len(), runs);
        let watch = Watch::start();
        let packed = self.target.pack(data, runs, &zeroes)?;
        let (packing, _) = watch.times();
        self.crew.spent(waited, packing);
        self.turn
            .take(chunk.number, || {
                self.target.reserve_packed(chunk.guest, &packed)
            })
            .transpose()
    }

    /// What of a chunk, beside the `runs` of data, must read as zeroes and not as a backing file.
    fn zeroes_to_write(&self, chunk: &Chunk, length: usize, runs: &[Run]) -> Vec<Run> {
        if !self.is_backed {
            return Vec::new();
        }
        // Neither data nor left.
        let mut others = [runs, &chunk.left].concat();
        others.sort_unstable_by_key(|run| run.start);
        gaps(&others, length)
    }

    /// Copies a chunk within the system, or where that isn't possible by reading and writing.
    fn offload(
        &self,
        chunk: &Chunk,
        buffer: &mut [u8],
        from: &dyn Storage,
        to: &dyn Storage,
    ) -> Result<()> {
        let Some(reservation) = self.reserve(chunk, buffer.len(), &chunk.data)? else {
            return Ok(());
        };
        for run in &chunk.data {
            if !self.offload_run(chunk, run, &reservation, from, to)? {
                self.read(chunk, buffer)?;
                self.target.encode(&reservation, buffer)?;
                return self.target.write(&reservation, buffer);
            }
        }
        self.target.write_metadata(&reservation)
    }

    fn offload_run(
        &self,
        chunk: &Chunk,
        run: &Run,
        reservation: &Reservation,
        from: &dyn Storage,
        to: &dyn Storage,
    ) -> Result<bool> {
        let mut start = run.start;
        while start < run.end {
            let guest = GuestOffset(chunk.guest.0 + start as u64);
            let extent = self
                .source
                .extent_at(guest, (run.end - start) as u64)
                .map_err(|error| reading(guest, error))?;
            let ExtentKind::Data(host) = extent.kind else {
                return Ok(false);
            };
            let end = start + usize::try_from(extent.length).unwrap_or(usize::MAX);
            if !reservation.copy_data(to, &(start..end), from, host)? {
                return Ok(false);
            }
            start = end;
        }
        Ok(true)
    }

    /// Fills `buffer` with the chunk's data, and with zeroes where it has none; gives what could not
    /// be read, where that is no error.
    fn read(&self, chunk: &Chunk, buffer: &mut [u8]) -> Result<Vec<Unreadable>> {
        let mut unreadable = Vec::new();
        read_runs(chunk, buffer, |guest, part| {
            match self.source.read_at(guest, part) {
                Err(_) if self.settings.salvage => {
                    in_order::salvage(self.source, guest, part, &mut unreadable);
                    Ok(())
                }
                other => other,
            }
        })?;
        Ok(unreadable)
    }
}

fn lengths(runs: &[Run]) -> u64 {
    runs.iter().map(|run| run.len() as u64).sum()
}

/// Fills `buffer` with the chunk's data, and with zeroes where it has none.
fn read_chunk(source: &dyn Image, chunk: &Chunk, buffer: &mut [u8]) -> Result<()> {
    read_runs(chunk, buffer, |guest, part| source.read_at(guest, part))
}

/// As [`read_chunk`], where `read` reads a run of data.
fn read_runs(
    chunk: &Chunk,
    buffer: &mut [u8],
    mut read: impl FnMut(GuestOffset, &mut [u8]) -> Result<()>,
) -> Result<()> {
    let mut end = 0;
    for run in &chunk.data {
        zero_fill(buffer, end..run.start);
        let guest = GuestOffset(chunk.guest.0 + run.start as u64);
        let part = buffer
            .get_mut(run.clone())
            .ok_or_else(|| Error::invalid("data beyond its chunk"))?;
        read(guest, part).map_err(|error| reading(guest, error))?;
        end = run.end;
    }
    zero_fill(buffer, end..buffer.len());
    Ok(())
}

fn reading(guest: GuestOffset, error: Error) -> Error {
    error.context(format!("error while reading at byte {}", guest.0))
}

/// What `runs` have of a part.
fn within(runs: &[Run], part: &Run) -> Vec<Run> {
    let cut = |run: &Run| run.start.max(part.start)..run.end.min(part.end);
    runs.iter().map(cut).filter(|run| !run.is_empty()).collect()
}

fn zero_fill(buffer: &mut [u8], range: Run) {
    if let Some(part) = buffer.get_mut(range) {
        part.fill(0);
    }
}

#[cfg(test)]
mod backed_tests;
#[cfg(test)]
mod tests;
