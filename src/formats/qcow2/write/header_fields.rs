//! Changes to the header of an image in use.
//!
//! Only single fields are written, where they stand; everything else of the header cluster stays
//! byte for byte as it was, header extensions that nobody knows among them. Each field lies inside
//! one sector, so a power cut leaves the old value or the new one. (What adds an extension to the
//! header is `header_room`.)

use super::super::header::TablePlace;
use crate::error::Result;
use crate::storage::Storage;

/// Where the offset of the backing file's name stands.
const BACKING_NAME: u64 = 8;
/// Where the refcount table's offset and, behind it, its length in clusters stand.
const REFCOUNT_TABLE: u64 = 48;
/// Where the incompatible features stand; version 3 only.
const INCOMPATIBLE: u64 = 72;
/// Where the autoclear features stand; version 3 only.
const AUTOCLEAR: u64 = 88;

/// Points the header to another refcount table, of so many clusters.
pub(super) fn set_refcount_table(
    storage: &dyn Storage,
    place: TablePlace,
    clusters: u32,
) -> Result<()> {
    let mut fields = place.host.0.to_be_bytes().to_vec();
    fields.extend(clusters.to_be_bytes());
    storage.write_at(REFCOUNT_TABLE, &fields)
}

/// Sets all incompatible features of a version 3 image.
pub(super) fn set_incompatible(storage: &dyn Storage, features: u64) -> Result<()> {
    storage.write_at(INCOMPATIBLE, &features.to_be_bytes())
}

/// Sets all autoclear features of a version 3 image.
pub(super) fn set_autoclear(storage: &dyn Storage, features: u64) -> Result<()> {
    storage.write_at(AUTOCLEAR, &features.to_be_bytes())
}

/// Sets where in the header cluster the backing file's name starts.
pub(super) fn set_backing_name_offset(storage: &dyn Storage, offset: u64) -> Result<()> {
    storage.write_at(BACKING_NAME, &offset.to_be_bytes())
}
