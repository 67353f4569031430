//! The refcount structures of a new image in which all refcounts are 1.
//!
//! Every cluster of such an image has exactly one reference. So the refcount blocks follow from the number of
//! clusters alone, and are written in long runs once that number is known. The blocks and the table are clusters with
//! refcounts themselves.

use crate::error::{Error, Result};
use crate::formats::qcow2::entries;
use crate::formats::qcow2::geometry::{ENTRY_SIZE, Geometry, MAX_REFCOUNT_TABLE_BYTES};
use crate::formats::qcow2::header::TablePlace;
use crate::storage::Storage;
use crate::units::HostOffset;

/// The length of the pieces in which refcount blocks are written, in bytes.
const WRITE_SIZE: usize = 1 << 20;

/// The places of the refcount blocks and the refcount table of a new image.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct RefcountLayout {
    /// The host offset of the first block.
    pub(super) blocks: HostOffset,
    /// The number of blocks.
    pub(super) block_count: u64,
    /// The host offset of the table, which follows the last block.
    pub(super) table: HostOffset,
    /// The length of the table in clusters.
    pub(super) table_clusters: u64,
    /// The length of the file in clusters.
    pub(super) total: u64,
}

impl RefcountLayout {
    /// Lays out the refcount structures of an image with `others` other clusters. The blocks start at `at`, and the
    /// table follows them.
    ///
    /// # Errors
    /// Returns an error if the table would be larger than the format allows.
    pub(super) fn new(geometry: Geometry, others: u64, at: HostOffset) -> Result<Self> {
        let (block_count, table_clusters) = refcount_clusters(geometry, others);
        if table_clusters * geometry.cluster_size() > MAX_REFCOUNT_TABLE_BYTES {
            return Err(table_too_big());
        }
        let table = HostOffset(at.0 + block_count * geometry.cluster_size());
        Ok(Self {
            blocks: at,
            block_count,
            table,
            table_clusters,
            total: others + block_count + table_clusters,
        })
    }

    /// Returns the place of the table for the header.
    pub(super) fn table_place(&self, geometry: Geometry) -> TablePlace {
        TablePlace {
            host: self.table,
            entries: self.table_clusters * geometry.cluster_size() / ENTRY_SIZE,
        }
    }

    /// Writes the blocks and the table.
    ///
    /// # Errors
    /// Returns the system's error.
    pub(super) fn write(&self, storage: &dyn Storage, geometry: Geometry) -> Result<()> {
        let bits = geometry.refcount_bits();
        let pattern = ones(bits, GROUP);
        let repeats = WRITE_SIZE / pattern.len();
        let groups = usize::try_from(self.total / GROUP as u64)
            .map_err(|_| Error::invalid("the image's file is too big"))?;
        let buffer = pattern.repeat(groups.min(repeats));
        let mut offset = self.blocks.0;
        let mut left = groups * pattern.len();
        while left > 0 {
            let part = buffer.get(..left.min(buffer.len())).unwrap_or(&buffer);
            storage.write_at(offset, part)?;
            offset += part.len() as u64;
            left -= part.len();
        }
        let rest = ones(
            bits,
            usize::try_from(self.total % GROUP as u64).unwrap_or(0),
        );
        if !rest.is_empty() {
            storage.write_at(offset, &rest)?;
            offset += rest.len() as u64;
        }
        // Bytes after the last refcount are zero in a new file, but undefined on a device.
        let rest = self.table.0 - offset;
        if rest > 0 && !storage.starts_as_zeroes() {
            storage.write_at(offset, &vec![0; usize::try_from(rest).unwrap_or(0)])?;
        }
        let mut table = Vec::with_capacity(geometry.cluster_len());
        for block in 0..self.block_count {
            let host = self.blocks.0 + block * geometry.cluster_size();
            table.extend(host.to_be_bytes());
        }
        // The table is padded, so that the file ends with a whole cluster.
        let length = self.table_clusters * geometry.cluster_size();
        table.resize(usize::try_from(length).unwrap_or(table.len()), 0);
        storage.write_at(self.table.0, &table)
    }
}

/// Returns the error for more clusters than a refcount table can refer to.
pub(super) fn table_too_big() -> Error {
    Error::invalid(
        "the image's file is too big for its cluster size: its refcount table would be larger \
         than 8 MiB (try using a larger cluster size)",
    )
}

/// Returns the number of refcount blocks, and of clusters of the refcount table, for an image with `others` other
/// clusters. These clusters need refcounts, too.
pub(in crate::formats::qcow2) fn refcount_clusters(geometry: Geometry, others: u64) -> (u64, u64) {
    let (mut block_count, mut table_clusters) = (0, 0);
    // Both sizes grow far more slowly than the total, so the loop ends after a few rounds.
    loop {
        let total = others + block_count + table_clusters;
        let blocks = total.div_ceil(geometry.refcount_block_entries());
        let table = geometry.clusters(blocks * ENTRY_SIZE);
        if (blocks, table) == (block_count, table_clusters) {
            return (block_count, table_clusters);
        }
        (block_count, table_clusters) = (blocks, table);
    }
}

/// The number of refcounts in the repeated pattern, which has whole bytes with every refcount width.
const GROUP: usize = 64;

/// Encodes `count` refcounts of 1, at most [`GROUP`], padded to a whole byte.
fn ones(bits: u32, count: usize) -> Vec<u8> {
    let mut block = vec![0; GROUP * 8];
    for index in 0..count {
        let _ = entries::set_refcount(&mut block, bits, index, 1);
    }
    let bits = usize::try_from(bits).unwrap_or(0);
    block.truncate((count * bits).div_ceil(8));
    block
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::MemoryStorage;

    #[test]
    fn every_cluster_is_counted_once_and_no_other_in_any_width() {
        for order in 0..=6 {
            for others in [1, 63, 64, 65, 3000] {
                // Bytes after the last refcount have to be zeroed on a device.
                let device = MemoryStorage::new(vec![0xaa; 8 << 20]).as_device();
                let geometry = Geometry::new(9, false, order).unwrap();
                let at = HostOffset(others * 512);
                let layout = RefcountLayout::new(geometry, others, at).unwrap();
                layout.write(&device, geometry).unwrap();
                let contents = device.contents();
                let place = |offset| usize::try_from(offset).unwrap();
                let blocks = &contents[place(layout.blocks.0)..place(layout.table.0)];
                for index in 0..layout.block_count * geometry.refcount_block_entries() {
                    assert_eq!(
                        entries::refcount_at(blocks, 1 << order, place(index)),
                        Some(u64::from(index < layout.total)),
                        "order {order}, {others} others, cluster {index}"
                    );
                }
            }
        }
    }

    /// Lays out the refcount structures after everything else, which has `used` bytes.
    fn behind(geometry: Geometry, used: u64) -> Result<RefcountLayout> {
        let used = HostOffset(used);
        RefcountLayout::new(geometry, geometry.host_cluster(used), used)
    }

    #[test]
    fn refcounts_count_themselves() {
        let geometry = Geometry::new(16, false, 4).unwrap();
        let layout = behind(geometry, 3 << 16).unwrap();
        assert_eq!(layout.block_count, 1);
        assert_eq!(layout.table, HostOffset(4 << 16));
        assert_eq!(layout.total, 5);
        // The clusters are one fewer than a block covers, so that the block and the table need a second block.
        let layout = behind(geometry, 32767 << 16).unwrap();
        assert_eq!((layout.block_count, layout.total), (2, 32770));
        // Clusters of 512 bytes have blocks of 256 refcounts and tables of 64 entries.
        let geometry = Geometry::new(9, false, 4).unwrap();
        let layout = behind(geometry, 64 * 256 * 512).unwrap();
        assert_eq!((layout.block_count, layout.table_clusters), (65, 2));
        assert!(behind(geometry, 1 << 40).is_err());
    }
}
