//! New refcount structures from nothing but the references.
//!
//! They are made when the old ones can't be trusted: refcount blocks that are missing, shared, or
//! in impossible places. The new table and its blocks go to clusters that nothing refers to; the
//! old structures' own clusters are left alone. When all of it is on stable storage, the header is
//! switched in one write that no power cut can tear. From then on the old structures are free. So
//! until the last write the image is what it was.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use super::references::WORD;
use super::walk::{Walk, Walked};
use crate::error::{Error, Result};
use crate::formats::qcow2::entries::set_refcount;
use crate::formats::qcow2::geometry::{ENTRY_SIZE, Geometry, MAX_REFCOUNT_TABLE_BYTES};
use crate::formats::qcow2::header::fields;
use crate::units::HostOffset;

/// The clusters that a rebuild freed and took.
#[derive(Debug, Default)]
pub struct Rebuilt {
    /// Clusters of the old structures, with the number of references that went with them.
    old: BTreeMap<u64, u64>,
    /// Clusters of the new structures.
    new: BTreeSet<u64>,
}

impl Rebuilt {
    /// Returns true if anything was made anew.
    pub fn is_done(&self) -> bool {
        !self.new.is_empty()
    }

    /// Returns the clusters that only the old structures used, with the number of references to them.
    pub fn freed(&self) -> impl Iterator<Item = (u64, u64)> {
        let old = self.old.iter().map(|(cluster, count)| (*cluster, *count));
        old.filter(|(cluster, _)| !self.new.contains(cluster))
    }

    /// Returns the references to a cluster after the change; `before` is their number before it.
    pub fn references(&self, cluster: u64, before: u64) -> u64 {
        let old = self.old.get(&cluster).copied().unwrap_or(0);
        before.saturating_sub(old) + u64::from(self.new.contains(&cluster))
    }
}

/// The plan: the places of everything new.
struct RebuildPlan<'a> {
    walk: &'a Walk<'a>,
    /// The sizes of the new structures.
    geometry: Geometry,
    rebuilt: Rebuilt,
    /// The clusters of refcount blocks, by the blocks' indexes in the table.
    blocks: BTreeMap<u64, u64>,
    /// Blocks that are needed, all but those in `blocks` still to come.
    needed: BTreeSet<u64>,
    /// The first cluster of the refcount table, and the number of its clusters.
    table: (u64, u64),
    /// The first cluster that may be free.
    next: u64,
    /// Clusters beyond the file's end that are not to be used.
    avoided: Vec<Range<u64>>,
}

impl Walk<'_> {
    /// Makes new refcount structures and switches to them.
    ///
    /// # Errors
    /// Returns the system's error, or an error if the image is so big that its refcount table would
    /// be beyond QEMU's limit.
    pub fn rebuild(&self, walked: &Walked) -> Result<Rebuilt> {
        self.rebuild_as(walked, self.geometry)
    }

    /// Does the same as [`rebuild`](Self::rebuild), with refcounts as wide as they are in `geometry`. All counts must
    /// fit.
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
    /// Finds places until every used cluster, those of the new structures too, has a refcount.
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
            // The former place was too small; it is free again.
            for cluster in self.table.0..self.table.0 + self.table.1 {
                self.rebuilt.new.remove(&cluster);
            }
            self.table = (self.find(clusters), clusters);
            self.take(self.table.0, clusters);
        }
    }

    /// Finds so many clusters in a row that nothing refers to.
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
            // The index is inside the block, and the count at most what it can hold.
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
