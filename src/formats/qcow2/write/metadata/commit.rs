//! Storing changed metadata, in the order that the documentation of [`super`] gives.

use std::ops::Range;
use std::sync::Arc;

use super::{ENTRIES_PER_SECTOR, Freed, Metadata};
use crate::error::Result;
use crate::formats::qcow2::header::features;
use crate::formats::qcow2::header::fields;
use crate::storage::Storage;
use crate::units::SECTOR_SIZE;

impl Metadata {
    /// Writes all changes to stable storage, in an order that survives a power cut. No other thread may read or write
    /// clusters meanwhile.
    ///
    /// # Errors
    /// Returns the system's error; see the module's documentation for the state after it.
    pub(in super::super) fn commit(&mut self) -> Result<()> {
        self.usable()?;
        self.try_commit().map_err(|error| self.fail_for_good(error))
    }

    fn try_commit(&mut self) -> Result<()> {
        let storage = Arc::clone(&self.parts.storage);
        self.complete_last_sector(storage.as_ref())?;
        let refers = self.l2.has_changed() || !self.l1_changed.is_empty();
        let counts = if self.parts.lazy {
            self.parts.refcounts.table_has_changed()
        } else {
            self.parts.refcounts.has_changed()
        };
        if counts {
            // These fields are copied, since `refcounts` is borrowed mutably below.
            let (data, flush) = (self.parts.data.clone(), self.parts.flush);
            let flush = || match (&data, flush) {
                (_, false) => Ok(()),
                (None, true) => storage.flush(),
                (Some(data), true) => data.flush().and_then(|()| storage.flush()),
            };
            self.parts.refcounts.store(&flush)?;
        } else if refers || self.unflushed {
            self.flush()?;
        }
        self.unflushed = false;
        if refers {
            self.l2.write_changed(storage.as_ref())?;
            if !self.l1_changed.is_empty() {
                self.flush()?;
                self.write_l1(storage.as_ref())?;
            }
            self.flush()?;
        }
        self.lower_freed(storage.as_ref())
    }

    /// Extends the file to a whole sector, since compressed clusters are read in sectors.
    fn complete_last_sector(&mut self, storage: &dyn Storage) -> Result<()> {
        let end = std::mem::take(&mut self.compressed_end).next_multiple_of(SECTOR_SIZE);
        if end == 0 {
            return Ok(());
        }
        let length = storage.len()?;
        if length < end {
            let missing = usize::try_from(end - length).unwrap_or(0);
            storage.write_at(length, &vec![0; missing])?;
            self.unflushed = true;
        }
        Ok(())
    }

    fn write_l1(&mut self, storage: &dyn Storage) -> Result<()> {
        for sector in &self.l1_changed {
            let mut entries = self.parts.l1.chunks(ENTRIES_PER_SECTOR);
            let entries = entries.nth(*sector).unwrap_or_default();
            let bytes: Vec<u8> = entries.iter().flat_map(|e| e.0.to_be_bytes()).collect();
            let offset = *sector as u64 * SECTOR_SIZE;
            storage.write_at(self.parts.l1_place.host.0 + offset, &bytes)?;
        }
        self.l1_changed.clear();
        Ok(())
    }

    /// Decrements the refcounts of freed clusters (step 3). No stored reference to them is left.
    fn lower_freed(&mut self, storage: &dyn Storage) -> Result<()> {
        let mut freed = std::mem::take(&mut self.freed);
        for clusters in self.parts.refcounts.take_outgrown() {
            self.parts.map.remove(clusters.start);
            freed.push(Freed {
                clusters,
                punch: false,
            });
        }
        let cluster_size = self.parts.geometry.cluster_size();
        for Freed { clusters, punch } in freed {
            let mut hole: Option<Range<u64>> = None;
            for cluster in clusters {
                if self.parts.refcounts.release(cluster)? > 0 {
                    continue;
                }
                let tail = self.tail.map(|tail| self.parts.geometry.host_cluster(tail));
                if tail == Some(cluster) {
                    self.tail = None;
                }
                if !punch {
                    continue;
                }
                let start = cluster * cluster_size;
                match &mut hole {
                    Some(hole) if hole.end == start => hole.end += cluster_size,
                    _ => {
                        punch_hole(storage, hole.take())?;
                        hole = Some(start..start + cluster_size);
                    }
                }
            }
            punch_hole(storage, hole)?;
        }
        Ok(())
    }

    /// Commits, stores all refcounts, and clears the dirty bit in the header.
    ///
    /// # Errors
    /// Returns the system's error.
    pub(in super::super) fn close(&mut self) -> Result<()> {
        self.commit()?;
        self.try_close().map_err(|error| self.fail_for_good(error))
    }

    fn try_close(&mut self) -> Result<()> {
        if self.parts.refcounts.has_changed() {
            self.parts.refcounts.write_blocks()?;
            self.flush()?;
        }
        if self.parts.incompatible & features::DIRTY != 0 {
            self.parts.incompatible &= !features::DIRTY;
            let storage = self.parts.storage.as_ref();
            fields::set_incompatible(storage, self.parts.incompatible)?;
            self.flush()?;
        }
        self.broken = Some("the image has been closed".to_owned());
        Ok(())
    }
}

/// Punches a hole. If the storage doesn't support that, the space stays allocated in the file until it is reused.
///
/// # Errors
/// Returns the system's error.
pub(super) fn punch_hole(storage: &dyn Storage, hole: Option<Range<u64>>) -> Result<()> {
    if let Some(hole) = hole {
        storage.punch(hole)?;
    }
    Ok(())
}
