//! Preparing the added part of a larger disk before the size in the header changes.
//!
//! The added part must read as zeroes, as unallocated clusters do. There are two exceptions. If the backing file is
//! longer than the old disk, its data would become visible, so the added part becomes zero clusters. Also, the last
//! cluster may have data beyond the disk's old end.

use std::ops::Range;
use std::sync::atomic::Ordering;

use crate::error::{Error, Result};
use crate::formats::qcow2::write::{WritableQcow2, relative};
use crate::formats::zeroes::{make_zero, write_zeroes};
use crate::formats::{Image as _, Preallocation, WritableImage as _};
use crate::units::{GuestOffset, SECTOR_SIZE};

impl WritableQcow2 {
    /// Prepares the disk from `old` on, its old size in bytes, for the new size, and commits that.
    ///
    /// # Errors
    /// Returns an error if there isn't enough space, if metadata is damaged, or the system's error. Some of the
    /// changes may be stored then, beyond the end that the disk still has.
    pub(super) fn grow(&self, old: u64, preallocation: Preallocation) -> Result<()> {
        self.grow_data_file(old, preallocation)?;
        let entries = self.geometry.l1_entries(self.size);
        {
            let mut state = self.lock();
            state.metadata.usable()?;
            state.metadata.skip_to_end()?;
            state.metadata.grow_l1(entries)?;
        }
        self.crop(old)?;
        // As in QEMU, clusters of an external data file become zero clusters, whatever the file holds.
        let takes_space = !self.is_external
            && matches!(preallocation, Preallocation::Falloc | Preallocation::Full);
        let shows = self.backing_size().is_some_and(|size| size > old);
        if preallocation != Preallocation::Off {
            self.preallocate(old, preallocation, shows)?;
        }
        let old = old.next_multiple_of(SECTOR_SIZE).min(self.size);
        let cluster_end = old
            .next_multiple_of(self.geometry.cluster_size())
            .min(self.size);
        match (shows, takes_space) {
            (false, _) => self.zero_rest_of_cluster(old..cluster_end)?,
            (true, false) => self.zero_range(old..self.size, false)?,
            (true, true) => self.zero_range(old..cluster_end, false)?,
        }
        // The lengths of the files are on stable storage before the size of the disk is.
        self.lock().metadata.will_write();
        self.flush()
    }

    /// Overwrites data that the last cluster has beyond the disk's old end with zeroes.
    fn zero_rest_of_cluster(&self, range: Range<u64>) -> Result<()> {
        if range.is_empty() {
            return Ok(());
        }
        let mut stored = vec![0; relative(range.end, range.start)];
        self.read_at(GuestOffset(range.start), &mut stored)?;
        if stored.iter().all(|byte| *byte == 0) {
            return Ok(());
        }
        stored.fill(0);
        self.write_step(range, &stored)
    }

    /// Extends an external data file to the new size of the disk. Zeroes its contents beyond the disk's old end if
    /// clusters will refer to them.
    fn grow_data_file(&self, old: u64, preallocation: Preallocation) -> Result<()> {
        if !self.is_external {
            return Ok(());
        }
        let data = self.clusters.storage();
        let length = data.len()?;
        let size = self.size.next_multiple_of(SECTOR_SIZE);
        if data.has_fixed_length() {
            if length < size {
                return Err(Error::invalid(
                    "Failed to resize underlying file: Cannot grow device files",
                ));
            }
        } else {
            data.set_len(size)
                .map_err(|error| error.context("Failed to resize underlying file"))?;
        }
        let stale = old..length.min(size).max(old);
        match preallocation {
            Preallocation::Off => {}
            Preallocation::Metadata => make_zero(data, stale)?,
            Preallocation::Falloc => {
                make_zero(data, stale)?;
                if !data.reserve(old..size)? {
                    write_zeroes(data, old..size)?;
                }
            }
            Preallocation::Full => write_zeroes(data, old..size)?,
        }
        self.length.fetch_max(size, Ordering::Relaxed);
        Ok(())
    }
}
