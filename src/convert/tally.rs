//! The bytes that a copy moves, counted by all workers as they go.

use std::sync::atomic::{AtomicU64, Ordering};

/// The bytes that a copy has moved.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct CopiedBytes {
    /// The bytes of the disk that the source stores and that were looked at.
    pub read: u64,
    /// The bytes of the disk that the target stores now. Where it has no backing file the others read as
    /// zeroes.
    pub stored: u64,
    /// The bytes of data that were written for them. They are fewer where data is compressed or shared.
    pub written: u64,
    /// The bytes whose blocks are shared with the source.
    pub shared: u64,
}

/// Counters for [`CopiedBytes`].
#[derive(Debug, Default)]
pub(super) struct Tally {
    pub(super) read: Counter,
    pub(super) stored: Counter,
    pub(super) written: Counter,
    pub(super) shared: Counter,
}

/// A number of bytes that many threads add to.
#[derive(Debug, Default)]
pub(super) struct Counter(AtomicU64);

impl Counter {
    pub(super) fn add(&self, bytes: u64) {
        self.0.fetch_add(bytes, Ordering::Relaxed);
    }

    fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

impl Tally {
    /// Returns the bytes counted so far.
    pub(super) fn bytes(&self) -> CopiedBytes {
        CopiedBytes {
            read: self.read.get(),
            stored: self.stored.get(),
            written: self.written.get(),
            shared: self.shared.get(),
        }
    }
}
