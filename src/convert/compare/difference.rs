//! The two sides of a comparison, and the differences that they can have.

use crate::error::Error;
use crate::formats::Image;
use crate::units::GuestOffset;

/// One of the two disks.
#[derive(Clone, Copy)]
pub struct Side<'a> {
    /// The disk.
    pub image: &'a dyn Image,
    /// The name that messages call it by.
    pub name: &'a str,
}

/// The first difference between two disks.
#[derive(Debug)]
pub enum Difference {
    /// Nothing: the contents are the same.
    Same,
    /// The disks have not the same size, and that alone was to count.
    Size,
    /// From here on the disks are not stored in the same way, and that was to count.
    Status(GuestOffset),
    /// The sector here hasn't the same contents.
    Content(GuestOffset),
    /// The way in which a disk is stored can't be told.
    NoStatus(Error),
    /// A disk can't be read.
    NoData(Error),
}

/// Returns the finding for a disk of which it can't be told how it is stored.
pub(super) fn no_status(side: Side<'_>, error: Error) -> Difference {
    let what = format!("Sector allocation test failed for {}", side.name);
    Difference::NoStatus(error.context(what))
}
