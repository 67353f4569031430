//! Emptying an image whose backing file has the contents of its whole disk.
//!
//! Its tables and clusters are freed like those beyond the end of a disk that shrinks, and the file is truncated.
//! Each part of the disk reads the same from the image and from its backing file, so that a power cut does no harm.
//! Bits of bitmaps aren't set, since the disk's contents don't change. Internal snapshots keep the clusters that they
//! share.

use std::sync::Arc;

use crate::error::Result;
use crate::formats::qcow2::header::Header;
use crate::formats::qcow2::repaired_header;
use crate::formats::qcow2::write::WritableQcow2;
use crate::formats::qcow2::write::open::{Qcow2WriteParts, refuse_corrupt, refuse_damaged};
use crate::storage::Storage;

/// Removes all data of the disk from the image with this header, which must not be open elsewhere.
///
/// # Errors
/// Returns an error if metadata is damaged, or the system's error.
pub fn make_empty(
    storage: &Arc<dyn Storage>,
    header: &Header,
    options: Qcow2WriteParts,
) -> Result<()> {
    refuse_corrupt(header)?;
    let header = &*repaired_header(storage.as_ref(), header)?;
    // A cluster with a refcount that is too low could be truncated with the rest of the file.
    refuse_damaged(storage.as_ref(), header)?;
    let image = WritableQcow2::open(Arc::clone(storage), header, options)?;
    image.lock().bitmaps.stop_recording();
    image.crop(0)?;
    if image.is_external {
        // If the hole can't be punched, the data stays in the file and isn't read any more.
        image.clusters.storage().punch(0..image.size)?;
    }
    let size = image.size;
    image.close_and_cut(size)
}
