//! The check of an image's metadata: does it agree with itself, and can it be repaired?

use std::fmt;

use crate::error::Result;

/// The check of a format.
pub trait Check {
    /// Checks the image; `on_event` is told of each finding when it is found.
    ///
    /// # Errors
    /// Returns the system's error, or an error if structures can't be read at all, so that nothing can be said of
    /// what they would refer to.
    fn check(&self, on_event: &mut dyn FnMut(&CheckEvent<'_>)) -> Result<CheckReport>;

    /// Returns true if anything can be repaired.
    fn repairs(&self) -> bool {
        true
    }

    /// Checks the image and repairs `what`. If anything is repaired, the report is that of a second check, with
    /// what was repaired.
    ///
    /// # Errors
    /// Returns an error as [`check`](Self::check) does, or if the repair can't be written.
    fn repair(
        &self,
        what: Repair,
        on_event: &mut dyn FnMut(&CheckEvent<'_>),
    ) -> Result<CheckReport>;
}

/// What is repaired.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Repair {
    /// Leaks only: space that is counted as used and isn't.
    Leaks,
    /// Everything.
    All,
}

/// A line that a check says.
pub type CheckEvent<'a> = dyn fmt::Display + 'a;

/// What a check found, in numbers, as QEMU's `ImageCheck` has them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CheckReport {
    /// How many things are wrong.
    pub corruptions: u64,
    /// How many clusters are counted too often.
    pub leaks: u64,
    /// How many things were wrong and have been repaired.
    pub corruptions_fixed: u64,
    /// How many clusters were counted too often and have been repaired.
    pub leaks_fixed: u64,
    /// Where the last cluster in use ends, in bytes.
    pub image_end_offset: u64,
    /// How many clusters the virtual disk has.
    pub total_clusters: u64,
    /// How many of them are stored.
    pub allocated_clusters: u64,
    /// How many of those don't stand right behind the one before.
    pub fragmented_clusters: u64,
    /// How many of those are compressed.
    pub compressed_clusters: u64,
}
