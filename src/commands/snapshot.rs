//! The subcommand `snapshot`: internal snapshots are listed, created, applied and deleted.
//!
//! Snapshots are metadata, so only the named file is opened. No password is needed, and no backing file.

use std::time::{SystemTime, UNIX_EPOCH};

use super::{Purpose, sandbox};
use crate::error::{Error, Result};
use crate::formats::Format;
use crate::formats::snapshots::{NewSnapshot, SnapshotInfo, SnapshotName, Snapshots};
use crate::nodes::{Node, could_not_open};

/// Lists the snapshots of an image. `prepare` is called if there are any, while files can still be opened: their
/// dates need the time zone.
///
/// # Errors
/// Returns an error if the image can't be opened, or if the list can't be read.
pub fn list(source: &Node<'_>, prepare: &dyn Fn()) -> Result<Vec<SnapshotInfo>> {
    let (_, image) = source.open_metadata(Purpose::Read)?;
    let failed = |error| could_not_open(&source.name, error);
    let Some(snapshots) = image.snapshots() else {
        sandbox::all_is_open(source);
        image.refuse_truncated().map_err(failed)?;
        return Ok(Vec::new());
    };
    if snapshots.count() > 0 {
        prepare();
    }
    sandbox::all_is_open(source);
    snapshots.list().map_err(failed)
}

/// A change of an image's snapshots, with the name that the user gave.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SnapshotRequest {
    /// Creates a snapshot of that name.
    Create(Vec<u8>),
    /// Reverts the disk to the snapshot with that id or name.
    Apply(Vec<u8>),
    /// Deletes the first snapshot of that name. As in `qemu-img`, ids aren't matched.
    Delete(Vec<u8>),
}

impl SnapshotRequest {
    /// Returns the verb for messages, and the name.
    fn words(&self) -> (&'static str, &[u8]) {
        match self {
            Self::Create(name) => ("create", name),
            Self::Apply(name) => ("apply", name),
            Self::Delete(name) => ("delete", name),
        }
    }

    fn carry_out(&self, snapshots: &dyn Snapshots, flush: bool) -> Result<()> {
        match self {
            Self::Create(name) => {
                let now = SystemTime::now().duration_since(UNIX_EPOCH);
                let now = now.unwrap_or_default();
                let new = NewSnapshot {
                    name: name.clone(),
                    // The field in the snapshot table has 32 bits.
                    date_sec: u32::try_from(now.as_secs()).unwrap_or(u32::MAX),
                    date_nsec: now.subsec_nanos(),
                };
                snapshots.create(&new, flush)
            }
            Self::Apply(name) => snapshots.apply(&SnapshotName::Either(name.clone()), flush),
            Self::Delete(name) => {
                let name = SnapshotName::Both {
                    id: None,
                    name: Some(name.clone()),
                };
                snapshots.delete(&name, flush)
            }
        }
    }

    /// Returns the error for a format that has no snapshots.
    fn no_snapshots(&self) -> Error {
        Error::unsupported(match self {
            Self::Create(_) => "Operation not supported",
            Self::Apply(_) => "Block driver does not support snapshots",
            Self::Delete(_) => "snapshot not found",
        })
    }
}

/// Changes the snapshots of an image. `found` is called with the image's format before anything else is done.
///
/// # Errors
/// Returns an error if the image can't be opened for writing, or `Could not create snapshot 'name': …`.
pub fn change(source: &Node<'_>, change: &SnapshotRequest, found: &dyn Fn(Format)) -> Result<()> {
    let (opened, mut image) = source.open_metadata(Purpose::Change)?;
    found(opened.format);
    image
        .prepare_to_change(true)
        .map_err(|error| could_not_open(&source.name, error))?;
    let done = match image.snapshots() {
        Some(snapshots) => change.carry_out(snapshots, source.policy.cache.flushes()),
        None => Err(change.no_snapshots()),
    };
    done.map_err(|error| {
        let (verb, name) = change.words();
        let name = String::from_utf8_lossy(name);
        error.context(format!("Could not {verb} snapshot '{name}'"))
    })
}
