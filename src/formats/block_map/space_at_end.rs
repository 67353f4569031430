//! The allocation of space at the end of a file, for blocks and tables.

use std::sync::{Arc, Mutex, PoisonError};

use crate::error::{Error, Result};
use crate::formats::zeroes::make_zero;
use crate::storage::Storage;

/// The length of the pieces in which a block is copied, in bytes.
const COPIED_AT_ONCE: u64 = 1 << 20;

/// The space after everything that a file holds.
#[derive(Debug)]
pub struct SpaceAtEnd {
    file: Arc<dyn Storage>,
    next: Mutex<u64>,
}

impl SpaceAtEnd {
    /// Returns the space from `next` on, in bytes from the start of the file.
    pub fn new(file: Arc<dyn Storage>, next: u64) -> Self {
        Self {
            file,
            next: Mutex::new(next),
        }
    }

    /// Returns the end of the allocated space, in bytes from the start of the file.
    pub fn next(&self) -> u64 {
        *self.next.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Allocates `length` bytes at a multiple of `alignment`. Doesn't access the file.
    ///
    /// # Errors
    /// Returns an error if the end would exceed 2^63 − 1 bytes.
    pub fn take(&self, length: u64, alignment: u64) -> Result<u64> {
        let mut next = self.next.lock().unwrap_or_else(PoisonError::into_inner);
        let (start, end) = place(*next, length, alignment)?;
        *next = end;
        Ok(start)
    }

    /// Allocates `length` bytes at a multiple of `alignment`, and makes them read as zeroes.
    ///
    /// # Errors
    /// Returns the system's error. Returns an error if the end would exceed 2^63 − 1 bytes.
    pub fn take_zeroed(&self, length: u64, alignment: u64) -> Result<u64> {
        let mut next = self.next.lock().unwrap_or_else(PoisonError::into_inner);
        let (start, end) = place(*next, length, alignment)?;
        let is_clean = self.file.len()? <= start && self.file.starts_as_zeroes();
        if !is_clean {
            make_zero(self.file.as_ref(), start..end)?;
        }
        if self.file.len()? < end {
            self.file.set_len(end)?;
        }
        *next = end;
        Ok(start)
    }
}

fn place(next: u64, length: u64, alignment: u64) -> Result<(u64, u64)> {
    let start = next.checked_next_multiple_of(alignment);
    let end = start.and_then(|start| start.checked_add(length));
    // File offsets are signed 64-bit numbers in system calls.
    match (start, end.filter(|end| i64::try_from(*end).is_ok())) {
        (Some(start), Some(end)) => Ok((start, end)),
        _ => Err(Error::invalid("the image's file is too big")),
    }
}

/// Copies a block within a file. A part beyond the end of the file isn't copied.
///
/// # Errors
/// Returns the system's error.
pub fn copy_block(file: &dyn Storage, from: u64, to: u64, length: u64) -> Result<()> {
    let end = file.len()?.min(from.saturating_add(length));
    let mut start = from;
    while start < end {
        let piece = usize::try_from((end - start).min(COPIED_AT_ONCE)).unwrap_or_default();
        let mut bytes = vec![0; piece];
        file.read_exact_at(start, &mut bytes, "a block of the disk")?;
        file.write_at(to + (start - from), &bytes)?;
        start += piece as u64;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::MemoryStorage;

    #[test]
    fn what_is_handed_out_is_zero_and_aligned() {
        for device in [false, true] {
            let storage = MemoryStorage::new(vec![7; 3000]);
            let storage = Arc::new(match device {
                true => storage.as_device(),
                false => storage,
            });
            let file: Arc<dyn Storage> = Arc::<MemoryStorage>::clone(&storage);
            let space = SpaceAtEnd::new(file, 600);
            assert_eq!(space.take_zeroed(512, 512).unwrap(), 1024);
            assert_eq!(space.take(10, 4).unwrap(), 1536);
            assert_eq!(space.next(), 1546);
            let bytes = storage.contents();
            assert!(bytes[1024..1536].iter().all(|byte| *byte == 0));
            assert_eq!((bytes[1023], bytes[1536]), (7, 7));
            assert!(space.take(u64::MAX, 512).is_err());
            assert!(device || space.take_zeroed(4096, 4096).unwrap() == 4096);
            assert!(device || storage.contents().len() == 8192);
        }
    }
}
