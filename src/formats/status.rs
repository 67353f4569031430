//! The status of a run of a disk, which `qemu-img map` prints and on which `measure` and `compare` rely.
//!
//! An [`Extent`] says where the tables place the data. A status says what a reader may expect of it. They differ if
//! the file has holes: a cluster that a qcow2 image has allocated reads as zeroes if the file has a hole there. Also,
//! a raw file may end within a sector.

use std::ops::Range;
use std::sync::{Mutex, PoisonError};

use super::{Extent, ExtentKind};
use crate::error::Result;
use crate::storage::Storage;
use crate::units::HostOffset;

/// The way in which a run of a disk is stored. Each of `zero` and `data` may be true or false, independently.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Status {
    /// The length of the run in bytes, greater than 0 if an image returns it.
    pub length: u64,
    /// The image of a backing chain that stores it: 0 for the image itself, 1 for its backing file, and so on.
    pub depth: usize,
    /// True if that image determines its contents, rather than an image below it.
    pub present: bool,
    /// True if it is known to read as zeroes.
    pub zero: bool,
    /// True if bytes are stored for it.
    pub data: bool,
    /// True if the stored bytes are compressed.
    pub compressed: bool,
    /// The host offset of its space, unless the bytes there differ from those that the guest sees.
    pub offset: Option<HostOffset>,
}

impl Status {
    /// Returns the status according to an extent alone. `plain` says if data is stored as the guest sees it.
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

/// The data ranges of a storage. The last one found is cached: callers query one piece after the other, and some file
/// systems read every page of a range to find its end.
#[derive(Debug, Default)]
pub(super) struct Holes {
    last: Mutex<Range<u64>>,
}

impl Holes {
    /// Returns the range of data that holds `offset`, or else the next one. Returns an empty range at `u64::MAX` if
    /// there is none.
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

    /// Returns true if there is a hole at `offset`, and the number of bytes up to the end of that hole or of the
    /// data.
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
