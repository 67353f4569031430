//! Internal snapshots, whatever the format.
//!
//! Ids and names are bytes that some program chose; nothing says that they are text.

use serde::Serialize;

use crate::error::{Error, Result};

/// The internal snapshots of an image.
pub trait Snapshots {
    /// Returns the number of snapshots, as the header has it.
    fn count(&self) -> u32;

    /// Reads the list.
    ///
    /// # Errors
    /// Returns an error if the list can't be read or makes no sense.
    fn list(&self) -> Result<Vec<SnapshotInfo>>;

    /// Takes a snapshot of the disk as it is. The image must be [fit for it](super::ImageFile::prepare_to_change),
    /// and open nowhere else. `flush` says that flushes reach the storage.
    ///
    /// # Errors
    /// Returns an error if the image can't have another one: nothing has changed then. Returns an error if
    /// metadata is damaged, or the system's error.
    fn create(&self, new: &NewSnapshot, flush: bool) -> Result<()>;

    /// Makes the disk be what it was when a snapshot was taken. `flush`, and the image, are as for
    /// [`create`](Self::create).
    ///
    /// # Errors
    /// Returns an error if there is no such snapshot, or if the image can't go back to it: nothing has changed
    /// then. Returns an error if metadata is damaged, or the system's error.
    fn apply(&self, name: &SnapshotName, flush: bool) -> Result<()>;

    /// Deletes a snapshot. `flush`, and the image, are as for [`create`](Self::create).
    ///
    /// # Errors
    /// Returns `snapshot not found` if there is no such snapshot: nothing has changed then. Returns an error
    /// if metadata is damaged, or the system's error.
    fn delete(&self, name: &SnapshotName, flush: bool) -> Result<()>;
}

/// A snapshot to be taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewSnapshot {
    /// Its name, which others may have too.
    pub name: Vec<u8>,
    /// The time, in seconds since 1970 (UTC).
    pub date_sec: u32,
    /// The part of a second in nanoseconds.
    pub date_nsec: u32,
}

/// An internal snapshot. Sizes and counts are signed numbers in QEMU's reports.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct SnapshotInfo {
    /// Its number, as text.
    pub id: String,
    /// Its name.
    pub name: String,
    /// The size of the machine's saved state in bytes.
    pub vm_state_size: i64,
    /// The time at which it was taken, in seconds since 1970 (UTC).
    pub date_sec: u32,
    /// The part of a second in nanoseconds.
    pub date_nsec: u32,
    /// The time for which the machine had been running, in seconds.
    pub vm_clock_sec: u64,
    /// The part of a second in nanoseconds.
    pub vm_clock_nsec: u64,
    /// The number of instructions that the machine had executed, where that was counted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub icount: Option<i64>,
}

/// The name by which a user calls an internal snapshot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SnapshotName {
    /// By its id, or if none has it by its name.
    Either(Vec<u8>),
    /// By the given ones of id and name, both where both are.
    Both {
        /// The id.
        id: Option<Vec<u8>>,
        /// The name.
        name: Option<Vec<u8>>,
    },
}

impl SnapshotName {
    /// Returns the index of the snapshot of that name among those with these ids and names.
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

/// Returns the error for a snapshot that isn't there.
pub fn not_found() -> Error {
    Error::invalid("Failed to load snapshot: Can't find snapshot")
}
