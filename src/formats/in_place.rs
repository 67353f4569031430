//! The storage of an image that is written in place and has no tables.
//!
//! Nothing more is written once the image is closed or a flush has failed. After such a failure, the contents of
//! stable storage are unknown.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::error::{Error, Result};
use crate::storage::Storage;

/// A storage that can be written until it is closed.
#[derive(Debug)]
pub(super) struct InPlaceStorage {
    storage: Arc<dyn Storage>,
    /// True if flushes reach stable storage.
    flushes: bool,
    /// True once it is closed, or a flush has failed.
    is_over: AtomicBool,
}

impl InPlaceStorage {
    /// Takes a storage that is open for writing. `flushes` says if flushes reach stable storage.
    pub(super) fn new(storage: Arc<dyn Storage>, flushes: bool) -> Self {
        Self {
            storage,
            flushes,
            is_over: AtomicBool::new(false),
        }
    }

    /// Returns the storage for reading.
    pub(super) fn get(&self) -> &dyn Storage {
        self.storage.as_ref()
    }

    /// Returns the storage for writing.
    ///
    /// # Errors
    /// Returns an error if it is closed, or if a flush has failed.
    pub(super) fn usable(&self) -> Result<&dyn Storage> {
        if self.is_over.load(Ordering::Acquire) {
            return Err(closed());
        }
        Ok(self.get())
    }

    /// Flushes the writes so far.
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

    /// Flushes the writes so far, and refuses any later write.
    ///
    /// # Errors
    /// Returns an error as [`flush`](Self::flush) does.
    pub(super) fn close(&self) -> Result<()> {
        self.flush()?;
        self.is_over.store(true, Ordering::Release);
        Ok(())
    }
}

/// Returns the error for a write to an image that is closed.
pub(super) fn closed() -> Error {
    Error::invalid("the image is closed, or couldn't be stored before")
}
