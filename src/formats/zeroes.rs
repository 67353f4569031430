//! Zeroing of a part of a storage: by writing, which allocates the space, or in the cheapest way.

use std::ops::Range;

use crate::error::Result;
use crate::storage::Storage;

/// The largest number of bytes that is written at once.
const WRITE_SIZE: u64 = 2 << 20;

/// Writes zeroes, which allocates the space.
///
/// # Errors
/// Returns the system's error.
pub(super) fn write_zeroes(storage: &dyn Storage, range: Range<u64>) -> Result<()> {
    let most = WRITE_SIZE.min(range.end.saturating_sub(range.start));
    let zeroes = vec![0; usize::try_from(most).unwrap_or(0)];
    let mut start = range.start;
    while start < range.end {
        let length = usize::try_from(range.end - start).unwrap_or(usize::MAX);
        let part = zeroes.get(..length).unwrap_or(&zeroes);
        storage.write_at(start, part)?;
        start += part.len() as u64;
    }
    Ok(())
}

/// Makes a part of a storage read as zeroes: with a hole if possible, else by writing.
///
/// # Errors
/// Returns the system's error.
pub(super) fn make_zero(storage: &dyn Storage, range: Range<u64>) -> Result<()> {
    if range.is_empty() || storage.punch(range.clone())? {
        return Ok(());
    }
    write_zeroes(storage, range)
}
