//! Compression of the units of a chunk in place. The compressed units are moved together, so that no second buffer of
//! the chunk's length is needed.

use std::cell::RefCell;

use super::reservation::ChunkPart;
use crate::error::{Error, Result};

thread_local! {
    /// The compressed bytes of one unit.
    static SCRATCH: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// Compresses the units of `size` bytes that start at `starts`, in ascending order, in place in `chunk`. `compress`
/// writes the stored bytes of a unit, at most `size`, to the vector and returns true. It returns false if the unit is
/// to be stored uncompressed.
///
/// # Errors
/// Returns an error if a unit isn't whole, or the error of `compress`.
pub(super) fn compress_units(
    chunk: &mut [u8],
    size: usize,
    starts: impl Iterator<Item = usize>,
    mut compress: impl FnMut(usize, &[u8], &mut Vec<u8>) -> Result<bool>,
) -> Result<Vec<ChunkPart>> {
    let partial = || Error::invalid("a run isn't whole units");
    let mut parts = Vec::with_capacity(chunk.len() / size.max(1));
    // A compressed unit is never longer than before, so that it doesn't overlap the next one.
    let mut end = 0;
    SCRATCH.with_borrow_mut(|scratch| {
        for start in starts {
            let unit = chunk.get(start..start + size).ok_or_else(partial)?;
            let is_smaller = compress(start, unit, scratch)?;
            let length = if is_smaller {
                let to = chunk.get_mut(end..end + scratch.len());
                to.ok_or_else(partial)?.copy_from_slice(scratch);
                scratch.len()
            } else {
                chunk.copy_within(start..start + size, end);
                size
            };
            parts.push(ChunkPart {
                start,
                stored: end..end + length,
                compressed: is_smaller,
            });
            end += length;
        }
        Ok(parts)
    })
}
