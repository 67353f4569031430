//! Emptying an image whose backing file holds all of its disk.
//!
//! Its tables and clusters are given back as those behind the end of a disk that gets smaller, and the file is cut
//! off. Each part of the disk reads the same from the image and from its backing file, so a power cut does no harm.
//! Bits of bitmaps aren't set: what the disk holds doesn't change. Internal snapshots keep what they share.

use std::sync::Arc;

use crate::error::Result;
use crate::formats::qcow2::header::Header;
use crate::formats::qcow2::repaired_header;
use crate::formats::qcow2::write::WritableQcow2;
use crate::formats::qcow2::write::open::{Qcow2WriteParts, refuse_corrupt, refuse_damaged};
use crate::storage::Storage;

/// Makes the image that `header` was read from, which nobody else may have open, store nothing of its disk.
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
    // Clusters that are counted too low would be cut off with the rest of the file.
    refuse_damaged(storage.as_ref(), header)?;
    let image = WritableQcow2::open(Arc::clone(storage), header, options)?;
    image.lock().bitmaps.set_aside();
    image.crop(0)?;
    if image.is_external {
        // What can't be given back stays, and isn't read any more.
        image.clusters.storage().punch(0..image.size)?;
    }
    let size = image.size;
    image.close_and_cut(size)
}
