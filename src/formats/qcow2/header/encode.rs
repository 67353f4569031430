//! The encoding of the header of a new image, and the check that it fits into its cluster.

use super::extensions;
use super::features;
use super::fields::{MAGIC, MAX_BACKING_NAME, V2_LENGTH, V3_LENGTH};
use super::{CompressionType, TablePlace, Version};
use crate::error::{Error, Result, printable};
use crate::formats::encryption::EncryptionFormat;
use crate::formats::qcow2::create_options::NewQcow2Options;
use crate::formats::qcow2::geometry::{ENTRY_SIZE, Geometry};
use crate::storage::Storage;
use crate::units::{HostOffset, SECTOR_SIZE};

/// The largest cluster size for which the header has no feature name table, in bytes.
const LARGEST_WITHOUT_NAMES: u64 = 4096;

/// Encodes the header, with its fields in the order of the specification.
///
/// # Errors
/// Returns an error if the size of a table doesn't fit into its field.
pub(in crate::formats::qcow2) fn bytes(
    options: &NewQcow2Options,
    geometry: Geometry,
    l1: HostOffset,
    refcount_table: TablePlace,
) -> Result<Vec<u8>> {
    let too_big = |_| Error::invalid("header field out of range");
    let extensions = extension_area(options);
    let fixed_length = fixed_length(options.version);
    let name = options.backing_name();
    let name_offset = match name {
        [] => 0,
        _ => u64::from(fixed_length) + extensions.len() as u64,
    };
    let name_length = u32::try_from(name.len()).map_err(too_big)?;
    let l1_entries = u32::try_from(geometry.l1_entries(options.size)).map_err(too_big)?;
    let table_bytes = refcount_table.entries * ENTRY_SIZE;
    let table_clusters = u32::try_from(table_bytes / geometry.cluster_size()).map_err(too_big)?;
    let crypt_method: u32 = match options.encryption {
        None => 0,
        Some(EncryptionFormat::Aes) => 1,
        Some(EncryptionFormat::Luks) => 2,
    };
    let version: u32 = match options.version {
        Version::V2 => 2,
        Version::V3 => 3,
    };
    let mut header = Vec::with_capacity(512);
    header.extend(MAGIC);
    header.extend(version.to_be_bytes());
    header.extend(name_offset.to_be_bytes());
    header.extend(name_length.to_be_bytes());
    header.extend(geometry.cluster_bits().to_be_bytes());
    header.extend(options.size.next_multiple_of(SECTOR_SIZE).to_be_bytes());
    header.extend(crypt_method.to_be_bytes());
    header.extend(l1_entries.to_be_bytes());
    header.extend(l1.0.to_be_bytes());
    header.extend(refcount_table.host.0.to_be_bytes());
    header.extend(table_clusters.to_be_bytes());
    header.extend(0u32.to_be_bytes()); // number of snapshots
    header.extend(0u64.to_be_bytes()); // snapshot table offset
    debug_assert_eq!(header.len(), V2_LENGTH as usize);
    if options.version == Version::V3 {
        let zstd = options.compression == CompressionType::Zstd;
        let bit = |is_set, bit| if is_set { bit } else { 0 };
        let incompatible = bit(zstd, features::COMPRESSION)
            | bit(options.extended_l2, features::EXTENDED_L2)
            | bit(options.data_file.is_some(), features::DATA_FILE);
        let compatible = bit(options.lazy_refcounts, features::LAZY_REFCOUNTS);
        let autoclear = bit(options.data_file_raw, features::DATA_FILE_RAW);
        header.extend(incompatible.to_be_bytes());
        header.extend(compatible.to_be_bytes());
        header.extend(autoclear.to_be_bytes());
        header.extend(options.refcount_bits.trailing_zeros().to_be_bytes());
        header.extend(V3_LENGTH.to_be_bytes());
        header.push(u8::from(zstd));
        header.extend([0; 7]);
        debug_assert_eq!(header.len(), V3_LENGTH as usize);
    }
    header.extend(extensions);
    header.extend(name);
    Ok(header)
}

fn fixed_length(version: Version) -> u32 {
    match version {
        Version::V2 => V2_LENGTH,
        Version::V3 => V3_LENGTH,
    }
}

/// Encodes the header extensions in QEMU's order. Version 2 has all but those that belong to features. The feature
/// name table is optional, and is left out if clusters are small.
fn extension_area(options: &NewQcow2Options) -> Vec<u8> {
    let mut area = Vec::new();
    let format = options.backing.as_ref().and_then(|it| it.format.as_deref());
    if let Some(format) = format {
        extensions::append(&mut area, extensions::BACKING_FORMAT, format.as_bytes());
    }
    if let Some(name) = &options.data_file {
        extensions::append(&mut area, extensions::DATA_FILE, name);
    }
    if let Some(place) = options.encryption_header() {
        let place = [place.host.0.to_be_bytes(), place.length.to_be_bytes()];
        extensions::append(&mut area, extensions::CRYPTO, place.as_flattened());
    }
    if options.version == Version::V3 && options.cluster_size > LARGEST_WITHOUT_NAMES {
        let names = features::name_table();
        extensions::append(&mut area, extensions::FEATURE_NAMES, &names);
    }
    extensions::append(&mut area, extensions::END, &[]);
    area
}

/// Checks that the header fits into its cluster. Writes nothing.
///
/// # Errors
/// Returns an error, in `qemu-img`'s words, if it doesn't, or if the backing file's name is longer than the format
/// allows.
pub(in crate::formats::qcow2) fn check_space(options: &NewQcow2Options) -> Result<()> {
    let without_name =
        u64::from(fixed_length(options.version)) + extension_area(options).len() as u64;
    let name = options.backing_name();
    let could_not_assign = |why| {
        let format = options.backing.as_ref().and_then(|it| it.format.as_deref());
        let with_format = format.map(|format| format!(" with format '{format}'"));
        Error::invalid(format!(
            "Could not assign backing file '{}'{}: {why}",
            printable(&String::from_utf8_lossy(name)),
            with_format.unwrap_or_default()
        ))
    };
    if name.len() > MAX_BACKING_NAME as usize {
        return Err(could_not_assign("Invalid argument"));
    }
    if without_name + name.len() as u64 <= options.cluster_size {
        return Ok(());
    }
    Err(match name {
        [] => Error::invalid("Could not update qcow2 header: No space left on device"),
        _ => could_not_assign("No space left on device"),
    })
}

/// Overwrites the header of an earlier image on a device, which must not remain when the clusters that it refers to
/// are overwritten.
///
/// # Errors
/// Returns the system's error.
pub(in crate::formats::qcow2) fn wipe(storage: &dyn Storage, geometry: Geometry) -> Result<()> {
    storage.write_at(0, &vec![0; geometry.cluster_len()])?;
    storage.flush()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::formats::qcow2::Backing;

    fn options(cluster_size: u64, version: Version, name: usize) -> NewQcow2Options {
        NewQcow2Options {
            cluster_size,
            version,
            backing: Some(Backing {
                name: vec![b'n'; name],
                format: Some("raw".to_owned()),
                size: 0,
            }),
            ..NewQcow2Options::new(1 << 20)
        }
    }

    fn header(options: &NewQcow2Options) -> Vec<u8> {
        let geometry = options.check().unwrap();
        let refcount_table = TablePlace {
            host: HostOffset(0),
            entries: geometry.cluster_size() / ENTRY_SIZE,
        };
        bytes(options, geometry, HostOffset(0), refcount_table).unwrap()
    }

    #[test]
    fn the_backing_file_is_named_behind_the_extensions() {
        let extension = [
            0xe2, 0x79, 0x2a, 0xca, 0, 0, 0, 3, b'r', b'a', b'w', 0, 0, 0, 0, 0,
        ];
        for (version, start) in [(Version::V2, 72), (Version::V3, 112)] {
            let bytes = header(&options(512, version, 5));
            let name = start + 24;
            assert_eq!(bytes[start..start + 16], extension);
            assert_eq!(bytes[start + 16..name], [0; 8]);
            assert_eq!(&bytes[name..], b"nnnnn");
            assert_eq!(bytes[8..16], (name as u64).to_be_bytes());
            assert_eq!(bytes[16..20], [0, 0, 0, 5]);
        }
        let without = header(&NewQcow2Options::new(1 << 20));
        assert_eq!(without[8..20], [0; 12]);
    }

    #[test]
    fn a_data_file_has_its_extension_and_bits() {
        let options = NewQcow2Options {
            data_file: Some(b"data".to_vec()),
            data_file_raw: true,
            extended_l2: true,
            cluster_size: 16384,
            ..NewQcow2Options::new(1 << 20)
        };
        let bytes = header(&options);
        assert_eq!(bytes[72..80], [0, 0, 0, 0, 0, 0, 0, 0b1_0100]);
        assert_eq!(bytes[88..96], [0, 0, 0, 0, 0, 0, 0, 0b10]);
        assert_eq!(&bytes[112..128], b"DATA\0\0\0\x04data\0\0\0\0");
        assert_eq!(bytes[128..136], [0x68, 0x03, 0xf8, 0x57, 0, 0, 1, 0x80]);
    }

    #[test]
    fn everything_has_to_fit_into_the_cluster() {
        let error = |options: NewQcow2Options| options.check().unwrap_err().to_string();
        assert_eq!(header(&options(512, Version::V3, 376)).len(), 512);
        let message = error(options(512, Version::V3, 377));
        assert!(message.ends_with("n' with format 'raw': No space left on device"));
        assert_eq!(
            header(&options(65536, Version::V3, 1023)).len(),
            136 + 392 + 1023
        );
        let message = error(options(65536, Version::V3, 1024));
        assert!(message.ends_with("n' with format 'raw': Invalid argument"));
        let long = NewQcow2Options {
            data_file: Some(vec![b'd'; 385]),
            cluster_size: 512,
            ..NewQcow2Options::new(1 << 20)
        };
        assert_eq!(
            error(long),
            "Could not update qcow2 header: No space left on device"
        );
    }
}
