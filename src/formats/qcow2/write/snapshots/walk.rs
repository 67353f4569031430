//! The clusters that an L1 table refers to: its L2 tables, and the clusters of their entries.
//!
//! An L2 table to which several entries refer is read once, and counted as often as there are entries. As in a check,
//! many tables are read at once if the storage is slow.

use std::sync::Arc;

use crate::error::{Error, Result};
use crate::formats::qcow2::check::references::{ReferenceRun, References};
use crate::formats::qcow2::entries::{L1Entry, L1Target, L2Entry, L2Lead};
use crate::formats::qcow2::geometry::{ENTRY_SIZE, Geometry};
use crate::storage::{Pace, Pieces, Storage};
use crate::units::HostOffset;

/// The largest number of clusters of a file whose references are counted, as in a check.
const MOST_CLUSTERS: u64 = i32::MAX.cast_unsigned() as u64;

/// An L2 table, and the number of L1 entries that refer to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in super::super) struct CountedL2 {
    pub(in super::super) host: HostOffset,
    pub(in super::super) times: u64,
}

/// Returns the L2 tables that L1 entries refer to, each once, sorted by host offset.
///
/// # Errors
/// Returns an error if an entry is invalid.
pub(in super::super) fn l2_tables(
    entries: impl IntoIterator<Item = L1Entry>,
    geometry: Geometry,
) -> Result<Vec<CountedL2>> {
    let mut tables = Vec::new();
    for entry in entries {
        match entry.target(geometry) {
            Ok(L1Target::Unallocated) => {}
            Ok(L1Target::Table { host, .. }) => tables.push(CountedL2 { host, times: 1 }),
            Err(why) => {
                return Err(Error::corrupt(format!(
                    "L1 entry {:#x} is invalid: {why}",
                    entry.0
                )));
            }
        }
    }
    tables.sort_unstable_by_key(|table| table.host);
    tables.dedup_by(|next, kept| {
        let is_same = next.host == kept.host;
        if is_same {
            kept.times += next.times;
        }
        is_same
    });
    Ok(tables)
}

/// Counts the references to L2 tables, and those from their entries.
///
/// # Errors
/// Returns the system's error. Returns an error if the file has too many clusters, or if a table or a cluster is
/// beyond its end.
pub(super) fn references(
    storage: &Arc<dyn Storage>,
    geometry: Geometry,
    tables: &[CountedL2],
) -> Result<References> {
    let length = storage.len()?;
    // A table may refer to the first cluster beyond the end of the file, as in a check.
    let clusters = geometry.clusters(length) + 1;
    if clusters > MOST_CLUSTERS {
        return Err(Error::unsupported("File too large"));
    }
    let references = References::new(clusters);
    let pace = Pace::default();
    let size = geometry.cluster_len();
    Pieces::new(storage.as_ref(), length, size, &pace).each(
        tables,
        |table| table.host.0,
        |table, bytes| {
            let cluster = geometry.host_cluster(table.host);
            check_cluster(cluster, clusters)?;
            references.add(cluster, table.times);
            let mut run = ReferenceRun::new(&references, table.times);
            let (words, _) = bytes.as_chunks::<8>();
            for word in words.iter().step_by(words_per_entry(geometry)) {
                let entry = L2Entry(u64::from_be_bytes(*word));
                let (host, length) = match entry.lead(geometry, false) {
                    L2Lead::Nothing | L2Lead::Zero => continue,
                    L2Lead::Stored { host, .. } => (host, 1),
                    L2Lead::Compressed(range) => (range.host, range.length),
                };
                let last = HostOffset(host.0.saturating_add(length.max(1) - 1));
                let last = geometry.host_cluster(last);
                check_cluster(last, clusters)?;
                for cluster in geometry.host_cluster(host)..=last {
                    run.add(cluster);
                }
            }
            run.finish();
            Ok(())
        },
        |()| Ok(()),
    )?;
    Ok(references)
}

/// Returns the number of 8-byte words of an L2 entry.
pub(super) fn words_per_entry(geometry: Geometry) -> usize {
    usize::try_from(geometry.l2_entry_size() / ENTRY_SIZE).unwrap_or(1)
}

fn check_cluster(cluster: u64, clusters: u64) -> Result<()> {
    if cluster < clusters {
        return Ok(());
    }
    Err(Error::corrupt(format!(
        "cluster {cluster} is in use and beyond the end of the file"
    )))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::MemoryStorage;

    const SIZE: usize = 512;

    fn geometry() -> Geometry {
        Geometry::new(9, false, 4).unwrap()
    }

    #[test]
    fn shared_tables_are_listed_once() {
        let entries = [0, 1024 | 1 << 63, 512, 1024].map(L1Entry);
        let tables = l2_tables(entries, geometry()).unwrap();
        let table = |host, times| CountedL2 {
            host: HostOffset(host),
            times,
        };
        assert_eq!(tables, [table(512, 1), table(1024, 2)]);
        l2_tables([L1Entry(513)], geometry()).unwrap_err();
    }

    #[test]
    fn every_kind_of_entry_counts() {
        let mut bytes = vec![0; 8 * SIZE];
        let compressed = L2Entry::to_compressed(geometry(), HostOffset(4 * 512 + 500), 100);
        let entries = [
            L2Entry::to_data(HostOffset(3 * 512)).0,
            0,
            compressed.unwrap().0,
            L2Entry::to_zero(Some(HostOffset(6 * 512))).0,
            L2Entry::to_zero(None).0,
        ];
        for (at, entry) in entries.into_iter().enumerate() {
            bytes[SIZE + at * 8..][..8].copy_from_slice(&entry.to_be_bytes());
        }
        let storage: Arc<dyn Storage> = Arc::new(MemoryStorage::new(bytes));
        let tables = l2_tables([L1Entry(512), L1Entry(512)], geometry()).unwrap();
        let counted = references(&storage, geometry(), &tables).unwrap();
        let counts: Vec<u64> = (0..9).map(|cluster| counted.get(cluster)).collect();
        assert_eq!(counts, [0, 2, 0, 2, 2, 2, 2, 0, 0]);
        // A cluster beyond the end can't be counted, so it is an error.
        let beyond = L2Entry::to_data(HostOffset(9 * 512)).0.to_be_bytes();
        storage.write_at(512, &beyond).unwrap();
        references(&storage, geometry(), &tables).unwrap_err();
        let tables = l2_tables([L1Entry(9 * 512)], geometry()).unwrap();
        references(&storage, geometry(), &tables).unwrap_err();
    }
}
