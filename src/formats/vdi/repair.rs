//! The repair of a block map, and of unused space in the file.
//!
//! A block beyond the end of the file becomes unallocated. A truncated block keeps the part that is left. If two
//! blocks have the same index, the second gets a copy. Unused space is removed: later blocks move there, and the file
//! is truncated after the last one. QEMU allocates the next block at the header's count, and so would overwrite a
//! block of an image with such gaps.
//!
//! A block is on stable storage before the entry that refers to it, and the entry before the old block is removed.
//! The header's count is never less than the number of allocated blocks.

use super::check::Count;
use super::header::{BLOCK_SIZE, ImageType};
use super::map::{BlockMap, Entry};
use crate::error::Result;
use crate::formats::block_map::{ClusterSet, copy_block};
use crate::formats::check::{CheckEvent, Repair};

/// The result of a repair.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct RepairCount {
    /// The number of entries that were invalid, plus 1 if the header's count was.
    pub(super) corruptions: u64,
    /// The number of unused blocks in the file.
    pub(super) leaks: u64,
}

impl BlockMap {
    /// Repairs the findings of a check. Does nothing if the block map overlaps with something else, since it is
    /// unknown which of both is right.
    ///
    /// # Errors
    /// Returns the system's error.
    pub(super) fn repair(
        &self,
        what: Repair,
        found: &Count,
        on_event: &mut dyn FnMut(&CheckEvent<'_>),
    ) -> Result<RepairCount> {
        let mut fixed = RepairCount::default();
        if self.header().overlaps() {
            return Ok(fixed);
        }
        self.find_space()?;
        if what == Repair::All && (found.corruptions > 0 || found.is_miscounted) {
            fixed.corruptions = self.repair_entries(on_event)? + u64::from(found.is_miscounted);
        }
        let is_sound = what == Repair::All || found.corruptions == 0;
        if is_sound && self.header().kind == ImageType::Dynamic {
            fixed.leaks = self.close_gaps()?;
        }
        Ok(fixed)
    }

    /// Repairs the entries and the header's count. Returns the number of repaired entries.
    fn repair_entries(&self, on_event: &mut dyn FnMut(&CheckEvent<'_>)) -> Result<u64> {
        let file = self.file();
        let mut seen = ClusterSet::default();
        let mut fixed = 0;
        let mut say = |text: String| {
            fixed += 1;
            on_event(&text);
        };
        for block in 0..self.header().blocks {
            let Entry::At(index) = self.entry(block)? else {
                continue;
            };
            let end = file.len()?;
            if index >= self.header().blocks || self.host(index).0 >= end {
                say(format!(
                    "Repairing block {block}, which the file hasn't got"
                ));
                self.deallocate(block)?;
                continue;
            }
            let stored_end = self.stored_end(block, index);
            if stored_end > end {
                say(format!(
                    "Repairing block {block}, of which the file has only the start"
                ));
                file.set_len(stored_end)?;
            }
            if !seen.insert(index.into()) {
                say(format!(
                    "Repairing block {block}, which is where another one is"
                ));
                let copy = self.take(block.into())?;
                copy_block(file, self.host(index).0, copy.0, BLOCK_SIZE)?;
                if file.len()? < copy.0 + BLOCK_SIZE {
                    file.set_len(copy.0 + BLOCK_SIZE)?;
                }
            }
        }
        file.flush()?;
        let before = self.header().allocated;
        let after = self.find_space()?;
        if after > before {
            self.store_count(after)?;
            file.flush()?;
        }
        self.store_entries()?;
        file.flush()?;
        if after < before {
            self.store_count(after)?;
            file.flush()?;
        }
        Ok(fixed)
    }

    /// Moves blocks into gaps, truncates the file after the last one, and returns the number of unused blocks.
    fn close_gaps(&self) -> Result<u64> {
        let file = self.file();
        let count = self.find_space()?;
        let place = |index: u32| self.host(index).0;
        let length = file.len()?;
        let places = length.saturating_sub(place(0)).div_ceil(BLOCK_SIZE);
        let mut is_moved = false;
        self.take_from_start();
        for block in 0..self.header().blocks {
            let Entry::At(index) = self.entry(block)? else {
                continue;
            };
            if index >= count {
                let to = self.take(block.into())?;
                copy_block(file, place(index), to.0, BLOCK_SIZE)?;
                is_moved = true;
            }
        }
        if is_moved {
            file.flush()?;
            self.store_entries()?;
            file.flush()?;
        }
        let end = place(count);
        if length > end && !file.has_fixed_length() {
            file.set_len(end)?;
            file.flush()?;
        }
        Ok(places.saturating_sub(count.into()))
    }
}
