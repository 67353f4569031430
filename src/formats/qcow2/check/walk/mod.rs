//! Everything in an image that refers to a cluster, counted.
//!
//! These are the header, L1 tables, L2 tables, the clusters of L2 entries, the snapshot table, refcount
//! structures, the LUKS header, and bitmaps. On the way every entry is checked. References count as QEMU
//! counts them, so that both programs come to the same numbers. An entry with reserved bits, or one that
//! isn't aligned, is wrong and yet refers to where it leads. One that leads beyond the end of the file by a
//! cluster or more refers to nothing.
//!
//! Data isn't read, so an encrypted image needs no password.
//!
//! - `places`: the file, its counts, and the conditions for every place in it;
//! - `l1`, `l2`: the tables that lead to the guest's data;
//! - `snapshots`, `bitmaps`: the other structures that an image may hold.

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
    /// The L2 tables, by their place in the file.
    pub l2_tables: Vec<L2Place>,
    /// L2 entries that are to be replaced.
    pub zero_instead: Vec<ZeroInstead>,
    /// True if the refcount structures are so damaged that they have to be made anew.
    pub rebuild: bool,
    /// The clusters of the refcount table and its blocks, as often as they are referred to.
    pub refcount_clusters: Vec<u64>,
    /// True if there is an L1 table that could not be followed, all or in part. The clusters that it leads to
    /// look leaked, and may be all that there is of the guest's data.
    pub unfollowed: bool,
}

impl Walk<'_> {
    /// Counts everything.
    ///
    /// # Errors
    /// Returns the system's error, or an error if a snapshot table or a bitmap directory can't be read.
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
                // A count that is more than a refcount can be is found when the counts are compared.
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
