//! Writing a new disk of blocks.
//!
//! Blocks are allocated in guest order, each after the one before. Within an allocated block only data is written if
//! the rest reads as zeroes initially. Over a backing file, blocks of zeroes are marked as zero, or are written as
//! data if the table has no such entries.

use std::sync::Arc;

use super::{Block, BlockTable};
use crate::error::Result;
use crate::formats::compress_units::compress_units;
use crate::formats::encryption::Cipher;
use crate::formats::reservation::compression_mismatch;
use crate::formats::{Backed, CompressedChunk, NewImage, Reservation, Run};
use crate::storage::Storage;
use crate::units::{GuestOffset, HostOffset, SECTOR_SIZE};

/// The unit in which zeroes are left out of a block, in bytes: the block size of most file systems.
const ZERO_UNIT: u64 = 4096;

/// The table of a new disk.
pub trait NewBlockTable: BlockTable {
    /// Allocates a block, unless it is allocated already, and returns its host offset. A block that is larger than
    /// one [unit](BlockTable::unit) must read as zeroes there.
    ///
    /// # Errors
    /// Returns an error if a limit of the format is reached.
    fn place(&self, block: u64) -> Result<HostOffset>;

    /// Compresses a block into `compressed`, replacing its contents. Returns true if that made it smaller.
    ///
    /// # Errors
    /// Returns the encoder's error. Returns an error if the format has no compressed blocks.
    fn compress(&self, block: &[u8], compressed: &mut Vec<u8>) -> Result<bool> {
        let _ = (block, compressed);
        Err(compression_mismatch())
    }

    /// Allocates `length` bytes for a compressed block.
    ///
    /// # Errors
    /// Returns an error as [`place`](Self::place) and [`compress`](Self::compress) do.
    fn place_compressed(&self, block: u64, length: u64) -> Result<HostOffset> {
        let _ = (block, length);
        Err(compression_mismatch())
    }

    /// Writes the table and, last, the header, which completes the image. With `flush`, flushes to stable storage
    /// before and after the header.
    ///
    /// # Errors
    /// Returns the system's error.
    fn finish(&self, flush: bool) -> Result<()>;
}

/// A disk of blocks that is written for the first time.
pub struct NewBlocks<T> {
    table: T,
    storage: Arc<dyn Storage>,
    flush: bool,
    /// True if blocks that are left out, and the unwritten rest of other blocks, read as zeroes.
    is_zero: bool,
    /// True if blocks that are left out read as zeroes, whatever the medium holds.
    leaves_out: bool,
    /// The size of the backing file's disk in bytes, if there is one.
    backing_size: Option<u64>,
    cipher: Option<Cipher>,
    compresses: bool,
}

impl<T: NewBlockTable> NewBlocks<T> {
    /// Returns a new disk in `storage`. If `is_fixed`, all blocks are allocated.
    pub fn new(table: T, storage: Arc<dyn Storage>, is_fixed: bool, flush: bool) -> Self {
        let is_zero = storage.starts_as_zeroes();
        Self {
            table,
            storage,
            flush,
            is_zero,
            leaves_out: is_zero || !is_fixed,
            backing_size: None,
            cipher: None,
            compresses: false,
        }
    }

    /// Sets the size of the backing file's disk in bytes, if there is one.
    #[must_use]
    pub fn with_backing(self, backing_size: Option<u64>) -> Self {
        Self {
            backing_size,
            ..self
        }
    }

    /// Sets the cipher, if there is one.
    #[must_use]
    pub fn with_cipher(self, cipher: Option<Cipher>) -> Self {
        Self { cipher, ..self }
    }

    /// Sets whether blocks are compressed.
    #[must_use]
    pub fn compressing(self, compresses: bool) -> Self {
        Self { compresses, ..self }
    }

    /// Returns true if the unwritten rest of a block reads as zeroes.
    fn leaves_holes(&self) -> bool {
        self.is_zero && self.cipher.is_none()
    }

    /// Returns the unit in which a block's data is written, in bytes.
    fn unit(&self) -> u64 {
        if self.leaves_holes() {
            ZERO_UNIT.min(self.table.unit())
        } else {
            self.table.unit()
        }
    }

    /// Allocates the blocks of runs, and adds the pieces of their data to the reservation if `is_written`.
    fn place_data(
        &self,
        reservation: &mut Reservation,
        chunk: usize,
        runs: &[Run],
        is_written: bool,
    ) -> Result<()> {
        let guest = reservation.guest;
        let size = self.table.block_size();
        let unit = self.unit();
        for run in runs {
            let end = guest.0 + run.end as u64;
            let mut start = guest.0 + run.start as u64;
            while start < end {
                let block = start / size;
                let first = block * size;
                let host = self.table.place(block)?.0;
                // On a device the whole block is written.
                let from = start / unit * unit;
                let to = end.next_multiple_of(unit).min(first + size);
                start = to;
                if !is_written {
                    continue;
                }
                let within = |at: u64| usize::try_from(at.saturating_sub(guest.0)).unwrap_or(chunk);
                let piece = within(from)..within(to).min(chunk);
                let place = HostOffset(host + (from - first));
                let written = reservation.pieces.last().map(|(last, _)| last.end);
                if written.is_none_or(|written| piece.start >= written) {
                    let mut part = Reservation::empty(guest);
                    part.pieces.push((piece, place));
                    reservation.append(part, 0);
                }
            }
        }
        Ok(())
    }

    /// Marks zeroes over a backing file in the table, or allocates blocks for them that read as zeroes.
    fn place_zeroes(
        &self,
        reservation: &mut Reservation,
        chunk: usize,
        zeroes: &[Run],
    ) -> Result<()> {
        if self.backing_size.is_none() {
            return Ok(());
        }
        if !self.table.stores_zeroes() {
            return self.place_data(reservation, chunk, zeroes, false);
        }
        let size = self.table.block_size();
        for run in zeroes {
            let first = (reservation.guest.0 + run.start as u64) / size;
            let end = (reservation.guest.0 + run.end as u64).div_ceil(size);
            for block in first..end {
                if self.table.lookup(block)? == Block::Absent {
                    self.table.set_zero(block)?;
                }
            }
        }
        Ok(())
    }
}

impl<T: NewBlockTable> NewImage for NewBlocks<T> {
    fn allocation_unit(&self) -> usize {
        usize::try_from(self.table.unit()).unwrap_or(usize::MAX)
    }

    fn zero_unit(&self) -> usize {
        match self.compresses || self.cipher.is_some() {
            true => self.allocation_unit(),
            false => usize::try_from(self.unit().min(ZERO_UNIT)).unwrap_or(usize::MAX),
        }
    }

    fn table_unit(&self) -> usize {
        self.allocation_unit()
    }

    fn starts_as_zeroes(&self) -> bool {
        self.leaves_out && self.backing_size.is_none()
    }

    fn backed(&self) -> Option<Backed> {
        self.backing_size.map(|size| Backed {
            size,
            unit: self.allocation_unit(),
            copies_ends: self.compresses,
        })
    }

    fn memory_to_write(&self) -> usize {
        match self.compresses {
            true => 2 * self.allocation_unit(),
            false => 0,
        }
    }

    fn compresses(&self) -> bool {
        self.compresses
    }

    fn compress(&self, chunk: &mut [u8], runs: &[Run], zeroes: &[Run]) -> Result<CompressedChunk> {
        let size = self.allocation_unit();
        let zeroes_are_data = self.backing_size.is_some() && !self.table.stores_zeroes();
        let mut starts: Vec<usize> = runs
            .iter()
            .flat_map(|run| run.clone().step_by(size))
            .collect();
        if zeroes_are_data {
            starts.extend(zeroes.iter().flat_map(|run| run.clone().step_by(size)));
            starts.sort_unstable();
        }
        let parts = compress_units(chunk, size, starts.into_iter(), |_, block, compressed| {
            self.table.compress(block, compressed)
        })?;
        Ok(CompressedChunk {
            parts,
            zeroes: match zeroes_are_data {
                true => Vec::new(),
                false => zeroes.to_vec(),
            },
        })
    }

    fn reserve_compressed(
        &self,
        guest: GuestOffset,
        compressed: &CompressedChunk,
    ) -> Result<Reservation> {
        let mut reservation = Reservation::empty(guest);
        for part in &compressed.parts {
            let block = (guest.0 + part.start as u64) / self.table.block_size();
            let host = match part.compressed {
                true => self
                    .table
                    .place_compressed(block, part.stored.len() as u64)?,
                false => self.table.place(block)?,
            };
            let mut piece = Reservation::empty(guest);
            piece.pieces.push((part.stored.clone(), host));
            reservation.append(piece, 0);
        }
        self.place_zeroes(&mut reservation, 0, &compressed.zeroes)?;
        Ok(reservation)
    }

    fn reserve(
        &self,
        guest: GuestOffset,
        chunk: usize,
        runs: &[Run],
        zeroes: &[Run],
    ) -> Result<Reservation> {
        let mut reservation = Reservation::empty(guest);
        let has_zero_data = self.backing_size.is_some() && !self.table.stores_zeroes();
        if has_zero_data && !self.leaves_holes() {
            // Zeroes, encrypted if necessary, have to be written to these blocks.
            let mut all = [runs, zeroes].concat();
            all.sort_unstable_by_key(|run| run.start);
            self.place_data(&mut reservation, chunk, &all, true)?;
            return Ok(reservation);
        }
        self.place_data(&mut reservation, chunk, runs, true)?;
        self.place_zeroes(&mut reservation, chunk, zeroes)?;
        Ok(reservation)
    }

    fn encode(&self, reservation: &Reservation, chunk: &mut [u8]) -> Result<()> {
        match &self.cipher {
            Some(cipher) => reservation.encrypt(cipher, chunk),
            None => Ok(()),
        }
    }

    fn write(&self, reservation: &Reservation, chunk: &[u8]) -> Result<()> {
        reservation.write_data(self.storage.as_ref(), chunk)
    }

    fn writes_serially(&self) -> bool {
        self.storage.writes_serially()
    }

    fn plain_storage(&self) -> Option<&dyn Storage> {
        let is_plain = self.cipher.is_none() && !self.compresses;
        is_plain.then_some(self.storage.as_ref())
    }

    fn write_metadata(&self, _reservation: &Reservation) -> Result<()> {
        Ok(())
    }

    fn finish(&self) -> Result<()> {
        debug_assert!(self.table.size().is_multiple_of(SECTOR_SIZE));
        self.table.finish(self.flush)
    }
}
