//! A qcow2 image that is written to in place, by several threads, in an order that survives a power cut.
//!
//! - [`metadata`]: the tables, and the order in which their changes are stored;
//! - `refcounts`: the allocation of clusters; `metadata_map`: the clusters that must never be overwritten;
//! - `plan`: the clusters for a write; `zero`: zeroes and discards; `compressed`: compressed clusters;
//! - `copy_range`: data of other files, with which blocks may be shared;
//! - `bitmaps`: the update of the enabled persistent bitmaps;
//! - `copy_bitmaps`, `replace_bitmap`: changes of the list of bitmaps, for which the header needs an extension
//!   (`bitmap_directory`, `header::extension_slot`);
//! - `snapshots`: taking, applying and deleting internal snapshots;
//! - `zero_flags`: the removal of zero flags, for version 2;
//! - `resize`: resizing the disk, and emptying an image;
//! - `open`: the checks and repairs before an image may be written to.
//!
//! # Threads
//!
//! The tables are protected by a lock. Data is read, copied, encrypted and written without it. A write takes three
//! steps. First, clusters are found or allocated under the lock. Then the data is written there. Finally, the L2
//! entries are set under the lock. So an entry never refers to data that isn't written yet.
//!
//! - Two calls that change the same cluster wait for each other (`LockedState::busy`). They may write different
//!   sectors of it, and each would copy the other sectors in their old state.
//! - A thread that reads or writes clusters holds the gate for reading. Storing the metadata needs it for writing,
//!   since freed clusters may be allocated again afterwards. So no thread accesses a cluster while that happens.
//!
//! # Invariants
//!
//! - A cluster is written in place only if its entry has the COPIED flag and its refcount is 1. The same must hold
//!   for the L2 table. Any other cluster, such as one that a snapshot shares, is copied.
//! - Data is never written to a cluster that holds metadata, and such a cluster is never allocated.
//! - Destructors do nothing: an image that isn't closed is in the state after a power cut.
//!
//! The memory in use is the L1 table and the refcount table (at most 32 and 8 MiB), a few MiB of L2 tables and
//! refcount blocks, and the map of metadata. Each call has buffers of at most 2 MiB and two clusters.

mod bitmap_directory;
mod bitmaps;
mod compressed;
mod copy_bitmaps;
mod copy_range;
mod metadata;
mod metadata_map;
mod open;
mod plan;
mod refcounts;
mod replace_bitmap;
mod resize;
mod snapshots;
mod table_cache;
mod zero;
mod zero_flags;

use std::cell::RefCell;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard};

pub use copy_bitmaps::copy_bitmaps;
pub use open::{Qcow2WriteParts, refuse_corrupt, refuse_damaged};
pub use replace_bitmap::{check_new_bitmap, replace_bitmap};
pub use resize::{make_empty, resize_disk};
pub use snapshots::{apply_snapshot, create_snapshot, delete_snapshot};
pub use zero_flags::{keeps_zero_flags, remove_zero_flags};

use self::bitmaps::EnabledBitmaps;
use self::metadata::Metadata;
use self::plan::Piece;
use super::entries::L2Slot;
use super::geometry::Geometry;
use super::read::cluster::ClusterReader;
use crate::error::{Error, Result};
use crate::formats::{Extent, ExtentKind, Image, SharedSpace, WritableImage, check_range};
use crate::storage::{SHARED_UNIT, Storage};
use crate::units::{GuestOffset, HostOffset, SECTOR_SIZE};

/// The largest number of bytes of the disk that are written in one step, though at least a cluster.
const STEP: u64 = 2 << 20;

/// The data of a write.
#[derive(Clone, Copy)]
enum NewData<'a> {
    /// In memory.
    Bytes(&'a [u8]),
    /// In another file, from this offset in bytes on. It is for whole clusters of an image that isn't encrypted.
    Stored(&'a dyn Storage, u64, SharedSpace),
}

/// A qcow2 image open for reading and writing; see the module's documentation.
pub struct WritableQcow2 {
    clusters: ClusterReader,
    geometry: Geometry,
    size: u64,
    zero_flag: bool,
    /// True if the guest's data is in an external data file.
    is_external: bool,
    /// True if the external data file must be a raw image of the disk.
    is_raw: bool,
    backing: Option<Arc<dyn Image>>,
    /// A lower limit of the file's length in bytes.
    length: AtomicU64,
    gate: RwLock<()>,
    state: Mutex<LockedState>,
    /// Notified when clusters are no longer busy.
    idle: Condvar,
}

/// The state that the lock protects.
struct LockedState {
    metadata: Metadata,
    bitmaps: EnabledBitmaps,
    /// The guest clusters that are being written.
    busy: Vec<Range<u64>>,
}

impl LockedState {
    /// Records that a part of the disk is about to change.
    fn will_change(&mut self, part: &Range<u64>) -> Result<()> {
        self.metadata.usable()?;
        self.bitmaps.will_change(&self.metadata, part)?;
        self.metadata.will_write();
        Ok(())
    }

    fn close(&mut self) -> Result<()> {
        self.metadata.commit()?;
        self.bitmaps
            .store(&mut self.metadata)
            .map_err(|error| self.metadata.fail_for_good(error))?;
        self.metadata.close()
    }
}

impl WritableQcow2 {
    fn lock(&self) -> MutexGuard<'_, LockedState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Acquires the gate for one step of work. Stores the metadata first if that is due.
    fn enter(&self) -> Result<RwLockReadGuard<'_, ()>> {
        loop {
            let gate = self.gate.read().unwrap_or_else(PoisonError::into_inner);
            let state = self.lock();
            state.metadata.usable()?;
            if !state.metadata.should_store() {
                return Ok(gate);
            }
            drop(state);
            drop(gate);
            let _shut = self.gate.write().unwrap_or_else(PoisonError::into_inner);
            let mut state = self.lock();
            if state.metadata.should_store() {
                state.metadata.commit()?;
            }
        }
    }

    /// Acquires the lock as soon as no thread is writing to the clusters of a part of the disk.
    fn lock_when_idle(&self, range: &Range<u64>) -> MutexGuard<'_, LockedState> {
        let clusters = self.guest_clusters(range);
        let overlaps = |busy: &Range<u64>| busy.start < clusters.end && clusters.start < busy.end;
        self.idle
            .wait_while(self.lock(), |state| state.busy.iter().any(overlaps))
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn guest_clusters(&self, range: &Range<u64>) -> Range<u64> {
        let last = GuestOffset(range.end.saturating_sub(1).max(range.start));
        let first = self.geometry.guest_cluster(GuestOffset(range.start));
        first..self.geometry.guest_cluster(last) + 1
    }

    /// Returns the end of the step that starts at `start`, at most `end`. A step never extends over more than one L2
    /// table.
    fn step_end(&self, start: u64, end: u64, most: u64) -> u64 {
        let table = self.geometry.l1_index(GuestOffset(start)) + 1;
        let table_end = self.geometry.guest_start_of_l1(table).0;
        let most = most.max(self.geometry.cluster_size());
        let step = start - self.geometry.within_cluster(start);
        end.min(table_end).min(step.saturating_add(most))
    }

    /// Checks a caller's range, and returns it as a range of bytes of the disk.
    fn check(&self, offset: GuestOffset, length: u64) -> Result<Range<u64>> {
        let bytes = usize::try_from(length).map_err(|_| Error::invalid("range too long"))?;
        check_range(self.size, offset, bytes)?;
        if !offset.0.is_multiple_of(SECTOR_SIZE) || !length.is_multiple_of(SECTOR_SIZE) {
            return Err(Error::invalid(format!(
                "{length:#x} bytes at {offset}: not whole sectors"
            )));
        }
        Ok(offset.0..offset.0 + length)
    }

    /// Writes `data` to `range`, which is one step.
    fn write_step(&self, range: Range<u64>, data: &[u8]) -> Result<()> {
        self.write_data(range, NewData::Bytes(data)).map(drop)
    }

    /// Does the same for data from elsewhere. Returns the number of bytes that share their blocks with others.
    fn write_data(&self, range: Range<u64>, data: NewData<'_>) -> Result<u64> {
        let _gate = self.enter()?;
        let clusters = self.guest_clusters(&range);
        let mut state = self.lock_when_idle(&range);
        state.will_change(&range)?;
        let planned = plan::plan(
            &mut state.metadata,
            &self.clusters,
            self.geometry,
            range.clone(),
        );
        let pieces = planned.map_err(|error| state.metadata.fail(error))?;
        state.busy.push(clusters.clone());
        drop(state);

        let written = self.write_pieces(&pieces, range.start, data);

        let mut state = self.lock();
        state.busy.retain(|busy| *busy != clusters);
        let done = match written {
            Ok(shared) => plan::refer(&mut state.metadata, &self.clusters, &pieces)
                .map(|()| shared)
                .map_err(|error| state.metadata.fail(error)),
            Err(error) => {
                plan::abandon(&mut state.metadata, &pieces);
                Err(error)
            }
        };
        drop(state);
        self.idle.notify_all();
        done
    }

    /// Writes the pieces of a plan, contiguous ones at once. `data` is the caller's data, from guest byte `start` on.
    /// Returns the number of bytes that share their blocks with another file.
    fn write_pieces(&self, pieces: &[Piece], start: u64, data: NewData<'_>) -> Result<u64> {
        let touches = |one: &Piece, other: &Piece| {
            let length = one.guest.end - one.guest.start;
            one.guest.end == other.guest.start && one.host.0 + length == other.host.0
        };
        match data {
            NewData::Bytes(data) => {
                for run in pieces.chunk_by(touches) {
                    self.write_run(run, start, data)?;
                }
                Ok(0)
            }
            NewData::Stored(source, offset, space) => {
                let alike = |one: &Piece, other: &Piece| {
                    touches(one, other) && one.is_fresh() == other.is_fresh()
                };
                let mut shared = 0;
                for run in pieces.chunk_by(alike) {
                    shared += self.copy_run(run, start, (source, offset), space)?;
                }
                Ok(shared)
            }
        }
    }

    fn write_run(&self, run: &[Piece], start: u64, data: &[u8]) -> Result<()> {
        let (Some(first), Some(last)) = (run.first(), run.last()) else {
            return Ok(());
        };
        let whole = first.guest.start..last.guest.end;
        let end = start + data.len() as u64;
        let asked = whole.start.max(start)..whole.end.min(end);
        let data = data.get(relative(asked.start, start)..relative(asked.end, start));
        let data = data.ok_or_else(|| Error::invalid("a plan for other data"))?;
        let host = first.host.0;
        let written = host + (whole.end - whole.start);
        let storage = self.clusters.storage();
        let cipher = self.clusters.cipher();
        if cipher.is_none() && whole == asked {
            storage.write_at(host, data)?;
            self.length.fetch_max(written, Ordering::Relaxed);
            return Ok(());
        }
        SCRATCH.with_borrow_mut(|scratch| {
            scratch.resize(relative(whole.end, whole.start), 0);
            let (head, rest) = scratch.split_at_mut(relative(asked.start, whole.start));
            let (middle, tail) = rest.split_at_mut(data.len());
            self.read_slot(first.old, whole.start, head)?;
            self.read_slot(last.old, asked.end, tail)?;
            match cipher {
                Some(cipher) => {
                    let host_of = |guest| HostOffset(host + (guest - whole.start));
                    let place = |guest| (GuestOffset(guest), host_of(guest));
                    let (guest, host) = place(whole.start);
                    cipher.encrypt(guest, host, head);
                    let (guest, host) = place(asked.start);
                    cipher.encrypt_to(guest, host, data, middle);
                    let (guest, host) = place(asked.end);
                    cipher.encrypt(guest, host, tail);
                }
                None => middle.copy_from_slice(data),
            }
            storage.write_at(host, scratch)?;
            self.length.fetch_max(written, Ordering::Relaxed);
            Ok(())
        })
    }

    /// Reads from the cluster of an L2 entry, from guest byte `start` on.
    fn read_slot(&self, slot: L2Slot, start: u64, buf: &mut [u8]) -> Result<()> {
        let length = self.length.load(Ordering::Relaxed);
        let mut start = start;
        let mut rest = buf;
        while !rest.is_empty() {
            let guest = GuestOffset(start);
            let (kind, bytes) = self.clusters.part(slot, guest, length)?;
            let bytes = relative(bytes, 0).min(rest.len());
            let (part, after) = rest.split_at_mut(bytes);
            self.read_part(kind, slot, guest, part)?;
            start += bytes as u64;
            rest = after;
        }
        Ok(())
    }

    fn read_part(
        &self,
        kind: ExtentKind,
        slot: L2Slot,
        guest: GuestOffset,
        buf: &mut [u8],
    ) -> Result<()> {
        let length = self.length.load(Ordering::Relaxed);
        match kind {
            ExtentKind::Data(host) => self.clusters.read_data(guest, host, length, buf),
            ExtentKind::Encoded => self.clusters.read_compressed(slot, guest, length, buf),
            ExtentKind::Zero { .. } => {
                buf.fill(0);
                Ok(())
            }
            ExtentKind::Unallocated { .. } => self.read_backing(guest, buf),
        }
    }

    /// Reads unallocated clusters. Zeroes are read beyond the end of the backing file, and in the last cluster beyond
    /// the end of the disk.
    fn read_backing(&self, guest: GuestOffset, buf: &mut [u8]) -> Result<()> {
        let size = self.backing.as_ref().map_or(0, |backing| backing.size());
        let stored = relative(size.min(self.size).saturating_sub(guest.0), 0).min(buf.len());
        let (data, missing) = buf.split_at_mut(stored);
        missing.fill(0);
        match &self.backing {
            Some(backing) if stored > 0 => backing.read_at(guest, data),
            _ => Ok(()),
        }
    }

    /// Returns the way in which the disk is stored from `guest` on, and the number of bytes up to a change or to
    /// `end`. Also returns the L2 entry of the first cluster.
    fn run_at(&self, guest: GuestOffset, end: u64) -> Result<(ExtentKind, u64, L2Slot)> {
        let mut state = self.lock();
        let metadata = &mut state.metadata;
        let file = self.length.load(Ordering::Relaxed);
        let gap = metadata.end_of_gap(guest, end)?;
        let slot = metadata.slot(guest)?;
        if gap > guest.0 {
            return Ok((ExtentKind::Unallocated { kept: None }, gap - guest.0, slot));
        }
        let end = self.step_end(guest.0, end, u64::MAX);
        let (kind, mut length) = self.clusters.part(slot, guest, file)?;
        while kind != ExtentKind::Encoded && guest.0 + length < end {
            let next = GuestOffset(guest.0 + length);
            let slot = metadata.slot(next)?;
            // An invalid entry ends the extent, and is reported when it is read.
            match self.clusters.part(slot, next, file) {
                Ok((next, more)) if next == kind.after(length) => length += more,
                _ => break,
            }
        }
        Ok((kind, length.min(end - guest.0), slot))
    }
}

impl Image for WritableQcow2 {
    fn size(&self) -> u64 {
        self.size
    }

    fn extent_at(&self, offset: GuestOffset, limit: u64) -> Result<Extent> {
        check_range(self.size, offset, 1)?;
        let end = self.size.min(offset.0.saturating_add(limit.max(1)));
        let (kind, length, _) = self.run_at(offset, end)?;
        Ok(Extent {
            start: offset,
            length,
            kind,
            depth: 0,
        })
    }

    /// Reads allocated clusters from this image, and the others from the backing file.
    fn read_at(&self, offset: GuestOffset, buf: &mut [u8]) -> Result<()> {
        let range = self.check(offset, buf.len() as u64)?;
        let _gate = self.gate.read().unwrap_or_else(PoisonError::into_inner);
        let mut start = range.start;
        let mut rest = buf;
        while !rest.is_empty() {
            let guest = GuestOffset(start);
            let (kind, length, slot) = self.run_at(guest, range.end)?;
            let (part, after) = rest
                .split_at_mut_checked(relative(length, 0))
                .ok_or_else(|| Error::invalid("extent longer than asked for"))?;
            self.read_part(kind, slot, guest, part)?;
            start += length;
            rest = after;
        }
        Ok(())
    }
}

impl WritableImage for WritableQcow2 {
    fn allocation_unit(&self) -> usize {
        self.geometry.cluster_len()
    }

    fn zero_unit(&self) -> usize {
        self.geometry.subcluster_len()
    }

    fn stores_zeroes(&self) -> bool {
        self.zero_flag
    }

    fn backing_size(&self) -> Option<u64> {
        self.backing.as_ref().map(|backing| backing.size())
    }

    /// Returns false for an encrypted image, since encrypting is part of the write and gains from several threads.
    fn writes_serially(&self) -> bool {
        self.clusters.cipher().is_none() && self.clusters.storage().writes_serially()
    }

    fn check_compression(&self) -> Result<()> {
        self.check_compressible()
    }

    fn write_compressed(&self, offset: GuestOffset, data: &[u8]) -> Result<()> {
        self.write_in_compressed_clusters(offset, data)
    }

    fn write_at(&self, offset: GuestOffset, data: &[u8]) -> Result<()> {
        let range = self.check(offset, data.len() as u64)?;
        let mut start = range.start;
        let mut rest = data;
        while !rest.is_empty() {
            let end = self.step_end(start, range.end, STEP);
            let (part, after) = rest
                .split_at_checked(relative(end, start))
                .ok_or_else(|| Error::invalid("a step longer than the data"))?;
            self.write_step(start..end, part)?;
            start = end;
            rest = after;
        }
        Ok(())
    }

    fn may_share_with(&self, source: &dyn Storage) -> bool {
        self.clusters.cipher().is_none()
            && self.geometry.cluster_size() >= SHARED_UNIT
            && self.clusters.storage().may_share_with(source)
    }

    fn write_from(
        &self,
        offset: GuestOffset,
        source: &dyn Storage,
        source_offset: u64,
        length: u64,
        space: SharedSpace,
    ) -> Result<u64> {
        self.copy_range(self.check(offset, length)?, (source, source_offset), space)
    }

    fn write_zeroes(&self, offset: GuestOffset, length: u64, may_unmap: bool) -> Result<()> {
        self.zero_range(self.check(offset, length)?, may_unmap)
    }

    fn discard(&self, offset: GuestOffset, length: u64) -> Result<()> {
        self.discard_range(self.check(offset, length)?)
    }

    fn flush(&self) -> Result<()> {
        let _shut = self.gate.write().unwrap_or_else(PoisonError::into_inner);
        self.lock().metadata.commit()
    }

    fn close(&self) -> Result<()> {
        let _shut = self.gate.write().unwrap_or_else(PoisonError::into_inner);
        self.lock().close()
    }
}

/// Returns `offset − start`, for offsets that differ by at most a buffer's length.
fn relative(offset: u64, start: u64) -> usize {
    usize::try_from(offset.saturating_sub(start)).unwrap_or(usize::MAX)
}

thread_local! {
    /// A buffer for assembling the data of a write, one for each thread.
    static SCRATCH: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}
