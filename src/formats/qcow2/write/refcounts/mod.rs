//! The refcounts of an image that is written to, and the allocation of clusters.
//!
//! A cluster is free if its refcount is 0, or if there is no refcount block for it. Refcounts are changed in memory.
//! A changed block may be stored at any time: a refcount that is too high is harmless, and none is too low. So a
//! refcount is incremented as soon as the cluster is allocated, long before any stored reference to it. The owner
//! decrements it only when no stored reference is left.
//!
//! A new block takes the first cluster that it covers, and covers itself. When the refcount table is full, a larger
//! one is made after the last cluster that the old one covers. The blocks for these clusters precede it. New blocks
//! must be stored before the table entries that refer to them, and a new table before the header refers to it.
//! [`Refcounts::store`] ensures that.

mod end;
mod many;

use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::Arc;

use crate::error::{Error, Result};
use crate::formats::qcow2::entries::{
    RefcountTableEntry, count_zeroes, first_zero, refcount_at, set_refcounts,
};
use crate::formats::qcow2::geometry::{ENTRY_SIZE, Geometry, MAX_REFCOUNT_TABLE_BYTES};
use crate::formats::qcow2::header::fields;
use crate::formats::qcow2::header::{Header, TablePlace};
use crate::formats::qcow2::read::tables::read_table;
use crate::formats::qcow2::write::metadata_map::{MetadataMap, Structure};
use crate::formats::qcow2::write::table_cache::TableCache;
use crate::storage::Storage;
use crate::units::{HostOffset, SECTOR_SIZE};

/// The limit of a host offset in an L2 entry: 2^56.
const FILE_LIMIT: u64 = 1 << 56;

/// The number of entries in a sector of the refcount table.
const ENTRIES_PER_SECTOR: u64 = SECTOR_SIZE / ENTRY_SIZE;

/// The refcounts of an image that is written to; see the module's documentation.
#[derive(Debug)]
pub(in crate::formats::qcow2::write) struct Refcounts {
    storage: Arc<dyn Storage>,
    geometry: Geometry,
    table: Vec<RefcountTableEntry>,
    table_host: HostOffset,
    /// The sectors of the table that differ from the stored ones.
    changed: BTreeSet<u64>,
    /// True if the table has moved, and the header still refers to the old one.
    moved: bool,
    /// The clusters of tables that were replaced.
    outgrown: Vec<Range<u64>>,
    blocks: TableCache,
    /// The cluster at which the search for free clusters starts. Only clusters that were freed recently are before
    /// it.
    hint: u64,
}

impl Refcounts {
    /// Reads the refcount table, and adds it and its blocks to `map`.
    ///
    /// # Errors
    /// Returns the system's error. Returns an error if the table is beyond the end of the file, or if an entry is
    /// invalid or refers to other metadata.
    pub(in crate::formats::qcow2::write) fn open(
        storage: Arc<dyn Storage>,
        header: &Header,
        map: &mut MetadataMap,
    ) -> Result<Self> {
        let geometry = header.geometry();
        let place = header.refcount_table();
        let table = read_table(storage.as_ref(), place, "the refcount table")?;
        let this = Self {
            storage,
            geometry,
            table: table.into_iter().map(RefcountTableEntry).collect(),
            table_host: place.host,
            changed: BTreeSet::new(),
            moved: false,
            outgrown: Vec::new(),
            blocks: TableCache::new(geometry.cluster_len()),
            hint: 1,
        };
        map.insert(this.table_clusters(), Structure::RefcountTable)?;
        let length = this.storage.len()?;
        for index in 0..this.table.len() as u64 {
            if let Some(host) = this.block_host(index)? {
                if host.0 >= length {
                    return Err(Error::corrupt(format!(
                        "refcount block {index} at {host} is beyond the end of the file \
                         ({length} bytes)"
                    )));
                }
                let cluster = geometry.host_cluster(host);
                map.insert(cluster..cluster + 1, Structure::RefcountBlock)?;
            }
        }
        Ok(this)
    }

    fn table_clusters(&self) -> Range<u64> {
        let first = self.geometry.host_cluster(self.table_host);
        let bytes = self.table.len() as u64 * ENTRY_SIZE;
        first..first + self.geometry.clusters(bytes)
    }

    fn block_host(&self, index: u64) -> Result<Option<HostOffset>> {
        let entry = usize::try_from(index)
            .ok()
            .and_then(|index| self.table.get(index));
        let entry = entry.copied().unwrap_or_default();
        entry.block(self.geometry).map_err(|why| {
            Error::corrupt(format!(
                "refcount table entry {index} ({:#x}) is invalid: {why}",
                entry.0
            ))
        })
    }

    fn split(&self, cluster: u64) -> (u64, usize) {
        let per_block = self.geometry.refcount_block_entries();
        let within = usize::try_from(cluster % per_block).unwrap_or(usize::MAX);
        (cluster / per_block, within)
    }

    /// Loads a block into the cache. Returns `false` if there is none.
    fn load(&mut self, index: u64) -> Result<bool> {
        if self.blocks.get(index).is_some() {
            return Ok(true);
        }
        let Some(host) = self.block_host(index)? else {
            return Ok(false);
        };
        self.make_space()?;
        // QEMU may end the file inside the last block, after its last used entry.
        let mut block = vec![0; self.geometry.cluster_len()];
        let length = self.storage.len()?;
        if self.storage.read_padded_at(host.0, &mut block, length)? == 0 {
            return Err(Error::corrupt(format!(
                "refcount block {index} at {host} is beyond the end of the file"
            )));
        }
        self.blocks.insert(index, host, block);
        Ok(true)
    }

    /// Writes changed blocks if the cache is full. They may be stored at any time; see the module's documentation.
    fn make_space(&mut self) -> Result<()> {
        if self.blocks.should_store() {
            self.blocks.write_changed(self.storage.as_ref())?;
        }
        Ok(())
    }

    /// Returns the refcount of a cluster.
    ///
    /// # Errors
    /// Returns an error if the block can't be read.
    pub(in crate::formats::qcow2::write) fn get(&mut self, cluster: u64) -> Result<u64> {
        let (index, within) = self.split(cluster);
        if !self.load(index)? {
            return Ok(0);
        }
        let bits = self.geometry.refcount_bits();
        let block = self.blocks.get(index);
        Ok(block
            .and_then(|block| refcount_at(block, bits, within))
            .unwrap_or(0))
    }

    fn set(&mut self, cluster: u64, value: u64) -> Result<()> {
        self.set_all(cluster..cluster + 1, value)
    }

    /// Sets the refcounts of clusters, all of which have blocks, to the same value. Changing a block at once is much
    /// faster than setting single refcounts, and takes much of the time for preallocating a huge disk.
    fn set_all(&mut self, clusters: Range<u64>, value: u64) -> Result<()> {
        let bits = self.geometry.refcount_bits();
        let width = usize::try_from(bits).unwrap_or(64);
        let mut start = clusters.start;
        while start < clusters.end {
            let (index, within) = self.split(start);
            let end = self.end_of_block(start).min(clusters.end);
            if !self.load(index)? {
                let why = format!("no refcount block for cluster {start}");
                return Err(Error::corrupt(why));
            }
            let count = usize::try_from(end - start).unwrap_or(usize::MAX);
            // This is the range of bytes with the refcounts.
            let first = within.saturating_mul(width) / 8;
            let last = within.saturating_add(count).saturating_mul(width);
            let place = self.blocks.change(index, first..last.div_ceil(8));
            let within = if width < 8 { within % (8 / width) } else { 0 };
            place
                .and_then(|bytes| set_refcounts(bytes, bits, within..within + count, value))
                .ok_or_else(|| {
                    Error::invalid(format!(
                        "the refcount of cluster {start} would be {value}, more than {bits} bits hold"
                    ))
                })?;
            start = end;
        }
        Ok(())
    }

    /// Returns the first cluster after those that the block of `cluster` covers.
    fn end_of_block(&self, cluster: u64) -> u64 {
        let (index, _) = self.split(cluster);
        (index + 1).saturating_mul(self.geometry.refcount_block_entries())
    }

    /// Adds a reference to a cluster in use. Returns `false` if its refcount is already the highest possible one.
    ///
    /// # Errors
    /// Returns an error as [`release`](Self::release) does.
    pub(in crate::formats::qcow2::write) fn raise(&mut self, cluster: u64) -> Result<bool> {
        let count = self.get(cluster)?;
        if count == 0 {
            return Err(Error::corrupt(format!(
                "the refcount of cluster {cluster} is 0 though it is in use"
            )));
        }
        let bits = self.geometry.refcount_bits();
        let more = count.checked_add(1);
        let Some(more) = more.filter(|more| more.checked_shr(bits).unwrap_or(0) == 0) else {
            return Ok(false);
        };
        self.set(cluster, more)?;
        Ok(true)
    }

    /// Removes a reference to a cluster, and returns the number of those that are left.
    ///
    /// # Errors
    /// Returns an error if there was none, since the image is damaged then, or if the block can't be read.
    pub(in crate::formats::qcow2::write) fn release(&mut self, cluster: u64) -> Result<u64> {
        let left = self.get(cluster)?.checked_sub(1).ok_or_else(|| {
            Error::corrupt(format!(
                "the refcount of cluster {cluster} is 0 though it was in use"
            ))
        })?;
        self.set(cluster, left)?;
        if left == 0 {
            self.hint = self.hint.min(cluster);
        }
        Ok(left)
    }

    /// Allocates a run of at most `most` (above 0) and at least one cluster, with refcounts of 1.
    ///
    /// # Errors
    /// Returns an error if a free cluster holds metadata, since the image is damaged then. Returns an error if a
    /// limit of the format is reached, or the system's error.
    pub(in crate::formats::qcow2::write) fn take(
        &mut self,
        most: u64,
        map: &mut MetadataMap,
    ) -> Result<Range<u64>> {
        let per_block = self.geometry.refcount_block_entries();
        let bits = self.geometry.refcount_bits();
        let mut cluster = self.hint.max(1);
        let run = loop {
            let (index, within) = self.split(cluster);
            if index >= self.table.len() as u64 {
                self.grow(map)?;
            } else if !self.load(index)? {
                self.add_block(index, cluster, map)?;
                cluster += 1;
            } else {
                let block = self.blocks.get(index).unwrap_or_default();
                let limit = usize::try_from(per_block).unwrap_or(usize::MAX);
                if let Some(first) = first_zero(block, bits, within) {
                    let most = usize::try_from(most.max(1)).unwrap_or(usize::MAX);
                    let end = limit.min(first.saturating_add(most));
                    let count = count_zeroes(block, bits, first..end);
                    let start = index * per_block + first as u64;
                    break start..start + count as u64;
                }
                cluster = self.end_of_block(cluster);
            }
        };
        self.check_place(&run)?;
        map.refuse(&run)?;
        self.set_all(run.clone(), 1)?;
        self.hint = run.end;
        Ok(run)
    }

    fn check_place(&self, clusters: &Range<u64>) -> Result<()> {
        let end = self.geometry.host_offset(clusters.end);
        if end.is_none_or(|end| end.0 > FILE_LIMIT) {
            return Err(Error::invalid("the image's file is too big"));
        }
        Ok(())
    }

    /// Adds a block for clusters without refcounts. The block is at `cluster`, which is one of them.
    fn add_block(&mut self, index: u64, cluster: u64, map: &mut MetadataMap) -> Result<()> {
        self.check_place(&(cluster..cluster + 1))?;
        map.insert(cluster..cluster + 1, Structure::RefcountBlock)?;
        self.place_block(index, cluster)?;
        self.set(cluster, 1)
    }

    fn place_block(&mut self, index: u64, cluster: u64) -> Result<()> {
        let host = self.geometry.host_offset(cluster);
        let host = host.ok_or_else(|| Error::invalid("the image's file is too big"))?;
        let entry = usize::try_from(index)
            .ok()
            .and_then(|index| self.table.get_mut(index))
            .ok_or_else(|| Error::invalid("beyond the refcount table"))?;
        *entry = RefcountTableEntry::to_block(host);
        self.changed.insert(index / ENTRIES_PER_SECTOR);
        self.make_space()?;
        let block = vec![0; self.geometry.cluster_len()];
        self.blocks.insert_new(index, host, block);
        Ok(())
    }

    /// Makes a larger table after the clusters that the old one covers. The new blocks, which cover both, precede the
    /// table.
    fn grow(&mut self, map: &mut MetadataMap) -> Result<()> {
        let per_block = self.geometry.refcount_block_entries();
        let old_entries = self.table.len() as u64;
        let first = old_entries * per_block;
        let per_cluster = self.geometry.cluster_size() / ENTRY_SIZE;
        // The table grows by at least half, so that the total cost of growing is linear.
        let mut entries = (old_entries + old_entries / 2 + 1).next_multiple_of(per_cluster);
        let mut blocks = 0;
        let table_clusters = loop {
            let table_clusters = entries / per_cluster;
            let needed = (blocks + table_clusters).div_ceil(per_block);
            let reach = (old_entries + needed).next_multiple_of(per_cluster);
            if needed == blocks && reach <= entries {
                break table_clusters;
            }
            blocks = needed;
            entries = entries.max(reach);
        };
        let too_big = || {
            Error::invalid(
                "the image's file is too big for its cluster size: its refcount table would be \
                 larger than 8 MiB",
            )
        };
        if entries * ENTRY_SIZE > MAX_REFCOUNT_TABLE_BYTES {
            return Err(too_big());
        }
        let table = first + blocks..first + blocks + table_clusters;
        self.check_place(&table)?;
        let host = self.geometry.host_offset(table.start).ok_or_else(too_big)?;
        let old = self.table_clusters();
        map.refuse(&(first..table.end))?;
        for block in first..table.start {
            map.insert(block..block + 1, Structure::RefcountBlock)?;
        }
        map.insert(table.clone(), Structure::RefcountTable)?;

        let length = usize::try_from(entries).map_err(|_| too_big())?;
        self.table.resize(length, RefcountTableEntry::default());
        self.table_host = host;
        self.moved = true;
        self.outgrown.push(old);
        for block in 0..blocks {
            self.place_block(old_entries + block, first + block)?;
        }
        self.set_all(first..table.end, 1)
    }

    /// Returns true if the refcount table itself has changed.
    pub(in crate::formats::qcow2::write) fn table_has_changed(&self) -> bool {
        self.moved || !self.changed.is_empty()
    }

    /// Returns true if anything has changed.
    pub(in crate::formats::qcow2::write) fn has_changed(&self) -> bool {
        self.table_has_changed() || self.blocks.has_changed()
    }

    /// Stores the changes: the blocks, then the table, then the header. Calls `flush` between these steps and at the
    /// end.
    ///
    /// # Errors
    /// Returns the system's error.
    pub(in crate::formats::qcow2::write) fn store(
        &mut self,
        flush: &dyn Fn() -> Result<()>,
    ) -> Result<()> {
        let storage = Arc::clone(&self.storage);
        let bytes: Vec<u8> = if self.table_has_changed() {
            let entries = self.table.iter();
            entries.flat_map(|entry| entry.0.to_be_bytes()).collect()
        } else {
            Vec::new()
        };
        self.blocks.write_changed(storage.as_ref())?;
        if self.moved {
            // Nothing refers to the new table yet, so that it may be written before its blocks are flushed.
            storage.write_at(self.table_host.0, &bytes)?;
            flush()?;
            let clusters = self.table_clusters();
            let place = TablePlace {
                host: self.table_host,
                entries: self.table.len() as u64,
            };
            let clusters = u32::try_from(clusters.end - clusters.start)
                .map_err(|_| Error::invalid("refcount table too large"))?;
            fields::set_refcount_table(storage.as_ref(), place.host, clusters)?;
        } else if !self.changed.is_empty() {
            flush()?;
            for sector in &self.changed {
                let offset = sector * SECTOR_SIZE;
                let start = usize::try_from(offset).unwrap_or(usize::MAX);
                let rest = bytes.get(start..).unwrap_or_default();
                let length = usize::try_from(SECTOR_SIZE).unwrap_or(0).min(rest.len());
                let sector = rest.get(..length).unwrap_or_default();
                storage.write_at(self.table_host.0 + offset, sector)?;
            }
        }
        flush()?;
        self.moved = false;
        self.changed.clear();
        Ok(())
    }

    /// Writes changed blocks without a flush.
    ///
    /// # Errors
    /// Returns the system's error.
    pub(in crate::formats::qcow2::write) fn write_blocks(&mut self) -> Result<()> {
        self.blocks.write_changed(self.storage.as_ref())
    }

    /// Returns the clusters of replaced tables to which no stored reference is left, after [`store`](Self::store).
    pub(in crate::formats::qcow2::write) fn take_outgrown(&mut self) -> Vec<Range<u64>> {
        if self.moved {
            return Vec::new();
        }
        std::mem::take(&mut self.outgrown)
    }
}
