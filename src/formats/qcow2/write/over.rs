//! A conversion into an image that exists: what it holds is written over, what lies beyond the
//! source's end stays.
//!
//! No room is reserved: each chunk is written as any writer would write it, by whichever worker has
//! it. Whole clusters of zeroes are made zero without data, or left alone where they are zero
//! already.

use std::ops::Range;

use super::WritableQcow2;
use crate::error::{Error, Result};
use crate::formats::{ExtentKind, Image as _, NewImage, Reservation, Run, WritableImage as _};
use crate::storage::Storage;
use crate::units::{GuestOffset, HostOffset, SECTOR_SIZE};

/// An image in use that a disk is copied into.
pub struct OverQcow2 {
    image: WritableQcow2,
    size: u64,
    is_zero: bool,
}

impl OverQcow2 {
    /// Writes a disk of `size` bytes over the start of `image`. `is_zero` promises that it reads as
    /// zeroes already.
    ///
    /// # Errors
    /// The image is smaller.
    pub fn new(image: WritableQcow2, size: u64, is_zero: bool) -> Result<Self> {
        if image.size() < size {
            return Err(Error::invalid("output file is smaller than input file"));
        }
        Ok(Self {
            image,
            size: size.next_multiple_of(SECTOR_SIZE),
            is_zero,
        })
    }

    /// Writes to guest byte `start`, cluster by cluster what is zero, in long runs what isn't.
    fn write_run(&self, start: u64, data: &[u8]) -> Result<()> {
        let cluster_size = self.image.cluster_len() as u64;
        let mut clusters = Vec::new();
        let mut at = start;
        let mut rest = data;
        while !rest.is_empty() {
            let left = cluster_size - at % cluster_size;
            let length = usize::try_from(left).unwrap_or(usize::MAX).min(rest.len());
            let (cluster, after) = rest.split_at(length);
            clusters.push((at..at + length as u64, is_zero(cluster)));
            at += length as u64;
            rest = after;
        }
        for run in clusters.chunk_by(|one, other| one.1 == other.1) {
            let (Some((first, is_zero)), Some((last, _))) = (run.first(), run.last()) else {
                continue;
            };
            let range = first.start..last.end;
            if *is_zero {
                self.zero(range)?;
                continue;
            }
            let from = usize::try_from(range.start - start).unwrap_or(usize::MAX);
            let to = usize::try_from(range.end - start).unwrap_or(usize::MAX);
            let part = data.get(from..to).unwrap_or_default();
            self.image.write_at(GuestOffset(range.start), part)?;
        }
        Ok(())
    }

    /// Makes zero what isn't zero yet.
    fn zero(&self, range: Range<u64>) -> Result<()> {
        let mut start = range.start;
        while start < range.end {
            let offset = GuestOffset(start);
            let extent = self.image.extent_at(offset, range.end - start)?;
            let is_zero = match extent.kind {
                ExtentKind::Zero { .. } => true,
                ExtentKind::Unallocated { .. } => !self.image.is_backed(),
                ExtentKind::Data(_) | ExtentKind::Encoded => false,
            };
            if !is_zero {
                self.image.write_zeroes(offset, extent.length, true)?;
            }
            start += extent.length;
        }
        Ok(())
    }
}

/// Whether there are zeroes only; compared in runs, which the compiler makes vectors of.
fn is_zero(data: &[u8]) -> bool {
    data.chunks(1024)
        .all(|run| run.iter().fold(0, |any, byte| any | byte) == 0)
}

impl NewImage for OverQcow2 {
    fn allocation_unit(&self) -> usize {
        self.image.cluster_len()
    }

    fn zero_unit(&self) -> usize {
        self.image.cluster_len()
    }

    fn starts_as_zeroes(&self) -> bool {
        self.is_zero
    }

    fn reserve(
        &self,
        guest: GuestOffset,
        _chunk: usize,
        runs: &[Run],
        _zeroes: &[Run],
    ) -> Result<Reservation> {
        // What is beyond the source's end is no zero of the source's.
        let left = usize::try_from(self.size.saturating_sub(guest.0)).unwrap_or(usize::MAX);
        let clip = |run: &Run| run.start.min(left)..run.end.min(left);
        Ok(Reservation {
            guest,
            pieces: runs.iter().map(|run| (clip(run), HostOffset(0))).collect(),
            metadata: None,
        })
    }

    fn encode(&self, _reservation: &Reservation, _chunk: &mut [u8]) -> Result<()> {
        Ok(())
    }

    fn write(&self, reservation: &Reservation, chunk: &[u8]) -> Result<()> {
        for (run, _) in &reservation.pieces {
            let data = chunk.get(run.clone());
            let data =
                data.ok_or_else(|| Error::invalid("the reservation is for another chunk"))?;
            self.write_run(reservation.guest.0 + run.start as u64, data)?;
        }
        Ok(())
    }

    fn writes_serially(&self) -> bool {
        // Encrypting is part of writing here, and worth several threads.
        !self.image.is_encrypted() && self.image.stored.storage().writes_serially()
    }

    fn plain_storage(&self) -> Option<&dyn Storage> {
        None
    }

    fn write_metadata(&self, _reservation: &Reservation) -> Result<()> {
        Ok(())
    }

    fn finish(&self) -> Result<()> {
        self.image.close()
    }
}
