//! The copying of another image's bitmaps to an image.

use std::sync::Arc;

use super::super::bitmaps::read_bitmaps;
use super::super::header::Header;
use super::bitmap_directory::{DirectoryChange, check_count, check_length, without_table};
use super::open::refuse_corrupt;
use crate::error::{Error, Result, printable};
use crate::formats::bitmaps::PersistentBitmap;
use crate::storage::Storage;

/// Adds copies of another image's bitmaps to the image with this header, which must not be open elsewhere. With
/// `flush`, the changes are flushed to stable storage.
///
/// # Errors
/// Returns an error if a name is taken, if the version has no bitmaps, or if the header has no space; nothing was
/// written then. Returns an error if metadata of either image is damaged, or the system's error.
pub fn copy_bitmaps(
    storage: &Arc<dyn Storage>,
    header: &Header,
    copied: &[PersistentBitmap],
    flush: bool,
) -> Result<()> {
    if copied.is_empty() {
        return Ok(());
    }
    refuse_corrupt(header)?;
    check_count(header, copied.len())?;
    let mut all = read_bitmaps(storage.as_ref(), header)?;
    let first = all.len();
    for bitmap in copied {
        let name = String::from_utf8_lossy(&bitmap.name);
        let name = printable(&name);
        if all.iter().any(|other| other.name == bitmap.name) {
            return Err(Error::invalid(format!("Bitmap already exists: {name}")));
        }
        check_length(bitmap.granularity, header)
            .map_err(|error| error.context(format!("bitmap '{name}'")))?;
        all.push(without_table(&bitmap.name, bitmap.granularity, bitmap.auto));
    }
    let mut change = DirectoryChange::begin(storage, header, all.len(), flush)?;
    for (bitmap, copied) in all.iter_mut().skip(first).zip(copied) {
        bitmap.table = change.store_bits(bitmap, copied.bits.as_ref())?;
    }
    change.finish(&all, &[])
}
