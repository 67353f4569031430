//! Reading a header from untrusted bytes into a checked [`Header`], and writing it.
//!
//! `RawHeader` has the fields as stored. [`Header`] has only checked values, and nothing else is derived from a
//! `RawHeader`. The order of the checks and the limits are QEMU's, so that both programs accept the same images and
//! refuse others for the same reason. Tables are compared with the file's length when they are read, so that a report
//! needs only the header.
//!
//! - `fixed`: the fields as stored, and their checks; `checked`: the checked header;
//! - `places`: the places of tables that the header stores;
//! - [`extensions`], [`features`]: the header extensions, and the feature bits;
//! - `encode`: the header of a new image;
//! - `fields`, `extension_slot`, `rewrite`: changes of the header of an existing image.

mod checked;
pub(super) mod encode;
pub(super) mod extension_slot;
pub mod extensions;
pub mod features;
pub(super) mod fields;
mod fixed;
mod places;
pub(super) mod rewrite;

pub use checked::{CompressionType, Header, Version, until_zero};
pub(super) use fixed::MAX_SNAPSHOTS;
pub use places::{BitmapsPlace, ByteRange, TablePlace};
pub(super) use places::{MAX_BITMAPS, MAX_DIRECTORY_BYTES};

use self::fields::{MAGIC, V3_LENGTH};
use self::fixed::RawHeader;
use crate::error::{Error, Result};
use crate::storage::Storage;

impl Header {
    /// Reads and checks the header of the image in `storage`.
    ///
    /// # Errors
    /// Returns the system's error. Returns an error, in QEMU's words, if the header is invalid.
    pub fn read(storage: &dyn Storage) -> Result<Self> {
        let header = Self::read_for_check(storage)?;
        if header.refcount_table.entries == 0 {
            return Err(Error::corrupt(
                "Image does not contain a reference count table",
            ));
        }
        Ok(header)
    }

    /// Reads the header as [`Header::read`] does, but accepts an image without a refcount table, which a repair
    /// rebuilds.
    ///
    /// # Errors
    /// Returns an error as [`Header::read`] does.
    pub fn read_for_check(storage: &dyn Storage) -> Result<Self> {
        let file = storage.len()?;
        let mut start = [0; V3_LENGTH as usize];
        let length = storage.read_padded_at(0, &mut start, file)?;
        let start = start.get(..length).unwrap_or_default();
        if !start.starts_with(&MAGIC) {
            return Err(Error::corrupt("Image is not in qcow2 format"));
        }
        let raw = RawHeader::parse(start).map_err(|_| {
            Error::corrupt(format!(
                "the qcow2 header is cut off by the end of the file, at byte {length}"
            ))
        })?;
        let geometry = raw.check_fixed_part()?;
        let mut cluster = vec![0; geometry.cluster_len()];
        let length = storage.read_padded_at(0, &mut cluster, file)?;
        cluster.truncate(length);
        raw.check(geometry, &cluster)
    }
}
