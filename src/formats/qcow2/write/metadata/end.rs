//! The end of the file of an image whose disk is resized.

use std::ops::Range;

use super::Metadata;
use crate::error::{Error, Result};
use crate::formats::qcow2::entries::L2Slot;
use crate::storage::Storage;
use crate::units::GuestOffset;

impl Metadata {
    /// Returns the image's own file.
    pub(in super::super) fn storage(&self) -> &dyn Storage {
        self.parts.storage.as_ref()
    }

    /// Returns the external data file, if there is one.
    pub(in super::super) fn data_file(&self) -> Option<&dyn Storage> {
        self.parts.data.as_deref()
    }

    /// Makes later allocations start at the end of the file, where nothing was written before, until a cluster is
    /// freed. On a device, whose length is fixed, any free cluster may be allocated.
    ///
    /// # Errors
    /// Returns the system's error.
    pub(in super::super) fn skip_to_end(&mut self) -> Result<()> {
        if self.parts.storage.has_fixed_length() {
            return Ok(());
        }
        let length = self.parts.storage.len()?;
        let end = self.parts.geometry.clusters(length);
        self.parts.refcounts.skip_to(end);
        Ok(())
    }

    /// Sets the L2 entries of consecutive guest clusters from `guest` on, all of which are in one L2 table. Doesn't
    /// free the clusters of the old entries.
    ///
    /// # Errors
    /// Returns an error as [`own_l2`](Self::own_l2) does.
    pub(in super::super) fn set_slots(
        &mut self,
        guest: GuestOffset,
        slots: &[L2Slot],
    ) -> Result<()> {
        if slots.is_empty() {
            return Ok(());
        }
        self.own_l2(guest)?;
        let mut bytes = Vec::with_capacity(slots.len() * 16);
        for slot in slots {
            slot.append_to(&mut bytes);
        }
        let start = self.place_in_l2(guest).start;
        let l1_index = self.parts.geometry.l1_index(guest);
        let stored = self.l2.change(l1_index, start..start + bytes.len());
        stored
            .ok_or_else(|| Error::invalid("L2 index out of range"))?
            .copy_from_slice(&bytes);
        Ok(())
    }

    /// Frees the clusters of a structure, such as a table, to which no stored reference is left.
    ///
    /// # Errors
    /// Returns the system's error.
    pub(in super::super) fn free_structure(&mut self, clusters: Range<u64>) -> Result<()> {
        self.parts.map.remove(clusters.start);
        self.free(clusters, true)
    }

    /// Removes refcount blocks in which all refcounts are 0, as [`Refcounts::drop_empty_blocks`] does.
    ///
    /// # Errors
    /// Returns an error as that does.
    ///
    /// [`Refcounts::drop_empty_blocks`]: super::super::refcounts::Refcounts::drop_empty_blocks
    pub(in super::super) fn drop_empty_blocks(&mut self) -> Result<()> {
        self.before_counting()?;
        let map = &mut self.parts.map;
        self.parts.refcounts.drop_empty_blocks(map)
    }

    /// Returns the host offset of the end of the last cluster in use.
    ///
    /// # Errors
    /// Returns an error if a refcount block can't be read.
    pub(in super::super) fn end_of_used(&mut self) -> Result<u64> {
        let end = self.parts.refcounts.end_of_used()?;
        Ok(end.saturating_mul(self.parts.geometry.cluster_size()))
    }
}
