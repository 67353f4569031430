//! The walk over everything in an image that refers to a cluster.
//!
//! References come from the header, the L1 tables, the L2 tables, the snapshot table, the refcount structures, the
//! LUKS header and bitmaps. The walk checks each entry, and counts its reference as QEMU does, so that both programs
//! report the same numbers. An entry with reserved bits or an unaligned offset is invalid, and still counts as a
//! reference to that offset. An entry that refers to a region beyond the end of the file by a cluster or more isn't
//! counted.
//!
//! The walk doesn't read data, so an encrypted image needs no password.
//!
//! - `places`: the state of the walk, and the checks of a region of the file;
//! - `l1`, `l2`: the tables that refer to the guest's data;
//! - `snapshots`, `bitmaps`: the optional structures of an image.

mod bitmaps;
mod l1;
mod l2;
mod places;
mod snapshots;

pub use l1::L2Place;
pub use places::Walk;

use self::l2::ZeroInstead;
use super::finding::{EntryPlace, Finding, Problem};
use crate::error::Result;
use crate::formats::check::CheckReport;
use crate::formats::qcow2::entries::EntryError;
use crate::formats::qcow2::geometry::ENTRY_SIZE;
use crate::formats::qcow2::header::{Header, TablePlace};
use crate::formats::qcow2::snapshots::SnapshotTable;
use crate::storage::Pace;
use crate::storage::Pieces;
use crate::units::HostOffset;

/// The result of the walk.
pub struct Walked {
    /// The counts so far.
    pub report: CheckReport,
    /// The active L1 table.
    pub active_l1: TablePlace,
    /// The L2 tables, sorted by host offset.
    pub l2_tables: Vec<L2Place>,
    /// The L2 entries that a repair replaces.
    pub zero_instead: Vec<ZeroInstead>,
    /// True if the refcount structures have to be rebuilt.
    pub rebuild: bool,
    /// The clusters of the refcount table and its blocks, once for each reference.
    pub refcount_clusters: Vec<u64>,
    /// True if an L1 table, or a part of one, couldn't be followed. The clusters that it refers to look leaked, and
    /// may be all of the guest's data.
    pub unfollowed: bool,
}

impl Walk<'_> {
    /// Counts all references.
    ///
    /// # Errors
    /// Returns the system's error. Returns an error if the snapshot table or the bitmap directory can't be read.
    pub fn run(&self, header: &Header, found: &mut dyn FnMut(Finding)) -> Result<Walked> {
        let mut walked = Walked {
            report: CheckReport {
                total_clusters: self.geometry.clusters(header.size()),
                ..CheckReport::default()
            },
            active_l1: header.l1(),
            l2_tables: Vec::new(),
            zero_instead: Vec::new(),
            rebuild: false,
            refcount_clusters: Vec::new(),
            unfollowed: false,
        };
        let snapshots = SnapshotTable::read_what_is_there(self.storage, header)?;
        self.count(HostOffset(0), self.geometry.cluster_size(), 1);
        let l1_tables = self.snapshots(header, &snapshots, found);
        walked.unfollowed = snapshots.missing > 0 || l1_tables.len() < snapshots.snapshots.len();
        let l1 = self.l1_tables(header.l1(), &l1_tables, found)?;
        walked.l2_tables = l1.l2_tables;
        walked.unfollowed |= l1.cut_off;
        for place in &walked.l2_tables {
            self.count(place.host, self.geometry.cluster_size(), place.times);
        }
        self.l2_tables(&mut walked, found)?;
        self.region(
            "snapshot table",
            header.snapshots_offset(),
            snapshots.length,
            found,
        );
        if let Some(luks) = header.luks() {
            self.region("LUKS header", luks.host, luks.length, found);
        }
        self.bitmaps(header, found)?;
        self.refcount_structures(header, &mut walked, found);
        Ok(walked)
    }

    fn l2_tables(&self, walked: &mut Walked, found: &mut dyn FnMut(Finding)) -> Result<()> {
        let report = &mut walked.report;
        let zero_instead = &mut walked.zero_instead;
        let pace = Pace::default();
        Pieces::new(
            self.storage,
            self.length,
            self.geometry.cluster_len(),
            &pace,
        )
        .each(
            &walked.l2_tables,
            |place| place.host.0,
            |place, table| Ok((place.active, self.l2_table(*place, table)?)),
            |(active, table)| {
                let active = u64::from(active);
                let add = |sum: &mut u64, more: u64| {
                    *sum = sum.saturating_add(more.saturating_mul(active));
                };
                add(&mut report.allocated_clusters, table.allocated);
                add(&mut report.fragmented_clusters, table.fragmented);
                add(&mut report.compressed_clusters, table.compressed);
                zero_instead.extend(table.zero_instead);
                table.findings.into_iter().for_each(&mut *found);
                Ok(())
            },
        )
    }

    fn refcount_structures(
        &self,
        header: &Header,
        walked: &mut Walked,
        found: &mut dyn FnMut(Finding),
    ) {
        let place = header.refcount_table();
        let bytes = place.entries * ENTRY_SIZE;
        if self.is_inside(place.host, bytes) {
            self.count(place.host, bytes, 1);
            let first = self.geometry.host_cluster(place.host);
            let clusters = first..first + self.geometry.clusters(bytes);
            walked.refcount_clusters.extend(clusters);
        } else if bytes > 0 {
            walked.rebuild = true;
            found(Finding::RefcountTable {
                host: place.host,
                bytes,
            });
        }
        for (index, entry) in (0u64..).zip(self.stored.table()) {
            let host = entry.host();
            let cluster = self.geometry.host_cluster(host);
            let problem = if entry.has_reserved_bits() {
                Some(Problem::Bits(EntryError::Reserved))
            } else if !self.geometry.is_aligned(host) {
                Some(Problem::Bits(EntryError::Unaligned(host)))
            } else if host.0 != 0 && cluster >= self.clusters {
                Some(Problem::BeyondTheEnd(
                    self.missing(host, self.geometry.cluster_size()),
                ))
            } else if host.0 != 0 {
                self.references.add(cluster, 1);
                walked.refcount_clusters.push(cluster);
                let references = self.references.get(cluster);
                walked.rebuild |= references != 1;
                // A count above the highest refcount is found when the counts are compared.
                let counted = references.min(self.geometry.max_refcount());
                (counted != 1).then_some(Problem::SharedBlock(references))
            } else {
                None
            };
            if let Some(problem) = problem {
                walked.rebuild = true;
                found(Finding::BadEntry {
                    place: EntryPlace::RefcountTable { index },
                    entry: entry.0,
                    problem,
                    times: 1,
                });
            }
        }
    }
}
