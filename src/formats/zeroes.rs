//! Zeroes in a part of a storage: written, so that their space is taken, or made in whatever way is the cheapest.

use std::ops::Range;

use crate::error::Result;
use crate::storage::Storage;

/// The most that is written at once, in bytes.
const WRITE_SIZE: u64 = 2 << 20;

/// Writes zeroes, so that their space is taken.
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

/// Makes a part of a storage read as zeroes: by a hole, or where there can't be one by writing.
///
/// # Errors
/// Returns the system's error.
pub(super) fn make_zero(storage: &dyn Storage, range: Range<u64>) -> Result<()> {
    if range.is_empty() || storage.punch(range.clone())? {
        return Ok(());
    }
    write_zeroes(storage, range)
}
