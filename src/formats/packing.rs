//! Packing of a chunk's units where they are: compressed ones move together, so that no second buffer of a chunk's
//! length is needed.

use std::cell::RefCell;

use super::reservation::PackedPart;
use crate::error::{Error, Result};

thread_local! {
    /// One unit's compressed bytes.
    static SCRATCH: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// Packs the units of `size` bytes that start at `starts`, from the lowest on, in bytes of `chunk`. `pack` puts what is
/// to be stored of a unit, no more than its length, into the vector, and returns true; or it returns false, and the
/// unit is stored as it is.
///
/// # Errors
/// Returns an error if a unit isn't whole, or what `pack` returns.
pub(super) fn pack_units(
    chunk: &mut [u8],
    size: usize,
    starts: impl Iterator<Item = usize>,
    mut pack: impl FnMut(usize, &[u8], &mut Vec<u8>) -> Result<bool>,
) -> Result<Vec<PackedPart>> {
    let partial = || Error::invalid("a run isn't whole units");
    let mut parts = Vec::with_capacity(chunk.len() / size.max(1));
    // Packed units are never longer than they were, so they never reach the next one.
    let mut end = 0;
    SCRATCH.with_borrow_mut(|scratch| {
        for start in starts {
            let unit = chunk.get(start..start + size).ok_or_else(partial)?;
            let compressed = pack(start, unit, scratch)?;
            let length = if compressed {
                let to = chunk.get_mut(end..end + scratch.len());
                to.ok_or_else(partial)?.copy_from_slice(scratch);
                scratch.len()
            } else {
                chunk.copy_within(start..start + size, end);
                size
            };
            parts.push(PackedPart {
                start,
                stored: end..end + length,
                compressed,
            });
            end += length;
        }
        Ok(parts)
    })
}
