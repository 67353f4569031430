//! The reservation of space in the target, in guest order.
//!
//! A chunk is as long as its request, which depends on the speed of the storage. The target must not depend on that.
//! So zeroes are joined with data only within a block of a fixed size, and space is reserved block by block.

use std::num::NonZeroUsize;

use super::chunks::{Chunk, gaps};
use super::ordering::ChunkOrder;
use super::runs::{cut_to, within};
use super::zero::{self, ZeroUnits};
use crate::error::{Error, Result};
use crate::formats::{ChunkPart, CompressedChunk, NewImage, Reservation, Run};
use crate::units::GuestOffset;

/// The largest zero unit in bytes of targets that can skip zeroes inside of a cluster.
const FINEST_UNIT: usize = 4096;

/// The reservation of space; see the module's documentation.
pub(super) struct Placement<'a> {
    target: &'a dyn NewImage,
    /// The shortest run of zeroes that is skipped, in bytes. `None` stores every byte.
    sparse: Option<NonZeroUsize>,
    /// True if the target has a backing file.
    is_backed: bool,
    /// The length of a block in bytes.
    block: usize,
    order: ChunkOrder,
}

impl<'a> Placement<'a> {
    pub(super) fn new(
        target: &'a dyn NewImage,
        sparse: Option<NonZeroUsize>,
        block: usize,
    ) -> Self {
        Self {
            target,
            sparse,
            is_backed: target.backed().is_some(),
            block,
            order: ChunkOrder::default(),
        }
    }

    /// Ends the job with an error. The first error is kept.
    pub(super) fn fail(&self, error: Error) {
        self.order.fail(error);
    }

    /// Returns true if a worker has failed.
    pub(super) fn has_failed(&self) -> bool {
        self.order.has_failed()
    }

    /// Takes the first error, if there is one.
    pub(super) fn take_result(&self) -> Result<()> {
        self.order.take_result()
    }

    /// Returns the blocks of the first `length` bytes of a chunk.
    fn blocks(&self, length: usize) -> impl Iterator<Item = Run> {
        let block = self.block;
        let starts = (0..length).step_by(block);
        starts.map(move |start| start..(start + block).min(length))
    }

    /// Finds the parts of a chunk that are stored: all of it, or all but zeroes.
    pub(super) fn stored(&self, chunk: &Chunk, buffer: &[u8]) -> Vec<Run> {
        let not_left = chunk.not_left(buffer.len());
        let sparse = match self.sparse {
            Some(sparse) if self.target.starts_as_zeroes() || self.is_backed => sparse,
            _ => return not_left,
        };
        // As in qemu-img, data is kept in aligned units of the length that `-S` gives, whatever the cluster size. The
        // search is finer than the target's zero unit only if `-S` asks for it and the target doesn't write whole
        // clusters.
        let asked = (1 << sparse.ilog2()).min(self.block);
        let units = match self.target.zero_unit() {
            // Compressing even a short run of zeroes takes more space than skipping it.
            unit if self.target.compresses() => ZeroUnits {
                target: unit,
                kept: unit,
                least: unit,
            },
            unit => {
                let target = match unit <= FINEST_UNIT {
                    true => unit.min(asked),
                    false => unit,
                };
                ZeroUnits {
                    target,
                    kept: asked.max(target),
                    least: sparse.get(),
                }
            }
        };
        let mut runs = Vec::new();
        for block in self.blocks(buffer.len()) {
            // The parts are searched one by one: data before and after a part that is left must not be joined.
            for part in within(&not_left, &block) {
                let data = within(&chunk.data, &part);
                runs.extend(zero::data_runs(buffer, &data, units));
            }
        }
        runs
    }

    /// Waits until all earlier chunks have reserved space, and reserves space for a chunk. Returns `None` if a worker
    /// has failed.
    ///
    /// # Errors
    /// Returns the target's error.
    pub(super) fn reserve(
        &self,
        chunk: &Chunk,
        length: usize,
        runs: &[Run],
    ) -> Result<Option<Reservation>> {
        let zeroes = self.zeroes(chunk, length, runs);
        let reserve = || {
            let mut all = Reservation::empty(chunk.guest);
            for block in self.blocks(length) {
                let (data, zeroes) = (cut_to(runs, &block), cut_to(&zeroes, &block));
                if data.is_empty() && zeroes.is_empty() {
                    continue;
                }
                let guest = GuestOffset(chunk.guest.0 + block.start as u64);
                let part = self.target.reserve(guest, block.len(), &data, &zeroes)?;
                all.append(part, block.start);
            }
            Ok(all)
        };
        self.order.run(chunk.number, reserve).transpose()
    }

    /// Compresses a chunk's data.
    ///
    /// # Errors
    /// Returns the codec's error.
    pub(super) fn compress(&self, chunk: &Chunk, data: &mut [u8]) -> Result<CompressedChunk> {
        let runs = self.stored(chunk, data);
        let zeroes = self.zeroes(chunk, data.len(), &runs);
        self.target.compress(data, &runs, &zeroes)
    }

    /// Does the same as [`reserve`](Self::reserve) for a compressed chunk that stands for `length` bytes.
    ///
    /// # Errors
    /// Returns the target's error.
    pub(super) fn reserve_compressed(
        &self,
        chunk: &Chunk,
        length: usize,
        compressed: &CompressedChunk,
    ) -> Result<Option<Reservation>> {
        let reserve = || {
            let mut all = Reservation::empty(chunk.guest);
            for block in self.blocks(length) {
                let parts = compressed.parts.iter();
                let parts = parts.filter(|part| block.contains(&part.start));
                let part = CompressedChunk {
                    parts: parts
                        .map(|part| ChunkPart {
                            start: part.start - block.start,
                            ..part.clone()
                        })
                        .collect(),
                    zeroes: cut_to(&compressed.zeroes, &block),
                };
                let guest = GuestOffset(chunk.guest.0 + block.start as u64);
                // The runs of compressed data refer to the whole buffer, so they aren't shifted.
                all.append(self.target.reserve_compressed(guest, &part)?, 0);
            }
            Ok(all)
        };
        self.order.run(chunk.number, reserve).transpose()
    }

    /// Reserves space for a row of blocks of zeroes. Returns the reservations of blocks that have to be written, with
    /// their lengths in bytes.
    ///
    /// # Errors
    /// Returns the target's error.
    pub(super) fn reserve_zeroes(&self, row: &Chunk) -> Result<Option<Vec<(usize, Reservation)>>> {
        let length = row.length.next_multiple_of(self.target.allocation_unit());
        let reserve = || {
            let zeroes = gaps(&row.left, length);
            if self.target.reserve_zeroes(row.guest, &zeroes)? {
                return Ok(Vec::new());
            }
            let mut reserved = Vec::new();
            for block in self.blocks(length) {
                let zeroes = cut_to(&zeroes, &block);
                if zeroes.is_empty() {
                    continue;
                }
                let guest = GuestOffset(row.guest.0 + block.start as u64);
                let reservation = self.target.reserve(guest, block.len(), &[], &zeroes)?;
                reserved.push((block.len(), reservation));
            }
            Ok(reserved)
        };
        self.order.run(row.number, reserve).transpose()
    }

    /// Returns the parts of a chunk besides the `runs` of data that must read as zeroes and not as the backing file.
    fn zeroes(&self, chunk: &Chunk, length: usize, runs: &[Run]) -> Vec<Run> {
        if !self.is_backed {
            return Vec::new();
        }
        // These are the parts that are neither data nor left to the backing file.
        let mut others = [runs, &chunk.left].concat();
        others.sort_unstable_by_key(|run| run.start);
        gaps(&others, length)
    }
}
