//! From the source's extents to numbered chunks of work.
//!
//! Chunks stand at multiples of their size, so that none shares an allocation unit with another. A
//! chunk without data isn't handed out unless all are asked for: a disk of terabytes that is one hole
//! costs a few look-ups.

use crate::error::Result;
use crate::formats::{Extent, ExtentKind, Image, Run};
use crate::units::{GuestOffset, HostOffset, SECTOR_SIZE};

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
    ahead: Ahead,
    size: u64,
    chunk_size: usize,
    skip_holes: bool,
    salvage: bool,
}

/// The end of the extent that was asked for last, and whether it holds data.
#[derive(Debug, Clone, Copy, Default)]
struct Ahead {
    end: u64,
    is_data: bool,
}

impl Chunks {
    /// The chunks of a disk of `size` bytes; `chunk_size` is a power of two. With `skip_holes` only
    /// those that hold data; with `salvage` places whose metadata is damaged count as data, which
    /// whoever reads them will find can't be read.
    pub(super) fn new(size: u64, chunk_size: usize, skip_holes: bool, salvage: bool) -> Self {
        Self {
            next_number: 0,
            position: 0,
            ahead: Ahead::default(),
            size,
            chunk_size,
            skip_holes,
            salvage,
        }
    }

    /// How many bytes of data all chunks have together.
    pub(super) fn data_bytes(&self, source: &dyn Image) -> Result<u64> {
        if !self.skip_holes {
            return Ok(self.size);
        }
        let mut bytes = 0;
        let mut position = 0;
        while position < self.size {
            let extent = self.extent_at(source, position, self.size)?;
            if extent.kind.is_data() {
                bytes += extent.length;
            }
            position += extent.length;
        }
        Ok(bytes)
    }

    /// The next chunk.
    pub(super) fn next(&mut self, source: &dyn Image) -> Result<Option<Chunk>> {
        if self.skip_holes && !self.skip_hole(source)? {
            self.position = self.size;
        }
        if self.position >= self.size {
            return Ok(None);
        }
        let chunk_size = self.chunk_size as u64;
        let start = self.position / chunk_size * chunk_size;
        let end = (start + chunk_size).min(self.size);
        let data = if self.skip_holes {
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
            let ahead = self.ahead(source)?;
            if ahead.is_data {
                return Ok(true);
            }
            self.position = ahead.end;
        }
        Ok(false)
    }

    /// Moves on to `end` and gives the data on the way, in bytes from `start`.
    fn data_until(&mut self, source: &dyn Image, start: u64, end: u64) -> Result<Vec<Run>> {
        let mut data: Vec<Run> = Vec::new();
        while self.position < end {
            let ahead = self.ahead(source)?;
            let run = relative(self.position, start)..relative(ahead.end.min(end), start);
            self.position = ahead.end.min(end);
            if !ahead.is_data {
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

    /// What is at the position. An extent is asked for once, however many chunks it spans.
    fn ahead(&mut self, source: &dyn Image) -> Result<Ahead> {
        if self.ahead.end <= self.position {
            let extent = self.extent_at(source, self.position, self.size)?;
            self.ahead = Ahead {
                end: self.position + extent.length,
                is_data: extent.kind.is_data(),
            };
        }
        Ok(self.ahead)
    }

    fn extent_at(&self, source: &dyn Image, position: u64, end: u64) -> Result<Extent> {
        let start = GuestOffset(position);
        match source.extent_at(start, end - position) {
            Err(_) if self.salvage => Ok(Extent {
                start,
                length: SECTOR_SIZE.min(end - position),
                kind: ExtentKind::Data(HostOffset(0)),
                depth: 0,
            }),
            other => other.map_err(|error| {
                error.context(format!(
                    "error while reading block status at offset {position}"
                ))
            }),
        }
    }
}

/// `offset − start`, which is at most a chunk's size.
fn relative(offset: u64, start: u64) -> usize {
    usize::try_from(offset - start).unwrap_or(usize::MAX)
}
