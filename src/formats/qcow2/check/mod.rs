//! The check of refcounts against the references to clusters.
//!
//! One walk counts the references to each cluster of the file. Then the counts are compared with the
//! refcounts that the image stores. A refcount that is too low is a corruption: a writer would hand out a
//! cluster in use. One that is too high is a leak: space is wasted, nothing else.
//!
//! - [`finding`]: the findings, and their wording;
//! - [`references`]: the counts, in little memory;
//! - [`refcounts`]: the refcounts that the image stores;
//! - [`walk`]: everything that refers to a cluster;
//! - [`compare`]: the counts against the refcounts;
//! - [`mod@repair`], [`mod@rebuild`], [`copied`]: the repairs, in an order that survives a power cut;
//! - [`snapshot_table`]: the same for a snapshot table;
//! - [`width`]: refcounts of another width.
//!
//! [`check`] itself writes nothing.

mod compare;
mod copied;
mod finding;
mod rebuild;
pub(super) mod refcounts;
pub(super) mod references;
mod repair;
mod snapshot_table;
mod walk;
mod width;

pub use finding::{EntryPlace, Event, Finding, Problem, Region};
pub use repair::{repair, repair_dirty, repaired_header};
pub use width::change_refcount_width;

use crate::error::Result;
pub use crate::formats::check::{CheckReport, Repair};
use crate::formats::qcow2::header::Header;
use crate::storage::Storage;
use repair::Work;

/// Checks an image and reports each finding as it is found.
///
/// # Errors
/// Returns the system's error. Returns an error if structures can't be read at all, so that nothing can be
/// said of the clusters that they would refer to.
pub fn check(
    storage: &dyn Storage,
    header: &Header,
    on_event: &mut dyn FnMut(Event<'_>),
) -> Result<CheckReport> {
    Work::new(storage, header, None, on_event).run()
}

#[cfg(test)]
mod tests;
