//! The repair of a snapshot table that is incomplete or truncated.
//!
//! Version 3 requires extra data that entries from version 2 may lack. Like QEMU, the repair writes a new table. It
//! goes beyond the end of the file, where nothing can be. Its refcounts are set before the header refers to it. One
//! write within a sector, which no power cut can tear, changes the header. The clusters of the old table are leaks
//! then, which the rest of the repair frees. If no refcount block covers the new clusters, the rest of the repair
//! makes one.
//!
//! Entries beyond the file's end are dropped only if every used cluster is referenced without them. Otherwise the
//! clusters of these snapshots may still be in the file, and a user may want to recover them.

use super::finding::Finding;
use super::repair::{Blocks, Work};
use super::walk::Walk;
use crate::error::Result;
use crate::formats::qcow2::header::Header;
use crate::formats::qcow2::header::fields;
use crate::formats::qcow2::snapshots::{MAX_TABLE_BYTES, Snapshot, SnapshotTable};
use crate::units::HostOffset;

impl Work<'_> {
    /// Rewrites the snapshot table if it needs a repair. The header changes with it.
    ///
    /// # Errors
    /// Returns the system's error. Returns an error if a structure can't be read.
    pub(super) fn repair_snapshot_table(&mut self) -> Result<()> {
        let table = SnapshotTable::read_what_is_there(self.storage, &self.header)?;
        let incomplete: Vec<usize> = (0..)
            .zip(&table.snapshots)
            .filter(|(_, snapshot)| !snapshot.is_complete(self.header.version()))
            .map(|(index, _)| index)
            .collect();
        if incomplete.is_empty() && table.missing == 0 {
            return Ok(());
        }
        let header = self.header.clone();
        let walk = Walk::open(self.storage, &header, true)?;
        let walked = walk.run(&header, &mut |_| {})?;
        let mut leaks = false;
        let compared = walk.compare(&mut |finding| {
            leaks |= finding.is_leak();
            Ok(())
        })?;
        let rebuild = walked.rebuild || compared.rebuild;
        if table.missing > 0 && (leaks || rebuild) {
            return Ok(());
        }
        let host = if incomplete.is_empty() {
            header.snapshots_offset()
        } else {
            let entries: Vec<u8> = table.snapshots.iter().flat_map(Snapshot::entry).collect();
            if entries.len() as u64 > MAX_TABLE_BYTES {
                return Ok(());
            }
            self.write_behind_the_end(&walk, &entries, !rebuild)?
        };
        let count = u32::try_from(table.snapshots.len()).unwrap_or(u32::MAX);
        fields::set_snapshots(self.storage, count, host)?;
        self.storage.flush()?;
        for index in incomplete {
            self.fixed(&Finding::incomplete_snapshot(index));
        }
        if table.missing > 0 {
            self.fixed(&Finding::missing_snapshots(&table));
        }
        self.header = Header::read_for_check(self.storage)?;
        Ok(())
    }

    /// Writes a structure to unreferenced clusters beyond the end of the file. If `counts`, sets their refcounts
    /// where there are refcount blocks for them.
    fn write_behind_the_end(
        &self,
        walk: &Walk<'_>,
        bytes: &[u8],
        counts: bool,
    ) -> Result<HostOffset> {
        let geometry = walk.geometry;
        let count = geometry.clusters(bytes.len() as u64);
        // A referenced region may extend into the first cluster beyond the end of the file, so that is skipped.
        let mut start = walk.clusters + 1;
        for run in walk.avoided() {
            if run.start < start + count {
                start = start.max(run.end);
            }
        }
        let mut blocks = Blocks::new(walk);
        for cluster in start..start + count {
            if counts && walk.stored.has_block(cluster) {
                blocks.set(cluster, 1)?;
            }
        }
        let host = HostOffset(start.saturating_mul(geometry.cluster_size()));
        self.storage.write_at(host.0, bytes)?;
        blocks.write()?;
        self.storage.flush()?;
        Ok(host)
    }
}
