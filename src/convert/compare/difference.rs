//! The two sides of a comparison, and the differences that they can have.

use crate::error::Error;
use crate::formats::Image;
use crate::units::GuestOffset;

/// One of the two disks.
#[derive(Clone, Copy)]
pub struct Side<'a> {
    /// The disk.
    pub image: &'a dyn Image,
    /// The name of the disk in messages.
    pub name: &'a str,
}

/// The first difference between two disks.
#[derive(Debug)]
pub enum Difference {
    /// None: the contents are the same.
    Same,
    /// The sizes differ, which counts only in strict mode.
    Size,
    /// The allocation status differs from this offset on, which counts only in strict mode.
    Status(GuestOffset),
    /// The contents of the sector at this offset differ.
    Content(GuestOffset),
    /// The allocation status of a disk can't be determined.
    NoStatus(Error),
    /// A disk can't be read.
    NoData(Error),
}

/// Returns the finding for a disk whose allocation status can't be determined.
pub(super) fn no_status(side: Side<'_>, error: Error) -> Difference {
    let what = format!("Sector allocation test failed for {}", side.name);
    Difference::NoStatus(error.context(what))
}
