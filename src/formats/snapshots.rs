//! The interface of internal snapshots, for all formats.
//!
//! Ids and names are bytes chosen by the program that took the snapshot, and not necessarily text.

use serde::Serialize;

use crate::error::{Error, Result};

/// The internal snapshots of an image.
pub trait Snapshots {
    /// Returns the number of snapshots according to the header.
    fn count(&self) -> u32;

    /// Reads the list.
    ///
    /// # Errors
    /// Returns an error if the list can't be read or is invalid.
    fn list(&self) -> Result<Vec<SnapshotInfo>>;

    /// Takes a snapshot of the disk. The image must be [prepared](super::ImageFile::prepare_to_change), and must not
    /// be open elsewhere. With `flush`, the changes are flushed to stable storage.
    ///
    /// # Errors
    /// Returns an error if the image can't have another snapshot; nothing has changed then. Returns an error if the
    /// metadata is damaged, or the system's error.
    fn create(&self, new: &NewSnapshot, flush: bool) -> Result<()>;

    /// Reverts the disk to a snapshot. `flush` and the conditions on the image are as for [`create`](Self::create).
    ///
    /// # Errors
    /// Returns an error if there is no such snapshot, or if the image can't revert to it; nothing has changed then.
    /// Returns an error if the metadata is damaged, or the system's error.
    fn apply(&self, name: &SnapshotName, flush: bool) -> Result<()>;

    /// Deletes a snapshot. `flush` and the conditions on the image are as for [`create`](Self::create).
    ///
    /// # Errors
    /// Returns `snapshot not found` if there is no such snapshot; nothing has changed then. Returns an error if the
    /// metadata is damaged, or the system's error.
    fn delete(&self, name: &SnapshotName, flush: bool) -> Result<()>;
}

/// A snapshot to be taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewSnapshot {
    /// Its name, which need not be unique.
    pub name: Vec<u8>,
    /// The time in seconds since 1970 (UTC).
    pub date_sec: u32,
    /// The nanoseconds within the second.
    pub date_nsec: u32,
}

/// An internal snapshot in a report. Sizes and counts are signed numbers in QEMU's reports.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct SnapshotInfo {
    /// Its number, as text.
    pub id: String,
    /// Its name.
    pub name: String,
    /// The size of the saved VM state in bytes.
    pub vm_state_size: i64,
    /// The time at which the snapshot was taken, in seconds since 1970 (UTC).
    pub date_sec: u32,
    /// The nanoseconds within the second.
    pub date_nsec: u32,
    /// The time for which the guest had been running, in seconds.
    pub vm_clock_sec: u64,
    /// The nanoseconds within the second.
    pub vm_clock_nsec: u64,
    /// The number of instructions that the guest had executed, if it was recorded.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub icount: Option<i64>,
}

/// The name with which a user refers to an internal snapshot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SnapshotName {
    /// The id of a snapshot, or its name if no snapshot has such an id.
    Either(Vec<u8>),
    /// The id, the name, or both. A snapshot must match all that are given.
    Both {
        /// The id.
        id: Option<Vec<u8>>,
        /// The name.
        name: Option<Vec<u8>>,
    },
}

impl SnapshotName {
    /// Returns the index of the named snapshot among those with these ids and names.
    pub fn find<'s>(
        &self,
        snapshots: impl Iterator<Item = (&'s [u8], &'s [u8])> + Clone,
    ) -> Option<usize> {
        let mut all = snapshots.clone();
        match self {
            Self::Either(text) => {
                let by_id = snapshots.clone().position(|(id, _)| id == text);
                by_id.or_else(|| all.position(|(_, name)| name == text))
            }
            Self::Both { id, name } => all.position(|(stored_id, stored_name)| {
                (id.is_some() || name.is_some())
                    && id.as_ref().is_none_or(|id| id == stored_id)
                    && name.as_ref().is_none_or(|name| name == stored_name)
            }),
        }
    }
}

/// Returns the error for a snapshot that doesn't exist.
pub fn not_found() -> Error {
    Error::invalid("Failed to load snapshot: Can't find snapshot")
}
