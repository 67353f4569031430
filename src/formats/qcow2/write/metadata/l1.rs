//! The L1 table as a whole: its growth for a larger disk, and the removal of L2 tables for a smaller one.
//!
//! A table stays in place while its last cluster has space for more entries. Otherwise it is written to new clusters,
//! and one write within a sector makes the header refer to them. The caller changes the disk's size afterwards, which
//! is a separate field: a table may have more entries than the disk needs, but never fewer.

use std::sync::Arc;

use super::Metadata;
use crate::error::{Error, Result};
use crate::formats::qcow2::entries::{L1Entry, L1Target, L2Table};
use crate::formats::qcow2::geometry::ENTRY_SIZE;
use crate::formats::qcow2::header::{TablePlace, fields};
use crate::formats::qcow2::read::tables::decode;
use crate::formats::qcow2::write::metadata_map::Structure;

impl Metadata {
    /// Returns the number of entries of the L1 table.
    pub(in super::super) fn l1_entries(&self) -> u64 {
        self.parts.l1.len() as u64
    }

    /// Extends the L1 table to at least `entries` entries, on stable storage.
    ///
    /// # Errors
    /// Returns an error if there is no space for the table, or the system's error.
    pub(in super::super) fn grow_l1(&mut self, entries: u64) -> Result<()> {
        if entries <= self.l1_entries() {
            return Ok(());
        }
        self.commit()?;
        let place = match self.fits_behind_l1(entries)? {
            true => self.parts.l1_place.host,
            false => self.allocate_run(entries * ENTRY_SIZE)?,
        };
        // The refcounts of the new clusters are stored before the header refers to them.
        self.commit()?;
        let place = TablePlace {
            host: place,
            entries,
        };
        self.store_l1(place)
            .map_err(|error| self.fail_for_good(error))
    }

    /// Returns true if `entries` entries fit into the clusters of the L1 table, and these hold nothing else.
    fn fits_behind_l1(&mut self, entries: u64) -> Result<bool> {
        let geometry = self.parts.geometry;
        let old = geometry.clusters(self.l1_entries() * ENTRY_SIZE);
        if old == 0 || geometry.clusters(entries * ENTRY_SIZE) > old {
            return Ok(false);
        }
        let first = geometry.host_cluster(self.parts.l1_place.host);
        Ok(self.parts.refcounts.get(first + old - 1)? == 1)
    }

    /// Writes the L1 table to `place`, padded with empty entries, and makes the header refer to it.
    fn store_l1(&mut self, place: TablePlace) -> Result<()> {
        let storage = Arc::clone(&self.parts.storage);
        let geometry = self.parts.geometry;
        let length = usize::try_from(place.entries)
            .map_err(|_| Error::invalid("the L1 table is too large for this machine"))?;
        let old = self.parts.l1_place;
        let old_clusters = geometry.clusters(old.entries * ENTRY_SIZE);
        let moves = place.host != old.host;
        self.parts.l1.resize(length, L1Entry::default());
        self.l1_changed.clear();
        let kept = if moves { 0 } else { old.entries };
        let kept = usize::try_from(kept).unwrap_or(length);
        let added = self.parts.l1.iter().skip(kept);
        let bytes: Vec<u8> = added.flat_map(|entry| entry.0.to_be_bytes()).collect();
        storage.write_at(place.host.0 + kept as u64 * ENTRY_SIZE, &bytes)?;
        self.flush()?;
        fields::set_l1(storage.as_ref(), place)?;
        self.flush()?;
        self.parts.l1_place = place;
        let first = geometry.host_cluster(old.host);
        if old_clusters > 0 {
            self.parts.map.remove(first);
        }
        if moves && old_clusters > 0 {
            self.free(first..first + old_clusters, true)?;
        }
        let first = geometry.host_cluster(place.host);
        let clusters = geometry.clusters(place.entries * ENTRY_SIZE);
        let map = &mut self.parts.map;
        map.insert(first..first + clusters, Structure::ActiveL1)
    }

    /// Returns the L2 table of an L1 entry, or `None` if the entry is unallocated.
    ///
    /// # Errors
    /// Returns an error if the table can't be read.
    pub(in super::super) fn l2_table(&mut self, l1_index: u64) -> Result<Option<L2Table>> {
        if !self.load_l2(l1_index)? {
            return Ok(None);
        }
        let words = decode(self.l2.get(l1_index).unwrap_or_default());
        Ok(Some(L2Table::new(words, self.parts.geometry)))
    }

    /// Removes the L2 table of an L1 entry. Doesn't free the clusters that the table refers to.
    ///
    /// # Errors
    /// Returns an error if the entry is invalid, or the system's error.
    pub(in super::super) fn drop_l2(&mut self, l1_index: u64) -> Result<()> {
        let L1Target::Table { host, .. } = self.l1_entry(l1_index)? else {
            return Ok(());
        };
        let cluster = self.parts.geometry.host_cluster(host);
        self.l2.remove(l1_index);
        self.parts.map.remove(cluster);
        self.free(cluster..cluster + 1, true)?;
        self.set_l1_entry(l1_index, L1Entry::default())
    }
}
