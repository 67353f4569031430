//! Internal snapshots, taken, read, gone back to and deleted. No password is needed but to read one.

use std::path::Path;

use super::open::OpenOptions;
use crate::commands::snapshot::{SnapshotRequest, change};
use crate::error::Result;
use crate::formats::snapshots::SnapshotName;

impl OpenOptions {
    /// Opens the disk as it was when a snapshot was taken, by its id or, where none has that, its name. Such a disk can
    /// only be read.
    ///
    /// ```
    /// # let folder = tempfile::tempdir().unwrap();
    /// # let path = folder.path().join("disk.qcow2");
    /// # cowhide::CreateOptions::new("qcow2", 1 << 30).create(&path)?;
    /// let options = || cowhide::OpenOptions::new().format("qcow2");
    /// options().take_snapshot(&path, "before the upgrade")?;
    /// let then = options().snapshot("before the upgrade").open(&path)?;
    /// assert_eq!(then.size(), 1 << 30);
    /// # Ok::<(), cowhide::Error>(())
    /// ```
    #[must_use]
    pub fn snapshot(mut self, name: impl Into<Vec<u8>>) -> Self {
        self.snapshot = Some(SnapshotName::Either(name.into()));
        self
    }

    /// Takes a snapshot of the disk, under a name that other snapshots may have, too. No other process may have the
    /// image open. A power cut leaves the image as before or as after.
    ///
    /// # Errors
    /// Returns an error if the image can't be opened to write, if its format has no snapshots, or if clusters would be
    /// referred to more often than their refcounts can say.
    pub fn take_snapshot(&self, path: impl AsRef<Path>, name: impl Into<Vec<u8>>) -> Result<()> {
        self.change_snapshots(path.as_ref(), &SnapshotRequest::Create(name.into()))
    }

    /// Makes the disk what it was when a snapshot was taken, by its id or, where none has that, its name. The snapshot
    /// stays.
    ///
    /// # Errors
    /// Returns an error as [`take_snapshot`](Self::take_snapshot) does, or if there is no such snapshot.
    pub fn apply_snapshot(&self, path: impl AsRef<Path>, name: impl Into<Vec<u8>>) -> Result<()> {
        self.change_snapshots(path.as_ref(), &SnapshotRequest::Apply(name.into()))
    }

    /// Deletes the first snapshot of a name.
    ///
    /// # Errors
    /// Returns an error as [`take_snapshot`](Self::take_snapshot) does, or if there is no such snapshot.
    pub fn delete_snapshot(&self, path: impl AsRef<Path>, name: impl Into<Vec<u8>>) -> Result<()> {
        self.change_snapshots(path.as_ref(), &SnapshotRequest::Delete(name.into()))
    }

    fn change_snapshots(&self, path: &Path, request: &SnapshotRequest) -> Result<()> {
        change(&self.node(path)?, request, &|_| {})
    }
}
