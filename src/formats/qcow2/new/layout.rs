//! The allocation of clusters in a new image, and the L2 tables that aren't complete yet.
//!
//! Space after the headers and the L1 table is allocated in ascending order and never freed. An L2 table is allocated
//! before the first data that it maps. So a reader that goes front to back knows the owner of each cluster. It is
//! written when it is complete: when entries for guest clusters beyond its range are set.

use std::collections::VecDeque;

use super::parts::NewQcow2Parts;
use crate::error::{Error, Result};
use crate::formats::qcow2::entries::{self, L1Entry, L2Entry, SubclusterBitmap};
use crate::formats::qcow2::geometry::{ENTRY_SIZE, Geometry};
use crate::formats::reservation::add_metadata;
use crate::storage::Storage;
use crate::units::{GuestOffset, HostOffset};

/// Completed metadata and its host offsets; see [`Reservation`](crate::formats::Reservation).
pub(super) type MetadataWrites = Vec<(HostOffset, Vec<u8>)>;

/// An incomplete L2 table.
#[derive(Debug)]
struct Filling {
    l1_index: u64,
    host: HostOffset,
    /// The encoded entries.
    entries: Vec<u8>,
}

/// The layout of a new image so far.
#[derive(Debug)]
pub(super) struct Layout {
    geometry: Geometry,
    next: HostOffset,
    l1: Vec<L1Entry>,
    l1_host: HostOffset,
    /// The L2 tables that are allocated and incomplete, in guest order.
    filling: VecDeque<Filling>,
}

impl Layout {
    /// Returns the layout of an image in which the headers and the L1 table are allocated.
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
            // A disk of 0 bytes has no L1 table, and so no place for it.
            l1_host: HostOffset(if entries == 0 {
                0
            } else {
                front * geometry.cluster_size()
            }),
            filling: VecDeque::new(),
        })
    }

    /// Returns true if nothing is allocated except for the headers and the L1 table.
    pub(super) fn is_empty(&self) -> bool {
        self.l1.iter().all(|entry| *entry == L1Entry::default())
    }

    /// Returns the host offset of the next cluster, which is the end of the allocated space.
    pub(super) fn next(&self) -> HostOffset {
        self.next
    }

    /// Returns the host offset of the L1 table.
    pub(super) fn l1_host(&self) -> HostOffset {
        self.l1_host
    }

    /// Allocates `bytes` bytes, a multiple of the cluster size.
    ///
    /// # Errors
    /// Returns an error if the file would be larger than the format allows.
    pub(super) fn allocate(&mut self, bytes: u64) -> Result<HostOffset> {
        let start = self.next;
        let end = start.0.checked_add(bytes);
        // The offset in an L2 entry is limited to 2^56.
        let end = end.filter(|end| *end < 1 << 56);
        self.next = HostOffset(end.ok_or_else(|| Error::invalid("the image's file is too big"))?);
        Ok(start)
    }

    /// Allocates L2 tables for guest clusters that have none. The clusters must be in guest order. Returns the host
    /// offset of the new tables, and their length in bytes.
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

    /// Sets the L2 entry of a guest cluster whose table is allocated. The subcluster bitmap is stored only in
    /// extended L2 entries.
    ///
    /// # Errors
    /// Returns an error if the table isn't allocated, or is already complete.
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

    /// Returns the tables whose guest clusters are all before `end`, since no more entries will be set in them.
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

    /// Returns all other tables at the end of the image.
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
