//! The interface of a consistency check of an image's metadata, and of its repair.

use std::fmt;

use crate::error::{Error, Result};

/// The check of a format.
pub trait Check {
    /// Checks the image. Calls `on_event` with each finding as soon as it is found.
    ///
    /// # Errors
    /// Returns the system's error. Returns an error if a structure can't be read, so that the references in it are
    /// unknown.
    fn check(&self, on_event: &mut dyn FnMut(&CheckEvent<'_>)) -> Result<CheckReport>;

    /// Returns true if QEMU prints the program's name in front of the findings.
    fn complains(&self) -> bool {
        false
    }

    /// Returns true if the format has a repair.
    fn repairs(&self) -> bool {
        true
    }

    /// Checks the image and repairs `what`. After a repair the report is that of a second check, with the numbers of
    /// repairs added.
    ///
    /// # Errors
    /// Returns an error as [`check`](Self::check) does, or the system's error if the repair can't be written.
    fn repair(
        &self,
        what: Repair,
        on_event: &mut dyn FnMut(&CheckEvent<'_>),
    ) -> Result<CheckReport>;
}

/// The findings to repair.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Repair {
    /// Leaks only: space that is counted as used and isn't referred to.
    Leaks,
    /// All findings.
    All,
}

/// Refuses to write to an image in which a check found `errors` errors.
///
/// # Errors
/// Returns an error if there are any errors.
pub(super) fn refuse_damaged(errors: u64) -> Result<()> {
    if errors == 0 {
        return Ok(());
    }
    Err(Error::corrupt(format!(
        "the image is damaged in {errors} places, and what is written into it might never be found again"
    )))
}

/// One line of a check's output.
pub type CheckEvent<'a> = dyn fmt::Display + 'a;

/// The findings of a check in numbers, as in QEMU's `ImageCheck`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CheckReport {
    /// The number of errors.
    pub corruptions: u64,
    /// The number of leaked clusters.
    pub leaks: u64,
    /// The number of errors that have been repaired.
    pub corruptions_fixed: u64,
    /// The number of leaked clusters that have been freed.
    pub leaks_fixed: u64,
    /// The end of the last cluster in use, in bytes.
    pub image_end_offset: u64,
    /// The number of clusters of the virtual disk.
    pub total_clusters: u64,
    /// The number of clusters of the disk that are allocated.
    pub allocated_clusters: u64,
    /// The number of allocated clusters that don't directly follow the one before in the file.
    pub fragmented_clusters: u64,
    /// The number of allocated clusters that are compressed.
    pub compressed_clusters: u64,
}
