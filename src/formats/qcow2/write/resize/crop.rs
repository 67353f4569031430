//! Freeing the clusters beyond the end of a disk.
//!
//! L2 tables that are completely beyond the end are removed, as are the entries beyond the end in the table that
//! covers it. Their clusters are freed when no stored reference is left. The cluster in which the disk ends stays
//! unchanged, with any data beyond the disk's end.

use std::ops::Range;
use std::sync::PoisonError;

use crate::error::Result;
use crate::formats::qcow2::entries::L2Slot;
use crate::formats::qcow2::write::WritableQcow2;
use crate::formats::qcow2::write::metadata::Metadata;
use crate::units::GuestOffset;

impl WritableQcow2 {
    /// Frees all clusters beyond the end of a disk of `size` bytes, and commits that.
    ///
    /// # Errors
    /// Returns an error if metadata is damaged, or the system's error.
    pub(super) fn crop(&self, size: u64) -> Result<()> {
        let _shut = self.gate.write().unwrap_or_else(PoisonError::into_inner);
        let mut state = self.lock();
        let metadata = &mut state.metadata;
        metadata.usable()?;
        let end = self.geometry.guest_start_of_l1(metadata.l1_entries()).0;
        let mut start = size.next_multiple_of(self.geometry.cluster_size());
        while start < end {
            let gap = metadata.end_of_gap(GuestOffset(start), end)?;
            if gap > start {
                start = gap;
                continue;
            }
            let table_end = self.step_end(start, end, u64::MAX);
            self.crop_table(metadata, start..table_end)
                .map_err(|error| metadata.fail(error))?;
            if metadata.should_store() {
                metadata.commit()?;
            }
            start = table_end;
        }
        metadata.commit()
    }

    /// Frees the clusters of one L2 table from `range.start` on; `range` ends with the table.
    fn crop_table(&self, metadata: &mut Metadata, range: Range<u64>) -> Result<()> {
        let first = GuestOffset(range.start);
        let l1_index = self.geometry.l1_index(first);
        let Some(table) = metadata.l2_table(l1_index)? else {
            return Ok(());
        };
        let is_whole = self.geometry.l2_index(first) == 0;
        let empty = L2Slot::unallocated(self.geometry);
        let mut guest = first;
        while guest.0 < range.end {
            let slot = table.get(self.geometry.l2_index(guest)).unwrap_or(empty);
            if slot != empty {
                let target = self.clusters.target(slot.entry, guest)?;
                if !is_whole {
                    metadata.set_slot(guest, empty)?;
                }
                metadata.free_target(target, true)?;
            }
            guest.0 += self.geometry.cluster_size();
        }
        if is_whole {
            metadata.drop_l2(l1_index)?;
        }
        Ok(())
    }
}
