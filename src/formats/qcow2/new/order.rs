//! The allocation of clusters of a new image in QEMU's order, so that the image has the same bytes.
//!
//! That order isn't documented. These rules were derived from images of many sizes, and hold for all cluster sizes
//! and refcount widths that were tried:
//!
//! - The header comes first, then the refcount table of one cluster, and the first refcount block. Clusters are
//!   allocated in ascending order, each run contiguously.
//! - A refcount block is allocated when the first of the clusters that it covers is allocated: after the run that
//!   needs it. If the block's own cluster is covered by another new block, that one is allocated before it.
//! - If the table has no entry for a block, a larger table is allocated. It goes to the first cluster that the next
//!   block covers, after the blocks that cover it. It has entries for half as many blocks again as there are then.
//!   The old table is freed, and not reused by that.
//! - With preallocation, all refcount blocks are allocated before the data: blocks, table and data follow each other.
//!   The clusters of the old table are the first to be allocated afterwards.
//!
//! This type records only places. The number of runs in use stays small, so that an image of any size is laid out at
//! once.

use std::collections::BTreeMap;
use std::ops::Range;

use super::refcounts::{refcount_clusters, table_too_big};
use crate::error::{Error, Result};
use crate::formats::qcow2::entries;
use crate::formats::qcow2::geometry::{ENTRY_SIZE, Geometry, MAX_REFCOUNT_TABLE_BYTES};
use crate::formats::qcow2::header::TablePlace;
use crate::storage::Storage;
use crate::units::HostOffset;

/// The allocated clusters of a new image.
#[derive(Debug)]
pub(super) struct ClusterOrder {
    geometry: Geometry,
    /// The clusters of the refcount table.
    table: Range<u64>,
    /// The clusters of the refcount blocks, by their indexes in the table.
    blocks: BTreeMap<u64, u64>,
    /// The start and the end of each run that isn't free: those in use, and former tables. The runs are disjoint.
    taken: BTreeMap<u64, u64>,
    /// The former refcount tables, whose clusters have no references.
    outgrown: Vec<Range<u64>>,
    /// The contents of the former tables, which stay in the file: their first cluster, and the clusters of blocks.
    stale: Vec<(u64, BTreeMap<u64, u64>)>,
    /// The cluster at which the search for a free one starts.
    next: u64,
}

impl ClusterOrder {
    /// Allocates the first `front` clusters, for the headers, and the refcount structures.
    ///
    /// # Errors
    /// Returns an error as [`take`](Self::take) does.
    pub(super) fn new(geometry: Geometry, front: u64) -> Result<Self> {
        let mut order = Self {
            geometry,
            table: front..front + 1,
            blocks: BTreeMap::new(),
            taken: BTreeMap::new(),
            outgrown: Vec::new(),
            stale: Vec::new(),
            next: 0,
        };
        order.take(front + 1)?;
        Ok(order)
    }

    /// Allocates a run of `count` clusters (at least 1), and returns its first cluster.
    ///
    /// # Errors
    /// Returns an error if the file or the refcount table would be larger than the format allows.
    pub(super) fn take(&mut self, count: u64) -> Result<u64> {
        loop {
            let start = self.find(count);
            let end = start + count;
            self.check_end(end)?;
            self.next = end;
            if self.mark_or_add_block(start..end)? {
                return Ok(start);
            }
        }
    }

    /// Allocates a run of `data` clusters (possibly 0), with refcount blocks for these and `more` clusters. Returns
    /// its first cluster. QEMU counts the existing refcount clusters twice; with `is_tight` they are counted once.
    ///
    /// # Errors
    /// Returns an error as [`take`](Self::take) does.
    pub(super) fn take_counted(&mut self, data: u64, more: u64, is_tight: bool) -> Result<u64> {
        let start = self.end();
        let twice = match is_tight {
            true => self.blocks.len() as u64 + self.table.end - self.table.start,
            false => 0,
        };
        self.stale.push((self.table.start, self.blocks.clone()));
        let (blocks, table) = refcount_clusters(self.geometry, start + data + more - twice);
        let mut next = start;
        for index in self.blocks.len() as u64..blocks {
            self.blocks.insert(index, next);
            next += 1;
        }
        let old = std::mem::replace(&mut self.table, next..next + table);
        self.check_table()?;
        let first = self.table.end;
        self.check_end(first + data)?;
        self.mark(start..first + data);
        self.next = first.min(old.start);
        self.unmark(&old);
        Ok(first)
    }

    /// Returns the length of the file in clusters.
    pub(super) fn end(&self) -> u64 {
        self.taken.last_key_value().map_or(0, |(_, end)| *end)
    }

    /// Returns the place of the refcount table.
    pub(super) fn refcount_table(&self) -> TablePlace {
        let size = self.geometry.cluster_size();
        TablePlace {
            host: HostOffset(self.table.start * size),
            entries: (self.table.end - self.table.start) * size / ENTRY_SIZE,
        }
    }

    /// Writes the refcount table and its blocks. Must be called last, since former tables are also written where
    /// nothing else is.
    ///
    /// # Errors
    /// Returns the system's error.
    pub(super) fn write(&self, storage: &dyn Storage) -> Result<()> {
        let size = self.geometry.cluster_size();
        let per_block = self.geometry.refcount_block_entries();
        for (start, blocks) in &self.stale {
            let table = self.table_bytes(blocks)?;
            for (cluster, bytes) in (*start..).zip(table.chunks(self.geometry.cluster_len())) {
                if self.counted(cluster..cluster + 1).is_empty() {
                    storage.write_at(cluster * size, bytes)?;
                }
            }
        }
        let full = self.block(&[0..per_block], 0);
        for (index, cluster) in &self.blocks {
            let counted = self.counted(index * per_block..(index + 1) * per_block);
            let partial;
            let block = match counted.as_slice() {
                [all] if all.end - all.start == per_block => &full,
                _ => {
                    partial = self.block(&counted, index * per_block);
                    &partial
                }
            };
            storage.write_at(cluster * size, block)?;
        }
        let mut table = self.table_bytes(&self.blocks)?;
        let length = usize::try_from(self.refcount_table().entries * ENTRY_SIZE);
        table.resize(length.unwrap_or(table.len()), 0);
        storage.write_at(self.table.start * size, &table)
    }

    /// Returns the encoded table, up to the end of the cluster with its last entry.
    fn table_bytes(&self, blocks: &BTreeMap<u64, u64>) -> Result<Vec<u8>> {
        let entries = blocks.last_key_value().map_or(0, |(index, _)| index + 1);
        let clusters = usize::try_from(self.table_clusters(entries));
        let clusters = clusters.map_err(|_| table_too_big())?;
        let mut table = vec![0; clusters * self.geometry.cluster_len()];
        let (table_entries, _) = table.as_chunks_mut();
        for (index, cluster) in blocks {
            let entry = usize::try_from(*index).ok();
            let entry = entry.and_then(|index| table_entries.get_mut(index));
            *entry.ok_or_else(|| Error::invalid("beyond the refcount table"))? =
                (cluster * self.geometry.cluster_size()).to_be_bytes();
        }
        Ok(table)
    }

    /// Returns a refcount block with refcounts of 1 for the clusters of some runs; `first` is the first cluster that
    /// it covers.
    fn block(&self, counted: &[Range<u64>], first: u64) -> Vec<u8> {
        let mut block = vec![0; self.geometry.cluster_len()];
        let within = |cluster: u64| usize::try_from(cluster - first).unwrap_or(usize::MAX);
        for run in counted {
            let range = within(run.start)..within(run.end);
            let _ = entries::set_refcounts(&mut block, self.geometry.refcount_bits(), range, 1);
        }
        block
    }

    /// Returns the runs of clusters of a range that are in use.
    fn counted(&self, range: Range<u64>) -> Vec<Range<u64>> {
        let before = self.taken.range(..=range.start).next_back();
        let within = self.taken.range(range.start + 1..range.end);
        let mut runs = Vec::new();
        for (start, end) in before.into_iter().chain(within) {
            let mut run = range.start.max(*start)..range.end.min(*end);
            for gap in &self.outgrown {
                if gap.start < run.end && gap.end > run.start {
                    runs.push(run.start..gap.start.max(run.start));
                    run.start = gap.end.min(run.end);
                }
            }
            runs.push(run);
        }
        runs.retain(|run| run.start < run.end);
        runs
    }

    /// Returns the first cluster of the first free run of `count` clusters.
    fn find(&self, count: u64) -> u64 {
        let mut start = self.next;
        let around = self.taken.range(..=start).next_back();
        if let Some((_, end)) = around
            && *end > start
        {
            start = *end;
        }
        while let Some((_, end)) = self.taken.range(start..start + count).next() {
            start = *end;
        }
        start
    }

    /// Marks a run as used if its clusters have refcount blocks. Otherwise allocates a block or a table and returns
    /// `false`, and the caller must search for the run again.
    fn mark_or_add_block(&mut self, run: Range<u64>) -> Result<bool> {
        let per_block = self.geometry.refcount_block_entries();
        for index in run.start / per_block..run.end.div_ceil(per_block) {
            if !self.blocks.contains_key(&index) {
                self.add_block(index, run.start.max(index * per_block))?;
                self.next = self.next.min(run.start);
                return Ok(false);
            }
        }
        self.mark(run);
        Ok(true)
    }

    /// Allocates the block that covers `cluster`.
    fn add_block(&mut self, index: u64, cluster: u64) -> Result<()> {
        let new = self.find(1);
        self.check_end(new + 1)?;
        self.next = new + 1;
        if index >= self.refcount_table().entries {
            return self.grow_table(index, cluster, new);
        }
        let counts_itself = new / self.geometry.refcount_block_entries() == index;
        if counts_itself {
            self.mark(new..new + 1);
        }
        if counts_itself || self.mark_or_add_block(new..new + 1)? {
            self.blocks.insert(index, new);
        }
        Ok(())
    }

    /// Allocates a larger table, with an entry for the block at `new`, which covers `cluster`.
    fn grow_table(&mut self, index: u64, cluster: u64, new: u64) -> Result<()> {
        let per_block = self.geometry.refcount_block_entries();
        let used = (cluster + 1).max(new).div_ceil(per_block);
        let start = used * per_block;
        let (blocks, _) = refcount_clusters(self.geometry, start);
        let clusters = self.table_clusters(blocks + blocks.div_ceil(2));
        self.mark(new..new + 1);
        self.stale.push((self.table.start, self.blocks.clone()));
        self.blocks.insert(index, new);
        for block in used..blocks {
            self.blocks.insert(block, start + block - used);
        }
        let first = start + blocks - used;
        let old = std::mem::replace(&mut self.table, first..first + clusters);
        self.check_table()?;
        self.check_end(self.table.end)?;
        self.mark(start..self.table.end);
        self.outgrown.push(old);
        Ok(())
    }

    fn table_clusters(&self, entries: u64) -> u64 {
        self.geometry.clusters(entries * ENTRY_SIZE)
    }

    fn check_table(&self) -> Result<()> {
        match self.refcount_table().entries * ENTRY_SIZE > MAX_REFCOUNT_TABLE_BYTES {
            true => Err(table_too_big()),
            false => Ok(()),
        }
    }

    fn check_end(&self, end: u64) -> Result<()> {
        // The offset in an L2 entry is limited to 2^56.
        match self.geometry.host_offset(end) {
            Some(end) if end.0 < 1 << 56 => Ok(()),
            _ => Err(Error::invalid("the image's file is too big")),
        }
    }

    fn mark(&mut self, mut run: Range<u64>) {
        let before = self.taken.range(..=run.start).next_back();
        if let Some((start, end)) = before
            && *end == run.start
        {
            run.start = *start;
        }
        if let Some(end) = self.taken.remove(&run.end) {
            run.end = end;
        }
        if run.start < run.end {
            self.taken.insert(run.start, run.end);
        }
    }

    /// Frees a part of a run in use.
    fn unmark(&mut self, part: &Range<u64>) {
        let around = self.taken.range(..=part.start).next_back();
        if let Some((start, end)) = around.map(|(start, end)| (*start, *end)) {
            self.taken.remove(&start);
            for run in [start..part.start, part.end..end] {
                if run.start < run.end {
                    self.taken.insert(run.start, run.end);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn order(cluster_bits: u32, order: u32, l1_clusters: u64) -> ClusterOrder {
        let geometry = Geometry::new(cluster_bits, false, order).unwrap();
        let mut order = ClusterOrder::new(geometry, 1).unwrap();
        assert_eq!(order.take(l1_clusters).unwrap(), 3);
        order
    }

    #[test]
    fn blocks_are_where_qemu_has_them() {
        assert_eq!(order(16, 4, 1).blocks, [(0, 2)].into());
        assert_eq!(order(9, 4, 512).blocks, [(0, 2), (1, 515), (2, 516)].into());
        // The disk has 100 GiB.
        let many = order(10, 4, 6400);
        assert_eq!(many.blocks[&1], 6403);
        assert_eq!(many.blocks[&12], 6404);
        assert_eq!(many.blocks[&2], 6405);
        assert_eq!((many.blocks.len(), many.end()), (13, 6415));
    }

    #[test]
    fn tables_that_are_outgrown_are_where_qemu_has_them() {
        // The disk has 128 GiB.
        let large = order(9, 4, 65_536);
        assert_eq!(large.table, 65_794..65_801);
        assert_eq!(large.blocks[&1], 65_539);
        assert_eq!(large.blocks[&256], 65_540);
        assert_eq!(large.blocks[&252], 65_791);
        assert_eq!(large.blocks[&257], 65_792);
        assert_eq!(large.blocks[&253], 65_801);
        assert_eq!(large.outgrown, [1..2]);
        // The disk has 8 GiB.
        let wide = order(9, 6, 4096);
        assert_eq!(wide.table, 4162..4164);
        assert_eq!(wide.blocks[&61], 4164);
    }

    #[test]
    fn space_that_is_taken_has_its_refcounts_in_front() {
        let mut order = order(9, 4, 5);
        // The disk has 9 MiB.
        assert_eq!(order.take_counted(18_432, 288, false).unwrap(), 83);
        assert_eq!(order.blocks[&73], 80);
        assert_eq!(order.table, 81..83);
        assert_eq!(order.take(1).unwrap(), 1);
        assert_eq!(order.take(1).unwrap(), 18_515);
    }

    #[test]
    fn a_tight_image_has_no_more_than_its_parts() {
        let small = || order(9, 4, 1);
        // The clusters of data fill the last block exactly, or exceed it by one.
        for (data, blocks) in [(1503, 6), (1504, 7)] {
            let mut order = small();
            order.take_counted(data, 24, true).unwrap();
            for _ in 0..24 {
                order.take(1).unwrap();
            }
            // The header, the L1 table and the refcount table are three more.
            assert_eq!(order.end(), 3 + data + 24 + blocks);
            assert_eq!(order.blocks.len() as u64, blocks);
            assert!(order.end() <= blocks * 256);
        }
        let mut order = small();
        order.take_counted(1503, 24, false).unwrap();
        assert_eq!(order.blocks.len(), 7);
    }

    #[test]
    fn what_stands_behind_the_header_is_counted_too() {
        let geometry = Geometry::new(9, false, 4).unwrap();
        let order = ClusterOrder::new(geometry, 5000).unwrap();
        assert_eq!(order.table, 5000..5001);
        assert_eq!(order.counted(0..6000), [0..order.end()]);
        assert_eq!(order.end(), 5001 + 20);
    }
}
