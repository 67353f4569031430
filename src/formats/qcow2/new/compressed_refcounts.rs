//! The refcounts of a new image whose host clusters may have several references.
//!
//! Compressed clusters share host clusters, and each is one reference to every host cluster that it overlaps. Space
//! is allocated in ascending order. So a refcount block is complete as soon as the next free cluster is after all
//! that it covers. It is then stored between the data and freed. Memory holds only the last block or two and the
//! offsets of the others, whatever the size of the image.

use std::collections::VecDeque;
use std::ops::RangeInclusive;

use super::refcounts::{RefcountLayout, table_too_big};
use crate::error::{Error, Result};
use crate::formats::qcow2::entries;
use crate::formats::qcow2::geometry::{ENTRY_SIZE, Geometry, MAX_REFCOUNT_TABLE_BYTES};
use crate::storage::Storage;
use crate::units::HostOffset;

/// The refcounts of the clusters that are allocated so far.
#[derive(Debug)]
pub(super) struct PendingRefcounts {
    geometry: Geometry,
    /// The host offsets of the completed blocks.
    placed: Vec<HostOffset>,
    /// The contents of the blocks after them.
    pending: VecDeque<Vec<u8>>,
}

impl PendingRefcounts {
    /// Returns refcounts of a file in which nothing is allocated.
    pub(super) fn new(geometry: Geometry) -> Self {
        Self {
            geometry,
            placed: Vec::new(),
            pending: VecDeque::new(),
        }
    }

    /// Adds a reference to every cluster that the `length` bytes from `host` on overlap.
    ///
    /// # Errors
    /// Returns an error if a refcount would exceed the highest one, or if it is in a completed block.
    pub(super) fn add(&mut self, host: HostOffset, length: u64) -> Result<()> {
        for cluster in self.clusters(host, length) {
            let (block, index) = self
                .place(cluster)
                .ok_or_else(|| Error::invalid("counting a cluster whose refcount is final"))?;
            while self.pending.len() <= block {
                let block = vec![0; self.geometry.cluster_len()];
                self.pending.push_back(block);
            }
            let bits = self.geometry.refcount_bits();
            self.pending
                .get_mut(block)
                .and_then(|block| {
                    let count = entries::refcount_at(block, bits, index)?;
                    entries::set_refcount(block, bits, index, count.checked_add(1)?)
                })
                .ok_or_else(|| Error::invalid("a refcount is too large"))?;
        }
        Ok(())
    }

    /// Returns true if the cluster at `host` has the highest possible refcount.
    pub(super) fn is_full(&self, host: HostOffset) -> bool {
        let bits = self.geometry.refcount_bits();
        let more = self
            .place(self.geometry.host_cluster(host))
            .and_then(|(block, index)| {
                entries::refcount_at(self.pending.get(block)?, bits, index)?.checked_add(1)
            });
        // `checked_shr` returns `None` for refcounts of 64 bits, into which every number fits.
        more.is_none_or(|more| more.checked_shr(bits).is_some_and(|excess| excess > 0))
    }

    /// Returns the host offset of the end of the clusters that the first incomplete block covers.
    pub(super) fn first_end(&self) -> HostOffset {
        let blocks = self.placed.len() as u64 + 1;
        let end = self
            .geometry
            .host_offset(blocks.saturating_mul(self.geometry.refcount_block_entries()));
        end.unwrap_or(HostOffset(u64::MAX))
    }

    /// Returns the first block, which is complete, and records that it is stored at `host`. That cluster has its
    /// reference already.
    pub(super) fn place_first(&mut self, host: HostOffset) -> Vec<u8> {
        self.placed.push(host);
        let empty = || vec![0; self.geometry.cluster_len()];
        self.pending.pop_front().unwrap_or_else(empty)
    }

    /// Writes the incomplete blocks and the refcount table at `end`, after everything else.
    ///
    /// # Errors
    /// Returns the system's error. Returns an error if the table would be larger than the format allows.
    pub(super) fn finish(
        mut self,
        end: HostOffset,
        storage: &dyn Storage,
    ) -> Result<RefcountLayout> {
        let size = self.geometry.cluster_size();
        let placed = self.placed.len() as u64;
        let used = self.geometry.host_cluster(end);
        let (mut blocks, mut table_clusters) = (0, 0);
        // Both sizes grow far more slowly than the total, so the loop ends after a few rounds.
        let total = loop {
            let total = used + blocks + table_clusters;
            let all = total.div_ceil(self.geometry.refcount_block_entries());
            let needed = (
                all - placed.min(all),
                self.geometry.clusters(all * ENTRY_SIZE),
            );
            if needed == (blocks, table_clusters) {
                break total;
            }
            (blocks, table_clusters) = needed;
        };
        if table_clusters * size > MAX_REFCOUNT_TABLE_BYTES {
            return Err(table_too_big());
        }
        self.add(end, (blocks + table_clusters) * size)?;
        let mut host = end;
        while let Some(block) = self.pending.pop_front() {
            storage.write_at(host.0, &block)?;
            self.placed.push(host);
            host.0 += size;
        }
        let mut table: Vec<u8> = self
            .placed
            .iter()
            .flat_map(|host| host.0.to_be_bytes())
            .collect();
        // The table is padded, so that the file ends with a whole cluster.
        let length = table_clusters * size;
        table.resize(usize::try_from(length).unwrap_or(table.len()), 0);
        storage.write_at(host.0, &table)?;
        Ok(RefcountLayout {
            blocks: end,
            block_count: blocks,
            table: host,
            table_clusters,
            total,
        })
    }

    fn clusters(&self, host: HostOffset, length: u64) -> RangeInclusive<u64> {
        let Some(last) = length.checked_sub(1) else {
            return RangeInclusive::new(1, 0);
        };
        let last = HostOffset(host.0.saturating_add(last));
        self.geometry.host_cluster(host)..=self.geometry.host_cluster(last)
    }

    /// Returns the index of the pending block with a cluster's refcount, and the index in that block.
    fn place(&self, cluster: u64) -> Option<(usize, usize)> {
        let entries = self.geometry.refcount_block_entries();
        let block = (cluster / entries).checked_sub(self.placed.len() as u64)?;
        Some((
            usize::try_from(block).ok()?,
            usize::try_from(cluster % entries).ok()?,
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::MemoryStorage;

    #[test]
    fn blocks_go_when_they_are_final_and_all_uses_are_counted() {
        for order in 0..=6 {
            let geometry = Geometry::new(9, false, order).unwrap();
            let entries = geometry.refcount_block_entries();
            let storage = MemoryStorage::new(Vec::new());
            let mut counts = PendingRefcounts::new(geometry);
            let mut expected = Vec::new();
            let mut next = 0;
            while next < 3 * entries + 7 {
                counts.add(HostOffset(next * 512), 512).unwrap();
                expected.push(1);
                next += 1;
                let last = HostOffset(next * 512 - 1);
                assert_eq!(counts.is_full(last), order == 0);
                if order > 0 && next % 3 == 0 {
                    counts.add(last, 1).unwrap();
                    *expected.last_mut().unwrap() += 1;
                }
                if counts.first_end().0 <= next * 512 {
                    let host = HostOffset(next * 512);
                    counts.add(host, 512).unwrap();
                    expected.push(1);
                    next += 1;
                    let block = counts.place_first(host);
                    storage.write_at(host.0, &block).unwrap();
                }
            }
            assert_eq!(counts.placed.len(), 3);
            assert!(counts.add(HostOffset(0), 1).is_err());
            let layout = counts.finish(HostOffset(next * 512), &storage).unwrap();
            expected.extend(std::iter::repeat_n(
                1,
                usize::try_from(layout.total - next).unwrap(),
            ));

            let contents = storage.contents();
            assert_eq!(contents.len() as u64, layout.total * 512);
            let table = &contents[usize::try_from(layout.table.0).unwrap()..];
            let mut found = Vec::new();
            for entry in table.chunks_exact(8) {
                let block = usize::try_from(u64::from_be_bytes(entry.try_into().unwrap())).unwrap();
                if block == 0 {
                    break;
                }
                let block = &contents[block..block + 512];
                let entries = usize::try_from(entries).unwrap();
                found.extend((0..entries).map(|n| entries::refcount_at(block, 1 << order, n)));
            }
            let found: Vec<u64> = found.into_iter().map(Option::unwrap).collect();
            let (counted, behind) = found.split_at(expected.len());
            assert!(counted == expected, "order {order}");
            assert!(behind.iter().all(|count| *count == 0));
        }
    }
}
