//! From the source's extents to numbered chunks of work.
//!
//! Chunks stand at multiples of their size, so that none shares an allocation unit with another. A
//! chunk without data isn't handed out at all: a disk of terabytes that is one hole costs a few
//! look-ups.

use crate::error::Result;
use crate::formats::{ExtentKind, Image, Run};
use crate::units::GuestOffset;

/// A piece of the disk that holds data.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Chunk {
    /// Its number, from 0, without gaps, in guest order.
    pub(super) number: u64,
    /// Where it starts on the disk.
    pub(super) guest: GuestOffset,
    /// Its length in bytes: the chunk size, less at the disk's end.
    pub(super) length: usize,
    /// Where it holds data, in bytes from its start: sorted, disjoint.
    pub(super) data: Vec<Run>,
}

/// Hands out the chunks of a disk.
#[derive(Debug)]
pub(super) struct Chunks {
    next_number: u64,
    position: u64,
    size: u64,
    chunk_size: usize,
}

impl Chunks {
    /// The chunks of a disk of `size` bytes; `chunk_size` is a power of two.
    pub(super) fn new(size: u64, chunk_size: usize) -> Self {
        Self {
            next_number: 0,
            position: 0,
            size,
            chunk_size,
        }
    }

    /// The next chunk that holds data (or, unless `skip_holes`, the next chunk).
    pub(super) fn next(&mut self, source: &dyn Image, skip_holes: bool) -> Result<Option<Chunk>> {
        if skip_holes && !self.skip_hole(source)? {
            self.position = self.size;
        }
        if self.position >= self.size {
            return Ok(None);
        }
        let chunk_size = self.chunk_size as u64;
        let start = self.position / chunk_size * chunk_size;
        let end = (start + chunk_size).min(self.size);
        let data = if skip_holes {
            self.data_until(source, start, end)?
        } else {
            vec![0..relative(end, start)]
        };
        self.position = end;
        let number = self.next_number;
        self.next_number += 1;
        Ok(Some(Chunk {
            number,
            guest: GuestOffset(start),
            length: relative(end, start),
            data,
        }))
    }

    /// Moves on to the next data; `false` when there is none.
    fn skip_hole(&mut self, source: &dyn Image) -> Result<bool> {
        while self.position < self.size {
            let extent = extent_at(source, self.position, self.size)?;
            if matches!(extent.kind, ExtentKind::Data(_)) {
                return Ok(true);
            }
            self.position += extent.length;
        }
        Ok(false)
    }

    fn data_until(&self, source: &dyn Image, start: u64, end: u64) -> Result<Vec<Run>> {
        let mut data: Vec<Run> = Vec::new();
        let mut position = self.position;
        while position < end {
            let extent = extent_at(source, position, end)?;
            let run = relative(position, start)..relative(position + extent.length, start);
            position += extent.length;
            if !matches!(extent.kind, ExtentKind::Data(_)) {
                continue;
            }
            // Extents that are apart in the file may be neighbours on the disk.
            match data.last_mut() {
                Some(last) if last.end == run.start => last.end = run.end,
                _ => data.push(run),
            }
        }
        Ok(data)
    }
}

fn extent_at(source: &dyn Image, position: u64, end: u64) -> Result<crate::formats::Extent> {
    source
        .extent_at(GuestOffset(position), end - position)
        .map_err(|error| {
            error.context(format!(
                "error while reading block status at offset {position}"
            ))
        })
}

/// `offset − start`, which is at most a chunk's size.
fn relative(offset: u64, start: u64) -> usize {
    usize::try_from(offset - start).unwrap_or(usize::MAX)
}
