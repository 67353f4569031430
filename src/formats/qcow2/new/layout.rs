//! The place of the next cluster of a new image, and the tables that are not complete yet.
//!
//! Space is handed out front to back and never given back, from behind the header and the L1 table on. An L2
//! table gets its place before the first data that it describes, so that a reader who goes front to back
//! knows the owner of each cluster. It is written when it is complete: when there are entries for clusters
//! behind all that it describes.

use std::collections::VecDeque;

use super::parts::NewQcow2Parts;
use crate::error::{Error, Result};
use crate::formats::qcow2::entries::{self, L1Entry, L2Entry, SubclusterBitmap};
use crate::formats::qcow2::geometry::{ENTRY_SIZE, Geometry};
use crate::formats::reservation::add_metadata;
use crate::storage::Storage;
use crate::units::{GuestOffset, HostOffset};

/// Metadata that is complete, and where it goes; see [`Reservation`](crate::formats::Reservation).
pub(super) type MetadataWrites = Vec<(HostOffset, Vec<u8>)>;

/// An L2 table that isn't complete.
#[derive(Debug)]
struct Filling {
    l1_index: u64,
    host: HostOffset,
    /// Its entries as they will be stored.
    entries: Vec<u8>,
}

/// The layout of a new image, as far as it is known.
#[derive(Debug)]
pub(super) struct Layout {
    geometry: Geometry,
    next: HostOffset,
    l1: Vec<L1Entry>,
    l1_host: HostOffset,
    /// The L2 tables that have a place and aren't complete, in guest order.
    filling: VecDeque<Filling>,
}

impl Layout {
    /// Makes the layout of an image, with room for the headers and the L1 table.
    ///
    /// # Errors
    /// Returns an error if the L1 table doesn't fit into memory.
    pub(super) fn new(image: &NewQcow2Parts) -> Result<Self> {
        let geometry = image.geometry;
        let front = image.front_clusters();
        let entries = geometry.l1_entries(image.options.size);
        let l1_clusters = geometry.clusters(entries * ENTRY_SIZE);
        let l1 = usize::try_from(entries).map_err(|_| Error::invalid("L1 table too large"))?;
        Ok(Self {
            geometry,
            next: HostOffset((front + l1_clusters) * geometry.cluster_size()),
            l1: vec![L1Entry::default(); l1],
            // A disk of no bytes has no L1 table, and so no place for one.
            l1_host: HostOffset(if entries == 0 {
                0
            } else {
                front * geometry.cluster_size()
            }),
            filling: VecDeque::new(),
        })
    }

    /// Returns true if nothing has a place yet but the header and the L1 table.
    pub(super) fn is_empty(&self) -> bool {
        self.l1.iter().all(|entry| *entry == L1Entry::default())
    }

    /// Returns the place of the next cluster, which is the end of all that have a place.
    pub(super) fn next(&self) -> HostOffset {
        self.next
    }

    /// Returns the place of the L1 table.
    pub(super) fn l1_host(&self) -> HostOffset {
        self.l1_host
    }

    /// Takes the next `bytes`, a multiple of the cluster size.
    ///
    /// # Errors
    /// Returns an error if the file would be larger than the format allows.
    pub(super) fn allocate(&mut self, bytes: u64) -> Result<HostOffset> {
        let start = self.next;
        let end = start.0.checked_add(bytes);
        // 2^56 is the limit of an L2 entry's offset.
        let end = end.filter(|end| *end < 1 << 56);
        self.next = HostOffset(end.ok_or_else(|| Error::invalid("the image's file is too big"))?);
        Ok(start)
    }

    /// Gives the L2 tables of guest clusters a place, where they have none. Clusters must come in guest
    /// order. Returns the start of the tables that are new, and their length in bytes.
    ///
    /// # Errors
    /// Returns an error if the file would be too large, or if a cluster is beyond the disk's end.
    pub(super) fn place_tables(
        &mut self,
        clusters: impl IntoIterator<Item = GuestOffset>,
    ) -> Result<(HostOffset, u64)> {
        let start = self.next;
        for guest in clusters {
            let l1_index = self.geometry.l1_index(guest);
            let last = self.filling.back().map(|table| table.l1_index);
            if last.is_some_and(|last| last >= l1_index) {
                continue;
            }
            let host = self.allocate(self.geometry.cluster_size())?;
            let index = usize::try_from(l1_index).unwrap_or(usize::MAX);
            let entry = self.l1.get_mut(index);
            *entry.ok_or_else(|| Error::invalid("guest offset beyond the disk's end"))? =
                L1Entry::to_table(host);
            self.filling.push_back(Filling {
                l1_index,
                host,
                entries: vec![0; self.geometry.cluster_len()],
            });
        }
        Ok((start, self.next.0 - start.0))
    }

    /// Sets the L2 entry of a guest cluster whose table has a place, with the bitmap of its subclusters;
    /// without extended entries the bitmap isn't stored.
    ///
    /// # Errors
    /// Returns an error if the table has no place, or is complete.
    pub(super) fn set_entry(
        &mut self,
        guest: GuestOffset,
        entry: L2Entry,
        bitmap: SubclusterBitmap,
    ) -> Result<()> {
        let l1_index = self.geometry.l1_index(guest);
        let mut tables = self.filling.iter_mut().rev();
        let table = tables.find(|table| table.l1_index == l1_index);
        let table = table.ok_or_else(|| Error::invalid("an L2 table without a place"))?;
        let index = self.geometry.l2_index(guest);
        entries::set_l2(&mut table.entries, self.geometry, index, entry, bitmap)
            .ok_or_else(|| Error::invalid("L2 index out of range"))
    }

    /// Takes the tables of which all clusters lie before `end`, as there will be no more entries for those.
    pub(super) fn take_complete(&mut self, end: GuestOffset) -> MetadataWrites {
        let mut complete = MetadataWrites::new();
        while let Some(table) = self.filling.pop_front() {
            if self.geometry.guest_start_of_l1(table.l1_index + 1) > end {
                self.filling.push_front(table);
                break;
            }
            add_metadata(&mut complete, table.host, table.entries);
        }
        complete
    }

    /// Takes the tables that aren't complete, where there is nothing more to come.
    pub(super) fn take_rest(&mut self) -> MetadataWrites {
        self.take_complete(GuestOffset(u64::MAX))
    }

    /// Writes the L1 table.
    ///
    /// # Errors
    /// Returns the system's error.
    pub(super) fn write_l1(&self, storage: &dyn Storage) -> Result<()> {
        let l1: Vec<u8> = self.l1.iter().flat_map(|e| e.0.to_be_bytes()).collect();
        if l1.is_empty() {
            return Ok(());
        }
        storage.write_at(self.l1_host.0, &l1)
    }
}
