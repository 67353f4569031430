//! The end of the file of an image whose disk gets another size.

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

    /// Returns the external data file, where there is one.
    pub(in super::super) fn data_file(&self) -> Option<&dyn Storage> {
        self.parts.data.as_deref()
    }

    /// Hands out no cluster before the end of the file until one is let go of. Nothing was ever written there. A
    /// device ends where it does, so there any free cluster is handed out.
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

    /// Gives clusters that follow each other on the disk from `guest` on, and that one L2 table maps, other
    /// entries. The clusters that the old ones led to aren't freed by that.
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

    /// Frees clusters that held one structure, such as a table, which nothing stored leads to any more.
    ///
    /// # Errors
    /// Returns the system's error.
    pub(in super::super) fn free_structure(&mut self, clusters: Range<u64>) -> Result<()> {
        self.parts.map.remove(clusters.start);
        self.free(clusters, true)
    }

    /// Takes away refcount blocks that count nothing, as [`Refcounts::drop_empty_blocks`] does.
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

    /// Returns the offset at which the last cluster in use ends.
    ///
    /// # Errors
    /// Returns an error if a refcount block can't be read.
    pub(in super::super) fn end_of_used(&mut self) -> Result<u64> {
        let end = self.parts.refcounts.end_of_used()?;
        Ok(end.saturating_mul(self.parts.geometry.cluster_size()))
    }
}
