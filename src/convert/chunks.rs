//! Chunks: the units of work into which the source's extents are divided.
//!
//! Chunks are whole blocks, except at the end of the disk, so that no two share an allocation unit. Chunks without
//! data are only handed out if all are wanted: a hole of terabytes takes a few look-ups.
//!
//! A target with a backing file has three kinds of parts. Data and zeroes are both stored. Nothing is done for parts
//! that are left to the backing file.

use super::runs::{cut_to, push};
use crate::error::Result;
use crate::formats::{Backed, Extent, ExtentKind, Image, Run};
use crate::units::{GuestOffset, HostOffset, SECTOR_SIZE};

/// The length in bytes of a block: the part of the disk for which space is reserved at once, unless a cluster is
/// larger. It affects the layout of a target, so it must never change. It is long enough that system calls cost
/// little, and short enough for a core's second-level cache.
pub(super) const BLOCK_SIZE: usize = 256 << 10;

/// The length of a request in bytes if requests wait, unless a block is longer. Network file systems send as much at
/// once.
pub(super) const REQUEST_SIZE: usize = 1 << 20;

/// The least number of chunks of a disk, if it has as many blocks.
const LEAST_CHUNKS: u64 = 16;

/// A piece of the disk that one worker copies.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Chunk {
    /// Its number, from 0, without gaps, in guest order.
    pub(super) number: u64,
    /// Its start on the disk.
    pub(super) guest: GuestOffset,
    /// Its length in bytes: whole blocks, except at the end of the disk.
    pub(super) length: usize,
    /// The parts with data, in bytes from its start: sorted, disjoint.
    pub(super) data: Vec<Run>,
    /// The parts that are left to the target's backing file, in whole units of the target: sorted, disjoint. The rest
    /// reads as zeroes.
    pub(super) left: Vec<Run>,
}

impl Chunk {
    /// Returns a part of the chunk as a chunk.
    pub(super) fn part(&self, part: &Run) -> Self {
        Self {
            number: self.number,
            guest: GuestOffset(self.guest.0 + part.start as u64),
            length: part.len(),
            data: cut_to(&self.data, part),
            left: cut_to(&self.left, part),
        }
    }

    /// Returns the parts of the first `length` bytes that aren't left to the backing file.
    pub(super) fn not_left(&self, length: usize) -> Vec<Run> {
        gaps(&self.left, length)
    }
}

/// Returns the parts of the first `length` bytes that `runs` (sorted, disjoint) don't cover.
pub(super) fn gaps(runs: &[Run], length: usize) -> Vec<Run> {
    let mut gaps = Vec::new();
    let mut end = 0;
    for run in runs {
        push(&mut gaps, end..run.start.min(length));
        end = run.end;
    }
    push(&mut gaps, end..length);
    gaps
}

/// Returns the whole units of the parts that can be left to the backing file. The rest becomes data: a unit is stored
/// as a whole, so the rest of it has to be copied. The last unit of a chunk of `length` bytes may end beyond the
/// chunk.
fn leave_whole_units(left: Vec<Run>, unit: usize, length: usize, data: &mut Vec<Run>) -> Vec<Run> {
    let mut whole = Vec::with_capacity(left.len());
    for run in left {
        let start = run.start.next_multiple_of(unit).min(run.end);
        let ends_chunk = run.end == length;
        let end = match run.end {
            end if ends_chunk => end,
            end => (end / unit * unit).max(start),
        };
        if start < end {
            whole.push(start..if ends_chunk { usize::MAX } else { end });
            data.push(run.start..start);
            data.push(end..run.end);
        } else {
            data.push(run);
        }
    }
    data.retain(|run| !run.is_empty());
    data.sort_unstable_by_key(|run| run.start);
    let mut joined = Vec::with_capacity(data.len());
    for run in data.drain(..) {
        push(&mut joined, run);
    }
    *data = joined;
    whole
}

/// The parts of a disk for which chunks are needed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wanted {
    /// Every byte.
    Everything,
    /// Data. The rest of the target reads as zeroes anyway.
    Data,
    /// Data and zeroes. The rest is left to the target's backing file.
    DataAndZeroes {
        /// The backing file.
        below: Backed,
        /// True if unallocated parts of the source are left to the backing file.
        leave_unallocated: bool,
        /// True if zeroes are written as data.
        write_zeroes: bool,
    },
}

/// The kind of a part of the disk for the target.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Part {
    Data,
    Zero,
    #[default]
    Left,
}

/// The iterator over the chunks of a disk.
#[derive(Debug)]
pub(super) struct Chunks {
    next_number: u64,
    position: u64,
    ahead: Ahead,
    size: u64,
    block: usize,
    /// The most blocks of zeroes that are handed out as one chunk.
    most_in_row: u64,
    wanted: Wanted,
    salvage: bool,
}

/// The end of the extent that was looked up last, and its kind.
#[derive(Debug, Clone, Copy, Default)]
struct Ahead {
    end: u64,
    part: Part,
}

impl Chunks {
    /// Returns the chunks of a disk of `size` bytes. The length of a block in bytes is a power of two. Chunks without
    /// anything `wanted` are skipped. With `salvage`, parts with damaged metadata count as data, so that reading them
    /// reports the error.
    pub(super) fn new(size: u64, block: usize, wanted: Wanted, salvage: bool) -> Self {
        Self {
            next_number: 0,
            position: 0,
            ahead: Ahead::default(),
            size,
            block,
            most_in_row: 1,
            wanted,
            salvage,
        }
    }

    /// Allows chunks of up to `most` blocks if all that is stored of them is zeroes.
    pub(super) fn with_rows_of_zeroes(mut self, most: u64) -> Self {
        self.most_in_row = most;
        self
    }

    /// Returns the number of bytes of data of all chunks.
    pub(super) fn data_bytes(&self, source: &dyn Image) -> Result<u64> {
        if self.wanted == Wanted::Everything {
            return Ok(self.size);
        }
        let mut bytes = 0;
        let mut position = 0;
        while position < self.size {
            let ahead = self.look(source, position)?;
            let is_written = match (ahead.part, self.wanted) {
                (Part::Data, _) => true,
                (Part::Zero, Wanted::DataAndZeroes { write_zeroes, .. }) => write_zeroes,
                _ => false,
            };
            if is_written {
                bytes += ahead.end - position;
            }
            position = ahead.end;
        }
        Ok(bytes)
    }

    /// Returns the next chunk, of up to `most` bytes or a block. It is only a small part of the disk, so that there
    /// are chunks for every worker.
    pub(super) fn next(&mut self, source: &dyn Image, most: usize) -> Result<Option<Chunk>> {
        if !self.skip(source)? {
            return Ok(None);
        }
        let block = self.block as u64;
        let start = self.position / block * block;
        let most = (most as u64).min(self.size / LEAST_CHUNKS);
        let length = (most / block * block).max(block);
        let end = (start + length).min(self.size);
        let end = end.max(self.end_of_row(start));
        let (mut data, left) = if self.wanted == Wanted::Everything {
            (vec![0..relative(end, start)], Vec::new())
        } else {
            self.parts_until(source, start, end)?
        };
        let left = match self.wanted {
            Wanted::DataAndZeroes { below, .. } => {
                leave_whole_units(left, below.unit, relative(end, start), &mut data)
            }
            _ => Vec::new(),
        };
        self.position = end;
        let number = self.next_number;
        self.next_number += 1;
        Ok(Some(Chunk {
            number,
            guest: GuestOffset(start),
            length: relative(end, start),
            data,
            left,
        }))
    }

    /// Advances to the next wanted part. Returns false if there is none.
    fn skip(&mut self, source: &dyn Image) -> Result<bool> {
        while self.position < self.size {
            let is_wanted = match self.wanted {
                Wanted::Everything => true,
                Wanted::Data => self.ahead(source)?.part == Part::Data,
                Wanted::DataAndZeroes { .. } => self.ahead(source)?.part != Part::Left,
            };
            if is_wanted {
                return Ok(true);
            }
            self.position = self.ahead.end;
        }
        Ok(false)
    }

    /// Returns the end of the zeroes that start at `start`, in whole blocks up to the limit of a row.
    fn end_of_row(&self, start: u64) -> u64 {
        let is_row = self.position == start && self.ahead.end > start;
        if !is_row || self.ahead.part != Part::Zero || self.most_in_row == 1 {
            return start;
        }
        let block = self.block as u64;
        let most = start.saturating_add(block.saturating_mul(self.most_in_row));
        let end = match self.ahead.end {
            end if end >= self.size => self.size,
            end => end / block * block,
        };
        end.min(most)
    }

    /// Advances to `end`. Returns the data and the left parts before it, in bytes from `start`.
    fn parts_until(
        &mut self,
        source: &dyn Image,
        start: u64,
        end: u64,
    ) -> Result<(Vec<Run>, Vec<Run>)> {
        let mut data: Vec<Run> = Vec::new();
        let mut left: Vec<Run> = Vec::new();
        // The part of this chunk before the position was skipped.
        push(&mut left, 0..relative(self.position, start));
        while self.position < end {
            let ahead = self.ahead(source)?;
            let run = relative(self.position, start)..relative(ahead.end.min(end), start);
            self.position = ahead.end.min(end);
            match ahead.part {
                Part::Data => push(&mut data, run),
                Part::Left => push(&mut left, run),
                Part::Zero => {}
            }
        }
        Ok((data, left))
    }

    /// Returns the part at the position. An extent is looked up once, however many chunks it spans.
    fn ahead(&mut self, source: &dyn Image) -> Result<Ahead> {
        if self.ahead.end <= self.position {
            self.ahead = self.look(source, self.position)?;
        }
        Ok(self.ahead)
    }

    /// Looks up the part at `position`, and its end.
    fn look(&self, source: &dyn Image, position: u64) -> Result<Ahead> {
        let extent = self.extent_at(source, position, self.size)?;
        let mut end = position + extent.length;
        let part = match (self.wanted, extent.kind) {
            (_, kind) if kind.is_data() => Part::Data,
            (
                Wanted::DataAndZeroes {
                    leave_unallocated: true,
                    ..
                },
                ExtentKind::Unallocated { .. },
            ) => {
                let part;
                (part, end) = self.leave(position, end);
                part
            }
            // Beyond its end the backing file reads as zeroes too.
            (Wanted::DataAndZeroes { below, .. }, _) if position >= below.size => Part::Left,
            (Wanted::DataAndZeroes { below, .. }, _) => {
                end = end.min(below.size);
                Part::Zero
            }
            _ => Part::Zero,
        };
        Ok(Ahead { end, part })
    }

    /// Returns the kind of a part that may be left to the backing file, and the end up to which it applies.
    fn leave(&self, position: u64, end: u64) -> (Part, u64) {
        let Wanted::DataAndZeroes { below, .. } = self.wanted else {
            return (Part::Left, end);
        };
        let unit = below.unit as u64;
        let ends = [below.size, self.size].map(|end| {
            let start = end / unit * unit;
            start..end.checked_next_multiple_of(unit).unwrap_or(end)
        });
        let mut end = end;
        for last in ends.iter().filter(|_| below.copies_ends) {
            if last.contains(&position) {
                return (Part::Data, end.min(last.end));
            }
            if position < last.start {
                end = end.min(last.start);
            }
        }
        (Part::Left, end)
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

/// Returns `offset − start`, which is at most a chunk's length.
fn relative(offset: u64, start: u64) -> usize {
    usize::try_from(offset - start).unwrap_or(usize::MAX)
}
