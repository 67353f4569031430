//! The places of metadata and of compressed clusters in the file, for pictures of it.
//!
//! Snapshots share L2 tables with the disk and with each other, so the tables' offsets are collected first. That takes
//! 8 bytes for each cluster of metadata. Compressed clusters of snapshots aren't listed.

use std::ops::Range;
use std::sync::Arc;

use super::bitmaps::read_bitmaps;
use super::entries::{BitmapTarget, L1Entry, L1Target, L2Lead, RefcountTableEntry};
use super::geometry::ENTRY_SIZE;
use super::header::{Header, TablePlace, features};
use super::read::tables::{Tables, read_table};
use super::snapshots::SnapshotTable;
use crate::error::{Error, Result};
use crate::storage::Storage;
use crate::units::HostOffset;

/// Passes the byte ranges of the image's metadata to `each`: whole clusters, disjoint and in order.
///
/// # Errors
/// Returns the system's error. Returns an error if a table that refers to metadata is invalid.
pub(super) fn metadata(
    storage: &dyn Storage,
    header: &Header,
    each: &mut dyn FnMut(Range<u64>),
) -> Result<()> {
    let geometry = header.geometry();
    let mut clusters = Vec::new();
    let mut add = |host: HostOffset, bytes: u64| {
        let first = geometry.host_cluster(host);
        clusters.extend(first..first.saturating_add(geometry.clusters(bytes)));
    };
    add(HostOffset(0), geometry.cluster_size());
    let refcounts = header.refcount_table();
    add(refcounts.host, refcounts.entries * ENTRY_SIZE);
    for entry in read_table(storage, refcounts, "the refcount table")? {
        if let Some(block) = RefcountTableEntry(entry).block(geometry).map_err(invalid)? {
            add(block, geometry.cluster_size());
        }
    }
    let mut add_l1 = |place: TablePlace| -> Result<()> {
        add(place.host, place.entries * ENTRY_SIZE);
        for entry in read_table(storage, place, "an L1 table")? {
            match L1Entry(entry).target(geometry).map_err(invalid)? {
                L1Target::Table { host, .. } => add(host, geometry.cluster_size()),
                L1Target::Unallocated => {}
            }
        }
        Ok(())
    };
    add_l1(header.l1())?;
    if header.snapshots() > 0 {
        let table = SnapshotTable::read(storage, header)?;
        for snapshot in &table.snapshots {
            add_l1(snapshot.l1_table(geometry)?)?;
        }
        add(header.snapshots_offset(), table.length);
    }
    if let Some(luks) = header.luks() {
        add(luks.host, luks.length);
    }
    if let Some(place) = header.bitmaps() {
        add(place.directory, place.length);
    }
    for bitmap in read_bitmaps(storage, header)? {
        add(bitmap.table.host, bitmap.table.entries * ENTRY_SIZE);
        for entry in bitmap.read_table(storage)? {
            if let BitmapTarget::Stored(host) = entry.target(geometry).map_err(invalid)? {
                add(host, geometry.cluster_size());
            }
        }
    }
    clusters.sort_unstable();
    clusters.dedup();
    for run in clusters.chunk_by(|one, next| one + 1 == *next) {
        let start = run.first().and_then(|first| geometry.host_offset(*first));
        if let Some(start) = start {
            let length = (run.len() as u64).saturating_mul(geometry.cluster_size());
            each(start.0..start.0.saturating_add(length));
        }
    }
    Ok(())
}

/// Passes the byte ranges of the disk's compressed clusters to `each`, in guest order. The last sector of a range is
/// often the first one of another.
///
/// # Errors
/// Returns an error as [`Tables::l2`] does.
pub(super) fn compressed(
    storage: &Arc<dyn Storage>,
    header: &Header,
    each: &mut dyn FnMut(Range<u64>),
) -> Result<()> {
    // The specification forbids compression with an external data file.
    let data_file = header.has_incompatible(features::DATA_FILE);
    let geometry = header.geometry();
    let tables = Tables::open(Arc::clone(storage), header, false)?;
    for l1_index in 0..header.l1().entries {
        let Some(table) = tables.l2(l1_index)? else {
            continue;
        };
        let slots = (0..).map_while(|index| table.get(index));
        for slot in slots {
            if let L2Lead::Compressed(range) = slot.entry.lead(geometry, data_file) {
                each(range.host.0..range.host.0.saturating_add(range.length));
            }
        }
    }
    Ok(())
}

fn invalid(why: impl std::fmt::Display) -> Error {
    Error::corrupt(format!("a table of the image is invalid: {why}"))
}
