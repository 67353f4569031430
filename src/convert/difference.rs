//! Whether two disks hold the same, with many threads; and if not, where they differ first.
//!
//! Where neither has data, nothing is read. Chunks are handed out in guest order and every chunk that
//! was handed out is looked at, so the least difference found is the first there is.

use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicU64, Ordering};

use super::buffer::Buffer;
use super::chunks::Chunk;
use super::scan::{Step, scan};
use super::{Observer, read_chunk};
use crate::error::Result;
use crate::formats::{Extent, ExtentKind, Image};
use crate::units::{GuestOffset, HostOffset};

/// The first byte of the first `size` that two disks differ in, if there is one. Neither may be
/// smaller than that.
///
/// # Errors
/// The first error of reading either, saying where.
pub fn first_difference(
    one: &dyn Image,
    other: &dyn Image,
    size: u64,
    workers: NonZeroUsize,
    observer: &dyn Observer,
) -> Result<Option<GuestOffset>> {
    let pair = Pair {
        one,
        other,
        size,
        first: AtomicU64::new(u64::MAX),
    };
    scan(&pair, size, workers, observer, &pair)?;
    let first = pair.first.into_inner();
    Ok((first != u64::MAX).then_some(GuestOffset(first)))
}

struct Pair<'a> {
    one: &'a dyn Image,
    other: &'a dyn Image,
    size: u64,
    first: AtomicU64,
}

/// Where either has data.
impl Image for Pair<'_> {
    fn size(&self) -> u64 {
        self.size
    }

    fn extent_at(&self, offset: GuestOffset, limit: u64) -> Result<Extent> {
        let one = self.one.extent_at(offset, limit)?;
        let other = self.other.extent_at(offset, one.length)?;
        let kind = if one.kind.is_data() || other.kind.is_data() {
            ExtentKind::Data(HostOffset(0))
        } else {
            ExtentKind::Zero { kept: None }
        };
        Ok(Extent { kind, ..other })
    }

    fn read_at(&self, offset: GuestOffset, buf: &mut [u8]) -> Result<()> {
        self.one.read_at(offset, buf)
    }
}

impl Step for Pair<'_> {
    fn step(&self, chunk: &Chunk, [one, other]: &mut [Buffer; 2]) -> Result<bool> {
        let one = one.get(chunk.length);
        let other = other.get(chunk.length);
        read_chunk(self.one, chunk, one)?;
        read_chunk(self.other, chunk, other)?;
        if one == other {
            return Ok(true);
        }
        let place = one.iter().zip(other).position(|(one, other)| one != other);
        let at = chunk.guest.0 + place.unwrap_or(0) as u64;
        self.first.fetch_min(at, Ordering::Relaxed);
        Ok(false)
    }
}
