//! Do the refcounts agree with what refers to what?
//!
//! One walk counts how often each cluster of the file is referred to; then the counts are held
//! against the refcounts that the image stores. A refcount that is too low is a corruption (a writer
//! would hand out a cluster in use), one that is too high a leak (space is wasted, nothing else).
//!
//! - [`finding`]: what can be found, and how it is said;
//! - [`references`]: the counts, in little memory;
//! - [`stored`]: the refcounts that the image stores;
//! - [`l1`], [`l2`], [`walk`]: everything that refers to a cluster;
//! - [`compare`]: the counts against the refcounts;
//! - [`mod@repair`], [`mod@rebuild`], [`copied`]: what is done about it, in an order that survives a power cut;
//! - [`snapshot_table`]: the same for a snapshot table.
//!
//! [`check`] itself writes nothing.

mod compare;
mod copied;
mod finding;
mod l1;
mod l2;
mod rebuild;
mod references;
mod repair;
mod snapshot_table;
mod stored;
mod walk;

pub use finding::{Event, Finding, Place, Problem, Region};
pub use repair::{Repair, repair, repair_dirty};

use crate::error::Result;
use crate::formats::qcow2::geometry::Geometry;
use crate::formats::qcow2::header::Header;
use crate::storage::Storage;
use walk::Walk;

/// What a check found, in numbers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CheckReport {
    /// How many things are wrong.
    pub corruptions: u64,
    /// How many clusters are counted too often.
    pub leaks: u64,
    /// How many things were wrong and have been repaired.
    pub corruptions_fixed: u64,
    /// How many clusters were counted too often and have been repaired.
    pub leaks_fixed: u64,
    /// Where the last cluster in use ends, in bytes.
    pub image_end_offset: u64,
    /// How many clusters the virtual disk has.
    pub total_clusters: u64,
    /// How many of them are stored.
    pub allocated_clusters: u64,
    /// How many of those don't stand right behind the one before.
    pub fragmented_clusters: u64,
    /// How many of those are compressed.
    pub compressed_clusters: u64,
}

impl CheckReport {
    fn add(&mut self, finding: &Finding) {
        let sum = if finding.is_leak() {
            &mut self.leaks
        } else {
            &mut self.corruptions
        };
        *sum = sum.saturating_add(finding.times());
    }
}

/// Checks an image and reports each finding as it is found.
///
/// # Errors
/// The system's error; structures that can't be read at all, so that nothing can be said of what
/// they would refer to.
pub fn check(
    storage: &dyn Storage,
    header: &Header,
    on_event: &mut dyn FnMut(Event<'_>),
) -> Result<CheckReport> {
    let walk = Walk::open(storage, header, false)?;
    let mut found = CheckReport::default();
    let mut walked = walk.run(header, &mut |finding| {
        found.add(&finding);
        on_event(Event::Found(&finding));
    })?;
    let compared = walk.compare(&mut |finding| {
        found.add(&finding);
        on_event(Event::Found(&finding));
        Ok(())
    })?;
    let report = &mut walked.report;
    report.corruptions = found.corruptions;
    report.leaks = found.leaks;
    report.image_end_offset = end_of_cluster(header.geometry(), compared.highest);
    Ok(walked.report)
}

fn end_of_cluster(geometry: Geometry, cluster: u64) -> u64 {
    let end = geometry.host_offset(cluster.saturating_add(1));
    end.map_or(u64::MAX, |end| end.0)
}

#[cfg(test)]
mod tests;
