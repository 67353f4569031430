//! The COPIED flags of the active tables after the refcounts of many clusters have changed.
//!
//! A missing flag costs a copy, but a wrongly set one would destroy a snapshot. So flags are cleared before another
//! reference to the clusters is stored, and set after the refcounts are on stable storage. Entries are changed in
//! place, several L2 tables at a time.

use std::ops::Range;

use crate::error::Result;
use crate::formats::qcow2::entries::{L1Entry, L2Entry, L2Lead};
use crate::formats::qcow2::geometry::{ENTRY_SIZE, Geometry};
use crate::storage::{Pace, Pieces, Storage};
use crate::units::HostOffset;

use super::walk::{CountedL2, words_per_entry};

/// The number of L1 entries in a sector.
const ENTRIES_PER_SECTOR: usize = 64;

/// Sets the flags of the entries in L2 tables according to `is_one`, which says if a cluster's refcount is 1.
///
/// # Errors
/// Returns the system's error.
pub(super) fn set_l2_flags(
    storage: &dyn Storage,
    geometry: Geometry,
    tables: &[CountedL2],
    is_one: &(dyn Fn(u64) -> bool + Sync),
) -> Result<()> {
    let step = words_per_entry(geometry);
    let length = storage.len()?;
    let pace = Pace::default();
    Pieces::new(storage, length, geometry.cluster_len(), &pace).each(
        tables,
        |table| table.host.0,
        |table, bytes| {
            let wrong = |word: &[u8; 8]| {
                let entry = L2Entry(u64::from_be_bytes(*word));
                let L2Lead::Stored { host, copied, .. } = entry.lead(geometry, false) else {
                    return None;
                };
                let is_one = is_one(geometry.host_cluster(host));
                (copied != is_one).then(|| entry.with_copied(is_one))
            };
            let (words, _) = bytes.as_chunks::<8>();
            let entries = || (0usize..).zip(words).step_by(step);
            let mut wrongs = entries().filter(|(_, word)| wrong(word).is_some());
            let Some((first, _)) = wrongs.next() else {
                return Ok(());
            };
            let last = wrongs.last().map_or(first, |(last, _)| last);
            let mut changed = bytes
                .get(first * 8..(last + 1) * 8)
                .unwrap_or_default()
                .to_vec();
            let (words, _) = changed.as_chunks_mut::<8>();
            for word in words.iter_mut().step_by(step) {
                if let Some(entry) = wrong(word) {
                    *word = entry.0.to_be_bytes();
                }
            }
            storage.write_at(table.host.0 + first as u64 * ENTRY_SIZE, &changed)
        },
        |()| Ok(()),
    )
}

/// Sets the flags of the entries in an L1 table according to `is_one`, which says if a cluster's refcount is 1. `l1`
/// is the table as stored at `host`.
///
/// # Errors
/// Returns the system's error.
pub(super) fn set_l1_flags(
    storage: &dyn Storage,
    geometry: Geometry,
    l1: &[L1Entry],
    host: HostOffset,
    is_one: &dyn Fn(u64) -> bool,
) -> Result<()> {
    let right = |entry: &L1Entry| match entry.host() {
        HostOffset(0) => *entry,
        host => entry.with_copied(is_one(geometry.host_cluster(host))),
    };
    let is_wrong = |sector: &&[L1Entry]| sector.iter().any(|entry| right(entry) != *entry);
    let mut run: Option<Range<usize>> = None;
    let write = |run: Range<usize>| {
        let entries = l1.get(run.clone()).unwrap_or_default().iter();
        let bytes: Vec<u8> = entries
            .flat_map(|entry| right(entry).0.to_be_bytes())
            .collect();
        storage.write_at(host.0 + run.start as u64 * ENTRY_SIZE, &bytes)
    };
    let sectors = l1.chunks(ENTRIES_PER_SECTOR).enumerate();
    for (number, sector) in sectors.filter(|(_, sector)| is_wrong(sector)) {
        let start = number * ENTRIES_PER_SECTOR;
        let end = start + sector.len();
        match &mut run {
            Some(run) if run.end == start => run.end = end,
            _ => {
                if let Some(run) = run.replace(start..end) {
                    write(run)?;
                }
            }
        }
    }
    run.map_or(Ok(()), write)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::{Change, MemoryStorage};

    #[test]
    fn only_wrong_sectors_of_an_l1_table_are_written() {
        let geometry = Geometry::new(9, false, 4).unwrap();
        let entry = |cluster: u64, copied| L1Entry(cluster << 9).with_copied(copied);
        let mut l1 = vec![entry(2, true); 5 * 64 + 3];
        l1[0] = L1Entry(0);
        l1[64] = entry(3, true);
        l1[128] = entry(2, false);
        l1[322] = entry(3, true);
        let storage = MemoryStorage::new(vec![0xee; 4096]).recording();
        set_l1_flags(&storage, geometry, &l1, HostOffset(512), &|cluster| {
            cluster == 2
        })
        .unwrap();
        let record = storage.take_record();
        let [Change::Write(first, one), Change::Write(second, two)] = &record[..] else {
            panic!("{record:?}");
        };
        assert_eq!((*first, one.len()), (512 + 512, 1024));
        assert_eq!((*second, two.len()), (512 + 5 * 512, 24));
        assert_eq!(
            one[..16],
            [&[0, 0, 0, 0, 0, 0, 6, 0][..], &[0x80, 0, 0, 0, 0, 0, 4, 0]].concat()
        );
        assert_eq!(one[512..520], [0x80, 0, 0, 0, 0, 0, 4, 0]);
        assert_eq!(two[16..], [0, 0, 0, 0, 0, 0, 6, 0]);
    }

    #[test]
    fn flags_of_an_l2_table_follow_the_refcounts_and_compressed_clusters_have_none() {
        for extended in [false, true] {
            let geometry = Geometry::new(14, extended, 4).unwrap();
            let step = if extended { 16 } else { 8 };
            let host = |cluster: u64| HostOffset(cluster << 14);
            let compressed = L2Entry::to_compressed(geometry, host(5), 100).unwrap();
            let stored = |entries: [L2Entry; 5]| {
                let mut bytes = vec![0; 2 << 14];
                for (at, entry) in entries.into_iter().enumerate() {
                    bytes[(1 << 14) + at * step..][..8].copy_from_slice(&entry.0.to_be_bytes());
                    // The sign bit of a subcluster bitmap isn't a COPIED flag.
                    bytes[(1 << 14) + (at + 1) * step - 8] |= 0x80 * u8::from(extended);
                }
                bytes
            };
            let [one, two] = [2, 3].map(|cluster| L2Entry::to_data(host(cluster)));
            let [not_one, not_two] = [one, two].map(|entry| entry.with_copied(false));
            let storage = MemoryStorage::new(stored([L2Entry(0), two, compressed, not_one, one]));
            let tables = super::super::walk::l2_tables([L1Entry(1 << 14)], geometry).unwrap();
            let is_one = |cluster| cluster == 2 || cluster == 5;
            set_l2_flags(&storage, geometry, &tables, &is_one).unwrap();
            let expected = stored([L2Entry(0), not_two, compressed, one, one]);
            assert!(storage.contents() == expected, "extended: {extended}");
        }
    }
}
