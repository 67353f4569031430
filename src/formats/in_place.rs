//! The storage of an image that is written where it is, without tables.
//!
//! Once it is closed, or couldn't be flushed, nothing more is written: after such a failure nobody knows what is
//! stored.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::error::{Error, Result};
use crate::storage::Storage;

/// A storage that is written until it is closed.
#[derive(Debug)]
pub(super) struct InPlaceStorage {
    storage: Arc<dyn Storage>,
    /// True if flushes reach the storage.
    flushes: bool,
    /// True once it is closed, or couldn't be flushed.
    is_over: AtomicBool,
}

impl InPlaceStorage {
    /// Takes a storage that is open for writing. `flushes` says that flushes reach it.
    pub(super) fn new(storage: Arc<dyn Storage>, flushes: bool) -> Self {
        Self {
            storage,
            flushes,
            is_over: AtomicBool::new(false),
        }
    }

    /// Returns the storage, to read.
    pub(super) fn get(&self) -> &dyn Storage {
        self.storage.as_ref()
    }

    /// Returns the storage, to write.
    ///
    /// # Errors
    /// Returns an error if it is closed, or couldn't be flushed.
    pub(super) fn usable(&self) -> Result<&dyn Storage> {
        if self.is_over.load(Ordering::Acquire) {
            return Err(closed());
        }
        Ok(self.get())
    }

    /// Flushes what was written.
    ///
    /// # Errors
    /// Returns an error as [`usable`](Self::usable) does, or the system's.
    pub(super) fn flush(&self) -> Result<()> {
        let storage = self.usable()?;
        if !self.flushes {
            return Ok(());
        }
        let flushed = storage.flush();
        if flushed.is_err() {
            self.is_over.store(true, Ordering::Release);
        }
        flushed
    }

    /// Flushes what was written, and ends the writing.
    ///
    /// # Errors
    /// Returns an error as [`flush`](Self::flush) does.
    pub(super) fn close(&self) -> Result<()> {
        self.flush()?;
        self.is_over.store(true, Ordering::Release);
        Ok(())
    }
}

/// Returns the error for an image that nothing more is written to.
pub(super) fn closed() -> Error {
    Error::invalid("the image is closed, or couldn't be stored before")
}
