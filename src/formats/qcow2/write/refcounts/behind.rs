//! Runs of clusters that are longer than what one refcount block counts.
//!
//! Each block that is made as clusters are handed out stands at the start of those that it counts, so no run
//! goes on from one block's clusters to the next one's. A longer run comes behind everything that is counted,
//! and in front of it all blocks that count it and themselves. With the usual clusters of 64 KiB that is never
//! needed; with those of 512 bytes an L1 table of 128 KiB needs it.

use std::ops::Range;

use super::Refcounts;
use crate::error::{Error, Result};
use crate::formats::qcow2::write::metadata_map::{MetadataMap, Structure};

impl Refcounts {
    /// Hands out a run of exactly `count` clusters behind all that are counted, each with a refcount of 1 from
    /// now on.
    ///
    /// # Errors
    /// Returns an error as [`take`](Self::take) does.
    pub(in super::super) fn take_behind(
        &mut self,
        count: u64,
        map: &mut MetadataMap,
    ) -> Result<Range<u64>> {
        let per_block = self.geometry.refcount_block_entries();
        let mut blocks = 1;
        while (blocks + count).div_ceil(per_block) > blocks {
            blocks = (blocks + count).div_ceil(per_block);
        }
        // A larger table has blocks of its own, behind which the run comes then.
        let index = loop {
            let last = self.table.iter().rposition(|entry| entry.host().0 != 0);
            let index = last.map_or(0, |last| last as u64 + 1);
            if index + blocks <= self.table.len() as u64 {
                break index;
            }
            self.grow(map)?;
        };
        let first = index
            .checked_mul(per_block)
            .ok_or_else(|| Error::invalid("the image's file is too big"))?;
        let run = first + blocks..first + blocks + count;
        self.check_place(&run)?;
        map.refuse(&(first..run.end))?;
        for block in 0..blocks {
            map.insert(first + block..first + block + 1, Structure::RefcountBlock)?;
            self.place_block(index + block, first + block)?;
        }
        for cluster in first..run.end {
            self.set(cluster, 1)?;
        }
        Ok(run)
    }
}
