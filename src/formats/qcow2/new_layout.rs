//! Where the next cluster of a new image goes, and the tables that are not complete yet.
//!
//! Space is handed out front to back and never given back, from behind the header and the L1 table
//! on. L2 tables fill up in guest order, so there is one at a time that isn't complete; it gets its
//! place when the first entry of the next one is set.
//!
//! Metadata that became complete is collected as one run of bytes: whoever allocates in between has
//! to hand that run over first.

use super::entries::{self, L1Entry, L2Entry, SubclusterBitmap};
use super::geometry::{ENTRY_SIZE, Geometry};
use crate::error::{Error, Result};
use crate::storage::Storage;
use crate::units::{GuestOffset, HostOffset};

/// Metadata that is complete, and where it goes; see [`Reservation`](crate::formats::Reservation).
pub(super) type Metadata = Option<(HostOffset, Vec<u8>)>;

/// The layout of a new image, as far as it is known.
#[derive(Debug)]
pub(super) struct Layout {
    geometry: Geometry,
    next: HostOffset,
    l1: Vec<L1Entry>,
    l1_host: HostOffset,
    /// The L2 table that is being filled: its index in the L1 table and its entries as they will be
    /// stored.
    filling: Option<(u64, Vec<u8>)>,
}

impl Layout {
    /// The layout of an image of a disk of `size` bytes, with room for the header and the L1 table.
    ///
    /// # Errors
    /// The L1 table doesn't fit into memory.
    pub(super) fn new(geometry: Geometry, size: u64) -> Result<Self> {
        let entries = geometry.l1_entries(size);
        let l1_clusters = geometry.clusters(entries * ENTRY_SIZE);
        let l1 = usize::try_from(entries).map_err(|_| Error::invalid("L1 table too large"))?;
        Ok(Self {
            geometry,
            next: HostOffset((1 + l1_clusters) * geometry.cluster_size()),
            l1: vec![L1Entry::default(); l1],
            // A disk of no bytes has no L1 table, and so no place for one.
            l1_host: HostOffset(if entries == 0 {
                0
            } else {
                geometry.cluster_size()
            }),
            filling: None,
        })
    }

    /// Where the next cluster goes, which is the end of all that have a place.
    pub(super) fn next(&self) -> HostOffset {
        self.next
    }

    /// Where the L1 table is.
    pub(super) fn l1_host(&self) -> HostOffset {
        self.l1_host
    }

    /// Takes the next `bytes`, a multiple of the cluster size.
    ///
    /// # Errors
    /// The file would be larger than the format allows.
    pub(super) fn allocate(&mut self, bytes: u64) -> Result<HostOffset> {
        let start = self.next;
        let end = start.0.checked_add(bytes);
        // 2^56: what an L2 entry's offset can hold.
        let end = end.filter(|end| *end < 1 << 56);
        self.next = HostOffset(end.ok_or_else(|| Error::invalid("the image's file is too big"))?);
        Ok(start)
    }

    /// Sets the L2 entry of a guest cluster. Clusters must come in guest order; a table that is
    /// complete with that gets its place behind `written`.
    ///
    /// # Errors
    /// The file would be too large; `guest` is beyond the disk's end.
    pub(super) fn set_entry(
        &mut self,
        guest: GuestOffset,
        entry: L2Entry,
        written: &mut Metadata,
    ) -> Result<()> {
        self.set_subclusters(guest, entry, SubclusterBitmap::default(), written)
    }

    /// As [`set_entry`](Self::set_entry), with what an extended entry says of its subclusters; without
    /// extended entries the bitmap isn't stored.
    ///
    /// # Errors
    /// As [`set_entry`](Self::set_entry).
    pub(super) fn set_subclusters(
        &mut self,
        guest: GuestOffset,
        entry: L2Entry,
        bitmap: SubclusterBitmap,
        written: &mut Metadata,
    ) -> Result<()> {
        let l1_index = self.geometry.l1_index(guest);
        if self.filling.as_ref().map(|(index, _)| *index) != Some(l1_index) {
            self.place_filling(written)?;
            self.filling = Some((l1_index, vec![0; self.geometry.cluster_len()]));
        }
        let index = self.geometry.l2_index(guest);
        let table = self.filling.as_mut().map(|(_, table)| table.as_mut_slice());
        entries::set_l2(
            table.unwrap_or_default(),
            self.geometry,
            index,
            entry,
            bitmap,
        )
        .ok_or_else(|| Error::invalid("L2 index out of range"))
    }

    /// Gives the L2 table that was being filled its place, behind `written`, the metadata that goes
    /// before it.
    ///
    /// # Errors
    /// As [`set_entry`](Self::set_entry).
    pub(super) fn place_filling(&mut self, written: &mut Metadata) -> Result<()> {
        let Some((l1_index, table)) = self.filling.take() else {
            return Ok(());
        };
        let host = self.allocate(table.len() as u64)?;
        let index = usize::try_from(l1_index).unwrap_or(usize::MAX);
        let entry = self.l1.get_mut(index);
        *entry.ok_or_else(|| Error::invalid("guest offset beyond the disk's end"))? =
            L1Entry::to_table(host);
        match written {
            Some((_, tables)) => tables.extend(table),
            None => *written = Some((host, table)),
        }
        Ok(())
    }

    /// Writes the L1 table.
    ///
    /// # Errors
    /// The system's error.
    pub(super) fn write_l1(&self, storage: &dyn Storage) -> Result<()> {
        let l1: Vec<u8> = self.l1.iter().flat_map(|e| e.0.to_be_bytes()).collect();
        if l1.is_empty() {
            return Ok(());
        }
        storage.write_at(self.l1_host.0, &l1)
    }
}
