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
pub use repair::{repair, repair_dirty};

use crate::error::Result;
pub use crate::formats::check::{CheckReport, Repair};
use crate::formats::qcow2::geometry::Geometry;
use crate::formats::qcow2::header::Header;
use crate::storage::Storage;
use walk::Walk;

/// Adds a finding to the numbers of a report.
fn add(report: &mut CheckReport, finding: &Finding) {
    let sum = if finding.is_leak() {
        &mut report.leaks
    } else {
        &mut report.corruptions
    };
    *sum = sum.saturating_add(finding.times());
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
        add(&mut found, &finding);
        on_event(Event::Found(&finding));
    })?;
    let compared = walk.compare(&mut |finding| {
        add(&mut found, &finding);
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
