//! The arithmetic of clusters with guest and host offsets. No other module shifts offsets.
//!
//! With clusters of 2^n bytes, an L2 table is one cluster of 8-byte entries, so that it maps 2^(n-3) clusters. A
//! refcount block is also one cluster, with entries of 1 to 64 bits. All results are checked or can't overflow for
//! disks below 2^63 bytes, which the callers of [`Geometry::new`] ensure.

use super::entries::SUBCLUSTERS;
use crate::units::{GuestOffset, HostOffset};

/// The smallest cluster size, as a power of two: 512 bytes.
pub const MIN_CLUSTER_BITS: u32 = 9;
/// The largest cluster size that QEMU accepts, as a power of two: 2 MiB.
pub const MAX_CLUSTER_BITS: u32 = 21;
/// The largest L1 table that QEMU accepts, in bytes.
pub const MAX_L1_BYTES: u64 = 32 << 20;
/// The largest refcount table that QEMU accepts, in bytes.
pub const MAX_REFCOUNT_TABLE_BYTES: u64 = 8 << 20;
/// The size of an L1, standard L2 or refcount table entry in bytes.
pub const ENTRY_SIZE: u64 = 8;

/// The sizes that follow from the cluster size, the L2 entry size and the refcount width.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Geometry {
    cluster_bits: u32,
    l2_bits: u32,
    refcount_order: u32,
}

impl Geometry {
    /// Returns the geometry with clusters of 2^`cluster_bits` bytes (9 to 21). L2 entries have 8 bytes, or 16 if
    /// `extended_l2`. Refcounts have 2^`refcount_order` bits (0 to 6).
    ///
    /// Returns `None` outside these ranges.
    pub fn new(cluster_bits: u32, extended_l2: bool, refcount_order: u32) -> Option<Self> {
        if !(MIN_CLUSTER_BITS..=MAX_CLUSTER_BITS).contains(&cluster_bits) || refcount_order > 6 {
            return None;
        }
        let entry_bits = if extended_l2 { 4 } else { 3 };
        Some(Self {
            cluster_bits,
            l2_bits: cluster_bits - entry_bits,
            refcount_order,
        })
    }

    /// Returns the binary logarithm of the cluster size in bytes.
    pub fn cluster_bits(self) -> u32 {
        self.cluster_bits
    }

    /// Returns the cluster size in bytes.
    pub fn cluster_size(self) -> u64 {
        1 << self.cluster_bits
    }

    /// Returns the cluster size in bytes, for buffers.
    pub fn cluster_len(self) -> usize {
        1 << self.cluster_bits
    }

    /// Returns true if L2 entries have 16 bytes, with a subcluster bitmap.
    pub fn has_subclusters(self) -> bool {
        self.l2_bits + 4 == self.cluster_bits
    }

    /// Returns the unit that an L2 entry maps, in bytes: a subcluster with extended L2 entries, else a cluster.
    pub fn subcluster_size(self) -> u64 {
        if self.has_subclusters() {
            self.cluster_size() / u64::from(SUBCLUSTERS)
        } else {
            self.cluster_size()
        }
    }

    /// Returns [`subcluster_size`](Self::subcluster_size), for buffers.
    pub fn subcluster_len(self) -> usize {
        usize::try_from(self.subcluster_size()).unwrap_or(usize::MAX)
    }

    /// Returns the index within its cluster of the subcluster at a guest offset, or 0 without subclusters.
    pub fn subcluster_index(self, offset: GuestOffset) -> u32 {
        let index = self.within_cluster(offset.0) / self.subcluster_size();
        // The index is below 32, so the conversion can't fail.
        u32::try_from(index).unwrap_or(0)
    }

    /// Returns the size of an L2 entry in bytes.
    pub fn l2_entry_size(self) -> u64 {
        self.cluster_size() / self.l2_entries()
    }

    /// Returns the number of guest clusters that one L2 table maps.
    pub fn l2_entries(self) -> u64 {
        1 << self.l2_bits
    }

    /// Returns the number of guest bytes that one L2 table maps.
    pub fn l2_coverage(self) -> u64 {
        1 << (self.l2_bits + self.cluster_bits)
    }

    /// Returns the number of guest bytes that one slice of an L2 table maps on a disk of `size` bytes. A slice is the
    /// unit in which QEMU caches L2 tables. It is the whole table if its cache of 32 MiB holds all tables, else 4
    /// KiB.
    pub fn qemu_slice_coverage(self, size: u64) -> u64 {
        let tables = self.l1_entries(size).saturating_mul(self.cluster_size());
        if tables <= 32 << 20 {
            self.l2_coverage()
        } else {
            self.l2_coverage() >> self.cluster_bits.saturating_sub(12)
        }
    }

    /// Returns the number of bits of one refcount.
    pub fn refcount_bits(self) -> u32 {
        1 << self.refcount_order
    }

    /// Returns the highest refcount that the image can store.
    pub fn max_refcount(self) -> u64 {
        u64::MAX >> (64 - self.refcount_bits())
    }

    /// Returns the number of refcounts in one refcount block.
    pub fn refcount_block_entries(self) -> u64 {
        1 << (self.cluster_bits + 3 - self.refcount_order)
    }

    /// Returns the number of L1 entries that a disk of `size` bytes needs.
    pub fn l1_entries(self, size: u64) -> u64 {
        size.div_ceil(self.l2_coverage())
    }

    /// Returns the number of clusters for `bytes` bytes.
    pub fn clusters(self, bytes: u64) -> u64 {
        bytes.div_ceil(self.cluster_size())
    }

    /// Returns the index of the guest cluster at an offset.
    pub fn guest_cluster(self, offset: GuestOffset) -> u64 {
        offset.0 >> self.cluster_bits
    }

    /// Returns the index in the L1 table for a guest offset.
    pub fn l1_index(self, offset: GuestOffset) -> u64 {
        offset.0 >> (self.l2_bits + self.cluster_bits)
    }

    /// Returns the index in its L2 table for a guest offset.
    pub fn l2_index(self, offset: GuestOffset) -> usize {
        self.l2_index_of_cluster(self.guest_cluster(offset))
    }

    /// Returns the index in its L2 table for the guest cluster with index `cluster`.
    pub fn l2_index_of_cluster(self, cluster: u64) -> usize {
        // A table has at most 2^18 entries, so the conversion can't fail.
        usize::try_from(cluster & (self.l2_entries() - 1)).unwrap_or(0)
    }

    /// Returns the first guest offset that L1 entry `l1_index` maps, or `u64::MAX` on overflow.
    pub fn guest_start_of_l1(self, l1_index: u64) -> GuestOffset {
        GuestOffset(l1_index.saturating_mul(self.l2_coverage()))
    }

    /// Returns the distance of an offset from the start of its cluster, in bytes.
    pub fn within_cluster(self, offset: u64) -> u64 {
        offset & (self.cluster_size() - 1)
    }

    /// Returns true if a host offset is cluster-aligned.
    pub fn is_aligned(self, offset: HostOffset) -> bool {
        self.within_cluster(offset.0) == 0
    }

    /// Returns the index of the host cluster at an offset.
    pub fn host_cluster(self, offset: HostOffset) -> u64 {
        offset.0 >> self.cluster_bits
    }

    /// Returns the host offset of host cluster `number`, or `None` from 2^64 on.
    pub fn host_offset(self, number: u64) -> Option<HostOffset> {
        number.checked_mul(self.cluster_size()).map(HostOffset)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn default_geometry() {
        let geometry = Geometry::new(16, false, 4).unwrap();
        assert_eq!(geometry.cluster_size(), 65536);
        assert_eq!(geometry.l2_entries(), 8192);
        assert_eq!(geometry.l2_coverage(), 512 << 20);
        assert_eq!(geometry.refcount_block_entries(), 32768);
        assert_eq!(geometry.l1_entries((512 << 20) + 1), 2);
        let offset = GuestOffset((512 << 20) + 3 * 65536 + 7);
        assert_eq!(geometry.l1_index(offset), 1);
        assert_eq!(geometry.l2_index(offset), 3);
        assert_eq!(geometry.within_cluster(offset.0), 7);
    }

    #[test]
    fn what_qemu_looks_at_together_depends_on_the_size_of_all_tables() {
        let geometry = Geometry::new(16, false, 4).unwrap();
        assert_eq!(geometry.qemu_slice_coverage(256 << 30), 512 << 20);
        assert_eq!(geometry.qemu_slice_coverage((256 << 30) + 1), 32 << 20);
        let smallest = Geometry::new(9, false, 4).unwrap();
        assert_eq!(
            smallest.qemu_slice_coverage(1 << 40),
            smallest.l2_coverage()
        );
    }

    #[test]
    fn limits() {
        assert!(Geometry::new(8, false, 4).is_none());
        assert!(Geometry::new(22, false, 4).is_none());
        assert!(Geometry::new(16, false, 7).is_none());
        let smallest = Geometry::new(9, false, 4).unwrap();
        assert_eq!(smallest.l2_entries(), 64);
        assert_eq!(smallest.refcount_block_entries(), 256);
        let extended = Geometry::new(16, true, 0).unwrap();
        assert_eq!(extended.l2_entries(), 4096);
        assert_eq!(extended.subcluster_size(), 2048);
        assert_eq!(extended.subcluster_index(GuestOffset(65536 + 4097)), 2);
        assert!(!smallest.has_subclusters());
        assert_eq!(smallest.subcluster_size(), 512);
        assert_eq!(smallest.subcluster_index(GuestOffset(511)), 0);
        assert_eq!(extended.refcount_block_entries(), 524_288);
    }
}
