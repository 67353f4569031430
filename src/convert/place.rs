//! Room in the target, handed out in guest order.
//!
//! A chunk is as long as its request, and that depends on how the storage answers. Blocks of a fixed size are
//! looked at and reserved together, so that neither shows in the target. Zeroes are joined with data within a
//! block only, and room is reserved block by block.

use std::num::NonZeroUsize;

use super::chunks::{Chunk, gaps};
use super::ordering::ChunkOrder;
use super::runs::{cut_to, within};
use super::zero::{self, ZeroUnits};
use crate::error::{Error, Result};
use crate::formats::{ChunkPart, CompressedChunk, NewImage, Reservation, Run};
use crate::units::GuestOffset;

/// Targets that leave out zeroes inside of clusters do so in at most this unit, in bytes.
const FINEST_UNIT: usize = 4096;

/// Hands out room; see the module's text.
pub(super) struct Placement<'a> {
    target: &'a dyn NewImage,
    /// The shortest run of zeroes that is left out, in bytes; `None` stores every byte.
    sparse: Option<NonZeroUsize>,
    /// The target has a backing file.
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

    /// Ends the job; the first error is kept.
    pub(super) fn fail(&self, error: Error) {
        self.order.fail(error);
    }

    /// Returns true if a worker failed.
    pub(super) fn is_over(&self) -> bool {
        self.order.is_over()
    }

    /// The first error, if there was one.
    pub(super) fn take_result(&self) -> Result<()> {
        self.order.take_result()
    }

    /// The parts of the first `length` bytes of a chunk that are in one block each.
    fn blocks(&self, length: usize) -> impl Iterator<Item = Run> {
        let block = self.block;
        let starts = (0..length).step_by(block);
        starts.map(move |start| start..(start + block).min(length))
    }

    /// Finds the parts of a chunk that are stored: all of it, or all but zeroes.
    pub(super) fn stored(&self, chunk: &Chunk, buffer: &[u8]) -> Vec<Run> {
        let told = chunk.told(buffer.len());
        let sparse = match self.sparse {
            Some(sparse) if self.target.starts_as_zeroes() || self.is_backed => sparse,
            _ => return told,
        };
        // As in qemu-img: data is kept in aligned units of the asked length, whatever the clusters. A finer search
        // than the target's own only where that was asked for and the target isn't one that writes whole clusters.
        let asked = (1 << sparse.ilog2()).min(self.block);
        let units = match self.target.zero_unit() {
            // However short a run of zeroes is, to pack it costs more than a gap.
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
            // One part after the other: zeroes before and after what is left must not be joined.
            for part in within(&told, &block) {
                let data = within(&chunk.data, &part);
                runs.extend(zero::data_runs(buffer, &data, units));
            }
        }
        runs
    }

    /// Waits until all earlier chunks have reserved, and reserves room for it. `None` when a worker failed meanwhile.
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

    /// Packs a chunk's data.
    ///
    /// # Errors
    /// Returns the codec's error.
    pub(super) fn compress(&self, chunk: &Chunk, data: &mut [u8]) -> Result<CompressedChunk> {
        let runs = self.stored(chunk, data);
        let zeroes = self.zeroes(chunk, data.len(), &runs);
        self.target.compress(data, &runs, &zeroes)
    }

    /// Does the same as [`reserve`](Self::reserve) for a chunk of so many bytes that was packed.
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
                // Stored runs have their place in the whole buffer.
                all.append(self.target.reserve_compressed(guest, &part)?, 0);
            }
            Ok(all)
        };
        self.order.run(chunk.number, reserve).transpose()
    }

    /// Reserves room for a row of blocks without data; each reservation with its length in bytes.
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

    /// Finds the parts of a chunk, beside the `runs` of data, that must read as zeroes and not as a backing file.
    fn zeroes(&self, chunk: &Chunk, length: usize, runs: &[Run]) -> Vec<Run> {
        if !self.is_backed {
            return Vec::new();
        }
        // Neither data nor left.
        let mut others = [runs, &chunk.left].concat();
        others.sort_unstable_by_key(|run| run.start);
        gaps(&others, length)
    }
}
