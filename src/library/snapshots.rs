//! Internal snapshots: creating, reading, applying and deleting them. Only reading one needs a password.

use std::path::Path;

use super::open::OpenOptions;
use crate::commands::snapshot::{SnapshotRequest, change};
use crate::error::Result;
use crate::formats::snapshots::SnapshotName;

impl OpenOptions {
    /// Selects an internal snapshot, whose disk is opened instead of the active state. It is given by its id or, if
    /// no snapshot has that, by its name. Such a disk can only be read.
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

    /// Creates a snapshot of the disk. Other snapshots may have the same name. No other process may have the image
    /// open. After a power cut, the snapshot exists completely or not at all.
    ///
    /// # Errors
    /// Returns an error if the image can't be opened for writing, if its format has no snapshots, or if the refcounts
    /// of clusters would overflow.
    pub fn take_snapshot(&self, path: impl AsRef<Path>, name: impl Into<Vec<u8>>) -> Result<()> {
        self.change_snapshots(path.as_ref(), &SnapshotRequest::Create(name.into()))
    }

    /// Reverts the disk to a snapshot, which is given by its id or, if no snapshot has that, by its name. The
    /// snapshot stays.
    ///
    /// # Errors
    /// Returns the errors of [`take_snapshot`](Self::take_snapshot), or an error if there is no such snapshot.
    pub fn apply_snapshot(&self, path: impl AsRef<Path>, name: impl Into<Vec<u8>>) -> Result<()> {
        self.change_snapshots(path.as_ref(), &SnapshotRequest::Apply(name.into()))
    }

    /// Deletes the first snapshot of that name.
    ///
    /// # Errors
    /// Returns the errors of [`take_snapshot`](Self::take_snapshot), or an error if there is no such snapshot.
    pub fn delete_snapshot(&self, path: impl AsRef<Path>, name: impl Into<Vec<u8>>) -> Result<()> {
        self.change_snapshots(path.as_ref(), &SnapshotRequest::Delete(name.into()))
    }

    fn change_snapshots(&self, path: &Path, request: &SnapshotRequest) -> Result<()> {
        change(&self.node(path)?, request, &|_| {})
    }
}
