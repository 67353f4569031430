//! A conversion into an existing image. It overwrites the image's contents, except for those beyond the end of the
//! source.
//!
//! No space is reserved: each chunk is written by its worker like any other write. Zeroes are made when their chunk
//! is reserved, with metadata if possible. If the image has no backing file and its version has no table entry for
//! zero, unallocated parts stay as they are. Otherwise zeroes are always entered in the tables, so that they also
//! hide the data of a backing file that the image may get later.

use std::ops::Range;

use super::extent::ExtentKind;
use super::image::{SharedSpace, WritableImage};
use super::new_image::{Backed, NewImage, Run, smaller_than_input};
use super::reservation::Reservation;
use crate::error::{Error, Result};
use crate::storage::Storage;
use crate::units::{GuestOffset, HostOffset, SECTOR_LEN, SECTOR_SIZE};

/// An existing image to which a disk is copied.
pub struct OverwrittenImage {
    image: Box<dyn WritableImage>,
    size: u64,
    options: OverwriteOptions,
}

/// The options of a conversion into an existing image.
#[derive(Debug, Clone, Copy, Default)]
pub struct OverwriteOptions {
    /// True if the caller guarantees that the image reads as zeroes.
    pub is_zero: bool,
    /// True if data is compressed.
    pub compressed: bool,
    /// True if parts may be left unchanged that are smaller than a cluster.
    pub leaves_parts: bool,
    /// True if the source is emptied or deleted afterwards, so that the image may take over its blocks.
    pub source_goes: bool,
}

impl OverwrittenImage {
    /// Prepares to write a disk of `size` bytes to the start of `image`.
    ///
    /// # Errors
    /// Returns an error if the image is smaller, or if data is to be compressed and the image doesn't support that.
    pub fn new(
        image: Box<dyn WritableImage>,
        size: u64,
        options: OverwriteOptions,
    ) -> Result<Self> {
        if options.compressed {
            image.check_compression()?;
        }
        if image.size() < size {
            return Err(smaller_than_input());
        }
        Ok(Self {
            image,
            size: size.next_multiple_of(SECTOR_SIZE),
            options,
        })
    }

    /// Returns the unit of writing in bytes. Compressed clusters are written as a whole.
    fn unit(&self) -> usize {
        if self.options.leaves_parts && !self.options.compressed {
            return SECTOR_LEN;
        }
        if self.options.compressed {
            return self.image.allocation_unit();
        }
        self.image.zero_unit()
    }

    /// Returns the range of the disk of a run of a chunk, without the bytes beyond the source's end, which must stay
    /// as they are.
    fn range(&self, guest: GuestOffset, run: &Run) -> Range<u64> {
        let at = |within: usize| guest.0.saturating_add(within as u64).min(self.size);
        at(run.start)..at(run.end)
    }

    /// Makes a range of the disk zero, with table entries if the image's version has them.
    fn zero(&self, range: Range<u64>) -> Result<()> {
        let mut start = range.start;
        if self.image.stores_zeroes() && start < range.end {
            let length = range.end - start;
            return self.image.write_zeroes(GuestOffset(start), length, true);
        }
        while start < range.end {
            let offset = GuestOffset(start);
            let extent = self.image.extent_at(offset, range.end - start)?;
            let is_zero = match extent.kind {
                ExtentKind::Zero { .. } => true,
                ExtentKind::Unallocated { .. } => self.image.backing_size().is_none(),
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

impl NewImage for OverwrittenImage {
    fn allocation_unit(&self) -> usize {
        self.image.allocation_unit()
    }

    fn zero_unit(&self) -> usize {
        self.unit()
    }

    fn table_unit(&self) -> usize {
        self.image.allocation_unit()
    }

    /// Returns the size of a buffer for a cluster. With compression that is a cluster for assembling one, and about
    /// two for the encoder.
    fn memory_to_write(&self) -> usize {
        let clusters = if self.options.compressed { 3 } else { 1 };
        clusters * self.image.allocation_unit()
    }

    fn starts_as_zeroes(&self) -> bool {
        self.options.is_zero
    }

    /// Returns the image's present contents as its backing file. Parts that aren't data are zeroed unless they are
    /// left.
    fn backed(&self) -> Option<Backed> {
        (!self.options.is_zero).then_some(Backed {
            size: self.size,
            unit: self.unit(),
            copies_ends: self.options.compressed,
        })
    }

    fn reserve(
        &self,
        guest: GuestOffset,
        _chunk: usize,
        runs: &[Run],
        zeroes: &[Run],
    ) -> Result<Reservation> {
        for run in zeroes {
            self.zero(self.range(guest, run))?;
        }
        // Nothing is reserved. Guest offsets stand for the place, so that contiguous runs are written at once.
        let place = |run: &Run| HostOffset(guest.0.saturating_add(run.start as u64));
        Ok(Reservation {
            guest,
            pieces: runs.iter().map(|run| (run.clone(), place(run))).collect(),
            metadata: Vec::new(),
        })
    }

    fn reserve_zeroes(&self, guest: GuestOffset, zeroes: &[Run]) -> Result<bool> {
        for run in zeroes {
            self.zero(self.range(guest, run))?;
        }
        Ok(true)
    }

    fn encode(&self, _reservation: &Reservation, _chunk: &mut [u8]) -> Result<()> {
        Ok(())
    }

    fn write(&self, reservation: &Reservation, chunk: &[u8]) -> Result<()> {
        for (run, _) in &reservation.pieces {
            let range = self.range(reservation.guest, run);
            let length = usize::try_from(range.end - range.start).unwrap_or(usize::MAX);
            let data = chunk.get(run.start..).and_then(|data| data.get(..length));
            let data =
                data.ok_or_else(|| Error::invalid("the reservation is for another chunk"))?;
            let offset = GuestOffset(range.start);
            if self.options.compressed {
                self.image.write_compressed(offset, data)?;
            } else {
                self.image.write_at(offset, data)?;
            }
        }
        Ok(())
    }

    fn writes_serially(&self) -> bool {
        // Encrypting and compressing are part of the write here, and gain from several threads.
        !self.options.compressed && self.image.writes_serially()
    }

    fn plain_storage(&self) -> Option<&dyn Storage> {
        None
    }

    fn image_in_use(&self) -> Option<(&dyn WritableImage, SharedSpace)> {
        let space = match self.options.source_goes {
            true => SharedSpace::All,
            false => SharedSpace::New,
        };
        (!self.options.compressed).then_some((self.image.as_ref(), space))
    }

    fn write_metadata(&self, _reservation: &Reservation) -> Result<()> {
        Ok(())
    }

    fn finish(&self) -> Result<()> {
        self.image.close()
    }
}
