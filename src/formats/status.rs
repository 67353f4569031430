//! The status of a run of a disk, which `qemu-img map` prints and `measure` and `compare` rely on.
//!
//! An [`Extent`] says where data is. A status says what a reader may expect of it. They differ where the file
//! below knows more. A cluster may have its place in a qcow2 image while the file has a hole there. It is
//! stored then, and yet reads as zeroes. And a raw file ends at a byte, not at a sector.

use std::ops::Range;
use std::sync::{Mutex, PoisonError};

use super::{Extent, ExtentKind};
use crate::error::Result;
use crate::storage::Storage;
use crate::units::HostOffset;

/// The way in which a run of a disk is stored. More than one of `zero` and `data` may hold, and neither needs
/// to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Status {
    /// The length of the run in bytes; above 0 where an image says so.
    pub length: u64,
    /// The image of a chain that says so: 0 for the image itself, 1 for its backing file, and so on.
    pub depth: usize,
    /// True if that image says anything of it, rather than leaving it to those below.
    pub present: bool,
    /// True if it is known to read as zeroes.
    pub zero: bool,
    /// True if bytes are stored for it.
    pub data: bool,
    /// True if these are compressed.
    pub compressed: bool,
    /// The offset at which the file has room for it, unless the bytes there aren't those that the guest sees.
    pub offset: Option<HostOffset>,
}

impl Status {
    /// Returns the status that an extent alone gives; `plain` tells whether data is stored as the guest sees
    /// it.
    pub fn of(extent: &Extent, plain: bool) -> Self {
        let kind = extent.kind;
        Self {
            length: extent.length,
            depth: extent.depth,
            present: !matches!(kind, ExtentKind::Unallocated { .. }),
            zero: matches!(kind, ExtentKind::Zero { .. }),
            data: kind.is_data(),
            compressed: kind == ExtentKind::Encoded,
            offset: kind.host().filter(|_| plain),
        }
    }
}

/// The holes of a storage. The last answer is kept, since callers ask for one piece after the other. To find
/// where data ends some file systems look at every page of it.
#[derive(Debug, Default)]
pub(super) struct Holes {
    last: Mutex<Range<u64>>,
}

impl Holes {
    /// Returns the run of data that holds `offset`, or else the next one; empty and at the end of all offsets
    /// when there is none.
    ///
    /// # Errors
    /// Returns the system's error.
    pub(super) fn data_from(&self, storage: &dyn Storage, offset: u64) -> Result<Range<u64>> {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if !last.contains(&offset) {
            *last = storage.next_data(offset)?.unwrap_or(u64::MAX..u64::MAX);
        }
        Ok(last.clone())
    }

    /// Returns true if there is a hole at `offset`, and the number of bytes that it or the data there goes
    /// on.
    ///
    /// # Errors
    /// Returns the system's error.
    pub(super) fn at(&self, storage: &dyn Storage, offset: u64) -> Result<(bool, u64)> {
        let data = self.data_from(storage, offset)?;
        Ok(if data.contains(&offset) {
            (false, data.end - offset)
        } else {
            (true, data.start - offset)
        })
    }
}
