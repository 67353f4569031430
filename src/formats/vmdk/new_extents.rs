//! A new image of several extents, with a separate descriptor file.
//!
//! Each extent is a new image of its own, and a chunk of the disk may be in two of them. A reservation has the pieces
//! of all its parts. The index of the extent is in the highest bits of a piece's host offset.

use std::sync::Arc;

use crate::error::{Error, Result};
use crate::formats::{Backed, NewImage, Reservation, Run};
use crate::storage::Storage;
use crate::units::{GuestOffset, HostOffset};

/// The position of the extent's index in a host offset. The file of an extent is shorter than 2^48 bytes.
const NUMBER_AT: u32 = 48;

/// A new image of several extents.
pub(super) struct NewExtents {
    /// The guest offset of each extent, and the extent.
    extents: Vec<(u64, Box<dyn NewImage>)>,
    file: Arc<dyn Storage>,
    /// The text of the descriptor.
    text: Vec<u8>,
    flush: bool,
}

impl NewExtents {
    /// Combines the extents of a new image, each given with its length in bytes. `text` is written to `file` last.
    pub(super) fn new(
        extents: Vec<(u64, Box<dyn NewImage>)>,
        file: Arc<dyn Storage>,
        text: Vec<u8>,
        flush: bool,
    ) -> Self {
        let mut size = 0;
        let extents = extents
            .into_iter()
            .map(|(length, image)| {
                size += length;
                (size - length, image)
            })
            .collect();
        Self {
            extents,
            file,
            text,
            flush,
        }
    }

    /// Returns the extents with parts of a chunk: the index, the offset of the part in the extent, and the part.
    fn parts(&self, guest: GuestOffset, chunk: usize) -> Vec<(usize, u64, Run)> {
        let end = guest.0.saturating_add(chunk as u64);
        let ends = self.extents.iter().skip(1).map(|(start, _)| *start);
        let ends = ends.chain([u64::MAX]);
        let places = self.extents.iter().map(|(start, _)| *start).zip(ends);
        let within = |at: u64| usize::try_from(at - guest.0).unwrap_or(chunk).min(chunk);
        let parts = places
            .enumerate()
            .filter(|(_, (start, stop))| *start < end && *stop > guest.0);
        parts
            .map(|(number, (start, stop))| {
                let from = start.max(guest.0);
                (number, from - start, within(from)..within(stop.min(end)))
            })
            .collect()
    }

    fn extent(&self, number: usize) -> Result<&dyn NewImage> {
        let extent = self.extents.get(number);
        let extent = extent.map(|(_, image)| image.as_ref());
        extent.ok_or_else(|| Error::invalid(format!("the new image has no extent {number}")))
    }
}

/// Returns the parts of runs that are in a part of the chunk, relative to its start.
fn cut(runs: &[Run], part: &Run) -> Vec<Run> {
    let cut = runs.iter().map(|run| {
        let from = run.start.max(part.start);
        let to = run.end.min(part.end);
        from.saturating_sub(part.start)..to.saturating_sub(part.start)
    });
    cut.filter(|run| run.start < run.end).collect()
}

impl NewImage for NewExtents {
    fn allocation_unit(&self) -> usize {
        let extents = self.extents.iter();
        let units = extents.map(|(_, image)| image.allocation_unit());
        units.max().unwrap_or(512)
    }

    fn zero_unit(&self) -> usize {
        let extents = self.extents.iter();
        extents
            .map(|(_, image)| image.zero_unit())
            .max()
            .unwrap_or(512)
    }

    fn table_unit(&self) -> usize {
        let extents = self.extents.iter();
        extents
            .map(|(_, image)| image.table_unit())
            .max()
            .unwrap_or(512)
    }

    fn starts_as_zeroes(&self) -> bool {
        self.extents
            .iter()
            .all(|(_, image)| image.starts_as_zeroes())
    }

    fn backed(&self) -> Option<Backed> {
        let all: Option<Vec<Backed>> = self
            .extents
            .iter()
            .map(|(_, image)| image.backed())
            .collect();
        let all = all.filter(|all| !all.is_empty())?;
        Some(Backed {
            size: all.iter().map(|one| one.size).sum(),
            unit: all.iter().map(|one| one.unit).max()?,
            copies_ends: all.iter().any(|one| one.copies_ends),
        })
    }

    fn clear(&self) -> Result<()> {
        self.extents.iter().try_for_each(|(_, image)| image.clear())
    }

    fn reserve(
        &self,
        guest: GuestOffset,
        chunk: usize,
        runs: &[Run],
        zeroes: &[Run],
    ) -> Result<Reservation> {
        let mut all = Reservation::empty(guest);
        for (number, offset, part) in self.parts(guest, chunk) {
            let (data, zeroes) = (cut(runs, &part), cut(zeroes, &part));
            if data.is_empty() && zeroes.is_empty() {
                continue;
            }
            let extent = self.extent(number)?;
            let mut reserved = extent.reserve(GuestOffset(offset), part.len(), &data, &zeroes)?;
            for (_, host) in &mut reserved.pieces {
                host.0 |= (number as u64) << NUMBER_AT;
            }
            all.append(reserved, part.start);
        }
        Ok(all)
    }

    fn encode(&self, _reservation: &Reservation, _chunk: &mut [u8]) -> Result<()> {
        Ok(())
    }

    fn write(&self, reservation: &Reservation, chunk: &[u8]) -> Result<()> {
        for (run, host) in &reservation.pieces {
            let number = usize::try_from(host.0 >> NUMBER_AT).unwrap_or(usize::MAX);
            let place = HostOffset(host.0 & ((1 << NUMBER_AT) - 1));
            let mut part = Reservation::empty(reservation.guest);
            part.pieces.push((run.clone(), place));
            self.extent(number)?.write(&part, chunk)?;
        }
        Ok(())
    }

    fn writes_serially(&self) -> bool {
        self.extents
            .iter()
            .any(|(_, image)| image.writes_serially())
    }

    fn plain_storage(&self) -> Option<&dyn Storage> {
        None
    }

    fn write_metadata(&self, _reservation: &Reservation) -> Result<()> {
        Ok(())
    }

    fn finish(&self) -> Result<()> {
        for (_, image) in &self.extents {
            image.finish()?;
        }
        self.file.write_at(0, &self.text)?;
        self.file.flush_if(self.flush)
    }
}
