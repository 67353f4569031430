//! How a user names an internal snapshot, and which one that is.
//!
//! Ids and names are bytes that some program chose; nothing says that they are text.

use crate::formats::qcow2::snapshots::Snapshot;

/// How an internal snapshot is named.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SnapshotName {
    /// By its id, or if none has it by its name.
    Either(Vec<u8>),
    /// By what is given of id and name, both where both are.
    Both {
        /// The id.
        id: Option<Vec<u8>>,
        /// The name.
        name: Option<Vec<u8>>,
    },
}

impl SnapshotName {
    /// The snapshot of that name.
    pub(super) fn find<'s>(&self, snapshots: &'s [Snapshot]) -> Option<&'s Snapshot> {
        let is = |stored: &[u8], wanted: &Vec<u8>| stored == wanted.as_slice();
        match self {
            Self::Either(text) => {
                let by_id = snapshots.iter().find(|snapshot| is(&snapshot.id, text));
                by_id.or_else(|| snapshots.iter().find(|snapshot| is(&snapshot.name, text)))
            }
            Self::Both { id, name } => snapshots.iter().find(|snapshot| {
                (id.is_some() || name.is_some())
                    && id.as_ref().is_none_or(|id| is(&snapshot.id, id))
                    && name.as_ref().is_none_or(|name| is(&snapshot.name, name))
            }),
        }
    }
}
