//! Preallocation for the added part of a larger disk.
//!
//! Clusters are allocated beyond the end of the file, where nothing has been written, so that they read as zeroes. A
//! device is zeroed there instead. In an encrypted image zeroes would decrypt to noise. So a preallocated cluster
//! there is a zero cluster with an allocated host cluster. In version 2, which has no zero clusters, encrypted zeroes
//! are written.
//!
//! With subclusters, a cluster is allocated, and its subclusters stay unallocated. If a backing file would be visible
//! there and the preallocation takes space, the subclusters are allocated as well.

use std::ops::Range;
use std::sync::atomic::Ordering;

use crate::error::{Error, Result};
use crate::formats::Preallocation;
use crate::formats::qcow2::entries::{L2Entry, L2Slot, L2Table, L2Target, SubclusterBitmap};
use crate::formats::qcow2::write::metadata::Metadata;
use crate::formats::qcow2::write::{STEP, WritableQcow2, relative};
use crate::formats::zeroes::{make_zero, write_zeroes};
use crate::units::{GuestOffset, HostOffset, SECTOR_SIZE};

/// The parameters for allocating the clusters of a larger disk.
struct GrownPlaces {
    preallocation: Preallocation,
    /// The guest offset of the first cluster that is completely new.
    new_clusters: u64,
    /// True if the subclusters of new clusters are allocated.
    stores_subclusters: bool,
}

impl WritableQcow2 {
    /// Preallocates the clusters of the disk from `old` on, its old size in bytes. `shows` is true if the backing
    /// file has data there.
    ///
    /// # Errors
    /// Returns an error if there isn't enough space, if metadata is damaged, or the system's error.
    pub(super) fn preallocate(
        &self,
        old: u64,
        preallocation: Preallocation,
        shows: bool,
    ) -> Result<()> {
        let old = old.next_multiple_of(SECTOR_SIZE).min(self.size);
        let is_full = preallocation == Preallocation::Full;
        if self.clusters.cipher().is_some() && (is_full || !self.zero_flag) {
            return self.write_all_zeroes(old..self.size);
        }
        let new_clusters = old.next_multiple_of(self.geometry.cluster_size());
        let places = GrownPlaces {
            preallocation,
            new_clusters,
            stores_subclusters: shows
                && !self.is_external
                && preallocation != Preallocation::Metadata,
        };
        let has_subclusters = self.geometry.has_subclusters();
        let mut start = match has_subclusters {
            true => old - self.geometry.within_cluster(old),
            false => new_clusters,
        };
        while start < self.size {
            let end = self.step_end(start, self.size, u64::MAX);
            self.preallocate_step(start..end, &places)?;
            start = end;
        }
        let cluster_end = new_clusters.min(self.size);
        if has_subclusters || old >= cluster_end {
            return Ok(());
        }
        // The last cluster of the old disk is allocated with its present data.
        let slot = self.lock().metadata.slot(GuestOffset(old))?;
        match has_place(self.clusters.target(slot.entry, GuestOffset(old))?) {
            true => Ok(()),
            false => self.write_all_zeroes(old..cluster_end),
        }
    }

    /// Writes zeroes like any other data.
    fn write_all_zeroes(&self, range: Range<u64>) -> Result<()> {
        let zeroes = vec![0; relative(STEP.max(self.geometry.cluster_size()), 0)];
        let mut start = range.start;
        while start < range.end {
            let end = self.step_end(start, range.end, STEP);
            let part = zeroes.get(..relative(end, start));
            self.write_step(start..end, part.unwrap_or(&zeroes))?;
            start = end;
        }
        Ok(())
    }

    /// Preallocates clusters that are in one L2 table.
    fn preallocate_step(&self, range: Range<u64>, places: &GrownPlaces) -> Result<()> {
        let _gate = self.enter()?;
        let mut state = self.lock();
        let metadata = &mut state.metadata;
        let table = metadata.l2_table(self.geometry.l1_index(GuestOffset(range.start)))?;
        let size = self.geometry.cluster_size();
        let mut start = range.start;
        while start < range.end {
            let slots = self.without_place(table.as_ref(), start..range.end)?;
            let guest = GuestOffset(start);
            if slots.is_empty() {
                start += size;
                continue;
            }
            let (host, count) = self.take_clusters(metadata, guest, slots.len() as u64, places)?;
            let count = relative(count, 0);
            let hosts = (0..).map(|number| HostOffset(host.0 + number * size));
            let guests = (0..).map(|number| start + number * size);
            let slots = slots.iter().take(count).zip(hosts).zip(guests);
            let slots: Vec<L2Slot> = slots
                .map(|((slot, host), guest)| self.slot_with_place(*slot, host, guest, places))
                .collect();
            metadata
                .set_slots(guest, &slots)
                .map_err(|error| metadata.fail(error))?;
            start += slots.len() as u64 * size;
        }
        Ok(())
    }

    /// Returns the entries of the clusters from `range.start` on, up to the first one that is allocated.
    fn without_place(&self, table: Option<&L2Table>, range: Range<u64>) -> Result<Vec<L2Slot>> {
        let empty = L2Slot::unallocated(self.geometry);
        let mut slots = Vec::new();
        let mut guest = GuestOffset(range.start);
        while guest.0 < range.end {
            let slot = table.and_then(|table| table.get(self.geometry.l2_index(guest)));
            let slot = slot.unwrap_or(empty);
            if slot != empty && has_place(self.clusters.target(slot.entry, guest)?) {
                break;
            }
            slots.push(slot);
            guest.0 += self.geometry.cluster_size();
        }
        Ok(slots)
    }

    /// Allocates at most `most` clusters for consecutive guest clusters. Returns their host offset and their number.
    fn take_clusters(
        &self,
        metadata: &mut Metadata,
        guest: GuestOffset,
        most: u64,
        places: &GrownPlaces,
    ) -> Result<(HostOffset, u64)> {
        // An external data file has its full length and its space already.
        if let Some(host) = metadata.fixed_place(guest) {
            return Ok((host, most));
        }
        metadata.skip_to_end()?;
        let run = metadata.allocate(most)?;
        let host = self.geometry.host_offset(run.start);
        let end = self.geometry.host_offset(run.end);
        let taken = match (host, end) {
            (Some(host), Some(end)) => self
                .take_space(host.0..end.0, places.preallocation)
                .map(|()| host),
            _ => Err(Error::invalid("the image's file is too big")),
        };
        match taken {
            Ok(host) => Ok((host, run.end - run.start)),
            Err(error) => {
                // A cluster that can't be freed is a leak, and the first error is the one to report.
                drop(metadata.free(run, false));
                Err(error)
            }
        }
    }

    /// Makes a range of the file, after everything stored so far, read as zeroes.
    fn take_space(&self, range: Range<u64>, preallocation: Preallocation) -> Result<()> {
        let storage = self.clusters.storage();
        let is_fixed = storage.has_fixed_length();
        if storage.len()? < range.end {
            if is_fixed {
                return Err(Error::invalid("Cannot grow device files"));
            }
            storage
                .set_len(range.end)
                .map_err(|error| error.context("Failed to resize underlying file"))?;
        }
        self.length.fetch_max(range.end, Ordering::Relaxed);
        match preallocation {
            Preallocation::Full => write_zeroes(storage, range),
            _ if is_fixed => make_zero(storage, range),
            Preallocation::Falloc if !storage.reserve(range.clone())? => {
                write_zeroes(storage, range)
            }
            _ => Ok(()),
        }
    }

    /// Returns the new entry of a cluster that is allocated at `host`; `slot` is its present one.
    fn slot_with_place(
        &self,
        slot: L2Slot,
        host: HostOffset,
        guest: u64,
        places: &GrownPlaces,
    ) -> L2Slot {
        let is_encrypted = self.clusters.cipher().is_some();
        let Some(bitmap) = slot.bitmap else {
            return L2Slot::of_entry(match is_encrypted {
                true => L2Entry::to_zero(Some(host)),
                false => L2Entry::to_data(host),
            });
        };
        let bitmap = match (places.stores_subclusters, is_encrypted) {
            _ if guest < places.new_clusters => bitmap,
            (false, _) => bitmap,
            (true, false) => SubclusterBitmap::ALL_DATA,
            (true, true) => SubclusterBitmap::ALL_ZERO,
        };
        L2Slot::with_bitmap(L2Entry::to_data(host), bitmap)
    }
}

/// Returns true if a host cluster is allocated, for data or for a zero cluster.
fn has_place(target: L2Target) -> bool {
    !matches!(
        target,
        L2Target::Unallocated | L2Target::Zero { kept: None }
    )
}
