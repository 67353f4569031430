//! Allocation and freeing at the end of the clusters in use, for an image whose file grows or shrinks with its disk.
//!
//! A refcount block in which only its own cluster has a refcount is useless, but prevents the file from being
//! truncated. So such blocks are removed before the file is truncated after the last cluster in use. The table
//! entries are cleared first, on stable storage, and then the blocks are freed.
//!
//! A run of more clusters than a block covers is allocated after the last cluster in use. New refcount blocks would
//! normally take the first cluster that they cover, and so divide the run. The blocks for such a run follow it
//! instead.

use std::ops::Range;

use super::{ENTRIES_PER_SECTOR, Refcounts};
use crate::error::{Error, Result};
use crate::formats::qcow2::entries::{RefcountTableEntry, refcount_at};
use crate::formats::qcow2::write::metadata_map::{MetadataMap, Structure};

impl Refcounts {
    /// Makes later allocations start at this cluster, until another cluster is freed.
    pub(in super::super) fn skip_to(&mut self, cluster: u64) {
        self.hint = self.hint.max(cluster);
    }

    /// Allocates a run of `count` clusters after the last one in use, with refcounts of 1.
    ///
    /// # Errors
    /// Returns an error as [`take`](Self::take) does.
    pub(in super::super) fn take_behind(
        &mut self,
        count: u64,
        map: &mut MetadataMap,
    ) -> Result<Range<u64>> {
        let per_block = self.geometry.refcount_block_entries();
        let (run, missing) = loop {
            let start = self.end_of_used()?.max(self.hint);
            let mut blocks = 0;
            let (end, missing) = loop {
                let end = start.saturating_add(count).saturating_add(blocks);
                let indices = start / per_block..end.div_ceil(per_block);
                let mut missing = Vec::new();
                for index in indices {
                    if self.block_host(index)?.is_none() {
                        missing.push(index);
                    }
                }
                if missing.len() as u64 <= blocks {
                    break (end, missing);
                }
                blocks = missing.len() as u64;
            };
            self.check_place(&(start..end))?;
            if end.div_ceil(per_block) <= self.table.len() as u64 {
                break (start..start + count, missing);
            }
            // The larger table is in use now, so the next attempt starts after it.
            self.grow(map)?;
        };
        let blocks = run.end..run.end + missing.len() as u64;
        map.refuse(&(run.start..blocks.end))?;
        for (index, cluster) in missing.into_iter().zip(blocks.clone()) {
            map.insert(cluster..cluster + 1, Structure::RefcountBlock)?;
            self.place_block(index, cluster)?;
        }
        self.set_all(run.start..blocks.end, 1)?;
        Ok(run)
    }

    /// Removes all blocks except for the first in which no refcount is set, or only that of the block's own cluster.
    /// The table is stored with the next changes.
    ///
    /// # Errors
    /// Returns an error if a block can't be read, or if a block has a wrong refcount.
    pub(in super::super) fn drop_empty_blocks(&mut self, map: &mut MetadataMap) -> Result<()> {
        for index in 1..self.table.len() as u64 {
            let Some(host) = self.block_host(index)? else {
                continue;
            };
            let cluster = self.geometry.host_cluster(host);
            let (counted_by, _) = self.split(cluster);
            let used = self.used_in_block(index)?;
            let mut others = used.into_iter().filter(|used| *used != cluster);
            if others.next().is_some() {
                continue;
            }
            let entry = usize::try_from(index).ok();
            let entry = entry.and_then(|index| self.table.get_mut(index));
            let entry = entry.ok_or_else(|| Error::invalid("beyond the refcount table"))?;
            *entry = RefcountTableEntry::default();
            self.changed.insert(index / ENTRIES_PER_SECTOR);
            self.blocks.remove(index);
            if counted_by == index {
                map.remove(cluster);
            } else {
                // Its refcount is decremented when no stored entry refers to it any more.
                self.outgrown.push(cluster..cluster + 1);
            }
        }
        Ok(())
    }

    /// Returns the first and the last cluster with a refcount in a block, once if they are the same, or none.
    fn used_in_block(&mut self, index: u64) -> Result<Vec<u64>> {
        if !self.load(index)? {
            return Ok(Vec::new());
        }
        let per_block = self.geometry.refcount_block_entries();
        let bits = self.geometry.refcount_bits();
        let block = self.blocks.get(index).unwrap_or_default();
        let limit = usize::try_from(per_block).unwrap_or(usize::MAX);
        let is_used =
            |within: &usize| refcount_at(block, bits, *within).is_some_and(|count| count > 0);
        let first = (0..limit).find(is_used);
        let last = (0..limit).rev().find(is_used);
        let number = |within: usize| index * per_block + within as u64;
        Ok(first.into_iter().chain(last).map(number).collect())
    }

    /// Returns the number of clusters up to and including the last one in use.
    ///
    /// # Errors
    /// Returns an error if a block can't be read.
    pub(in super::super) fn end_of_used(&mut self) -> Result<u64> {
        for index in (0..self.table.len() as u64).rev() {
            if let Some(last) = self.used_in_block(index)?.pop() {
                return Ok(last + 1);
            }
        }
        Ok(0)
    }
}
