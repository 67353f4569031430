//! Data of another file that is written to the disk, and shares its blocks with that file where it can.
//!
//! Whole clusters share blocks if the caller allows that for their space. Parts of clusters are written like any other
//! data, since the rest of the cluster has to be put together with them.

use std::ops::Range;
use std::sync::atomic::Ordering;

use super::plan::Piece;
use super::{NewData, WritableQcow2};
use crate::error::{Error, Result};
use crate::formats::{SharedSpace, WritableImage as _};
use crate::storage::Storage;
use crate::units::GuestOffset;

/// The most bytes that are in memory at once while data is copied.
const COPIED_AT_ONCE: usize = 1 << 20;

/// The length of the part of the disk that is shared in one step, in bytes.
const STEP: u64 = 64 << 20;

impl WritableQcow2 {
    /// Writes data of `source`, from `source_offset` on, to `range`. Returns the number of bytes that share their
    /// blocks with it.
    ///
    /// # Errors
    /// Returns an error if `source` can't be read, or as a write does.
    pub(super) fn copy_range(
        &self,
        range: Range<u64>,
        (source, source_offset): (&dyn Storage, u64),
        space: SharedSpace,
    ) -> Result<u64> {
        let cluster = self.geometry.cluster_size();
        let first = range.start.next_multiple_of(cluster).min(range.end);
        let last = (range.end - self.geometry.within_cluster(range.end)).max(first);
        let source_at = |guest: u64| source_offset + (guest - range.start);
        for part in [range.start..first, last..range.end] {
            copy_pieces(
                source,
                source_at(part.start),
                part.end - part.start,
                |done, data| self.write_at(GuestOffset(part.start + done), data),
            )?;
        }
        let mut shared = 0;
        let mut start = first;
        while start < last {
            let end = self.step_end(start, last, STEP);
            let data = NewData::Stored(source, source_at(start), space);
            shared += self.write_data(start..end, data)?;
            start = end;
        }
        Ok(shared)
    }

    /// Copies whole clusters to a run of clusters, all of them new or none. `source` has guest byte `start` at `offset`.
    /// Returns the number of bytes that share their blocks with it.
    pub(super) fn copy_run(
        &self,
        run: &[Piece],
        start: u64,
        (source, offset): (&dyn Storage, u64),
        space: SharedSpace,
    ) -> Result<u64> {
        let (Some(first), Some(last)) = (run.first(), run.last()) else {
            return Ok(0);
        };
        let length = last.guest.end - first.guest.start;
        let from = offset + (first.guest.start - start);
        let storage = self.clusters.storage();
        let host = first.host.0;
        let may_share = first.is_fresh() || space == SharedSpace::All;
        if may_share && storage.share_from(host, source, from, length).is_ok() {
            self.length.fetch_max(host + length, Ordering::Relaxed);
            return Ok(length);
        }
        copy_pieces(source, from, length, |done, data| {
            storage.write_at(host + done, data)
        })?;
        self.length.fetch_max(host + length, Ordering::Relaxed);
        Ok(0)
    }
}

/// Reads `length` bytes of `source` from `offset` on. Passes each piece to `write`, with the number of bytes before it.
fn copy_pieces(
    source: &dyn Storage,
    offset: u64,
    length: u64,
    mut write: impl FnMut(u64, &[u8]) -> Result<()>,
) -> Result<()> {
    let longest = usize::try_from(length)
        .unwrap_or(usize::MAX)
        .min(COPIED_AT_ONCE);
    let mut buffer = vec![0; longest];
    let mut done = 0;
    while done < length {
        let left = usize::try_from(length - done).unwrap_or(usize::MAX);
        let piece = buffer.get_mut(..left.min(longest)).unwrap_or_default();
        let read = source.read_at(offset + done, piece)?;
        if read < piece.len() {
            return Err(Error::corrupt(format!(
                "data at {:#x} ends with the file",
                offset + done
            )));
        }
        write(done, piece)?;
        done += piece.len() as u64;
    }
    Ok(())
}
