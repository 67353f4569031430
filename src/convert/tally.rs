//! The counters of copied bytes, which all workers add to.

use std::sync::atomic::{AtomicU64, Ordering};

/// The numbers of bytes of a copy.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct CopiedBytes {
    /// The bytes of data of the source that were read or shared.
    pub read: u64,
    /// The bytes of the disk that the target stores. Without a backing file, the others read as zeroes.
    pub stored: u64,
    /// The bytes of data that were written for them. They are fewer if data is compressed or shared.
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

/// A counter of bytes that many threads add to.
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
