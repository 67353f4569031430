//! The heuristic for images whose clusters are allocated while the file has holes there.
//!
//! The header doesn't record preallocation (see [`Preallocation::Metadata`](crate::formats::Preallocation)). But in a
//! preallocated image far more clusters are in use than the file occupies on its medium. Only in such an image are
//! the file's holes queried for each cluster.

use std::sync::{Arc, OnceLock};

use super::tables::read_table;
use crate::error::Result;
use crate::formats::qcow2::entries::{RefcountTableEntry, refcount_at};
use crate::formats::qcow2::geometry::Geometry;
use crate::formats::qcow2::header::{Header, TablePlace};
use crate::storage::{Pace, Pieces, Storage};

/// The largest number of refcount blocks that are read at once. The first batch is one block, which is mostly enough.
const MOST_AT_ONCE: usize = 64;

/// The result of the heuristic, computed once.
#[derive(Debug)]
pub(super) struct Preallocated {
    storage: Arc<dyn Storage>,
    geometry: Geometry,
    refcount_table: TablePlace,
    answer: OnceLock<bool>,
}

impl Preallocated {
    /// Returns the heuristic for the image in `storage`.
    pub(super) fn new(storage: Arc<dyn Storage>, header: &Header) -> Self {
        Self {
            storage,
            geometry: header.geometry(),
            refcount_table: header.refcount_table(),
            answer: OnceLock::new(),
        }
    }

    /// Returns true if the image looks preallocated, and false if that is unknown. The result affects only reports
    /// and the speed of reading.
    pub(super) fn looks_preallocated(&self) -> bool {
        *self.answer.get_or_init(|| self.compute().unwrap_or(false))
    }

    fn compute(&self) -> Result<bool> {
        let Some(occupied) = self.storage.allocated()? else {
            return Ok(false);
        };
        let occupied = occupied / self.geometry.cluster_size();
        // The threshold is a tenth above the occupied space, since file systems and caches report it inexactly.
        let threshold = (occupied.saturating_mul(10) / 9).max(occupied + 2);
        self.more_clusters_in_use_than(threshold - 1)
    }

    fn more_clusters_in_use_than(&self, limit: u64) -> Result<bool> {
        let storage = self.storage.as_ref();
        let table = read_table(storage, self.refcount_table, "the refcount table")?;
        let length = storage.len()?;
        let mut left = self.geometry.clusters(length);
        let mut blocks = Vec::new();
        for entry in table {
            let count = left.min(self.geometry.refcount_block_entries());
            left -= count;
            if count == 0 {
                break;
            }
            if let Ok(Some(host)) = RefcountTableEntry(entry).block(self.geometry) {
                blocks.push((host, count));
            }
        }
        let mut in_use = 0;
        let pace = Pace::default();
        let pieces = Pieces::new(storage, length, self.geometry.cluster_len(), &pace);
        let mut rest = blocks.as_slice();
        let mut batch = 1;
        while !rest.is_empty() {
            let (now, after) = rest.split_at(rest.len().min(batch));
            let read = pieces.each(
                now,
                |(host, _)| host.0,
                |(_, count), block| Ok(self.in_use(block, *count)),
                |count| {
                    in_use += count;
                    Ok(())
                },
            );
            // An error in a later block is irrelevant if the count is high enough.
            if in_use > limit {
                return Ok(true);
            }
            read?;
            rest = after;
            batch = (2 * batch).min(MOST_AT_ONCE);
        }
        Ok(false)
    }

    /// Returns the number of non-zero refcounts among the first `count` of a block.
    fn in_use(&self, block: &[u8], count: u64) -> u64 {
        let bits = self.geometry.refcount_bits();
        let count = usize::try_from(count).unwrap_or(usize::MAX);
        let refcounts = (0..count).map_while(|index| refcount_at(block, bits, index));
        refcounts.filter(|refcount| *refcount != 0).count() as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::{Fault, MemoryStorage, Operation, Slowness};

    const CLUSTER: usize = 512;
    const BLOCKS: usize = 40;

    /// Returns an image whose refcount blocks each have three clusters in use.
    fn image() -> MemoryStorage {
        let per_block = CLUSTER / 2;
        let mut bytes = vec![0; BLOCKS * per_block * CLUSTER];
        bytes[..8].copy_from_slice(b"QFI\xfb\0\0\0\x03");
        bytes[20..24].copy_from_slice(&9u32.to_be_bytes());
        bytes[48..56].copy_from_slice(&(CLUSTER as u64).to_be_bytes());
        bytes[56..60].copy_from_slice(&1u32.to_be_bytes());
        bytes[96..100].copy_from_slice(&4u32.to_be_bytes());
        bytes[100..104].copy_from_slice(&104u32.to_be_bytes());
        for block in 0..BLOCKS {
            // The blocks aren't adjacent, so that each takes a read of its own.
            let host = (2 + 2 * block) * CLUSTER;
            let entry = CLUSTER + block * 8;
            bytes[entry..entry + 8].copy_from_slice(&(host as u64).to_be_bytes());
            for refcount in [0, 7, per_block - 1] {
                bytes[host + refcount * 2 + 1] = 1;
            }
        }
        MemoryStorage::new(bytes)
    }

    fn of(storage: MemoryStorage) -> (Arc<MemoryStorage>, Preallocated) {
        let storage = Arc::new(storage);
        let header = Header::read_for_check(storage.as_ref()).unwrap();
        let preallocated = Preallocated::new(Arc::<MemoryStorage>::clone(&storage), &header);
        (storage, preallocated)
    }

    #[test]
    fn clusters_in_use_are_counted_until_they_are_enough() {
        let total = 3 * BLOCKS as u64;
        for (limit, more, reads) in [(total, false, 40), (total - 1, true, 40), (2, true, 1)] {
            let (storage, preallocated) = of(image());
            let before = storage.count(Operation::Read);
            assert_eq!(preallocated.more_clusters_in_use_than(limit).unwrap(), more);
            assert_eq!(
                storage.count(Operation::Read) - before,
                1 + reads,
                "{limit}"
            );
        }
    }

    #[test]
    fn blocks_are_read_together_where_reads_wait() {
        let before = of(image()).0.count(Operation::Read);
        // The reads are the table, batches of 1, 2, 4 and 8 blocks, and then 16 at once.
        let slowness = Slowness {
            until_in_flight: 16,
            after: before + 1 + 15,
        };
        let (storage, preallocated) = of(image().slow(slowness));
        assert!(!preallocated.more_clusters_in_use_than(1000).unwrap());
        assert!(storage.most_in_flight() >= 16);
    }

    #[test]
    fn a_block_behind_those_that_are_enough_may_fail() {
        let before = of(image()).0.count(Operation::Read);
        let third = Fault {
            operation: Operation::Read,
            nth: before + 1 + 3,
            errno: 5,
        };
        let answer = |limit| {
            let (_, preallocated) = of(image().with_fault(third));
            preallocated.more_clusters_in_use_than(limit)
        };
        assert!(answer(5).unwrap());
        assert!(answer(6).is_err());
    }
}
