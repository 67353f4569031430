//! The consistency check of the refcounts, and its repairs.
//!
//! One walk counts the references to each cluster of the file. The counts are then compared with the stored
//! refcounts. A refcount that is too low is a corruption: a writer would allocate a cluster that is in use. A
//! refcount that is too high is a leak: it only wastes space.
//!
//! - [`finding`]: the findings, and their text;
//! - [`references`]: the counts of references, in little memory;
//! - [`refcounts`]: the refcounts that the image stores;
//! - [`walk`]: the walk over everything that refers to a cluster;
//! - [`compare`]: the comparison of the counts with the refcounts;
//! - [`mod@repair`], [`mod@rebuild`], [`copied`]: the repairs, in an order that survives a power cut;
//! - [`snapshot_table`]: the repair of the snapshot table;
//! - [`width`]: the change of the refcount width.
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
/// Returns the system's error. Returns an error if a structure can't be read, so that the references in it are
/// unknown.
pub fn check(
    storage: &dyn Storage,
    header: &Header,
    on_event: &mut dyn FnMut(Event<'_>),
) -> Result<CheckReport> {
    Work::new(storage, header, None, on_event).run()
}

#[cfg(test)]
mod tests;
