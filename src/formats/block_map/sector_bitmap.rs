//! Bitmaps that show which sectors of a block are stored.

use std::sync::{Mutex, PoisonError};

use crate::error::Result;

/// The bitmap that was used last, since a disk is mostly read in order.
#[derive(Debug, Default)]
pub struct LastBitmap(Mutex<Option<(u64, Vec<u8>)>>);

impl LastBitmap {
    /// Returns the byte with the bit of a sector, from the bitmap of a block. The byte is 0 beyond the bitmap's end.
    /// Calls `read` for the bitmap unless that block's was used last.
    ///
    /// # Errors
    /// Returns the error of `read`.
    pub fn byte(
        &self,
        block: u64,
        sector: u64,
        read: impl FnOnce() -> Result<Vec<u8>>,
    ) -> Result<u8> {
        let mut last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let bitmap = match last.take() {
            Some((found, bitmap)) if found == block => bitmap,
            _ => read()?,
        };
        let place = usize::try_from(sector / 8).unwrap_or(usize::MAX);
        let byte = bitmap.get(place).copied().unwrap_or_default();
        *last = Some((block, bitmap));
        Ok(byte)
    }
}
