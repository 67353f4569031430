//! The change of one bitmap of an image: it is added, removed, or gets other bits or flags.
//!
//! The flags are in the directory, within one sector, and are overwritten in place. Any other change takes a new
//! directory, in which the other bitmaps keep their tables and bits.

use std::sync::Arc;

use super::super::bitmaps::{Bitmap, MAX_NAME, entry_length, read_bitmaps};
use super::super::header::{Header, MAX_DIRECTORY_BYTES};
use super::bitmap_directory::{DirectoryChange, check_count, check_length, without_table};
use super::open::refuse_corrupt;
use crate::error::{Error, Result};
use crate::formats::bitmaps::{PersistentBitmap, Replacement};
use crate::storage::Storage;

/// Checks that the image with this header could have another bitmap with this name and granularity in bytes.
///
/// # Errors
/// Returns the reason if it can't, or an error if the directory can't be read.
pub fn check_new_bitmap(
    storage: &dyn Storage,
    header: &Header,
    name: &[u8],
    granularity: u64,
) -> Result<()> {
    let others = read_bitmaps(storage, header)?;
    if name.len() > usize::from(MAX_NAME) {
        return Err(Error::invalid(format!(
            "Name length exceeds maximum ({MAX_NAME} characters)"
        )));
    }
    check_length(granularity, header)?;
    check_count(header, others.len() + 1)?;
    let names = others.iter().map(|other| entry_length(other.name.len()));
    if names.sum::<u64>() + entry_length(name.len()) > MAX_DIRECTORY_BYTES {
        return Err(Error::invalid("Not enough space in the bitmap directory"));
    }
    Ok(())
}

/// Stores the outcome of changes of the bitmap called `name`, in the image with this header, which must not be open
/// elsewhere. With `flush`, the changes are flushed to stable storage.
///
/// # Errors
/// Returns an error if the header has no space; nothing was written then. Returns an error if metadata is damaged, or
/// the system's error.
pub fn replace_bitmap(
    storage: &Arc<dyn Storage>,
    header: &Header,
    name: &[u8],
    with: Replacement,
    flush: bool,
) -> Result<()> {
    refuse_corrupt(header)?;
    let mut all = read_bitmaps(storage.as_ref(), header)?;
    let index = all.iter().position(|bitmap| bitmap.name == name);
    let new = match with {
        Replacement::Flags(flags) => {
            let found = index.and_then(|index| all.get_mut(index));
            let found = found.ok_or_else(|| Error::invalid("no such bitmap"))?;
            found.auto = flags.auto;
            return set_flags(storage.as_ref(), found, flush);
        }
        Replacement::Nothing => None,
        Replacement::Bits(new) => Some((new, index.unwrap_or(all.len()))),
        Replacement::New(new) => {
            let removed = usize::from(index.is_some());
            Some((new, all.len() - removed))
        }
    };
    let gone: Vec<Bitmap> = index.map(|index| all.remove(index)).into_iter().collect();
    let count = all.len() + usize::from(new.is_some());
    let mut change = DirectoryChange::begin(storage, header, count, flush)?;
    if let Some((new, index)) = new {
        all.insert(index, stored(&mut change, &new)?);
    }
    change.finish(&all, &gone)
}

fn stored(change: &mut DirectoryChange<'_>, new: &PersistentBitmap) -> Result<Bitmap> {
    let mut bitmap = without_table(&new.name, new.granularity, new.auto);
    bitmap.table = change.store_bits(&bitmap, new.bits.as_ref())?;
    Ok(bitmap)
}

/// Overwrites the flags of a bitmap in place.
fn set_flags(storage: &dyn Storage, bitmap: &Bitmap, flush: bool) -> Result<()> {
    let (at, flags) = bitmap.flags(bitmap.in_use);
    storage.write_at(at, &flags)?;
    storage.flush_if(flush)
}
