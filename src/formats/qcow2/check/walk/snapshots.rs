//! The references of the snapshot table, its invalid entries, and the snapshots' L1 tables.

use super::places::Walk;
use crate::formats::qcow2::check::finding::Finding;
use crate::formats::qcow2::header::{Header, TablePlace};
use crate::formats::qcow2::snapshots::SnapshotTable;

impl Walk<'_> {
    /// Checks the snapshots, and returns the L1 tables that are at valid places.
    pub(super) fn snapshots(
        &self,
        header: &Header,
        table: &SnapshotTable,
        found: &mut dyn FnMut(Finding),
    ) -> Vec<TablePlace> {
        let wrong = |what| Finding::Structure { what, times: 1 };
        let mut places = Vec::new();
        let count = table.snapshots.len();
        if self.data_file && count != 0 {
            found(wrong(format!("{count} snapshots in image with data file")));
        }
        for (index, snapshot) in table.snapshots.iter().enumerate() {
            if !snapshot.is_complete(header.version()) {
                found(Finding::incomplete_snapshot(index));
            }
            match snapshot.l1_table(self.geometry) {
                Ok(place) => places.push(place),
                Err(error) => found(wrong(format!("snapshot table entry {index}: {error}"))),
            }
        }
        if table.missing > 0 {
            found(Finding::missing_snapshots(table));
        }
        places
    }
}
