//! Resizing the disk of an image that isn't open elsewhere.
//!
//! One write within a sector changes the size in the header. A power cut before it leaves the old disk, and one after
//! it the new disk. All other changes are made beyond the smaller end, where they aren't visible.
//!
//! - For a larger disk, the L1 table grows, data that would become visible is zeroed, and space is preallocated
//!   (`grow`, `preallocate`). Then the size changes.
//! - For a smaller disk, the size changes first. Then everything beyond it is freed, and the file is truncated after
//!   the last cluster in use (`crop`).
//! - Emptying an image frees everything, and keeps the size (`empty`).
//! - The length of bitmaps depends on the disk's size. So they are marked as in use meanwhile, and stored again at
//!   the end (`bitmaps`). A power cut leaves them marked, as in any image in use.
//!
//! The added part reads as zeroes, although there may be data beyond the old end. An earlier size may have left it in
//! the last cluster, or a power cut in whole clusters. Internal snapshots keep their sizes.

mod bitmaps;
mod crop;
mod empty;
mod grow;
mod preallocate;

use std::sync::{Arc, PoisonError};

pub use self::empty::make_empty;

use self::bitmaps::ResizedBitmaps;
use super::WritableQcow2;
use super::open::{Qcow2WriteParts, refuse_corrupt, refuse_damaged};
use crate::error::{Error, Result};
use crate::formats::qcow2::geometry::{ENTRY_SIZE, MAX_L1_BYTES};
use crate::formats::qcow2::header::{Header, Version, features, fields};
use crate::formats::qcow2::repaired_header;
use crate::formats::{Preallocation, Resize, WritableImage as _};
use crate::storage::Storage;
use crate::units::SECTOR_SIZE;

/// Resizes the disk of the image with this header, which must not be open elsewhere.
///
/// # Errors
/// Returns an error, in QEMU's words, if the image can't have the size or the preallocation; nothing was written
/// then. Returns an error if metadata is damaged, or the system's error. The disk then has the old or the new size,
/// and its contents up to the smaller of both.
pub fn resize_disk(
    storage: &Arc<dyn Storage>,
    header: &Header,
    options: Qcow2WriteParts,
    mut resize: Resize,
) -> Result<()> {
    let is_raw = header.has_incompatible(features::DATA_FILE)
        && header.autoclear() & features::DATA_FILE_RAW != 0;
    if is_raw && resize.preallocation == Preallocation::Off && resize.size > header.size() {
        // A raw external data file has every cluster of the disk.
        resize.preallocation = Preallocation::Metadata;
    }
    refuse_corrupt(header)?;
    refuse_impossible(header, &options, resize)?;
    let bitmaps = ResizedBitmaps::read(storage.as_ref(), header, resize.size)?;
    let header = &*repaired_header(storage.as_ref(), header)?;
    let old = header.size();
    if old == resize.size {
        return Ok(());
    }
    if resize.size < old {
        // A cluster with a refcount that is too low could be truncated with the rest of the file.
        refuse_damaged(storage.as_ref(), header)?;
    }
    let mut image = WritableQcow2::open(Arc::clone(storage), header, options)?;
    image.size = old.max(resize.size);
    // Bits aren't set for these changes, since the added part was never written by the guest.
    image.lock().bitmaps.stop_recording();
    let set_size = || {
        let state = image.lock();
        bitmaps.mark(storage.as_ref(), &state.metadata)?;
        fields::set_size(storage.as_ref(), resize.size)?;
        state.metadata.flush()
    };
    let store_bitmaps = || {
        let _shut = image.gate.write().unwrap_or_else(PoisonError::into_inner);
        let metadata = &mut image.lock().metadata;
        bitmaps
            .store(storage, header, metadata)
            .map_err(|error| metadata.fail(error))
    };
    if resize.size < old {
        set_size()?;
        image.crop(resize.size)?;
        store_bitmaps()?;
        return image.close_and_cut(resize.size);
    }
    if let Err(error) = image.grow(old, resize.preallocation) {
        // The first error is the one to report. If the space can't be freed either, it stays allocated beyond the
        // disk's end.
        drop(image.crop(old).and_then(|()| image.close_and_cut(old)));
        return Err(error);
    }
    set_size()?;
    store_bitmaps()?;
    image.close()
}

/// Refuses a size or a preallocation that the image can't have.
fn refuse_impossible(header: &Header, options: &Qcow2WriteParts, resize: Resize) -> Result<()> {
    let Resize {
        size,
        preallocation,
    } = resize;
    let geometry = header.geometry();
    if !size.is_multiple_of(SECTOR_SIZE) {
        return Err(Error::invalid(format!(
            "The new size must be a multiple of {SECTOR_SIZE}"
        )));
    }
    if header.snapshots() > 0 && header.version() == Version::V2 {
        return Err(Error::unsupported(
            "Can't resize a v2 image which has snapshots",
        ));
    }
    if size < header.size() && preallocation != Preallocation::Off {
        return Err(Error::invalid(
            "Preallocation can't be used for shrinking an image",
        ));
    }
    if geometry.l1_entries(size) * ENTRY_SIZE > MAX_L1_BYTES {
        return Err(Error::invalid(
            "Failed to grow the L1 table: File too large",
        ));
    }
    let old = header.size();
    let takes_space = matches!(preallocation, Preallocation::Falloc | Preallocation::Full);
    let below = options.backing.as_ref().map_or(0, |backing| backing.size());
    let first_new = old.next_multiple_of(geometry.cluster_size());
    if header.version() == Version::V2 && !takes_space && below > old && first_new < size {
        return Err(Error::unsupported(
            "Failed to zero out new clusters: Operation not supported",
        ));
    }
    Ok(())
}

impl WritableQcow2 {
    /// Closes the image, and truncates its file after the last cluster in use. Truncates an external data file to
    /// `size`, the size of the disk in bytes.
    fn close_and_cut(&self, size: u64) -> Result<()> {
        let end = {
            let _shut = self.gate.write().unwrap_or_else(PoisonError::into_inner);
            let metadata = &mut self.lock().metadata;
            metadata.drop_empty_blocks()?;
            metadata.commit()?;
            metadata.end_of_used()?
        };
        self.close()?;
        let state = self.lock();
        let metadata = &state.metadata;
        let files = [
            Some((metadata.storage(), end)),
            metadata.data_file().map(|data| (data, size)),
        ];
        let mut is_cut = false;
        for (file, length) in files.into_iter().flatten() {
            if !file.has_fixed_length() && file.len()? > length {
                file.set_len(length)?;
                is_cut = true;
            }
        }
        match is_cut {
            true => metadata.flush(),
            false => Ok(()),
        }
    }
}
