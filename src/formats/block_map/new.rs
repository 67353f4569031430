//! A disk of blocks, written for the first time.
//!
//! Blocks get their places in guest order, one behind the other. Of a block that holds some data only that is
//! written, where the rest reads as zeroes by itself.

use std::sync::Arc;

use super::BlockTable;
use crate::error::Result;
use crate::formats::{NewImage, Reservation, Run};
use crate::storage::Storage;
use crate::units::{GuestOffset, HostOffset, SECTOR_SIZE};

/// The unit in which zeroes are left out of a block, in bytes: what file systems store at the least.
const ZERO_UNIT: u64 = 4096;

/// The table of a disk that is new.
pub trait NewBlockTable: BlockTable {
    /// Gives a block its place: that which it has, or else the next one.
    ///
    /// # Errors
    /// Returns an error if the format has no room for it.
    fn place(&self, block: u64) -> Result<HostOffset>;

    /// Writes the table, and last of all the header, after which the image is whole. `flush` waits for stable storage
    /// before and after it.
    ///
    /// # Errors
    /// Returns the system's error.
    fn finish(&self, flush: bool) -> Result<()>;
}

/// A disk of blocks being written.
pub struct NewBlocks<T> {
    table: T,
    storage: Arc<dyn Storage>,
    flush: bool,
    /// Blocks that are left out, and the rest of those that aren't, read as zeroes.
    is_zero: bool,
    /// The same of blocks alone: an absent one is zero, whatever the medium holds.
    leaves_out: bool,
}

impl<T: NewBlockTable> NewBlocks<T> {
    /// A new disk in `storage`. One that is fixed has all blocks stored.
    pub fn new(table: T, storage: Arc<dyn Storage>, is_fixed: bool, flush: bool) -> Self {
        let is_zero = storage.starts_as_zeroes();
        Self {
            table,
            storage,
            flush,
            is_zero,
            leaves_out: is_zero || !is_fixed,
        }
    }

    fn unit(&self) -> u64 {
        if self.is_zero {
            ZERO_UNIT.min(self.table.block_size())
        } else {
            self.table.block_size()
        }
    }
}

impl<T: NewBlockTable> NewImage for NewBlocks<T> {
    fn allocation_unit(&self) -> usize {
        usize::try_from(self.table.block_size()).unwrap_or(usize::MAX)
    }

    fn zero_unit(&self) -> usize {
        usize::try_from(self.unit().min(ZERO_UNIT)).unwrap_or(usize::MAX)
    }

    fn table_unit(&self) -> usize {
        self.allocation_unit()
    }

    fn starts_as_zeroes(&self) -> bool {
        self.leaves_out
    }

    fn reserve(
        &self,
        guest: GuestOffset,
        chunk: usize,
        runs: &[Run],
        _zeroes: &[Run],
    ) -> Result<Reservation> {
        let size = self.table.block_size();
        let unit = self.unit();
        let mut reservation = Reservation::empty(guest);
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
                let within = |at: u64| usize::try_from(at.saturating_sub(guest.0)).unwrap_or(chunk);
                let piece = within(from)..within(to).min(chunk);
                let room = HostOffset(host + (from - first));
                let written = reservation.pieces.last().map(|(last, _)| last.end);
                if written.is_none_or(|written| piece.start >= written) {
                    let mut part = Reservation::empty(guest);
                    part.pieces.push((piece, room));
                    reservation.append(part, 0);
                }
                start = to;
            }
        }
        Ok(reservation)
    }

    fn encode(&self, _reservation: &Reservation, _chunk: &mut [u8]) -> Result<()> {
        Ok(())
    }

    fn write(&self, reservation: &Reservation, chunk: &[u8]) -> Result<()> {
        reservation.write_data(self.storage.as_ref(), chunk)
    }

    fn writes_serially(&self) -> bool {
        self.storage.writes_serially()
    }

    fn plain_storage(&self) -> Option<&dyn Storage> {
        Some(self.storage.as_ref())
    }

    fn write_metadata(&self, _reservation: &Reservation) -> Result<()> {
        Ok(())
    }

    fn finish(&self) -> Result<()> {
        debug_assert!(self.table.size().is_multiple_of(SECTOR_SIZE));
        self.table.finish(self.flush)
    }
}
