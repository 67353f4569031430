//! The size of a new image's file, computed before the image is made.
//!
//! The numbers are those of `qemu-img measure`, which are an upper bound. Metadata is counted for every cluster of
//! the disk, even for unallocated ones, and L1 and L2 tables are rounded up.

use super::bitmaps::entry_length;
use super::create_options::NewQcow2Options;
use super::geometry::{ENTRY_SIZE, Geometry, MAX_L1_BYTES};
use super::header::Version;
use super::new::refcounts::refcount_clusters;
use crate::error::{Error, Result};
use crate::formats::Image;
use crate::formats::bitmaps::PersistentBitmap;
use crate::formats::driver::{Contents, Measured};
use crate::formats::encryption::luks::LuksOptions;
use crate::formats::encryption::{EncryptionFormat, missing_secret};
use crate::options::Values;
use crate::units::{GuestOffset, SECTOR_SIZE};

/// Measures a new image with the given options. They are interpreted as by `qemu-img measure`, which knows fewer
/// names of versions and ignores some options.
///
/// # Errors
/// Returns an error if a value is out of range, if options exclude each other, or if an encryption lacks its secret.
/// Returns an error if the source's metadata can't be read.
pub(super) fn measure_contents(values: &Values, contents: &Contents<'_>) -> Result<Measured> {
    let (options, geometry, allocated) = measured_options(values)?;
    // A value of `size` that is too large is refused, although the source or `--size` determines the size.
    let size = values.number("size");
    let size = size.and_then(|size| size.checked_next_multiple_of(geometry.cluster_size()));
    measure(geometry, size.unwrap_or(0), 0)?;

    let size = contents.size.next_multiple_of(SECTOR_SIZE);
    let is_backed = values.text("backing_file").is_some();
    let data = match contents.image {
        _ if allocated => all(geometry, size),
        None => 0,
        // It is unknown which clusters the backing file has in common with the source.
        Some(_) if is_backed => all(geometry, size),
        Some(image) => stored(image, geometry)?,
    };
    let bitmaps = match contents.bitmaps {
        Some(bitmaps) if options.version == Version::V3 => {
            Some(measure_bitmaps(geometry, size, &bitmaps.list()?))
        }
        _ => None,
    };
    // As in QEMU, the clusters of the encryption header aren't counted in the refcounts.
    let header = options.encryption_header().map_or(0, |place| place.length);
    let header = geometry.clusters(header) * geometry.cluster_size();
    let measured = measure(geometry, size, data)?;
    Ok(Measured {
        bitmaps,
        required: measured.required.saturating_add(header),
        fully_allocated: measured.fully_allocated.saturating_add(header),
    })
}

/// Returns the options that affect the size, the geometry, and true if all clusters are allocated.
fn measured_options(values: &Values) -> Result<(NewQcow2Options, Geometry, bool)> {
    let defaults = NewQcow2Options::new(0);
    let mut options = NewQcow2Options {
        cluster_size: values
            .number("cluster_size")
            .unwrap_or(defaults.cluster_size),
        extended_l2: values.switch("extended_l2") == Some(true),
        ..defaults.clone()
    };
    options.check()?;
    let allocated = match values.text("preallocation") {
        None | Some("off" | "metadata") => false,
        Some("falloc" | "full") => true,
        Some(other) => {
            return Err(Error::invalid(format!("invalid parameter value: {other}")));
        }
    };
    if values.text("encrypt.format") == Some("luks") {
        if values.text("encrypt.key-secret").is_none() {
            return Err(missing_secret());
        }
        options.encryption = Some(EncryptionFormat::Luks);
        options.luks = LuksOptions::of(values, "encrypt.")?;
    }
    let version = match values.text("compat") {
        None | Some("1.1") => Version::V3,
        Some("0.10") => Version::V2,
        Some(other) => {
            return Err(Error::invalid(format!(
                "Invalid compatibility level: '{other}'"
            )));
        }
    };
    options.refcount_bits = values
        .number("refcount_bits")
        .unwrap_or(defaults.refcount_bits);
    let geometry = options.check()?;
    if version == Version::V2 && options.refcount_bits != defaults.refcount_bits {
        return Err(Error::invalid(
            "Different refcount widths than 16 bits require compatibility level 1.1 or above \
             (use compat=1.1 or greater)",
        ));
    }
    options.version = version;
    Ok((options, geometry, allocated))
}

/// Returns the size of a disk in bytes, rounded up to whole clusters.
fn all(geometry: Geometry, size: u64) -> u64 {
    geometry
        .clusters(size)
        .saturating_mul(geometry.cluster_size())
}

/// Returns the number of bytes of the clusters with data that isn't known to be zero.
fn stored(image: &dyn Image, geometry: Geometry) -> Result<u64> {
    let cluster = geometry.cluster_size();
    let size = image.size();
    let mut clusters = 0;
    let mut position = 0;
    while position < size {
        let status = image.status_at(GuestOffset(position), size - position)?;
        let end = position + status.length;
        if status.zero {
            position = end;
            continue;
        }
        // The rest of the last cluster makes no difference.
        clusters += end.div_ceil(cluster) - position / cluster;
        position = end.next_multiple_of(cluster);
    }
    Ok(clusters * cluster)
}

/// Measures an image with a disk of `size` bytes, of which `data` bytes, in whole clusters, are allocated.
///
/// # Errors
/// Returns an error if the format doesn't support a disk of that size with that geometry.
fn measure(geometry: Geometry, size: u64, data: u64) -> Result<Measured> {
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
            bitmaps: None,
        })
    };
    sizes().ok_or_else(|| Error::invalid("the image's file is too big"))
}

/// Returns the number of bytes for the bitmaps of a disk of `size` bytes: their bits, their tables, and the
/// directory.
fn measure_bitmaps(geometry: Geometry, size: u64, bitmaps: &[PersistentBitmap]) -> u64 {
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
                ..
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
