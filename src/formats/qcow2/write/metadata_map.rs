//! The map of the clusters that hold metadata, which protects them from being overwritten.
//!
//! In a consistent image no cluster in use is allocated again, and no L2 entry refers to metadata. Either may happen
//! in a damaged image, where a write could destroy all of it. So every write of data, and every allocated cluster, is
//! checked against this map first. Structures that overlap each other are detected when the map is built.
//!
//! The map has the header, the active L1 table and its L2 tables, the refcount table and blocks, the snapshot table,
//! the snapshots' L1 tables, the bitmap directory and tables, and the LUKS header. As in QEMU, it lacks the L2 tables
//! of snapshots, since finding them would take reading all of the snapshots' L1 tables.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;

use crate::error::{Error, Result};

/// A kind of metadata.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Structure {
    Header,
    ActiveL1,
    ActiveL2,
    RefcountTable,
    RefcountBlock,
    SnapshotTable,
    InactiveL1,
    BitmapDirectory,
    BitmapTable,
    LuksHeader,
}

impl fmt::Display for Structure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Header => "qcow2_header",
            Self::ActiveL1 => "active L1 table",
            Self::ActiveL2 => "active L2 table",
            Self::RefcountTable => "refcount table",
            Self::RefcountBlock => "refcount block",
            Self::SnapshotTable => "snapshot table",
            Self::InactiveL1 => "inactive L1 table",
            Self::BitmapDirectory => "bitmap directory",
            Self::BitmapTable => "bitmap table",
            Self::LuksHeader => "LUKS header",
        })
    }
}

/// The map, with the indexes of clusters of the file.
#[derive(Debug, Default)]
pub(super) struct MetadataMap {
    /// The first cluster of each structure, with its number of clusters and its kind. The structures are disjoint.
    structures: BTreeMap<u64, (u64, Structure)>,
}

impl MetadataMap {
    /// Adds a structure.
    ///
    /// # Errors
    /// Returns an error if the clusters overlap with another structure, since the image is damaged then.
    pub(super) fn insert(&mut self, clusters: Range<u64>, kind: Structure) -> Result<()> {
        if let Some(other) = self.find(&clusters) {
            let first = clusters.start;
            return Err(Error::corrupt(format!(
                "{kind} at cluster {first} overlaps with {other}"
            )));
        }
        if clusters.start < clusters.end {
            let count = clusters.end - clusters.start;
            self.structures.insert(clusters.start, (count, kind));
        }
        Ok(())
    }

    /// Removes the structure that starts at a cluster.
    pub(super) fn remove(&mut self, first: u64) {
        self.structures.remove(&first);
    }

    /// Returns a structure that overlaps with the clusters.
    pub(super) fn find(&self, clusters: &Range<u64>) -> Option<Structure> {
        let (first, (count, kind)) = self.structures.range(..clusters.end).next_back()?;
        (first + count > clusters.start && clusters.start < clusters.end).then_some(*kind)
    }

    /// Refuses to write to clusters that hold metadata.
    ///
    /// # Errors
    /// Returns an error if they do, since the image is damaged then.
    pub(super) fn refuse(&self, clusters: &Range<u64>) -> Result<()> {
        match self.find(clusters) {
            None => Ok(()),
            Some(kind) => Err(Error::corrupt(format!(
                "Preventing invalid write on metadata (overlaps with {kind})"
            ))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn overlaps_are_found_at_every_edge() {
        let mut map = MetadataMap::default();
        map.insert(0..1, Structure::Header).unwrap();
        map.insert(10..14, Structure::ActiveL1).unwrap();
        map.insert(14..15, Structure::ActiveL2).unwrap();
        for (range, found) in [
            (1..10, None),
            (1..11, Some(Structure::ActiveL1)),
            (13..14, Some(Structure::ActiveL1)),
            (5..100, Some(Structure::ActiveL2)),
            (15..16, None),
            (0..1, Some(Structure::Header)),
            (12..12, None),
        ] {
            assert_eq!(map.find(&range), found, "{range:?}");
        }
        assert!(map.insert(9..11, Structure::RefcountBlock).is_err());
        map.remove(10);
        map.insert(9..11, Structure::RefcountBlock).unwrap();
        assert!(map.refuse(&(8..9)).is_ok());
        assert!(map.refuse(&(8..10)).is_err());
    }
}
