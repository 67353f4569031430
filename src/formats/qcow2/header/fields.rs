//! The offsets of the header's fields, and updates of single fields of an existing image.
//!
//! An update writes only its field. The rest of the header cluster, including unknown header extensions, stays
//! unchanged. Each field is within one sector, so that a power cut leaves the old or the new value. The module
//! `extension_slot` adds a header extension.

use super::places::TablePlace;
use crate::error::{Error, Result};
use crate::storage::Storage;
use crate::units::HostOffset;

/// The magic number of qcow2: `QFI\xfb`.
pub(in crate::formats::qcow2) const MAGIC: [u8; 4] = *b"QFI\xfb";
/// The length of a version 2 header in bytes, which is the shortest header.
pub(in crate::formats::qcow2) const V2_LENGTH: u32 = 72;
/// The smallest length of a version 3 header in bytes.
pub(in crate::formats::qcow2) const V3_MIN_LENGTH: u32 = 104;
/// The length of a version 3 header with the compression type in bytes, as QEMU writes it.
pub(in crate::formats::qcow2) const V3_LENGTH: u32 = 112;

/// The offset of `backing_file_offset`.
const BACKING_NAME_FIELD: u64 = 8;
/// The offset of `size`.
const SIZE_FIELD: u64 = 24;
/// The offset of `l1_size`, which `l1_table_offset` follows.
const L1_FIELD: u64 = 36;
/// The offset of `refcount_table_offset`, which `refcount_table_clusters` follows.
pub(in crate::formats::qcow2) const REFCOUNT_TABLE_FIELD: u64 = 48;
/// The offset of `nb_snapshots`, which `snapshots_offset` follows.
const SNAPSHOTS_FIELD: u64 = 60;
/// The offset of `incompatible_features`.
pub(in crate::formats::qcow2) const INCOMPATIBLE_FIELD: u64 = 72;
/// The offset of `compatible_features`.
const COMPATIBLE_FIELD: u64 = 80;
/// The offset of `autoclear_features`.
pub(in crate::formats::qcow2) const AUTOCLEAR_FIELD: u64 = 88;
/// The longest name of a backing file, in bytes.
pub(in crate::formats::qcow2) const MAX_BACKING_NAME: u32 = 1023;

/// Stores the place of the refcount table: its host offset and its length in clusters.
///
/// # Errors
/// Returns the system's error.
pub(in crate::formats::qcow2) fn set_refcount_table(
    storage: &dyn Storage,
    host: HostOffset,
    clusters: u32,
) -> Result<()> {
    let mut fields = host.0.to_be_bytes().to_vec();
    fields.extend(clusters.to_be_bytes());
    storage.write_at(REFCOUNT_TABLE_FIELD, &fields)
}

/// Stores the place of the refcount table and the refcount order of a version 3 image: refcounts have 2^`order` bits.
/// All of these fields are in one sector, and are written at once.
///
/// # Errors
/// Returns the system's error. Returns an error if the file ends inside the header.
pub(in crate::formats::qcow2) fn set_refcounts(
    storage: &dyn Storage,
    host: HostOffset,
    clusters: u32,
    order: u32,
) -> Result<()> {
    // The bytes include `refcount_order` at byte 96.
    let mut fields = [0; 52];
    storage.read_exact_at(REFCOUNT_TABLE_FIELD, &mut fields, "the header")?;
    let (table, rest) = fields.split_at_mut(12);
    let (start, end) = table.split_at_mut(8);
    start.copy_from_slice(&host.0.to_be_bytes());
    end.copy_from_slice(&clusters.to_be_bytes());
    let (_, width) = rest.split_at_mut(rest.len() - 4);
    width.copy_from_slice(&order.to_be_bytes());
    storage.write_at(REFCOUNT_TABLE_FIELD, &fields)
}

/// Stores the number of snapshots and the host offset of the snapshot table.
///
/// # Errors
/// Returns the system's error.
pub(in crate::formats::qcow2) fn set_snapshots(
    storage: &dyn Storage,
    count: u32,
    table: HostOffset,
) -> Result<()> {
    let field = [&count.to_be_bytes()[..], &table.0.to_be_bytes()].concat();
    storage.write_at(SNAPSHOTS_FIELD, &field)
}

/// Stores the size of the disk in bytes and the place of the L1 table in one write.
///
/// # Errors
/// Returns the system's error. Returns an error if the file ends inside the header, or if the table has more entries
/// than the field holds.
pub(in crate::formats::qcow2) fn set_size_and_l1(
    storage: &dyn Storage,
    size: u64,
    l1: TablePlace,
) -> Result<()> {
    let mut encryption = [0; 4];
    storage.read_exact_at(SIZE_FIELD + 8, &mut encryption, "the header")?;
    let mut fields = size.to_be_bytes().to_vec();
    fields.extend(encryption);
    fields.extend(l1_fields(l1)?);
    storage.write_at(SIZE_FIELD, &fields)
}

/// Stores the size of the disk in bytes.
///
/// # Errors
/// Returns the system's error.
pub(in crate::formats::qcow2) fn set_size(storage: &dyn Storage, size: u64) -> Result<()> {
    storage.write_at(SIZE_FIELD, &size.to_be_bytes())
}

/// Stores the place of the L1 table.
///
/// # Errors
/// Returns an error if the table has more entries than the field holds, or the system's error.
pub(in crate::formats::qcow2) fn set_l1(storage: &dyn Storage, place: TablePlace) -> Result<()> {
    storage.write_at(L1_FIELD, &l1_fields(place)?)
}

/// Encodes `l1_size` and `l1_table_offset`.
fn l1_fields(place: TablePlace) -> Result<Vec<u8>> {
    let entries = u32::try_from(place.entries).map_err(|_| Error::invalid("L1 table too large"))?;
    Ok([&entries.to_be_bytes()[..], &place.host.0.to_be_bytes()].concat())
}

/// Stores the incompatible features of a version 3 image.
///
/// # Errors
/// Returns the system's error.
pub(in crate::formats::qcow2) fn set_incompatible(
    storage: &dyn Storage,
    features: u64,
) -> Result<()> {
    storage.write_at(INCOMPATIBLE_FIELD, &features.to_be_bytes())
}

/// Stores the compatible features of a version 3 image.
///
/// # Errors
/// Returns the system's error.
pub(in crate::formats::qcow2) fn set_compatible(
    storage: &dyn Storage,
    features: u64,
) -> Result<()> {
    storage.write_at(COMPATIBLE_FIELD, &features.to_be_bytes())
}

/// Stores the autoclear features of a version 3 image.
///
/// # Errors
/// Returns the system's error.
pub(in crate::formats::qcow2) fn set_autoclear(storage: &dyn Storage, features: u64) -> Result<()> {
    storage.write_at(AUTOCLEAR_FIELD, &features.to_be_bytes())
}

/// Stores the offset of the backing file's name in the header cluster, in bytes.
///
/// # Errors
/// Returns the system's error.
pub(in crate::formats::qcow2) fn set_backing_name_offset(
    storage: &dyn Storage,
    offset: u64,
) -> Result<()> {
    storage.write_at(BACKING_NAME_FIELD, &offset.to_be_bytes())
}
