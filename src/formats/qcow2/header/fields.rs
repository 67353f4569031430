//! The places of the header's fields, and changes to single ones in an image in use.
//!
//! Only single fields are written, where they stand. Everything else of the header cluster stays
//! byte for byte as it was, header extensions that nobody knows among them. Each field lies inside
//! one sector, so a power cut leaves the old value or the new one. (`room` adds an extension to the
//! header.)

use super::places::TablePlace;
use crate::error::{Error, Result};
use crate::storage::Storage;
use crate::units::HostOffset;

/// The first four bytes of every qcow2 image.
pub(in crate::formats::qcow2) const MAGIC: [u8; 4] = *b"QFI\xfb";
/// The length of a version 2 header, and the least of any, in bytes.
pub(in crate::formats::qcow2) const V2_LENGTH: u32 = 72;
/// The least length of a version 3 header in bytes.
pub(in crate::formats::qcow2) const V3_MIN_LENGTH: u32 = 104;
/// The length of a version 3 header with the compression type, as written today.
pub(in crate::formats::qcow2) const V3_LENGTH: u32 = 112;

/// The place of the offset of the backing file's name.
const BACKING_NAME_FIELD: u64 = 8;
/// The place of the disk's size.
const SIZE_FIELD: u64 = 24;
/// The place of the number of the L1 table's entries and, behind it, its offset.
const L1_FIELD: u64 = 36;
/// The place of the refcount table's offset and, behind it, its number of clusters.
pub(in crate::formats::qcow2) const REFCOUNT_TABLE_FIELD: u64 = 48;
/// The place of the number of snapshots and, behind it, their table's offset.
const SNAPSHOTS_FIELD: u64 = 60;
/// The place of the incompatible features.
pub(in crate::formats::qcow2) const INCOMPATIBLE_FIELD: u64 = 72;
/// The place of the compatible features.
const COMPATIBLE_FIELD: u64 = 80;
/// The place of the autoclear features.
pub(in crate::formats::qcow2) const AUTOCLEAR_FIELD: u64 = 88;
/// The longest name of a backing file, in bytes.
pub(in crate::formats::qcow2) const MAX_BACKING_NAME: u32 = 1023;

/// Points the header to another refcount table, of so many clusters.
pub(in crate::formats::qcow2) fn set_refcount_table(
    storage: &dyn Storage,
    host: HostOffset,
    clusters: u32,
) -> Result<()> {
    let mut fields = host.0.to_be_bytes().to_vec();
    fields.extend(clusters.to_be_bytes());
    storage.write_at(REFCOUNT_TABLE_FIELD, &fields)
}

/// Points the header of a version 3 image to another refcount table, of so many clusters, whose refcounts are
/// 2^`order` bits wide. All of it is in one sector, and is written at once.
pub(in crate::formats::qcow2) fn set_refcounts(
    storage: &dyn Storage,
    host: HostOffset,
    clusters: u32,
    order: u32,
) -> Result<()> {
    // Up to and with the width, which is at byte 96.
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

/// Points the header to another snapshot table, of so many snapshots.
pub(in crate::formats::qcow2) fn set_snapshots(
    storage: &dyn Storage,
    count: u32,
    table: HostOffset,
) -> Result<()> {
    let field = [&count.to_be_bytes()[..], &table.0.to_be_bytes()].concat();
    storage.write_at(SNAPSHOTS_FIELD, &field)
}

/// Gives the disk another size, in bytes, and points the header to another L1 table, at once.
pub(in crate::formats::qcow2) fn set_size_and_l1(
    storage: &dyn Storage,
    size: u64,
    l1: TablePlace,
) -> Result<()> {
    let mut encryption = [0; 4];
    storage.read_exact_at(SIZE_FIELD + 8, &mut encryption, "the header")?;
    let entries = u32::try_from(l1.entries).unwrap_or(u32::MAX);
    let mut fields = size.to_be_bytes().to_vec();
    fields.extend(encryption);
    fields.extend(entries.to_be_bytes());
    fields.extend(l1.host.0.to_be_bytes());
    storage.write_at(SIZE_FIELD, &fields)
}

/// Sets the size of the disk, in bytes.
pub(in crate::formats::qcow2) fn set_size(storage: &dyn Storage, size: u64) -> Result<()> {
    storage.write_at(SIZE_FIELD, &size.to_be_bytes())
}

/// Points the header to another L1 table.
///
/// # Errors
/// Returns an error if the table has more entries than the field holds, or the system's error.
pub(in crate::formats::qcow2) fn set_l1(storage: &dyn Storage, place: TablePlace) -> Result<()> {
    let entries = u32::try_from(place.entries).map_err(|_| Error::invalid("L1 table too large"))?;
    let mut fields = entries.to_be_bytes().to_vec();
    fields.extend(place.host.0.to_be_bytes());
    storage.write_at(L1_FIELD, &fields)
}

/// Sets all incompatible features of a version 3 image.
pub(in crate::formats::qcow2) fn set_incompatible(
    storage: &dyn Storage,
    features: u64,
) -> Result<()> {
    storage.write_at(INCOMPATIBLE_FIELD, &features.to_be_bytes())
}

/// Sets all compatible features of a version 3 image.
pub(in crate::formats::qcow2) fn set_compatible(
    storage: &dyn Storage,
    features: u64,
) -> Result<()> {
    storage.write_at(COMPATIBLE_FIELD, &features.to_be_bytes())
}

/// Sets all autoclear features of a version 3 image.
pub(in crate::formats::qcow2) fn set_autoclear(storage: &dyn Storage, features: u64) -> Result<()> {
    storage.write_at(AUTOCLEAR_FIELD, &features.to_be_bytes())
}

/// Sets the offset in the header cluster at which the backing file's name starts.
pub(in crate::formats::qcow2) fn set_backing_name_offset(
    storage: &dyn Storage,
    offset: u64,
) -> Result<()> {
    storage.write_at(BACKING_NAME_FIELD, &offset.to_be_bytes())
}
