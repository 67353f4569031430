//! Writing compressed clusters to an existing image.
//!
//! Each follows the one before, and may start in the rest of a host cluster whose refcount it then increments. A
//! cluster that doesn't get smaller is written uncompressed. An encrypted image has no compressed clusters, since
//! these are stored unencrypted.

use std::cell::RefCell;
use std::ops::Range;
use std::sync::atomic::Ordering;

use super::super::create_check::check_compression;
use super::super::entries::{L2Entry, L2Slot, SubclusterBitmap};
use super::metadata::Metadata;
use super::{WritableQcow2, relative};
use crate::error::{Error, Result};
use crate::formats::WritableImage as _;
use crate::formats::codec::compress;
use crate::units::{GuestOffset, HostOffset};

thread_local! {
    /// A buffer for the cluster in which the disk ends, and one for the compressed data.
    static SCRATCH: RefCell<(Vec<u8>, Vec<u8>)> = const { RefCell::new((Vec::new(), Vec::new())) };
}

impl WritableQcow2 {
    /// Refuses an image that doesn't support compressed clusters.
    ///
    /// # Errors
    /// Returns an error if it is encrypted, or if its data is in an external data file.
    pub(super) fn check_compressible(&self) -> Result<()> {
        check_compression(self.clusters.cipher().is_some(), self.is_external)
    }

    /// Writes as [`write_at`](crate::formats::WritableImage::write_at) does, and compresses each cluster that is
    /// written as a whole and gets smaller.
    ///
    /// # Errors
    /// Returns an error as [`write_at`](crate::formats::WritableImage::write_at) and
    /// [`check_compressible`](Self::check_compressible) do.
    pub(super) fn write_in_compressed_clusters(
        &self,
        offset: GuestOffset,
        data: &[u8],
    ) -> Result<()> {
        self.check_compressible()?;
        let range = self.check(offset, data.len() as u64)?;
        let mut start = range.start;
        while start < range.end {
            let left = self.geometry.cluster_size() - self.geometry.within_cluster(start);
            let end = range.end.min(start.saturating_add(left));
            let part = data.get(relative(start, range.start)..relative(end, range.start));
            let part = part.ok_or_else(|| Error::invalid("a step longer than the data"))?;
            let is_whole = self.geometry.within_cluster(start) == 0
                && (part.len() == self.geometry.cluster_len() || end == self.size);
            if !is_whole || !self.write_cluster_compressed(start..end, part)? {
                self.write_at(GuestOffset(start), part)?;
            }
            start = end;
        }
        Ok(())
    }

    /// Writes a whole cluster compressed. Returns `false`, and writes nothing, if it doesn't get smaller.
    fn write_cluster_compressed(&self, range: Range<u64>, data: &[u8]) -> Result<bool> {
        SCRATCH.with_borrow_mut(|(whole, compressed)| {
            let data = if data.len() < self.geometry.cluster_len() {
                whole.clear();
                whole.extend_from_slice(data);
                whole.resize(self.geometry.cluster_len(), 0);
                whole.as_slice()
            } else {
                data
            };
            let codec = self.clusters.compression().codec();
            if !compress(codec, data, data.len().saturating_sub(1), compressed)? {
                return Ok(false);
            }
            self.store_compressed(range, compressed)?;
            Ok(true)
        })
    }

    /// Writes a compressed cluster, in the same three steps as any other write.
    fn store_compressed(&self, range: Range<u64>, compressed: &[u8]) -> Result<()> {
        let _gate = self.enter()?;
        let clusters = self.guest_clusters(&range);
        let mut state = self.lock_when_idle(&range);
        state.will_change(&range)?;
        let length = compressed.len() as u64;
        let host = state.metadata.allocate_bytes(length);
        let host = host.map_err(|error| state.metadata.fail(error))?;
        state.busy.push(clusters.clone());
        drop(state);

        let written = self.clusters.storage().write_at(host.0, compressed);
        self.length.fetch_max(host.0 + length, Ordering::Relaxed);

        let mut state = self.lock();
        state.busy.retain(|busy| *busy != clusters);
        let metadata = &mut state.metadata;
        let done = match written {
            Ok(()) => {
                let entry = L2Entry::to_compressed(self.geometry, host, length);
                let entry = entry.ok_or_else(|| Error::invalid("the image's file is too big"));
                let referred =
                    entry.and_then(|entry| self.refer_compressed(metadata, &range, entry));
                referred.map_err(|error| metadata.fail(error))
            }
            Err(error) => {
                let last = HostOffset(host.0 + length - 1);
                let used = self.geometry.host_cluster(host)..self.geometry.host_cluster(last) + 1;
                // A cluster that can't be freed is a leak, and the first error is the one to report.
                drop(metadata.free(used, false));
                Err(error)
            }
        };
        drop(state);
        self.idle.notify_all();
        done
    }
    /// Sets the L2 entry of a cluster to a compressed one, and frees the old cluster.
    fn refer_compressed(
        &self,
        metadata: &mut Metadata,
        range: &Range<u64>,
        entry: L2Entry,
    ) -> Result<()> {
        let guest = GuestOffset(range.start);
        let old = metadata.slot(guest)?;
        let old = self.clusters.target(old.entry, guest)?;
        // Compressed clusters have no subclusters, so the bitmap is empty.
        let bitmap = self.geometry.has_subclusters();
        let bitmap = bitmap.then(SubclusterBitmap::default);
        metadata.set_slot(guest, L2Slot { entry, bitmap })?;
        metadata.free_target(old, false)
    }
}
