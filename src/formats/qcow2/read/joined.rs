//! Reading of several adjacent compressed clusters with one request.
//!
//! A compressed cluster is small. The next one on the disk usually follows it in the file, or soon after if several
//! threads wrote the image. On storage with a high latency, one read for each would be slow. So one read covers many
//! clusters and the bytes between them. If that read fails, the clusters are read one by one, so that an error is
//! that of the unreadable cluster.

use std::cell::RefCell;
use std::ops::Range;

use super::cluster::ClusterReader;
use crate::error::Result;
use crate::formats::codec;
use crate::formats::qcow2::entries::{CompressedRange, L2Table, L2Target};
use crate::units::{GuestOffset, HostOffset};

/// The largest number of bytes that is read at once.
const MOST: u64 = 2 << 20;
/// The number of bytes between clusters that may be read in excess of the clusters' own bytes.
const UNWANTED: u64 = 64 << 10;

thread_local! {
    /// The bytes of a read, in a buffer for each thread.
    static BUFFER: RefCell<Vec<u8>> = RefCell::default();
}

impl ClusterReader {
    /// Reads the compressed clusters at the start of `buf`, as long as they are close together in the file and
    /// complete in `buf`. `guest` is the start of a cluster, `table` its L2 table, and `length` the length of the
    /// file in bytes. Returns the number of bytes read. That is 0 if there are fewer than two such clusters, or if
    /// the read fails.
    ///
    /// # Errors
    /// Returns an error if the compressed data is damaged.
    pub(super) fn read_joined(
        &self,
        table: &L2Table,
        guest: GuestOffset,
        length: u64,
        buf: &mut [u8],
    ) -> Result<usize> {
        let geometry = self.geometry();
        let most = buf.len() / geometry.cluster_len();
        let first = geometry.l2_index(guest);
        let targets = (first..).take(most).map_while(|index| {
            match self.target(table.get(index)?.entry, guest) {
                Ok(L2Target::Compressed(range)) if range.host.0 < length => Some(range),
                _ => None,
            }
        });
        let (ranges, span) = close_together(targets, length);
        if ranges.len() < 2 {
            return Ok(0);
        }
        BUFFER.with_borrow_mut(|buffer| {
            buffer.resize(usize::try_from(span.end - span.start).unwrap_or(0), 0);
            let what = "compressed clusters";
            let read = self.storage().read_exact_at(span.start, buffer, what);
            if read.is_err() {
                return Ok(0);
            }
            let mut done = 0;
            let clusters = buf.chunks_exact_mut(geometry.cluster_len());
            for (range, cluster) in ranges.iter().zip(clusters) {
                let within = |at: u64| usize::try_from(at - span.start).unwrap_or(usize::MAX);
                let stream = buffer.get(within(range.start)..within(range.end));
                codec::decompress(
                    self.compression().codec(),
                    stream.unwrap_or_default(),
                    cluster,
                )
                .map_err(|why| self.bad_entry(GuestOffset(guest.0 + done as u64), &why))?;
                done += cluster.len();
            }
            Ok(done)
        })
    }
}

/// Returns the first places that are close together, as byte ranges in a file of `length` bytes, and the range that
/// covers them all.
fn close_together(
    places: impl Iterator<Item = CompressedRange>,
    length: u64,
) -> (Vec<Range<u64>>, Range<u64>) {
    let mut ranges: Vec<Range<u64>> = Vec::new();
    let mut span = 0..0;
    let mut wanted = 0;
    for CompressedRange {
        host: HostOffset(start),
        length: bytes,
    } in places
    {
        // The last sector may extend beyond the end of the file.
        let range = start..start.saturating_add(bytes).min(length);
        let wider = match ranges.is_empty() {
            true => range.clone(),
            false => range.start.min(span.start)..range.end.max(span.end),
        };
        let sum = wanted + (range.end - range.start);
        let extent = wider.end - wider.start;
        if extent > MOST || extent > 2 * sum + UNWANTED {
            break;
        }
        (span, wanted) = (wider, sum);
        ranges.push(range);
    }
    (ranges, span)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::formats::Image as _;
    use crate::formats::qcow2::entries::L2Entry;
    use crate::formats::qcow2::header::Header;
    use crate::formats::qcow2::read::Qcow2Image;
    use crate::storage::{Fault, MemoryStorage, Operation, ShortRead};

    const CLUSTER: usize = 4096;
    const CLUSTERS: u8 = 40;

    /// Returns an image of compressed clusters of 4 KiB whose order in the file is `order`, and its disk.
    fn image(order: impl Iterator<Item = u8>) -> (MemoryStorage, Vec<u8>) {
        let cluster_of = |number: u8| -> Vec<u8> {
            let bytes = (0u8..251).cycle().take(CLUSTER);
            bytes.map(|byte| byte ^ number).collect()
        };
        let mut bytes = vec![0; 3 * CLUSTER];
        bytes[..8].copy_from_slice(b"QFI\xfb\0\0\0\x03");
        bytes[20..24].copy_from_slice(&12u32.to_be_bytes());
        bytes[24..32].copy_from_slice(&(u64::from(CLUSTERS) << 12).to_be_bytes());
        bytes[36..40].copy_from_slice(&1u32.to_be_bytes());
        bytes[40..48].copy_from_slice(&(CLUSTER as u64).to_be_bytes());
        bytes[96..100].copy_from_slice(&4u32.to_be_bytes());
        bytes[100..104].copy_from_slice(&104u32.to_be_bytes());
        bytes[CLUSTER..CLUSTER + 8].copy_from_slice(&(2 << 12 | 1u64 << 63).to_be_bytes());
        let geometry = Header::read_for_check(&MemoryStorage::new(bytes.clone()))
            .unwrap()
            .geometry();
        for number in order {
            let mut stream = Vec::with_capacity(CLUSTER);
            flate2::Compress::new(flate2::Compression::default(), false)
                .compress_vec(
                    &cluster_of(number),
                    &mut stream,
                    flate2::FlushCompress::Finish,
                )
                .unwrap();
            let host = HostOffset(bytes.len() as u64);
            let entry = L2Entry::to_compressed(geometry, host, stream.len() as u64).unwrap();
            let slot = 2 * CLUSTER + usize::from(number) * 8;
            bytes[slot..slot + 8].copy_from_slice(&entry.0.to_be_bytes());
            bytes.extend(stream);
        }
        let disk = (0..CLUSTERS).flat_map(cluster_of).collect();
        (MemoryStorage::new(bytes), disk)
    }

    /// Reads the whole disk at once. Also returns the number of reads of the file.
    fn read_all(storage: MemoryStorage) -> Result<(Vec<u8>, u64)> {
        let storage = Arc::new(storage);
        let header = Header::read_for_check(storage.as_ref())?;
        let image = Qcow2Image::open(Arc::<MemoryStorage>::clone(&storage), header, None)?;
        let mut buffer = vec![0; usize::from(CLUSTERS) * CLUSTER];
        // This reads the L2 table into the cache.
        image.read_at(GuestOffset(0), &mut buffer[..512])?;
        let before = storage.count(Operation::Read);
        image.read_at(GuestOffset(0), &mut buffer)?;
        Ok((buffer, storage.count(Operation::Read) - before))
    }

    /// Returns the number of reads before those that [`read_all`] counts.
    fn reads_before() -> u64 {
        let storage = Arc::new(image(0..CLUSTERS).0);
        let header = Header::read_for_check(storage.as_ref()).unwrap();
        let image = Qcow2Image::open(Arc::<MemoryStorage>::clone(&storage), header, None).unwrap();
        image.read_at(GuestOffset(0), &mut [0; 512]).unwrap();
        storage.count(Operation::Read)
    }

    #[test]
    fn one_read_is_enough_for_many_clusters() {
        let (storage, disk) = image(0..CLUSTERS);
        assert!(read_all(storage).unwrap() == (disk, 1));
        let (storage, disk) = image((0..CLUSTERS).rev());
        assert!(read_all(storage).unwrap() == (disk, 1));
    }

    #[test]
    fn a_read_that_fails_or_ends_early_is_done_once_more_for_each_cluster() {
        let nth = reads_before() + 1;
        let (storage, disk) = image(0..CLUSTERS);
        let fault = Fault {
            operation: Operation::Read,
            nth,
            errno: 5,
        };
        // The first cluster is read by itself, and then the others together.
        assert!(read_all(storage.with_fault(fault)).unwrap() == (disk, 3));
        let (storage, disk) = image(0..CLUSTERS);
        let short = ShortRead { nth, bytes: 100 };
        assert!(read_all(storage.with_short_read(short)).unwrap() == (disk, 3));
    }

    #[test]
    fn a_damaged_stream_is_an_error_of_its_cluster() {
        let (storage, _) = image(0..CLUSTERS);
        let last = storage.contents().len() as u64 - 1;
        let damaged = storage.contents().len() as u64 / 2;
        for (from, what) in [(damaged, "invalid"), (last - 20, "offset 0x27000")] {
            let (storage, _) = image(0..CLUSTERS);
            crate::storage::Storage::write_at(&storage, from, &[0xff; 20]).unwrap();
            let error = read_all(storage).unwrap_err().to_string();
            assert!(error.contains(what), "{error}");
        }
    }

    fn joined(places: &[(u64, u64)], length: u64) -> (usize, Range<u64>) {
        let places = places.iter().map(|&(host, length)| CompressedRange {
            host: HostOffset(host),
            length,
        });
        let (ranges, span) = close_together(places, length);
        (ranges.len(), span)
    }

    #[test]
    fn neighbours_in_any_order_are_read_together() {
        let end = 1 << 30;
        assert_eq!(joined(&[], end), (0, 0..0));
        let three = [(1000, 24), (1010, 526), (1500, 36)];
        assert_eq!(joined(&three, end), (3, 1000..1536));
        let backwards = [(1500, 36), (1010, 526), (1000, 24)];
        assert_eq!(joined(&backwards, end), (3, 1000..1536));
        // The file ends inside the last sector.
        assert_eq!(joined(&three, 1520), (3, 1000..1520));
    }

    #[test]
    fn what_is_far_away_or_too_much_is_read_by_itself() {
        let end = 1 << 30;
        let far = [(1000, 1000), (2000, 1000), (1 << 20, 1000)];
        assert_eq!(joined(&far, end), (2, 1000..3000));
        let many: Vec<_> = (0..100).map(|number| (number << 16, 1 << 16)).collect();
        assert_eq!(joined(&many, end), (32, 0..2 << 20));
    }
}
