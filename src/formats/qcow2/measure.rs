//! How big the file of a new image will be, before there is one.
//!
//! The numbers are `qemu-img measure`'s, which are an upper bound: metadata is counted for every cluster
//! of the disk, L1 and L2 tables rounded up, whatever is stored.

use super::bitmaps::entry_length;
use super::geometry::{ENTRY_SIZE, Geometry, MAX_L1_BYTES};
use super::new_refcounts::refcount_clusters;
use crate::error::{Error, Result};
use crate::formats::bitmaps::PersistentBitmap;

/// How big a file will be, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Measured {
    /// With the data that there is.
    pub required: u64,
    /// With data everywhere.
    pub fully_allocated: u64,
}

/// Measures an image of a disk of `size` bytes of which `data` bytes, in whole clusters, are stored.
///
/// # Errors
/// The format can't have a disk of that size with that geometry.
pub fn measure(geometry: Geometry, size: u64, data: u64) -> Result<Measured> {
    let clusters = geometry.clusters(size);
    let l2_tables = geometry.l1_entries(size);
    if l2_tables > MAX_L1_BYTES / ENTRY_SIZE {
        return Err(Error::invalid(
            "The image size is too large (try using a larger cluster size)",
        ));
    }
    let l1_clusters = geometry.clusters(l2_tables * ENTRY_SIZE);
    let others = 1 + l1_clusters + l2_tables + clusters;
    let (blocks, table) = refcount_clusters(geometry, others);
    let bytes = |clusters: u64| clusters.checked_mul(geometry.cluster_size());
    let sizes = || {
        let fully_allocated = bytes(others + blocks + table)?;
        let metadata = fully_allocated.checked_sub(bytes(clusters)?)?;
        Some(Measured {
            required: metadata.checked_add(data)?,
            fully_allocated,
        })
    };
    sizes().ok_or_else(|| Error::invalid("the image's file is too big"))
}

/// How many bytes bitmaps of a disk of `size` bytes take: the bits, their tables, and the directory.
pub fn measure_bitmaps(geometry: Geometry, size: u64, bitmaps: &[PersistentBitmap]) -> u64 {
    let mut clusters = 0;
    let mut directory = 0;
    for bitmap in bitmaps {
        let bits = size.div_ceil(bitmap.granularity);
        let stored = geometry.clusters(bits.div_ceil(8));
        clusters += stored + geometry.clusters(stored * ENTRY_SIZE);
        directory += entry_length(bitmap.name.len());
    }
    (clusters + geometry.clusters(directory)) * geometry.cluster_size()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_what_qemu_img_measures() {
        let measured = |bits, size, data| {
            let geometry = Geometry::new(bits, false, 4).unwrap();
            let Measured {
                required,
                fully_allocated,
            } = measure(geometry, size, data).unwrap();
            (required, fully_allocated)
        };
        assert_eq!(measured(16, 0, 0), (196_608, 196_608));
        assert_eq!(measured(16, 1 << 20, 0), (327_680, 1_376_256));
        assert_eq!(measured(16, 1 << 40, 0).1, 1_099_679_662_080);
    }

    #[test]
    fn a_disk_that_is_too_large_is_refused() {
        let geometry = Geometry::new(16, false, 4).unwrap();
        assert!(measure(geometry, 7 << 60, 0).is_err());
    }
}
