//! Is this an image whose clusters have their places, while its file has holes there?
//!
//! Nothing in the header says so (see [`Preallocation::Metadata`](crate::formats::Preallocation)), but
//! then far more clusters are in use than the file occupies on its medium. Only in such an image is it
//! worth asking the file, cluster by cluster, whether what is stored is a hole.

use std::sync::{Arc, OnceLock};

use super::entries::{RefcountTableEntry, refcount_at};
use super::geometry::Geometry;
use super::header::{Header, TablePlace};
use super::tables::read_table;
use crate::error::Result;
use crate::storage::Storage;

/// Finds out, once.
#[derive(Debug)]
pub(super) struct Preallocated {
    storage: Arc<dyn Storage>,
    geometry: Geometry,
    refcount_table: TablePlace,
    answer: OnceLock<bool>,
}

impl Preallocated {
    /// Of the image in `storage`.
    pub(super) fn new(storage: Arc<dyn Storage>, header: &Header) -> Self {
        Self {
            storage,
            geometry: header.geometry(),
            refcount_table: header.refcount_table(),
            answer: OnceLock::new(),
        }
    }

    /// Whether it looks like one. It is only a matter of how an image is reported on and of how fast it
    /// is read, so where it can't be found out the answer is no.
    pub(super) fn looks_so(&self) -> bool {
        *self.answer.get_or_init(|| self.find_out().unwrap_or(false))
    }

    fn find_out(&self) -> Result<bool> {
        let Some(occupied) = self.storage.allocated()? else {
            return Ok(false);
        };
        let occupied = occupied / self.geometry.cluster_size();
        // A tenth more than the file occupies, since file systems and caches are not exact.
        let threshold = (occupied.saturating_mul(10) / 9).max(occupied + 2);
        self.more_clusters_in_use_than(threshold - 1)
    }

    fn more_clusters_in_use_than(&self, limit: u64) -> Result<bool> {
        let storage = self.storage.as_ref();
        let table = read_table(storage, self.refcount_table, "the refcount table")?;
        let mut left = self.geometry.clusters(storage.len()?);
        let mut in_use = 0;
        let mut block = vec![0; self.geometry.cluster_len()];
        for entry in table {
            let count = left.min(self.geometry.refcount_block_entries());
            left -= count;
            let Ok(Some(host)) = RefcountTableEntry(entry).block(self.geometry) else {
                continue;
            };
            let read = storage.read_at(host.0, &mut block)?;
            let block = block.get(..read).unwrap_or_default();
            for index in 0..usize::try_from(count).unwrap_or(0) {
                let refcount = refcount_at(block, self.geometry.refcount_bits(), index);
                in_use += u64::from(refcount.is_some_and(|refcount| refcount != 0));
                if in_use > limit {
                    return Ok(true);
                }
            }
        }
        Ok(false)
    }
}
