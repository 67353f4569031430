//! The state of the walk: the file, its counts, and the checks of a region of the file.
//!
//! All parts of the walk add to the same counts. They all check if a region is inside the file, and if its refcount
//! agrees with its COPIED flag.

use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use crate::error::{Error, Result};
use crate::formats::qcow2::check::finding::{Finding, Region};
use crate::formats::qcow2::check::refcounts::StoredRefcounts;
use crate::formats::qcow2::check::references::References;
use crate::formats::qcow2::geometry::Geometry;
use crate::formats::qcow2::header::{Header, features};
use crate::storage::Storage;
use crate::units::HostOffset;

/// QEMU's limit for the number of clusters in a file to be checked.
const MOST_CLUSTERS: u64 = i32::MAX.cast_unsigned() as u64;

/// The state of the walk.
pub struct Walk<'a> {
    pub(in crate::formats::qcow2::check) storage: &'a dyn Storage,
    pub(in crate::formats::qcow2::check) geometry: Geometry,
    /// True if the data clusters are in an external data file.
    pub(in crate::formats::qcow2::check) data_file: bool,
    /// The file's length in bytes.
    pub(in crate::formats::qcow2::check) length: u64,
    /// The file's length in clusters.
    pub(in crate::formats::qcow2::check) clusters: u64,
    pub(in crate::formats::qcow2::check) references: References,
    pub(in crate::formats::qcow2::check) stored: StoredRefcounts<'a>,
    /// True if the image is going to be repaired.
    pub(in crate::formats::qcow2::check) repairing: bool,
    /// True if a COPIED flag disagrees with its refcount. Such flags are listed after the refcounts have been
    /// reported and repaired.
    flags_differ: AtomicBool,
    /// Ranges of clusters beyond the file's end that are referenced, and so must not be allocated by a repair.
    avoided: Mutex<Vec<Range<u64>>>,
}

impl<'a> Walk<'a> {
    /// Opens the image for a walk.
    ///
    /// # Errors
    /// Returns the system's error, or an error if the file has more clusters than QEMU checks.
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
            // A region may extend into the first cluster beyond the end of the file.
            references: References::new(clusters + 1),
            stored: StoredRefcounts::read(storage, header, length)?,
            repairing,
            flags_differ: AtomicBool::new(false),
            avoided: Mutex::default(),
        })
    }

    /// Adds `times` references to every cluster that overlaps with the `bytes` bytes from `host` on.
    pub(in crate::formats::qcow2::check) fn count(&self, host: HostOffset, bytes: u64, times: u64) {
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

    /// Counts a structure. Reports it instead, and returns false, if it is beyond the file's end.
    pub(super) fn region(
        &self,
        what: &str,
        host: HostOffset,
        bytes: u64,
        found: &mut dyn FnMut(Finding),
    ) -> bool {
        // An empty structure has no place, whatever its offset.
        if bytes == 0 || self.is_inside(host, bytes) {
            self.count(host, bytes, 1);
            return true;
        }
        let cut_off = self.missing(host, bytes).cut_off();
        let what = cut_off.unwrap_or_else(|| {
            format!("{what} at {host} ({bytes} bytes) is beyond the end of the file")
        });
        found(Finding::Structure { what, times: 1 });
        false
    }

    /// Returns the region for a finding that it isn't completely in the file.
    pub(in crate::formats::qcow2::check) fn missing(&self, host: HostOffset, bytes: u64) -> Region {
        Region {
            host,
            bytes,
            file: self.length,
            cluster: self.geometry.cluster_size(),
        }
    }

    /// Returns true if a referenced region is inside the file, or ends less than a cluster beyond its end. The file
    /// may end inside a cluster. Otherwise its clusters are recorded as avoided: data written there would be taken
    /// for the missing region.
    pub(in crate::formats::qcow2::check) fn is_inside(&self, host: HostOffset, bytes: u64) -> bool {
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

    /// Returns the ranges of clusters beyond the file's end that are referenced, in order, joined where they touch.
    pub(in crate::formats::qcow2::check) fn avoided(&self) -> Vec<Range<u64>> {
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

    /// Records a COPIED flag that disagrees with its refcount. `one` is true if the refcount is exactly 1.
    pub(super) fn note_copied(&self, copied: bool, one: bool) {
        if copied != one {
            self.flags_differ.store(true, Ordering::Relaxed);
        }
    }

    /// Returns true if a COPIED flag disagreed with its refcount.
    pub(in crate::formats::qcow2::check) fn flags_differ(&self) -> bool {
        self.flags_differ.load(Ordering::Relaxed)
    }
}
