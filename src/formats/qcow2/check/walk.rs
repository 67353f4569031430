//! Everything in an image that refers to a cluster, counted.
//!
//! Header, L1 tables, L2 tables, what L2 entries lead to, snapshot table, refcount structures, LUKS
//! header, bitmaps. On the way every entry is checked. What counts, and how often, is what QEMU
//! counts, so that both programs come to the same numbers: an entry with reserved bits, or one that
//! isn't aligned, is wrong and yet refers to where it leads; one that leads beyond the end of the
//! file by a cluster or more refers to nothing.
//!
//! Data isn't read, so an encrypted image needs no password.

use std::ops::Range;
use std::sync::{Mutex, PoisonError};

use super::CheckReport;
use super::compare::most_references;
use super::finding::{Finding, Place, Problem, Region};
use super::l1::L2Place;
use super::l2::ZeroInstead;
use super::references::References;
use super::stored::Stored;
use crate::error::{Error, Result};
use crate::formats::qcow2::bitmaps::read_bitmaps;
use crate::formats::qcow2::entries::{BitmapTarget, EntryError};
use crate::formats::qcow2::geometry::{ENTRY_SIZE, Geometry};
use crate::formats::qcow2::header::features;
use crate::formats::qcow2::header::{Header, TablePlace};
use crate::formats::qcow2::snapshots::SnapshotTable;
use crate::storage::{Pace, Pieces, Storage};
use crate::units::HostOffset;

/// QEMU's limit for the number of clusters that it checks.
const MOST_CLUSTERS: u64 = i32::MAX.cast_unsigned() as u64;

/// What the walk works on.
pub struct Walk<'a> {
    pub(super) storage: &'a dyn Storage,
    pub(super) geometry: Geometry,
    /// Whether clusters of data are in another file.
    pub(super) data_file: bool,
    /// The file's length in bytes.
    pub(super) length: u64,
    /// The file's length in clusters.
    pub(super) clusters: u64,
    pub(super) references: References,
    pub(super) stored: Stored<'a>,
    /// Whether the image is going to be repaired: then COPIED flags are left for later, when the
    /// refcounts are right.
    pub(super) repairing: bool,
    /// Runs of clusters beyond the file's end that must not come into use, since something leads
    /// there; noted for a repair.
    avoided: Mutex<Vec<Range<u64>>>,
}

/// What the walk found out.
pub struct Walked {
    /// The counts so far.
    pub report: CheckReport,
    /// The active L1 table.
    pub active_l1: TablePlace,
    /// The L2 tables, by their place in the file.
    pub l2_tables: Vec<L2Place>,
    /// L2 entries that are to be replaced.
    pub zero_instead: Vec<ZeroInstead>,
    /// Whether the refcount structures are so damaged that they have to be made anew.
    pub rebuild: bool,
    /// The clusters of the refcount table and its blocks, as often as they are referred to.
    pub refcount_clusters: Vec<u64>,
    /// Whether there is an L1 table that could not be followed, all or in part. What it leads to looks
    /// leaked, and may be all that there is of the guest's data.
    pub unfollowed: bool,
}

impl<'a> Walk<'a> {
    /// Opens the image.
    ///
    /// # Errors
    /// The system's error; a file with more clusters than QEMU checks.
    pub fn open(storage: &'a dyn Storage, header: &Header, repairing: bool) -> Result<Self> {
        let geometry = header.geometry();
        let length = storage.len()?;
        let clusters = geometry.clusters(length);
        if clusters > MOST_CLUSTERS {
            return Err(Error::unsupported("File too large"));
        }
        Ok(Self {
            storage,
            geometry,
            data_file: header.has_incompatible(features::DATA_FILE),
            length,
            clusters,
            // What is less than a cluster beyond the end still counts.
            references: References::new(clusters + 1),
            stored: Stored::read(storage, header, length)?,
            repairing,
            avoided: Mutex::default(),
        })
    }

    /// Counts references to every cluster that `bytes` bytes from `host` on touch.
    pub(super) fn count(&self, host: HostOffset, bytes: u64, times: u64) {
        let Some(last) = bytes.checked_sub(1) else {
            return;
        };
        let first = self.geometry.host_cluster(host);
        let last = HostOffset(host.0.saturating_add(last));
        let last = self.geometry.host_cluster(last).min(self.clusters);
        for cluster in first..=last {
            self.references.add(cluster, times);
        }
    }

    /// Counts a structure, or finds that it is beyond the file's end.
    fn region(
        &self,
        what: &str,
        host: HostOffset,
        bytes: u64,
        found: &mut dyn FnMut(Finding),
    ) -> bool {
        // A structure without a byte is nowhere, whatever its offset says.
        if bytes == 0 || self.is_inside(host, bytes) {
            self.count(host, bytes, 1);
            return true;
        }
        let what = format!("{what} at {host} ({bytes} bytes)");
        let what = match self.missing(host, bytes).cut_off() {
            Some(words) => format!("{words} ({what})"),
            None => format!("{what} is beyond the end of the file"),
        };
        found(Finding::Structure { what, times: 1 });
        false
    }

    /// A part of the file, for a finding that it isn't all there.
    pub(super) fn missing(&self, host: HostOffset, bytes: u64) -> Region {
        Region {
            host,
            bytes,
            file: self.length,
            cluster: self.geometry.cluster_size(),
        }
    }

    /// Whether bytes that something leads to are inside the file, or less than a cluster beyond its
    /// end: its last cluster may be cut short. Where not, nothing new may come
    /// there: it would be taken for what is missing.
    pub(super) fn is_inside(&self, host: HostOffset, bytes: u64) -> bool {
        let end = host.0.saturating_add(bytes);
        let limit = self.length.saturating_add(self.geometry.cluster_size());
        if end < limit {
            return true;
        }
        if self.repairing {
            let first = self.geometry.host_cluster(host).max(self.clusters);
            let end = self.geometry.clusters(end);
            let mut avoided = self.avoided.lock().unwrap_or_else(PoisonError::into_inner);
            avoided.push(first..end);
        }
        false
    }

    /// The runs of clusters beyond the file's end to which something leads, in order, none touching
    /// another.
    pub(super) fn avoided(&self) -> Vec<Range<u64>> {
        let mut runs =
            std::mem::take(&mut *self.avoided.lock().unwrap_or_else(PoisonError::into_inner));
        runs.sort_unstable_by_key(|run| (run.start, run.end));
        runs.dedup_by(|next, kept| {
            let touching = next.start <= kept.end;
            if touching {
                kept.end = kept.end.max(next.end);
            }
            touching
        });
        runs
    }

    /// Whether a cluster's refcount is exactly 1, as far as COPIED flags are concerned.
    pub(super) fn is_one(&self, cluster: u64) -> bool {
        self.data_file || self.stored.is_one(cluster)
    }

    /// Holds a COPIED flag against the refcount of what the entry leads to.
    pub(super) fn copied(
        &self,
        copied: bool,
        host: HostOffset,
        place: Place,
        entry: u64,
        times: u64,
        found: &mut dyn FnMut(Finding),
    ) -> Result<()> {
        let cluster = self.geometry.host_cluster(host);
        let is_l1 = matches!(place, Place::L1 { .. });
        let one = if is_l1 {
            self.stored.is_one(cluster)
        } else {
            self.is_one(cluster)
        };
        if self.repairing || copied == one {
            return Ok(());
        }
        let refcount = if one { 1 } else { self.stored.get(cluster)? };
        found(Finding::Copied {
            place,
            entry,
            refcount,
            times,
        });
        Ok(())
    }

    /// Counts everything.
    ///
    /// # Errors
    /// The system's error; a snapshot table or a bitmap directory that can't be read.
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

    /// Checks the snapshots, and gives the L1 tables that can be followed.
    fn snapshots(
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

    fn bitmaps(&self, header: &Header, found: &mut dyn FnMut(Finding)) -> Result<()> {
        let Some(directory) = header.bitmaps() else {
            return Ok(());
        };
        self.region(
            "bitmap directory",
            directory.directory,
            directory.length,
            found,
        );
        for bitmap in read_bitmaps(self.storage, header)? {
            let bytes = bitmap.table.entries * ENTRY_SIZE;
            if !self.region("bitmap table", bitmap.table.host, bytes, found) {
                continue;
            }
            for (index, entry) in bitmap.read_table(self.storage)?.into_iter().enumerate() {
                match entry.target(self.geometry) {
                    Ok(BitmapTarget::Uniform(_)) => {}
                    Ok(BitmapTarget::Stored(host)) => {
                        self.region("bitmap data", host, self.geometry.cluster_size(), found);
                    }
                    Err(why) => {
                        let name = String::from_utf8_lossy(&bitmap.name);
                        let name = crate::error::printable(&name);
                        let what = format!("entry {index} of the table of bitmap '{name}': {why}");
                        found(Finding::Structure { what, times: 1 });
                    }
                }
            }
        }
        Ok(())
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
                // More than a refcount can count is found when the counts are compared.
                let counted = references.min(most_references(self.geometry));
                (counted != 1).then_some(Problem::SharedBlock(references))
            } else {
                None
            };
            if let Some(problem) = problem {
                walked.rebuild = true;
                found(Finding::BadEntry {
                    place: Place::RefcountTable { index },
                    entry: entry.0,
                    problem,
                    times: 1,
                });
            }
        }
    }
}
