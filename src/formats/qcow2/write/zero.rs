//! Zeroing and discarding, by changes of L2 entries where possible.
//!
//! Version 3 has zero clusters and zero subclusters. In version 2 only an unallocated cluster without a backing file
//! reads as zeroes; otherwise zeroes are written. Zeroes are also written to a part of a cluster or subcluster,
//! unless it reads as zeroes already.
//!
//! Clusters of an external data file can't be freed by metadata. Holes are punched there instead, which frees the
//! space and keeps a raw file consistent.

use std::ops::Range;

use super::super::entries::{L2Entry, L2Slot, L2Target, Subcluster, SubclusterBitmap};
use super::metadata::Metadata;
use super::{STEP, WritableQcow2, relative};
use crate::error::Result;
use crate::formats::ExtentKind;
use crate::units::GuestOffset;

impl WritableQcow2 {
    /// Makes a part of the disk read as zeroes.
    ///
    /// # Errors
    /// Returns an error if metadata is damaged or clusters can't be allocated, or the system's error.
    pub(super) fn zero_range(&self, range: Range<u64>, may_unmap: bool) -> Result<()> {
        // Bitmaps record the whole range, even parts that read as zeroes already.
        self.lock().will_change(&range)?;
        let mut start = range.start;
        while start < range.end {
            let end = self.step_end(start, range.end, u64::MAX);
            self.zero_step(start..end, may_unmap)?;
            start = end;
        }
        Ok(())
    }

    /// Returns the whole units of `unit` bytes within `range`. The last unit of the disk may be incomplete.
    fn whole_units(&self, range: &Range<u64>, unit: u64) -> Range<u64> {
        let start = range.start.next_multiple_of(unit);
        let end = if range.end == self.size {
            range.end
        } else {
            range.end / unit * unit
        };
        start..end.max(start)
    }

    fn zero_step(&self, range: Range<u64>, may_unmap: bool) -> Result<()> {
        let inner = self.whole_units(&range, self.geometry.subcluster_size());
        if inner.is_empty() {
            return self.write_zero_data(range);
        }
        self.write_zero_data(range.start..inner.start)?;
        self.write_zero_data(inner.end..range.end)?;
        let mut rest = Vec::new();
        let mut is_hole = None;
        self.change_clusters(&inner, |metadata, part| {
            // The hole is punched once and under the lock, so that no thread is writing to the range.
            let is_hole = match is_hole {
                Some(is_hole) => is_hole,
                None => *is_hole.insert(
                    self.is_external
                        && may_unmap
                        && self.clusters.storage().punch(inner.clone())?,
                ),
            };
            // A raw external data file must have the zeroes itself.
            let holds_bytes = self.is_raw && !is_hole;
            if self.zero_flag && !holds_bytes {
                let units =
                    self.whole_units(&(part.start..inner.end), self.geometry.cluster_size());
                if units.start == part.start && !units.is_empty() {
                    let end = metadata.zero_gap(&units)?;
                    if end > part.start {
                        return Ok(end);
                    }
                }
            }
            let end = part.end;
            if holds_bytes || !self.zero_cluster(metadata, &part, may_unmap)? {
                rest.push(part);
            }
            Ok(end)
        })?;
        rest.into_iter()
            .try_for_each(|part| self.write_zero_data(part))
    }

    /// Calls `change` with the part of each cluster in a step, under the lock. `change` returns the guest offset at
    /// which to continue: the end of the part, or beyond it if it has changed several clusters.
    fn change_clusters(
        &self,
        range: &Range<u64>,
        mut change: impl FnMut(&mut Metadata, Range<u64>) -> Result<u64>,
    ) -> Result<()> {
        let _gate = self.enter()?;
        let mut state = self.lock_when_idle(range);
        state.metadata.usable()?;
        let metadata = &mut state.metadata;
        let mut start = range.start;
        while start < range.end {
            let left = self.geometry.cluster_size() - self.geometry.within_cluster(start);
            let end = range.end.min(start.saturating_add(left));
            start = change(metadata, start..end).map_err(|error| metadata.fail(error))?;
        }
        Ok(())
    }

    /// Zeroes whole units of a cluster in its L2 entry. Returns `false` if zeroes have to be written instead.
    fn zero_cluster(
        &self,
        metadata: &mut Metadata,
        part: &Range<u64>,
        may_unmap: bool,
    ) -> Result<bool> {
        let guest = GuestOffset(part.start);
        let slot = metadata.slot(guest)?;
        let target = self.clusters.target(slot.entry, guest)?;
        if !self.zero_flag {
            if target == L2Target::Unallocated && self.backing.is_none() {
                return Ok(true);
            }
            if !may_unmap || self.backing.is_some() {
                return Ok(false);
            }
            let empty = L2Slot::default();
            self.replace(metadata, guest, target, empty, true)?;
            return Ok(true);
        }
        let is_whole = self.whole_units(part, self.geometry.cluster_size()) == *part;
        let keeps = match target {
            _ if !is_whole => true,
            L2Target::Data { host, copied }
            | L2Target::Zero {
                kept: Some((host, copied)),
            } if !may_unmap => metadata.owns_data(host, copied)? && metadata.owns_l2(guest)?,
            _ => false,
        };
        let Some(bitmap) = slot.bitmap else {
            let host = match target {
                L2Target::Data { host, .. }
                | L2Target::Zero {
                    kept: Some((host, _)),
                } => Some(host).filter(|_| keeps),
                _ => None,
            };
            let new = L2Slot::of_entry(L2Entry::to_zero(host));
            if new == slot {
                return Ok(true);
            }
            if keeps {
                metadata.set_slot(guest, new)?;
            } else {
                self.replace(metadata, guest, target, new, may_unmap)?;
            }
            return Ok(true);
        };
        if is_whole && !keeps {
            let new = L2Slot::with_bitmap(L2Entry::default(), SubclusterBitmap::ALL_ZERO);
            if new != slot {
                self.replace(metadata, guest, target, new, may_unmap)?;
            }
            return Ok(true);
        }
        if matches!(target, L2Target::Compressed(_)) {
            return Ok(false);
        }
        let first = self.geometry.subcluster_index(guest);
        let last = GuestOffset(part.end - 1);
        let mut zeroed = bitmap;
        for number in first..=self.geometry.subcluster_index(last) {
            zeroed = zeroed.with(number, Subcluster::Zero);
        }
        if zeroed != bitmap {
            metadata.set_slot(guest, L2Slot::with_bitmap(slot.entry, zeroed))?;
        }
        Ok(true)
    }

    /// Sets the L2 entry of a cluster, and frees the cluster of the old entry.
    fn replace(
        &self,
        metadata: &mut Metadata,
        guest: GuestOffset,
        target: L2Target,
        new: L2Slot,
        punch: bool,
    ) -> Result<()> {
        metadata.set_slot(guest, new)?;
        metadata.free_target(target, punch)
    }

    /// Writes zeroes to those parts of a range that don't read as zeroes yet.
    fn write_zero_data(&self, range: Range<u64>) -> Result<()> {
        let mut start = range.start;
        while start < range.end {
            let (kind, length, _) = self.run_at(GuestOffset(start), range.end)?;
            let end = self.step_end(start, start + length, STEP);
            let is_zero = match kind {
                _ if self.is_raw => false,
                ExtentKind::Zero { .. } => true,
                ExtentKind::Unallocated { .. } => self.backing.is_none(),
                ExtentKind::Data(_) | ExtentKind::Encoded => false,
            };
            if !is_zero {
                self.write_step(start..end, &vec![0; relative(end, start)])?;
            }
            start = end;
        }
        Ok(())
    }

    /// Frees the clusters that are completely inside a range.
    ///
    /// # Errors
    /// Returns an error if metadata is damaged, or the system's error.
    pub(super) fn discard_range(&self, range: Range<u64>) -> Result<()> {
        if self.is_raw || (!self.zero_flag && self.backing.is_some()) {
            // An unallocated cluster would show the backing file's data, or would remain in the raw external data
            // file.
            return Ok(());
        }
        // Bitmaps record the whole range, even parts that aren't freed.
        self.lock().will_change(&range)?;
        let range = self.whole_units(&range, self.geometry.cluster_size());
        let mut start = range.start;
        while start < range.end {
            let gap = if self.backing.is_none() {
                let state = self.lock();
                state.metadata.end_of_gap(GuestOffset(start), range.end)?
            } else {
                start
            };
            let end = self.step_end(start, range.end, u64::MAX);
            if gap >= end {
                start = gap;
                continue;
            }
            self.change_clusters(&(start..end), |metadata, part| {
                self.discard_cluster(metadata, GuestOffset(part.start))?;
                Ok(part.end)
            })?;
            start = end;
        }
        Ok(())
    }

    fn discard_cluster(&self, metadata: &mut Metadata, guest: GuestOffset) -> Result<()> {
        let slot = metadata.slot(guest)?;
        let target = self.clusters.target(slot.entry, guest)?;
        let is_stored = !matches!(
            target,
            L2Target::Unallocated | L2Target::Zero { kept: None }
        );
        if !is_stored && (self.backing.is_none() || target != L2Target::Unallocated) {
            return Ok(());
        }
        let new = match slot.bitmap {
            Some(_) => L2Slot::with_bitmap(L2Entry::default(), SubclusterBitmap::ALL_ZERO),
            None if self.zero_flag => L2Slot::of_entry(L2Entry::to_zero(None)),
            None => L2Slot::default(),
        };
        self.replace(metadata, guest, target, new, true)
    }
}
