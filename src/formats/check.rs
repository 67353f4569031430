//! The check of an image's metadata, whether it agrees with itself, and its repair.

use std::fmt;

use crate::error::{Error, Result};

/// The check of a format.
pub trait Check {
    /// Checks the image; `on_event` is told of each finding when it is found.
    ///
    /// # Errors
    /// Returns the system's error. Returns an error if structures can't be read at all, so that nothing can
    /// be said of the clusters that they would refer to.
    fn check(&self, on_event: &mut dyn FnMut(&CheckEvent<'_>)) -> Result<CheckReport>;

    /// Returns true if findings are complaints, in front of which QEMU has the program's name.
    fn complains(&self) -> bool {
        false
    }

    /// Returns true if anything can be repaired.
    fn repairs(&self) -> bool {
        true
    }

    /// Checks the image and repairs `what`. If anything is repaired, the report is that of a second check,
    /// with the numbers of repairs.
    ///
    /// # Errors
    /// Returns an error as [`check`](Self::check) does, or if the repair can't be written.
    fn repair(
        &self,
        what: Repair,
        on_event: &mut dyn FnMut(&CheckEvent<'_>),
    ) -> Result<CheckReport>;
}

/// The findings that are repaired.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Repair {
    /// Leaks only: space that is counted as used and isn't.
    Leaks,
    /// Everything.
    All,
}

/// Refuses to write an image in which a check finds so many `errors`.
///
/// # Errors
/// Returns an error if there are any.
pub(super) fn refuse_damaged(errors: u64) -> Result<()> {
    if errors == 0 {
        return Ok(());
    }
    Err(Error::corrupt(format!(
        "the image is damaged in {errors} places, and what is written into it might never be found again"
    )))
}

/// A line that a check says.
pub type CheckEvent<'a> = dyn fmt::Display + 'a;

/// The findings of a check in numbers, as QEMU's `ImageCheck` has them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CheckReport {
    /// The number of errors.
    pub corruptions: u64,
    /// The number of clusters that are counted too often.
    pub leaks: u64,
    /// The number of errors that have been repaired.
    pub corruptions_fixed: u64,
    /// The number of clusters that were counted too often and have been repaired.
    pub leaks_fixed: u64,
    /// The end of the last cluster in use, in bytes.
    pub image_end_offset: u64,
    /// The number of clusters of the virtual disk.
    pub total_clusters: u64,
    /// The number of them that are stored.
    pub allocated_clusters: u64,
    /// The number of those that don't stand right behind the one before.
    pub fragmented_clusters: u64,
    /// The number of those that are compressed.
    pub compressed_clusters: u64,
}
