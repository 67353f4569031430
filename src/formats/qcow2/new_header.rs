//! The header of a new image, and the rule that it comes last.

use super::create_options::CreateOptions;
use super::extensions;
use super::features;
use super::geometry::Geometry;
use super::header::{CompressionType, EncryptionMethod, MAGIC, V2_LENGTH, V3_LENGTH, Version};
use super::new_refcounts::RefcountLayout;
use crate::error::{Error, Result};
use crate::storage::Storage;
use crate::units::{HostOffset, SECTOR_SIZE};

/// The header, field by field as the specification lists them.
///
/// # Errors
/// A table that is too big for its field.
pub(super) fn bytes(
    options: &CreateOptions,
    geometry: Geometry,
    l1: HostOffset,
    refcounts: &RefcountLayout,
) -> Result<Vec<u8>> {
    let too_big = |_| Error::invalid("header field out of range");
    let l1_entries = u32::try_from(geometry.l1_entries(options.size)).map_err(too_big)?;
    let table_clusters = u32::try_from(refcounts.table_clusters).map_err(too_big)?;
    let crypt_method: u32 = match options.encryption {
        EncryptionMethod::None => 0,
        EncryptionMethod::Aes => 1,
        EncryptionMethod::Luks => 2,
    };
    let version: u32 = match options.version {
        Version::V2 => 2,
        Version::V3 => 3,
    };
    let mut header = Vec::with_capacity(512);
    header.extend(MAGIC);
    header.extend(version.to_be_bytes());
    header.extend(0u64.to_be_bytes()); // backing file offset
    header.extend(0u32.to_be_bytes()); // backing file name length
    header.extend(geometry.cluster_bits().to_be_bytes());
    header.extend(options.size.next_multiple_of(SECTOR_SIZE).to_be_bytes());
    header.extend(crypt_method.to_be_bytes());
    header.extend(l1_entries.to_be_bytes());
    header.extend(l1.0.to_be_bytes());
    header.extend(refcounts.table.0.to_be_bytes());
    header.extend(table_clusters.to_be_bytes());
    header.extend(0u32.to_be_bytes()); // number of snapshots
    header.extend(0u64.to_be_bytes()); // snapshot table offset
    debug_assert_eq!(header.len(), V2_LENGTH as usize);
    if options.version == Version::V3 {
        let zstd = options.compression == CompressionType::Zstd;
        let incompatible = if zstd { features::COMPRESSION } else { 0 };
        let compatible = if options.lazy_refcounts {
            features::LAZY_REFCOUNTS
        } else {
            0
        };
        header.extend(incompatible.to_be_bytes());
        header.extend(compatible.to_be_bytes());
        header.extend(0u64.to_be_bytes()); // autoclear features
        header.extend(options.refcount_bits.trailing_zeros().to_be_bytes());
        header.extend(V3_LENGTH.to_be_bytes());
        header.push(u8::from(zstd));
        header.extend([0; 7]);
        debug_assert_eq!(header.len(), V3_LENGTH as usize);
        let names = features::name_table();
        extensions::append(&mut header, extensions::FEATURE_NAMES, &names);
    }
    extensions::append(&mut header, extensions::END, &[]);
    Ok(header)
}

/// Wipes the header of whatever was on a device before, which must not outlive what it points to.
///
/// # Errors
/// The system's error.
pub(super) fn wipe(storage: &dyn Storage, geometry: Geometry) -> Result<()> {
    storage.write_at(0, &vec![0; geometry.cluster_len()])?;
    storage.flush()
}

/// Writes the header of an image of which everything else is written. With `flush`, all of that is
/// on stable storage before the header is, so that a power cut can't leave a header without what it
/// points to; and so is the header in the end.
///
/// # Errors
/// The system's error.
pub(super) fn write_last(storage: &dyn Storage, header: &[u8], flush: bool) -> Result<()> {
    if flush {
        storage.flush()?;
    }
    storage.write_at(0, header)?;
    if flush {
        storage.flush()?;
    }
    Ok(())
}
