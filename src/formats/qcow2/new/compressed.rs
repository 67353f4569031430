//! The layout of a new image with compressed clusters.
//!
//! ```text
//! header | L1 table | L2 tables, compressed clusters, refcount blocks … | refcount blocks | table
//! ```
//!
//! - Worker threads compress a chunk's clusters before they have space
//!   ([`NewImage::compress`](crate::formats::NewImage::compress)), since their stored size isn't known earlier. Space
//!   is allocated in guest order, so the image is the same for any number of threads.
//! - Each compressed cluster starts at the byte after the one before, and may extend into the next host cluster. If
//!   that host cluster is allocated already, the rest of the last one is still used for clusters that fit into it.
//! - The refcount of a host cluster is the number of compressed clusters in it. If that number reaches the highest
//!   refcount of the image, the next compressed cluster starts in a new host cluster.
//! - A cluster that doesn't get smaller is stored uncompressed.
//! - L2 tables, completed refcount blocks and the refcount table are cluster-aligned. Refcount blocks follow the
//!   compressed clusters, so that the last sector of every compressed cluster is inside the file.
//!
//! Such an image is never encrypted, since compressed clusters are stored unencrypted.

use std::mem;
use std::sync::{Mutex, PoisonError};

use super::compressed_refcounts::PendingRefcounts;
use super::layout::{Layout, MetadataWrites};
use super::parts::{ImageLayout, NewQcow2Parts, TablePlaces};
use super::runs;
use crate::error::{Error, Result};
use crate::formats::codec::compress;
use crate::formats::compress_units::compress_units;
use crate::formats::qcow2::entries::{L2Entry, SubclusterBitmap};
use crate::formats::qcow2::geometry::Geometry;
use crate::formats::qcow2::header::Version;
use crate::formats::reservation::{add_metadata, compression_mismatch};
use crate::formats::{ChunkPart, CompressedChunk, Reservation, Run};
use crate::units::{GuestOffset, HostOffset};

/// The layout in which compressed clusters are contiguous, in the order of their data.
pub(super) struct CompressedLayout {
    space: Mutex<Space>,
}

/// The allocated space.
#[derive(Debug)]
struct Space {
    geometry: Geometry,
    layout: Layout,
    counts: PendingRefcounts,
    /// The end of the last compressed cluster, if its host cluster has unused bytes after it.
    tail: Option<HostOffset>,
    /// Unused ranges that stay unused: each from its start to the end of its host cluster.
    gaps: Vec<HostOffset>,
}

impl CompressedLayout {
    /// Starts the layout of an image. Overwrites an old header.
    ///
    /// # Errors
    /// Returns the system's error. Returns an error if the tables for the disk are too large.
    pub(super) fn new(image: &NewQcow2Parts) -> Result<Self> {
        image.wipe()?;
        let geometry = image.geometry;
        let layout = Layout::new(image)?;
        let mut counts = PendingRefcounts::new(geometry);
        counts.add(HostOffset(0), layout.next().0)?;
        let space = Space {
            geometry,
            layout,
            counts,
            tail: None,
            gaps: Vec::new(),
        };
        Ok(Self {
            space: Mutex::new(space),
        })
    }
}

/// Returns the subcluster bitmap for the cluster at `start` of a chunk.
fn bitmap(geometry: Geometry, start: usize, data: &[Run], zeroes: &[Run]) -> SubclusterBitmap {
    if !geometry.has_subclusters() {
        return SubclusterBitmap::default();
    }
    runs::bitmap(start, geometry.subcluster_len(), data, zeroes)
}

/// Overwrites the old contents of `gaps` on a device.
fn clear(image: &NewQcow2Parts, gaps: &[HostOffset]) -> Result<()> {
    if image.storage.starts_as_zeroes() {
        return Ok(());
    }
    for gap in gaps {
        let left = image.geometry.cluster_size() - image.geometry.within_cluster(gap.0);
        let zeroes = vec![0; usize::try_from(left).unwrap_or(0)];
        image.storage.write_at(gap.0, &zeroes)?;
    }
    Ok(())
}

impl Space {
    /// Allocates whole clusters for `bytes` bytes.
    fn place_clusters(&mut self, bytes: u64) -> Result<HostOffset> {
        let host = self.layout.allocate(bytes)?;
        self.counts.add(host, bytes)?;
        Ok(host)
    }

    /// Allocates the L2 tables for these clusters, where they don't exist.
    fn place_tables(&mut self, clusters: impl IntoIterator<Item = GuestOffset>) -> Result<()> {
        let (host, bytes) = self.layout.place_tables(clusters)?;
        self.counts.add(host, bytes)
    }

    /// Allocates space for a compressed cluster of `length` bytes.
    fn place_compressed(&mut self, length: u64) -> Result<HostOffset> {
        let size = self.geometry.cluster_size();
        let start = match self.tail {
            Some(tail) if !self.counts.is_full(tail) => {
                let left = size - self.geometry.within_cluster(tail.0);
                let more = length.saturating_sub(left);
                if more == 0 || self.tail_is_last() {
                    self.layout.allocate(self.geometry.clusters(more) * size)?;
                    Some(tail)
                } else {
                    None
                }
            }
            _ => None,
        };
        let start = match start {
            Some(start) => start,
            None => {
                self.abandon_tail();
                self.layout
                    .allocate(self.geometry.clusters(length) * size)?
            }
        };
        self.counts.add(start, length)?;
        let end = HostOffset(start.0 + length);
        self.tail = (!self.geometry.is_aligned(end)).then_some(end);
        Ok(start)
    }

    /// Allocates space for a cluster of a chunk, and sets its L2 entry.
    fn place_part(&mut self, guest: GuestOffset, part: &ChunkPart) -> Result<HostOffset> {
        let length = part.stored.len() as u64;
        let (host, entry, bitmap) = if part.compressed {
            let host = self.place_compressed(length)?;
            let entry = L2Entry::to_compressed(self.geometry, host, length);
            let too_big = || Error::invalid("the image's file is too big");
            // Compressed clusters have no subclusters, so the bitmap is empty.
            let bitmap = SubclusterBitmap::default();
            (host, entry.ok_or_else(too_big)?, bitmap)
        } else {
            let host = self.place_clusters(length)?;
            let cluster = part.start..part.start + self.geometry.cluster_len();
            let bitmap = bitmap(self.geometry, part.start, &[cluster], &[]);
            (host, L2Entry::to_data(host), bitmap)
        };
        self.layout.set_entry(guest, entry, bitmap)?;
        Ok(host)
    }

    /// Returns true if the host cluster of the tail is the last allocated one.
    fn tail_is_last(&self) -> bool {
        let next = self.geometry.host_cluster(self.layout.next());
        self.tail
            .is_some_and(|tail| self.geometry.host_cluster(tail) + 1 == next)
    }

    fn abandon_tail(&mut self) {
        self.gaps.extend(self.tail.take());
    }

    /// Allocates clusters for the refcount blocks that are complete, and adds them to `written`.
    fn place_blocks(&mut self, written: &mut MetadataWrites) -> Result<()> {
        loop {
            let end = self.counts.first_end();
            if self.layout.next() < end {
                return Ok(());
            }
            if self.tail.is_some_and(|tail| tail < end) {
                if self.tail_is_last() {
                    return Ok(());
                }
                self.abandon_tail();
            }
            let host = self.place_clusters(self.geometry.cluster_size())?;
            let block = self.counts.place_first(host);
            add_metadata(written, host, block);
        }
    }
}

impl ImageLayout for CompressedLayout {
    fn compress(
        &self,
        image: &NewQcow2Parts,
        chunk: &mut [u8],
        runs: &[Run],
        zeroes: &[Run],
    ) -> Result<CompressedChunk> {
        let size = image.geometry.cluster_len();
        let everything;
        let (runs, zeroes) = if image.options.version == Version::V2 && !zeroes.is_empty() {
            // Version 2 has no zero clusters, so zeroes are stored as data.
            everything = runs::union(runs, zeroes);
            (everything.as_slice(), [].as_slice())
        } else {
            (runs, zeroes)
        };
        let codec = image.options.compression.codec();
        let starts = runs.iter().flat_map(|run| run.clone().step_by(size));
        let parts = compress_units(chunk, size, starts, |_, cluster, compressed| {
            compress(codec, cluster, cluster.len().saturating_sub(1), compressed)
        })?;
        Ok(CompressedChunk {
            parts,
            zeroes: zeroes.to_vec(),
        })
    }

    fn reserve_compressed(
        &self,
        image: &NewQcow2Parts,
        guest: GuestOffset,
        compressed: &CompressedChunk,
    ) -> Result<Reservation> {
        let mut space = self.space.lock().unwrap_or_else(PoisonError::into_inner);
        let mut pieces: Vec<(Run, HostOffset)> = Vec::new();
        let size = image.geometry.cluster_len();
        let zeroes = || {
            compressed
                .zeroes
                .iter()
                .flat_map(|run| run.clone().step_by(size))
        };
        let mut starts: Vec<usize> = compressed.parts.iter().map(|part| part.start).collect();
        starts.extend(zeroes());
        starts.sort_unstable();
        let at = |start: usize| GuestOffset(guest.0 + start as u64);
        space.place_tables(starts.iter().map(|start| at(*start)))?;
        for part in &compressed.parts {
            let host = space.place_part(at(part.start), part)?;
            match pieces.last_mut() {
                Some((run, first)) if first.0 + run.len() as u64 == host.0 => {
                    run.end = part.stored.end;
                }
                _ => pieces.push((part.stored.clone(), host)),
            }
        }
        for start in zeroes() {
            let entry = L2Entry::to_unallocated_zero(image.geometry);
            let bitmap = bitmap(image.geometry, start, &[], &[start..start + size]);
            space.layout.set_entry(at(start), entry, bitmap)?;
        }
        let end = starts.last().map_or(0, |start| start + size);
        let mut metadata = space.layout.take_complete(at(end));
        space.place_blocks(&mut metadata)?;
        let gaps = mem::take(&mut space.gaps);
        drop(space);
        clear(image, &gaps)?;
        Ok(Reservation {
            guest,
            pieces,
            metadata,
        })
    }

    fn reserve(
        &self,
        _image: &NewQcow2Parts,
        _guest: GuestOffset,
        _chunk: usize,
        _runs: &[Run],
        _zeroes: &[Run],
    ) -> Result<Reservation> {
        Err(compression_mismatch())
    }

    fn finish(&self, image: &NewQcow2Parts) -> Result<TablePlaces> {
        let storage = image.storage.as_ref();
        let mut space = self.space.lock().unwrap_or_else(PoisonError::into_inner);
        for (host, tables) in space.layout.take_rest() {
            storage.write_at(host.0, &tables)?;
        }
        space.abandon_tail();
        clear(image, &space.gaps)?;
        let counts = mem::replace(&mut space.counts, PendingRefcounts::new(image.geometry));
        let refcounts = counts.finish(space.layout.next(), storage)?;
        space.layout.write_l1(storage)?;
        Ok(TablePlaces {
            l1: space.layout.l1_host(),
            refcount_table: refcounts.table_place(image.geometry),
        })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::formats::qcow2::create_options::NewQcow2Options;
    use crate::storage::MemoryStorage;

    /// An image that is being written.
    struct Image {
        parts: NewQcow2Parts,
        layout: CompressedLayout,
    }

    /// Returns an image with clusters of 512 bytes and refcounts of `refcount_bits` bits. Its L2 table is at 1024,
    /// and the data follows.
    fn image(refcount_bits: u64) -> Image {
        let options = NewQcow2Options {
            cluster_size: 512,
            refcount_bits,
            ..NewQcow2Options::new(32 << 10)
        };
        let storage = Arc::new(MemoryStorage::default());
        let parts = NewQcow2Parts::new(storage.into(), options, None, false).unwrap();
        let layout = CompressedLayout::new(&parts).unwrap();
        Image { parts, layout }
    }

    /// Returns the places of clusters of these sizes in bytes; 512 is an uncompressed one.
    fn places(image: &Image, sizes: &[usize]) -> Vec<(Run, u64)> {
        let mut end = 0;
        let parts = sizes.iter().enumerate().map(|(number, &size)| {
            end += size;
            ChunkPart {
                start: number * 512,
                stored: end - size..end,
                compressed: size < 512,
            }
        });
        let compressed = CompressedChunk {
            parts: parts.collect(),
            zeroes: Vec::new(),
        };
        let reservation = image
            .layout
            .reserve_compressed(&image.parts, GuestOffset(0), &compressed)
            .unwrap();
        let pieces = reservation.pieces.into_iter();
        pieces.map(|(run, host)| (run, host.0)).collect()
    }

    fn counts(image: &Image, clusters: std::ops::Range<u64>) -> Vec<bool> {
        let space = image.layout.space.lock().unwrap();
        clusters
            .map(|cluster| space.counts.is_full(HostOffset(cluster * 512)))
            .collect()
    }

    #[test]
    fn compressed_clusters_stand_byte_behind_byte() {
        let pieces = places(&image(16), &[200, 511, 1, 100]);
        assert_eq!(pieces, [(0..812, 1536)]);
    }

    #[test]
    fn what_is_left_of_a_cluster_takes_what_fits() {
        // The sizes are 100 bytes, a cluster after it, then 412 that just fit, and one that needs a new cluster.
        let pieces = places(&image(16), &[100, 512, 412, 1, 512, 511, 2]);
        let expected = [
            (0..100, 1536),
            (100..612, 2048),
            (612..1024, 1636),
            (1024..1025, 2560),
            (1025..1537, 3072),
            (1537..2048, 2561),
            (2048..2050, 3584),
        ];
        assert_eq!(pieces, expected);
    }

    #[test]
    fn a_cluster_takes_no_more_than_its_refcount_can_count() {
        let one = image(1);
        let expected = [
            (0..10, 1536),
            (10..20, 2048),
            (20..520, 2560),
            (520..600, 3072),
        ];
        assert_eq!(places(&one, &[10, 10, 500, 80]), expected);
        let two = image(2);
        // The third cluster fills the first host cluster's refcount and extends into the second.
        let expected = [(0..530, 1536), (530..541, 2066)];
        let mut pieces = places(&two, &[10, 10, 510, 11]);
        assert_eq!(pieces.remove(0), (0..541, 1536));
        assert!(pieces.is_empty(), "{expected:?}");
        assert_eq!(counts(&two, 3..5), [true, false]);
        assert_eq!(places(&two, &[5, 5]), [(0..5, 2077), (5..10, 2560)]);
    }

    #[test]
    fn packing_keeps_order_and_leaves_alone_what_does_not_get_smaller() {
        let image = image(16);
        let mut state = 1u64;
        let mut noise = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005) + 1;
            (state >> 56) as u8
        };
        let mut chunk = vec![7; 4 * 512];
        chunk[1024..1536].fill_with(&mut noise);
        let before = chunk.clone();
        let compressed = image
            .layout
            .compress(&image.parts, &mut chunk, &[0..512, 1024..2048], &[])
            .unwrap();
        let [first, second, third] = &compressed.parts[..] else {
            panic!("{compressed:?}");
        };
        assert_eq!((first.start, first.compressed), (0, true));
        assert_eq!((second.start, second.compressed), (1024, false));
        assert_eq!((third.start, third.compressed), (1536, true));
        assert_eq!(chunk[second.stored.clone()], before[1024..1536]);
        for part in [first, third] {
            let mut cluster = [0; 512];
            let stored = &chunk[part.stored.clone()];
            let codec = image.parts.options.compression.codec();
            crate::formats::codec::decompress(codec, stored, &mut cluster).unwrap();
            assert_eq!(cluster, [7; 512]);
        }
    }
}
