//! The metadata of an image that is written to: its tables, their changes, and the order in which changes are stored.
//!
//! # The order of writes
//!
//! Changes are collected in memory and stored together by [`Metadata::commit`]. The file stays consistent if that is
//! interrupted at any point, whichever of the writes between two flushes reach the disk. In the worst case some
//! refcounts are too high, which are leaks.
//!
//! 1. Refcount blocks, and then the table entries that refer to new blocks. Since the last commit refcounts have only
//!    been incremented. *Flush*: this also puts all data in new clusters on stable storage.
//! 2. L2 tables, in place or in new clusters. If L1 entries have changed, *flush*, and then those. *Flush*: from here
//!    on no stored entry refers to a replaced cluster.
//! 3. Now the refcounts of replaced clusters are decremented, so that they can be allocated again. Discarded clusters
//!    become holes. These refcounts are stored with the next commit or before, since they may be stored at any time.
//!
//! Images with lazy refcounts omit step 1, unless the refcount table changes. Their dirty bit is set, and flushed,
//! before the first refcount changes. [`Metadata::close`] clears it.
//!
//! If a commit fails, the contents of the file are unknown. So nothing more is written: every later call fails.

mod commit;
mod end;
mod l1;
mod recount;

use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::Arc;

use super::super::entries::{
    L1Entry, L1Target, L2Entry, L2Slot, L2Table, L2Target, SubclusterBitmap,
};
use super::super::geometry::Geometry;
use super::super::header::{TablePlace, Version};
use super::metadata_map::{MetadataMap, Structure};
use super::refcounts::Refcounts;
use super::table_cache::TableCache;
use crate::error::{Error, ErrorKind, Result};
use crate::formats::qcow2::header::features;
use crate::formats::qcow2::header::fields;
use crate::formats::qcow2::read::tables::decode;
use crate::storage::Storage;
use crate::units::{GuestOffset, HostOffset};

/// The number of freed runs of clusters that makes a commit due.
const MOST_FREED: usize = 16 << 10;

/// The number of runs that are too short after which the search for a run is ended.
const MOST_TRIES: usize = 4096;

/// The number of L1 entries in a sector.
const ENTRIES_PER_SECTOR: usize = 64;

/// Freed clusters, whose refcounts are decremented by the next commit.
#[derive(Debug)]
struct Freed {
    clusters: Range<u64>,
    /// True if a hole is punched when the refcounts become 0.
    punch: bool,
}

/// The state of an opened image; see [`super::open`].
#[derive(Debug)]
pub(super) struct MetadataParts {
    pub(super) storage: Arc<dyn Storage>,
    /// The external data file, if there is one.
    pub(super) data: Option<Arc<dyn Storage>>,
    pub(super) geometry: Geometry,
    pub(super) version: Version,
    pub(super) incompatible: u64,
    pub(super) lazy: bool,
    pub(super) flush: bool,
    pub(super) l1: Vec<L1Entry>,
    pub(super) l1_place: TablePlace,
    pub(super) refcounts: Refcounts,
    pub(super) map: MetadataMap,
}

impl MetadataParts {
    fn flush(&self) -> Result<()> {
        if !self.flush {
            return Ok(());
        }
        if let Some(data) = &self.data {
            data.flush()?;
        }
        self.storage.flush()
    }
}

/// The metadata of an image that is written to; see the module's documentation.
#[derive(Debug)]
pub(super) struct Metadata {
    parts: MetadataParts,
    l2: TableCache,
    /// The sectors of the L1 table that differ from the stored ones.
    l1_changed: BTreeSet<usize>,
    freed: Vec<Freed>,
    /// The end of the last compressed cluster, if its host cluster has unused bytes after it.
    tail: Option<HostOffset>,
    /// The highest end of a compressed cluster in the file.
    compressed_end: u64,
    /// True if the file may have writes that weren't flushed.
    unflushed: bool,
    /// The reason why nothing more may be written, after an error.
    broken: Option<String>,
}

impl Metadata {
    pub(super) fn new(parts: MetadataParts) -> Self {
        let table_bytes = parts.geometry.cluster_len();
        Self {
            parts,
            l2: TableCache::new(table_bytes),
            l1_changed: BTreeSet::new(),
            freed: Vec::new(),
            tail: None,
            compressed_end: 0,
            unflushed: false,
            broken: None,
        }
    }

    /// Refuses any further work after an error that left the file in an unknown state.
    ///
    /// # Errors
    /// Returns an error if there was such an error.
    pub(super) fn usable(&self) -> Result<()> {
        match &self.broken {
            None => Ok(()),
            Some(why) => Err(Error::new(ErrorKind::Io, why.clone())),
        }
    }

    /// Handles an error in the metadata. If the image is damaged, nothing more is written. A version 3 image is
    /// marked as corrupt, so that no other program writes to it either.
    pub(super) fn fail(&mut self, error: Error) -> Error {
        if self.broken.is_some() || error.kind() != ErrorKind::Corrupt {
            return error;
        }
        self.stop(&error);
        if self.parts.version == Version::V3 {
            self.parts.incompatible |= features::CORRUPT;
            let storage = self.parts.storage.as_ref();
            let marked = fields::set_incompatible(storage, self.parts.incompatible);
            // The first error is the one to report.
            drop(marked.and_then(|()| self.flush()));
        }
        error.context("qcow2: Marking image as corrupt")
    }

    fn stop(&mut self, error: &Error) {
        self.broken = Some(format!("the image can't be written to any more: {error}"));
    }

    /// Handles an error as [`fail`](Self::fail) does, and also refuses further writes, since the contents of the file
    /// are unknown.
    pub(super) fn fail_for_good(&mut self, error: Error) -> Error {
        let error = self.fail(error);
        if self.broken.is_none() {
            self.stop(&error);
        }
        error
    }

    /// Flushes all writes to stable storage, if flushes are wanted.
    ///
    /// # Errors
    /// Returns the system's error.
    pub(super) fn flush(&self) -> Result<()> {
        self.parts.flush()
    }

    /// Records that data was written or is about to be.
    pub(super) fn will_write(&mut self) {
        self.unflushed = true;
    }

    fn l1_entry(&self, l1_index: u64) -> Result<L1Target> {
        let index = usize::try_from(l1_index).unwrap_or(usize::MAX);
        let entry = self.parts.l1.get(index);
        let entry = entry.ok_or_else(|| Error::invalid("guest offset beyond the L1 table"))?;
        entry
            .target(self.parts.geometry)
            .map_err(|why| Error::corrupt(format!("L1 entry {l1_index} is invalid: {why}")))
    }

    fn set_l1_entry(&mut self, l1_index: u64, entry: L1Entry) -> Result<()> {
        let index = usize::try_from(l1_index).unwrap_or(usize::MAX);
        let place = self.parts.l1.get_mut(index);
        *place.ok_or_else(|| Error::invalid("guest offset beyond the L1 table"))? = entry;
        self.l1_changed.insert(index / ENTRIES_PER_SECTOR);
        Ok(())
    }

    /// Loads an L2 table into the cache. Returns `false` if the L1 entry is unallocated.
    fn load_l2(&mut self, l1_index: u64) -> Result<bool> {
        if self.l2.get(l1_index).is_some() {
            return Ok(true);
        }
        let L1Target::Table { host, .. } = self.l1_entry(l1_index)? else {
            return Ok(false);
        };
        let mut table = vec![0; self.parts.geometry.cluster_len()];
        let what = format!("the L2 table of L1 entry {l1_index}");
        self.parts
            .storage
            .read_exact_at(host.0, &mut table, &what)?;
        self.l2.insert(l1_index, host, table);
        Ok(true)
    }

    /// Returns the range of bytes of a guest offset's entry in its L2 table.
    fn place_in_l2(&self, guest: GuestOffset) -> Range<usize> {
        let geometry = self.parts.geometry;
        let size = geometry.cluster_size() / geometry.l2_entries();
        let size = usize::try_from(size).unwrap_or(0);
        let start = geometry.l2_index(guest) * size;
        start..start + size
    }

    /// Returns the L2 entry of a guest offset.
    ///
    /// # Errors
    /// Returns an error if the table can't be read.
    pub(super) fn slot(&mut self, guest: GuestOffset) -> Result<L2Slot> {
        let l1_index = self.parts.geometry.l1_index(guest);
        if !self.load_l2(l1_index)? {
            return Ok(L2Slot::unallocated(self.parts.geometry));
        }
        let place = self.place_in_l2(guest);
        let table = self.l2.get(l1_index);
        let words = decode(table.and_then(|table| table.get(place)).unwrap_or_default());
        let slot = L2Table::new(words, self.parts.geometry).get(0);
        slot.ok_or_else(|| Error::invalid("L2 index out of range"))
    }

    /// Returns the guest offset of the end of the run of unallocated L1 entries at `guest`, but at most `end`.
    /// Returns `guest` itself if there is an L2 table.
    ///
    /// # Errors
    /// Returns an error if an L1 entry is invalid.
    pub(super) fn end_of_gap(&self, guest: GuestOffset, end: u64) -> Result<u64> {
        let geometry = self.parts.geometry;
        let mut l1_index = geometry.l1_index(guest);
        let mut reached = guest.0;
        while reached < end && self.l1_entry(l1_index)? == L1Target::Unallocated {
            l1_index += 1;
            reached = geometry.guest_start_of_l1(l1_index).0.min(end);
        }
        Ok(reached)
    }

    /// Returns true if only this image refers to a cluster, so that it may be written in place. The COPIED flag is
    /// trusted only if the refcount agrees. A wrongly cleared flag costs a copy, but a wrongly set one would destroy
    /// a snapshot.
    ///
    /// # Errors
    /// Returns an error if the refcount is 0, since the image is damaged then, or if its block can't be read.
    fn is_owned(&mut self, host: HostOffset, copied: bool) -> Result<bool> {
        let cluster = self.parts.geometry.host_cluster(host);
        match self.parts.refcounts.get(cluster)? {
            0 => Err(Error::corrupt(format!(
                "cluster {cluster} is in use and its refcount is 0"
            ))),
            refcount => Ok(copied && refcount == 1),
        }
    }

    /// Returns the result of [`is_owned`](Self::is_owned) for a data cluster. Clusters of an external data file are
    /// never shared, and have no refcounts.
    ///
    /// # Errors
    /// Returns an error as [`is_owned`](Self::is_owned) does, or if the cluster holds metadata.
    pub(super) fn owns_data(&mut self, host: HostOffset, copied: bool) -> Result<bool> {
        if self.parts.data.is_some() {
            return Ok(true);
        }
        let cluster = self.parts.geometry.host_cluster(host);
        self.parts.map.refuse(&(cluster..cluster + 1))?;
        self.is_owned(host, copied)
    }

    /// Returns the host offset that the data of a guest cluster must have, if it is fixed. In an external data file
    /// it equals the guest offset.
    pub(super) fn fixed_place(&self, guest: GuestOffset) -> Option<HostOffset> {
        let within = self.parts.geometry.within_cluster(guest.0);
        let place = HostOffset(guest.0 - within);
        self.parts.data.is_some().then_some(place)
    }

    /// Returns true if only this image refers to the L2 table of a guest offset, or if there is none.
    ///
    /// # Errors
    /// Returns an error as [`is_owned`](Self::is_owned) does.
    pub(super) fn owns_l2(&mut self, guest: GuestOffset) -> Result<bool> {
        match self.l1_entry(self.parts.geometry.l1_index(guest))? {
            L1Target::Unallocated => Ok(true),
            L1Target::Table { host, copied } => self.is_owned(host, copied),
        }
    }

    /// Sets the dirty bit before the first change of refcounts, if they are lazy.
    fn before_counting(&mut self) -> Result<()> {
        let parts = &mut self.parts;
        if !parts.lazy || parts.incompatible & features::DIRTY != 0 {
            return Ok(());
        }
        parts.incompatible |= features::DIRTY;
        fields::set_incompatible(parts.storage.as_ref(), parts.incompatible)
            .and_then(|()| self.flush())
            .map_err(|error| self.fail_for_good(error))
    }

    /// Allocates a run of at most `most` and at least one cluster.
    ///
    /// # Errors
    /// Returns an error as [`Refcounts::take`] does.
    pub(super) fn allocate(&mut self, most: u64) -> Result<Range<u64>> {
        self.before_counting()?;
        self.parts.refcounts.take(most, &mut self.parts.map)
    }

    /// Allocates a cluster.
    ///
    /// # Errors
    /// Returns an error as [`allocate`](Self::allocate) does.
    pub(super) fn allocate_cluster(&mut self) -> Result<HostOffset> {
        let cluster = self.allocate(1)?.start;
        let host = self.parts.geometry.host_offset(cluster);
        host.ok_or_else(|| Error::invalid("the image's file is too big"))
    }

    /// Allocates a run of `count` clusters after the last cluster in use.
    fn allocate_behind(&mut self, count: u64) -> Result<Range<u64>> {
        self.before_counting()?;
        self.parts.refcounts.take_behind(count, &mut self.parts.map)
    }

    /// Allocates a contiguous run of clusters for `bytes` bytes.
    ///
    /// # Errors
    /// Returns an error as [`allocate`](Self::allocate) does.
    pub(super) fn allocate_run(&mut self, bytes: u64) -> Result<HostOffset> {
        let geometry = self.parts.geometry;
        let count = geometry.clusters(bytes).max(1);
        // A run that is too short ends at a cluster in use, or at a new refcount block for the following clusters. So
        // the search continues after it, and finally after the last cluster in use.
        let mut given_up = Vec::new();
        let fits = count < geometry.refcount_block_entries();
        let mut run = match fits {
            true => self.allocate(count)?,
            false => self.allocate_behind(count)?,
        };
        while run.end - run.start < count {
            let more = self.allocate(count - (run.end - run.start))?;
            if more.start == run.end {
                run.end = more.end;
            } else {
                given_up.push(std::mem::replace(&mut run, more));
                if given_up.len() > MOST_TRIES {
                    let behind = self.allocate_behind(count)?;
                    given_up.push(std::mem::replace(&mut run, behind));
                }
            }
        }
        for clusters in given_up {
            self.free(clusters, false)?;
        }
        let host = geometry.host_offset(run.start);
        host.ok_or_else(|| Error::invalid("the image's file is too big"))
    }

    /// Allocates space for a compressed cluster of `length` bytes, which is less than a cluster. It directly follows
    /// the last one if it fits there, or if the next host cluster is free.
    ///
    /// # Errors
    /// Returns an error as [`allocate`](Self::allocate) does.
    pub(super) fn allocate_bytes(&mut self, length: u64) -> Result<HostOffset> {
        let geometry = self.parts.geometry;
        let behind = match self.tail.take() {
            None => None,
            Some(tail) => {
                let cluster = geometry.host_cluster(tail);
                let space = geometry.cluster_size() - geometry.within_cluster(tail.0);
                self.before_counting()?;
                if length <= space {
                    let fits = self.parts.refcounts.raise(cluster)?;
                    fits.then_some(tail)
                } else {
                    let next = self.allocate_cluster()?;
                    let follows = geometry.host_cluster(next) == cluster + 1;
                    let fits = follows && self.parts.refcounts.raise(cluster)?;
                    Some(if fits { tail } else { next })
                }
            }
        };
        let host = match behind {
            Some(host) => host,
            None => self.allocate_cluster()?,
        };
        let end = HostOffset(host.0.saturating_add(length));
        self.tail = (!geometry.is_aligned(end)).then_some(end);
        self.compressed_end = self.compressed_end.max(end.0);
        Ok(host)
    }

    /// Returns true if a referenced cluster has exactly one reference.
    ///
    /// # Errors
    /// Returns an error if the refcount is 0, or if its block can't be read.
    pub(super) fn owns(&mut self, host: HostOffset) -> Result<bool> {
        self.is_owned(host, true)
    }

    /// Records that clusters lose a reference. Their refcounts are decremented by a commit; see the module's
    /// documentation.
    ///
    /// # Errors
    /// Returns the system's error.
    pub(super) fn free(&mut self, clusters: Range<u64>, punch: bool) -> Result<()> {
        self.before_counting()?;
        match self.freed.last_mut() {
            Some(last) if last.punch == punch && last.clusters.end == clusters.start => {
                last.clusters.end = clusters.end;
            }
            _ => self.freed.push(Freed { clusters, punch }),
        }
        Ok(())
    }

    /// Frees the cluster, or the compressed range, that an L2 entry refers to.
    ///
    /// # Errors
    /// Returns an error as [`free`](Self::free) does.
    pub(super) fn free_target(&mut self, target: L2Target, punch: bool) -> Result<()> {
        if self.parts.data.is_some() {
            return Ok(());
        }
        let (host, length) = match target {
            L2Target::Unallocated | L2Target::Zero { kept: None } => return Ok(()),
            L2Target::Data { host, .. }
            | L2Target::Zero {
                kept: Some((host, _)),
            } => (host, 1),
            L2Target::Compressed(range) => (range.host, range.length),
        };
        let first = self.parts.geometry.host_cluster(host);
        let last = HostOffset(host.0.saturating_add(length.max(1) - 1));
        self.free(first..self.parts.geometry.host_cluster(last) + 1, punch)
    }

    /// Loads the L2 table of a guest offset into the cache, so that it can be changed. Allocates it if there is none,
    /// and copies it if it is shared.
    ///
    /// # Errors
    /// Returns an error if a table can't be read, or if a cluster can't be allocated.
    pub(super) fn own_l2(&mut self, guest: GuestOffset) -> Result<()> {
        let geometry = self.parts.geometry;
        let l1_index = geometry.l1_index(guest);
        let (old, table) = match self.l1_entry(l1_index)? {
            L1Target::Unallocated => (None, vec![0; geometry.cluster_len()]),
            L1Target::Table { host, copied } => {
                let owned = self.is_owned(host, copied)?;
                self.load_l2(l1_index)?;
                if owned {
                    return Ok(());
                }
                let table = self.l2.get(l1_index).unwrap_or_default();
                (Some(geometry.host_cluster(host)), table.to_vec())
            }
        };
        let host = self.allocate_cluster()?;
        let cluster = geometry.host_cluster(host);
        if let Some(old) = old {
            self.parts.map.remove(old);
            self.free(old..old + 1, false)?;
        }
        self.parts
            .map
            .insert(cluster..cluster + 1, Structure::ActiveL2)?;
        self.l2.insert_new(l1_index, host, table);
        self.set_l1_entry(l1_index, L1Entry::to_table(host))
    }

    /// Sets the L2 entry of a guest offset. Doesn't free the cluster of the old entry.
    ///
    /// # Errors
    /// Returns an error as [`own_l2`](Self::own_l2) does.
    pub(super) fn set_slot(&mut self, guest: GuestOffset, slot: L2Slot) -> Result<()> {
        self.own_l2(guest)?;
        let bytes = slot.bytes();
        let place = self.place_in_l2(guest);
        let l1_index = self.parts.geometry.l1_index(guest);
        let stored = self.l2.change(l1_index, place);
        let stored = stored.filter(|stored| stored.len() == bytes.len());
        stored
            .ok_or_else(|| Error::invalid("L2 index out of range"))?
            .copy_from_slice(&bytes);
        Ok(())
    }

    /// Makes clusters from `range.start` on zero clusters, up to the first whose entry isn't empty. Returns the guest
    /// offset of that cluster. `range` consists of whole clusters or ends with the disk, and is in one L2 table.
    /// Filling a table at once is much faster than setting single entries, and takes most of the time for a huge
    /// empty image.
    ///
    /// # Errors
    /// Returns an error as [`own_l2`](Self::own_l2) does.
    pub(super) fn zero_gap(&mut self, range: &Range<u64>) -> Result<u64> {
        let geometry = self.parts.geometry;
        let guest = GuestOffset(range.start);
        let l1_index = geometry.l1_index(guest);
        let clusters = usize::try_from(geometry.clusters(range.end.saturating_sub(range.start)));
        let first = self.place_in_l2(guest);
        let wanted = clusters.unwrap_or(usize::MAX);
        let count = if self.load_l2(l1_index)? {
            let entries = self.l2.get(l1_index).and_then(|t| t.get(first.start..));
            let entries = entries.unwrap_or_default().chunks(first.len().max(1));
            let is_empty = |entry: &&[u8]| entry.iter().all(|byte| *byte == 0);
            entries.take(wanted).take_while(is_empty).count()
        } else {
            wanted
        };
        if count == 0 {
            return Ok(range.start);
        }
        self.own_l2(guest)?;
        let zero = match geometry.has_subclusters() {
            true => [0, SubclusterBitmap::ALL_ZERO.0.to_be()],
            false => [L2Entry::to_zero(None).0.to_be(); 2],
        };
        let zero = zero.map(u64::to_ne_bytes).concat();
        let zero = zero.get(..first.len()).unwrap_or_default();
        let end = first.start + count.saturating_mul(first.len());
        let entries = self.l2.change(l1_index, first.start..end);
        let entries = entries.ok_or_else(|| Error::invalid("L2 index out of range"))?;
        for entry in entries.chunks_exact_mut(first.len().max(1)) {
            entry.copy_from_slice(zero);
        }
        let bytes = (count as u64).saturating_mul(geometry.cluster_size());
        Ok(range.end.min(range.start.saturating_add(bytes)))
    }

    /// Returns true if there are so many changes that a commit is due.
    pub(super) fn should_store(&self) -> bool {
        self.l2.should_store() || self.freed.len() >= MOST_FREED
    }
}
