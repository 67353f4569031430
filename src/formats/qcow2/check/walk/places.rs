//! The file under check: its places, counted, and compared with its end.
//!
//! Each part of the walk counts into the same references, and asks the same questions of a place:
//! is it in the file, and does its refcount go with its COPIED flag?

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

/// QEMU's limit for the number of clusters that it checks.
const MOST_CLUSTERS: u64 = i32::MAX.cast_unsigned() as u64;

/// The state of the walk.
pub struct Walk<'a> {
    pub(in crate::formats::qcow2::check) storage: &'a dyn Storage,
    pub(in crate::formats::qcow2::check) geometry: Geometry,
    /// True if clusters of data are in another file.
    pub(in crate::formats::qcow2::check) data_file: bool,
    /// The file's length in bytes.
    pub(in crate::formats::qcow2::check) length: u64,
    /// The file's length in clusters.
    pub(in crate::formats::qcow2::check) clusters: u64,
    pub(in crate::formats::qcow2::check) references: References,
    pub(in crate::formats::qcow2::check) stored: StoredRefcounts<'a>,
    /// True if the image is going to be repaired.
    pub(in crate::formats::qcow2::check) repairing: bool,
    /// True if a COPIED flag doesn't agree with its refcount. Those flags are looked for when the refcounts have been
    /// told, and repaired.
    flags_differ: AtomicBool,
    /// Runs of clusters beyond the file's end that must not come into use, since something leads
    /// there. They are noted for a repair.
    avoided: Mutex<Vec<Range<u64>>>,
}

impl<'a> Walk<'a> {
    /// Opens the image.
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
            // A part of a cluster beyond the end still counts.
            references: References::new(clusters + 1),
            stored: StoredRefcounts::read(storage, header, length)?,
            repairing,
            flags_differ: AtomicBool::new(false),
            avoided: Mutex::default(),
        })
    }

    /// Counts references to every cluster that `bytes` bytes from `host` on touch.
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

    /// Counts a structure, or finds that it is beyond the file's end.
    pub(super) fn region(
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
        let cut_off = self.missing(host, bytes).cut_off();
        let what = cut_off.unwrap_or_else(|| {
            format!("{what} at {host} ({bytes} bytes) is beyond the end of the file")
        });
        found(Finding::Structure { what, times: 1 });
        false
    }

    /// Returns a part of the file, for a finding that it isn't all there.
    pub(in crate::formats::qcow2::check) fn missing(&self, host: HostOffset, bytes: u64) -> Region {
        Region {
            host,
            bytes,
            file: self.length,
            cluster: self.geometry.cluster_size(),
        }
    }

    /// Returns true if bytes that something leads to are inside the file, or less than a cluster
    /// beyond its end: its last cluster may be cut short. Otherwise nothing new may come there: it
    /// would be taken for the missing part.
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

    /// Returns the runs of clusters beyond the file's end to which something leads, in order, none
    /// touching another.
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

    /// Notes a COPIED flag that doesn't agree with its refcount, which is exactly 1 or isn't.
    pub(super) fn note_copied(&self, copied: bool, one: bool) {
        if copied != one {
            self.flags_differ.store(true, Ordering::Relaxed);
        }
    }

    /// Returns true if a COPIED flag didn't agree with its refcount.
    pub(in crate::formats::qcow2::check) fn flags_differ(&self) -> bool {
        self.flags_differ.load(Ordering::Relaxed)
    }
}
