//! The rebuild of the refcount structures from the references.
//!
//! It is needed if the old structures can't be repaired: refcount blocks that are missing, shared, or at invalid
//! offsets. The new table and its blocks go to unreferenced clusters; those of the old structures aren't overwritten.
//! When the new structures are on stable storage, one write within a sector changes the header. No power cut can tear
//! it, so the image is unchanged up to that write. The clusters of the old structures are free afterwards.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use super::references::WORD;
use super::walk::{Walk, Walked};
use crate::error::{Error, Result};
use crate::formats::qcow2::entries::set_refcount;
use crate::formats::qcow2::geometry::{ENTRY_SIZE, Geometry, MAX_REFCOUNT_TABLE_BYTES};
use crate::formats::qcow2::header::fields;
use crate::units::HostOffset;

/// The clusters that a rebuild freed and allocated.
#[derive(Debug, Default)]
pub struct Rebuilt {
    /// The clusters of the old structures, with the number of references from them.
    old: BTreeMap<u64, u64>,
    /// Clusters of the new structures.
    new: BTreeSet<u64>,
}

impl Rebuilt {
    /// Returns true if the structures were rebuilt.
    pub fn is_done(&self) -> bool {
        !self.new.is_empty()
    }

    /// Returns the clusters of the old structures that the new ones don't use, with the number of references from the
    /// old ones.
    pub fn freed(&self) -> impl Iterator<Item = (u64, u64)> {
        let old = self.old.iter().map(|(cluster, count)| (*cluster, *count));
        old.filter(|(cluster, _)| !self.new.contains(cluster))
    }

    /// Returns the number of references to a cluster after the rebuild; `before` is the number before it.
    pub fn references(&self, cluster: u64, before: u64) -> u64 {
        let old = self.old.get(&cluster).copied().unwrap_or(0);
        before.saturating_sub(old) + u64::from(self.new.contains(&cluster))
    }
}

/// The plan of a rebuild: the clusters of the new structures.
struct RebuildPlan<'a> {
    walk: &'a Walk<'a>,
    /// The geometry of the new structures.
    geometry: Geometry,
    rebuilt: Rebuilt,
    /// The clusters of refcount blocks, by the blocks' indexes in the table.
    blocks: BTreeMap<u64, u64>,
    /// The indexes of the blocks that are needed. Those not in `blocks` have no cluster yet.
    needed: BTreeSet<u64>,
    /// The first cluster of the refcount table, and the number of its clusters.
    table: (u64, u64),
    /// The first cluster that may be unreferenced.
    next: u64,
    /// Ranges of clusters beyond the file's end that must not be used.
    avoided: Vec<Range<u64>>,
}

impl Walk<'_> {
    /// Builds new refcount structures and makes the header refer to them.
    ///
    /// # Errors
    /// Returns the system's error. Returns an error if the refcount table would exceed QEMU's limit.
    pub fn rebuild(&self, walked: &Walked) -> Result<Rebuilt> {
        self.rebuild_as(walked, self.geometry)
    }

    /// Does the same as [`rebuild`](Self::rebuild), with the refcount width of `geometry`. All refcounts must fit
    /// into that width.
    ///
    /// # Errors
    /// Returns an error as `rebuild` does.
    pub fn rebuild_as(&self, walked: &Walked, geometry: Geometry) -> Result<Rebuilt> {
        let mut rebuilt = Rebuilt::default();
        for cluster in &walked.refcount_clusters {
            *rebuilt.old.entry(*cluster).or_default() += 1;
        }
        let mut plan = RebuildPlan {
            walk: self,
            geometry,
            rebuilt,
            blocks: BTreeMap::new(),
            needed: BTreeSet::new(),
            table: (0, 0),
            next: 1,
            avoided: self.avoided(),
        };
        plan.make()?;
        plan.write()?;
        Ok(plan.rebuilt)
    }
}

impl RebuildPlan<'_> {
    /// Allocates clusters until every used cluster, including those of the new structures, has a refcount.
    fn make(&mut self) -> Result<()> {
        let per_block = self.geometry.refcount_block_entries();
        for word in self.walk.references.words() {
            if self.walk.references.bits(word) != 0 {
                self.needed.insert(word * WORD / per_block);
            }
        }
        loop {
            let missing = self
                .needed
                .iter()
                .find(|index| !self.blocks.contains_key(index));
            if let Some(index) = missing.copied() {
                let cluster = self.find(1);
                self.take(cluster, 1);
                self.blocks.insert(index, cluster);
                continue;
            }
            let highest = self.needed.last().copied().unwrap_or(0);
            let bytes = (highest + 1) * ENTRY_SIZE;
            if bytes > MAX_REFCOUNT_TABLE_BYTES {
                return Err(Error::unsupported(
                    "the refcount table would be larger than QEMU accepts",
                ));
            }
            let clusters = self.geometry.clusters(bytes);
            if clusters <= self.table.1 {
                return Ok(());
            }
            // The table outgrew its former clusters; they are free again.
            for cluster in self.table.0..self.table.0 + self.table.1 {
                self.rebuilt.new.remove(&cluster);
            }
            self.table = (self.find(clusters), clusters);
            self.take(self.table.0, clusters);
        }
    }

    /// Finds `count` contiguous clusters that aren't referenced. Returns the first one.
    fn find(&mut self, count: u64) -> u64 {
        let mut start = self.next;
        let mut cluster = start;
        while cluster - start < count {
            let next = self.avoided.partition_point(|run| run.end <= cluster);
            if let Some(run) = self.avoided.get(next)
                && run.contains(&cluster)
            {
                cluster = run.end;
                start = cluster;
                continue;
            }
            let free =
                self.walk.references.get(cluster) == 0 && !self.rebuilt.new.contains(&cluster);
            cluster += 1;
            if !free {
                start = cluster;
            }
        }
        if count == 1 {
            self.next = start;
        }
        start
    }

    fn take(&mut self, start: u64, count: u64) {
        let per_block = self.geometry.refcount_block_entries();
        for cluster in start..start + count {
            self.rebuilt.new.insert(cluster);
            self.needed.insert(cluster / per_block);
        }
    }

    fn write(&self) -> Result<()> {
        let storage = self.walk.storage;
        let geometry = self.geometry;
        let place = |cluster| {
            let host = geometry.host_offset(cluster);
            host.ok_or_else(|| Error::unsupported("the file would be too large"))
        };
        for (index, cluster) in &self.blocks {
            storage.write_at(place(*cluster)?.0, &self.block(*index))?;
        }
        let bytes = self.table.1 * geometry.cluster_size();
        let entries = usize::try_from(bytes / ENTRY_SIZE).unwrap_or(0);
        let mut table = Vec::with_capacity(entries);
        for index in 0..bytes / ENTRY_SIZE {
            let host = match self.blocks.get(&index) {
                Some(cluster) => place(*cluster)?,
                None => HostOffset(0),
            };
            table.push(host.0.to_be_bytes());
        }
        let host = place(self.table.0)?;
        storage.write_at(host.0, table.as_flattened())?;
        storage.flush()?;
        let clusters = u32::try_from(self.table.1)
            .map_err(|_| Error::unsupported("the refcount table would be too large"))?;
        if geometry == self.walk.geometry {
            fields::set_refcount_table(storage, host, clusters)?;
        } else {
            let order = geometry.refcount_bits().trailing_zeros();
            fields::set_refcounts(storage, host, clusters, order)?;
        }
        storage.flush()
    }

    fn block(&self, index: u64) -> Vec<u8> {
        let geometry = self.geometry;
        let per_block = geometry.refcount_block_entries();
        let most = geometry.max_refcount();
        let mut block = vec![0; geometry.cluster_len()];
        let first = index * per_block;
        let mut set = |cluster: u64| {
            let before = self.walk.references.get(cluster);
            let references = self.rebuilt.references(cluster, before).min(most);
            let within = usize::try_from(cluster - first).unwrap_or(usize::MAX);
            // The index is within the block, and the refcount fits into its width.
            let _ = set_refcount(&mut block, geometry.refcount_bits(), within, references);
        };
        for word in first / WORD..(first + per_block) / WORD {
            let bits = self.walk.references.bits(word);
            for bit in 0..WORD {
                if bits >> bit & 1 != 0 {
                    set(word * WORD + bit);
                }
            }
        }
        for cluster in self.rebuilt.new.range(first..first + per_block) {
            set(*cluster);
        }
        block
    }
}
