//! A new image of which nothing is stored, to the byte as `qemu-img create` makes it.
//!
//! ```text
//! header | refcount table | first refcount block | L1 table | more refcount blocks
//! ```
//!
//! More blocks are only there where the L1 table takes more clusters than the first one counts. They come in the
//! order in which QEMU finds that it needs them: one for the next clusters that aren't counted, and then, if that
//! one isn't counted itself, the one that counts it. The file ends with the last entry of the L1 table, or with
//! the last of those blocks.

use std::collections::BTreeMap;

use super::parts::TablePlaces;
use crate::error::{Error, Result};
use crate::formats::qcow2::entries;
use crate::formats::qcow2::geometry::{ENTRY_SIZE, Geometry};
use crate::formats::qcow2::header::TablePlace;
use crate::formats::zeroes::write_zeroes;
use crate::storage::Storage;
use crate::units::HostOffset;

/// The cluster of the refcount table.
const TABLE: u64 = 1;
/// The cluster of the first refcount block.
const FIRST_BLOCK: u64 = 2;
/// The first cluster of the L1 table.
const L1: u64 = 3;

/// The places of the tables of an image of which nothing is stored.
#[derive(Debug)]
pub(super) struct EmptyLayout {
    geometry: Geometry,
    l1_entries: u64,
    /// The clusters of the refcount blocks, by their index in the table.
    blocks: BTreeMap<u64, u64>,
    /// The number of clusters in use.
    total: u64,
}

impl EmptyLayout {
    /// Lays out an image of a disk of `size` bytes. Returns `None` where the refcount table takes more than a
    /// cluster.
    pub(super) fn new(geometry: Geometry, size: u64) -> Option<Self> {
        let l1_entries = geometry.l1_entries(size);
        let end = L1 + geometry.clusters(l1_entries * ENTRY_SIZE);
        let per_block = geometry.refcount_block_entries();
        let mut blocks = BTreeMap::from([(0, FIRST_BLOCK)]);
        let mut total = end;
        for index in 0..end.div_ceil(per_block) {
            let mut missing = index;
            while !blocks.contains_key(&missing) {
                blocks.insert(missing, total);
                missing = total / per_block;
                total += 1;
            }
        }
        let (last, _) = blocks.last_key_value()?;
        (*last < geometry.cluster_size() / ENTRY_SIZE).then_some(Self {
            geometry,
            l1_entries,
            blocks,
            total,
        })
    }

    /// Writes all but the header.
    ///
    /// # Errors
    /// Returns the system's error.
    pub(super) fn write(&self, storage: &dyn Storage) -> Result<TablePlaces> {
        let size = self.geometry.cluster_size();
        let mut table = vec![0; self.geometry.cluster_len()];
        let (table_entries, _) = table.as_chunks_mut();
        for (index, cluster) in &self.blocks {
            let entry = usize::try_from(*index).ok();
            let entry = entry.and_then(|index| table_entries.get_mut(index));
            *entry.ok_or_else(|| Error::invalid("beyond the refcount table"))? =
                (cluster * size).to_be_bytes();
            storage.write_at(cluster * size, &self.block(*index))?;
        }
        storage.write_at(TABLE * size, &table)?;
        let l1 = L1 * size;
        write_zeroes(storage, l1..l1 + self.l1_entries * ENTRY_SIZE)?;
        Ok(TablePlaces {
            // A disk of no bytes has no L1 table, and so no place for one.
            l1: HostOffset(if self.l1_entries == 0 { 0 } else { l1 }),
            refcount_table: TablePlace {
                host: HostOffset(TABLE * size),
                entries: size / ENTRY_SIZE,
            },
        })
    }

    /// Makes a refcount block: all clusters in use are used once.
    fn block(&self, index: u64) -> Vec<u8> {
        let mut block = vec![0; self.geometry.cluster_len()];
        let per_block = self.geometry.refcount_block_entries();
        let counted = self.total.saturating_sub(index * per_block).min(per_block);
        for within in 0..usize::try_from(counted).unwrap_or(0) {
            let _ = entries::set_refcount(&mut block, self.geometry.refcount_bits(), within, 1);
        }
        block
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layout(cluster_bits: u32, size: u64) -> EmptyLayout {
        let geometry = Geometry::new(cluster_bits, false, 4).unwrap();
        EmptyLayout::new(geometry, size).unwrap()
    }

    #[test]
    fn blocks_are_where_qemu_has_them() {
        assert_eq!(layout(16, 1 << 40).blocks, [(0, 2)].into());
        assert_eq!(
            layout(9, 1 << 30).blocks,
            [(0, 2), (1, 515), (2, 516)].into()
        );
        let many = layout(10, 100 << 30);
        assert_eq!(many.blocks[&1], 6403);
        assert_eq!(many.blocks[&12], 6404);
        assert_eq!(many.blocks[&2], 6405);
        assert_eq!((many.blocks.len(), many.total), (13, 6415));
        let geometry = Geometry::new(9, false, 4).unwrap();
        assert!(EmptyLayout::new(geometry, 100 << 30).is_none());
    }
}
