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
//! - [`parallel`]: several threads, one order.
//!
//! Nothing is written here.

mod compare;
mod finding;
mod l1;
mod l2;
mod parallel;
mod references;
mod stored;
mod walk;

pub use finding::{Event, Finding, Place, Problem};

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
mod tests {
    use super::*;
    use crate::storage::MemoryStorage;

    /// An empty version 3 image with clusters of 2 MiB and refcounts of 1 bit, whose refcount table
    /// of 8 MiB is full of `entry`.
    fn image(entry: u64) -> MemoryStorage {
        let cluster = 2 << 20;
        let mut bytes = vec![0; 6 * cluster];
        bytes[..8].copy_from_slice(b"QFI\xfb\0\0\0\x03");
        bytes[20..24].copy_from_slice(&21u32.to_be_bytes());
        bytes[48..56].copy_from_slice(&(cluster as u64).to_be_bytes());
        bytes[56..60].copy_from_slice(&4u32.to_be_bytes());
        bytes[100..104].copy_from_slice(&104u32.to_be_bytes());
        for slot in bytes[cluster..5 * cluster].chunks_exact_mut(8) {
            slot.copy_from_slice(&entry.to_be_bytes());
        }
        MemoryStorage::new(bytes)
    }

    fn corruptions(storage: &MemoryStorage) -> u64 {
        let header = Header::read(storage).unwrap();
        check(storage, &header, &mut |_| {}).unwrap().corruptions
    }

    #[test]
    fn a_table_that_names_one_block_a_million_times_ends() {
        // Counted out, it would be 2^44 refcounts: a day and more.
        assert!(corruptions(&image(5 * (2 << 20))) > 1_000_000);
    }

    #[test]
    fn a_block_beyond_the_file_is_a_finding_and_not_a_failure() {
        assert!(corruptions(&image(0xffff_ffff_ffe0_0000)) > 1_000_000);
    }
}
