//! The comparison of the contents of two disks.
//!
//! The disks are treated as one [`Pair`], which has data wherever at least one of the two isn't known to be zero. As
//! in a copy, the data is divided into chunks. Worker threads take chunks ([`super::parallel_read`]), read both disks
//! (which decrypts), and compare. All data beyond the end of the shorter disk has to be zero.
//!
//! For any number of workers, the reported difference is the one that a single worker would find. Chunks are handed
//! out in guest order, only the first difference is kept, and a worker only stops at a chunk after it.

mod difference;
mod strict;

use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

pub use self::difference::{Difference, Side};

use self::difference::no_status;
use super::Observer;
use super::buffer::Buffer;
use super::chunks::Chunk;
use super::parallel_read::{ReadStep, parallel_read};
use super::reached::Reached;
use crate::error::{Error, Result};
use crate::formats::{Extent, ExtentKind, Image};
use crate::units::{GuestOffset, HostOffset, SECTOR_LEN, SECTOR_SIZE};

/// The outcome of comparing two disks.
#[derive(Debug)]
pub struct Comparison {
    /// True if one disk is longer, and both are the same up to the end of the shorter one.
    pub longer: bool,
    /// The first difference that was found.
    pub finding: Difference,
}

/// Compares two disks. With `strict`, their sizes and allocation status count as well.
pub fn compare(
    sides: [Side<'_>; 2],
    strict: bool,
    workers: NonZeroUsize,
    observer: &dyn Observer,
) -> Comparison {
    let sizes = sides.map(|side| side.image.size());
    let common = sizes[0].min(sizes[1]);
    let total = sizes[0].max(sizes[1]);
    observer.progress(0, total.max(1));
    if strict && common != total {
        return Comparison {
            longer: false,
            finding: Difference::Size,
        };
    }
    let first = FirstDifference::new(total);
    if strict && let Some((offset, finding)) = strict::first_mismatch(sides) {
        first.found(offset, finding);
    }
    let (offset, finding) = compare_pair(sides, first, total, workers, observer);
    if matches!(finding, Difference::Same) && total > 0 {
        observer.progress(total, total);
    }
    Comparison {
        longer: common != total && offset >= common,
        finding,
    }
}

/// Returns the offset of the first sector in which the disks differ, if there is one. The second disk is at least as
/// long as the first, and isn't read beyond the end of the first.
///
/// # Errors
/// Returns an error if a disk can't be read, with its name and the offset.
pub fn first_difference(
    sides: [Side<'_>; 2],
    workers: NonZeroUsize,
    observer: &dyn Observer,
) -> Result<Option<GuestOffset>> {
    let size = sides[0].image.size();
    match compare_pair(sides, FirstDifference::new(size), size, workers, observer).1 {
        Difference::Content(offset) => Ok(Some(offset)),
        Difference::NoStatus(error) | Difference::NoData(error) => Err(error),
        Difference::Same | Difference::Size | Difference::Status(_) => Ok(None),
    }
}

/// Searches for a difference before the one that was found `first`. Returns the first of all with its offset.
fn compare_pair(
    sides: [Side<'_>; 2],
    first: FirstDifference,
    total: u64,
    workers: NonZeroUsize,
    observer: &dyn Observer,
) -> (u64, Difference) {
    let pair = Pair {
        sides,
        // Nothing after a difference needs to be compared.
        size: first.end().next_multiple_of(SECTOR_SIZE),
    };
    let job = CompareJob {
        sides,
        first,
        observer,
        reached: Reached::default(),
        total,
    };
    // Parts with damaged metadata count as data, so that a worker finds the error.
    if let Err(error) = parallel_read(&pair, pair.size, true, workers, &job) {
        job.first.found(0, Difference::NoStatus(error));
    }
    job.first.into_inner()
}

/// Two disks as one image, whose data is all that has to be compared.
struct Pair<'a> {
    sides: [Side<'a>; 2],
    size: u64,
}

impl Image for Pair<'_> {
    fn size(&self) -> u64 {
        self.size
    }

    fn extent_at(&self, start: GuestOffset, limit: u64) -> Result<Extent> {
        let (mut length, mut zero) = (limit, true);
        for side in self.sides {
            let (is_zero, run) = side.zeroes_at(start, length)?;
            length = run;
            zero &= is_zero;
        }
        let kind = if zero {
            ExtentKind::Zero { kept: None }
        } else {
            ExtentKind::Data(HostOffset(start.0))
        };
        Ok(Extent {
            start,
            length,
            kind,
            depth: 0,
        })
    }

    fn memory_to_read(&self) -> usize {
        let memory = self.sides.map(|side| side.image.memory_to_read());
        memory.into_iter().max().unwrap_or(0)
    }

    fn read_at(&self, _: GuestOffset, _: &mut [u8]) -> Result<()> {
        Err(Error::invalid("a pair of disks has no contents of its own"))
    }
}

impl Side<'_> {
    /// Returns true if this disk is known to be zero at `start`, and the number of bytes to which the answer applies,
    /// in whole sectors.
    fn zeroes_at(self, start: GuestOffset, limit: u64) -> Result<(bool, u64)> {
        let Some(left) = self
            .image
            .size()
            .checked_sub(start.0)
            .filter(|left| *left > 0)
        else {
            return Ok((true, limit));
        };
        let status = self.image.status_at(start, limit.min(left))?;
        // A sector that is only partly a hole is data.
        let zeroes = status.length / SECTOR_SIZE * SECTOR_SIZE;
        Ok(if status.zero && zeroes > 0 {
            (true, zeroes)
        } else {
            (false, status.length.next_multiple_of(SECTOR_SIZE))
        })
    }

    /// Reads from the disk, and zeroes beyond its end.
    fn read_at(self, start: GuestOffset, buffer: &mut [u8]) -> Result<()> {
        let left = self.image.size().saturating_sub(start.0);
        let left = usize::try_from(left).unwrap_or(usize::MAX);
        let (stored, beyond) = buffer.split_at_mut(left.min(buffer.len()));
        beyond.fill(0);
        if stored.is_empty() {
            return Ok(());
        }
        self.image.read_at(start, stored)
    }
}

/// The first of the differences that all workers have found so far.
#[derive(Debug)]
struct FirstDifference {
    end: AtomicU64,
    found: Mutex<(u64, Difference)>,
}

impl FirstDifference {
    /// Returns the state without any difference before `end`.
    fn new(end: u64) -> Self {
        Self {
            end: AtomicU64::new(end),
            found: Mutex::new((end, Difference::Same)),
        }
    }

    /// Returns the offset of the first difference, from which on nothing needs to be compared.
    fn end(&self) -> u64 {
        self.end.load(Ordering::Relaxed)
    }

    fn found(&self, offset: u64, finding: Difference) {
        let mut found = self.found.lock().unwrap_or_else(PoisonError::into_inner);
        if offset < found.0 {
            *found = (offset, finding);
            self.end.store(offset, Ordering::Relaxed);
        }
    }

    fn into_inner(self) -> (u64, Difference) {
        self.found
            .into_inner()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

/// The state that the workers share.
struct CompareJob<'a> {
    sides: [Side<'a>; 2],
    first: FirstDifference,
    observer: &'a dyn Observer,
    reached: Reached,
    total: u64,
}

impl ReadStep for CompareJob<'_> {
    /// Other workers have the chunks before this one already, so no more chunks are needed after a difference.
    fn step(&self, chunk: &Chunk, [one, other]: &mut [Buffer; 2], read: &dyn Fn()) -> Result<bool> {
        self.observer.go_on()?;
        for run in &chunk.data {
            let start = GuestOffset(chunk.guest.0 + run.start as u64);
            let both = [one.get(run.len()), other.get(run.len())];
            if let Some((offset, finding)) = self.compare_run(start, both) {
                self.first.found(offset.0, finding);
                return Ok(false);
            }
        }
        read();
        let end = chunk.guest.0 + chunk.length as u64;
        self.reached.done(chunk.number, end, |end| {
            // The end of the whole disk is reported later, when all is known to be the same.
            if end < self.total {
                self.observer.progress(end, self.total);
            }
        });
        Ok(true)
    }
}

impl CompareJob<'_> {
    /// Compares a run of both disks, with buffers of the run's length.
    fn compare_run(
        &self,
        start: GuestOffset,
        mut both: [&mut [u8]; 2],
    ) -> Option<(GuestOffset, Difference)> {
        for (side, buffer) in self.sides.into_iter().zip(&mut both) {
            if side.read_at(start, buffer).is_err() {
                return self.find_trouble(start, buffer.len());
            }
        }
        let [one, other] = both;
        let within = first_sector(one, other)?;
        let offset = GuestOffset(start.0 + within as u64);
        Some((offset, Difference::Content(offset)))
    }

    /// Compares a run that can't be read as a whole sector by sector, to find the failing one.
    fn find_trouble(&self, start: GuestOffset, length: usize) -> Option<(GuestOffset, Difference)> {
        for within in (0..length).step_by(SECTOR_LEN) {
            let offset = GuestOffset(start.0 + within as u64);
            let mut sectors = [[0; SECTOR_LEN]; 2];
            let mut zero = true;
            for side in self.sides {
                match side.zeroes_at(offset, SECTOR_SIZE) {
                    Ok((is_zero, _)) => zero &= is_zero,
                    Err(error) => return Some((offset, no_status(side, error))),
                }
            }
            if zero {
                continue;
            }
            for (side, sector) in self.sides.into_iter().zip(&mut sectors) {
                if let Err(error) = side.read_at(offset, sector) {
                    let what = format!("Error while reading offset {} of {}", offset.0, side.name);
                    return Some((offset, Difference::NoData(error.context(what))));
                }
            }
            if sectors[0] != sectors[1] {
                return Some((offset, Difference::Content(offset)));
            }
        }
        None
    }
}

/// Returns the start of the first sector that differs.
fn first_sector(one: &[u8], other: &[u8]) -> Option<usize> {
    if one == other {
        return None;
    }
    let mut sectors = one.chunks(SECTOR_LEN).zip(other.chunks(SECTOR_LEN));
    let number = sectors.position(|(one, other)| one != other);
    number.map(|number| number * SECTOR_LEN)
}

#[cfg(test)]
mod tests;
