//! The way from the first bytes of a file to a [`Header`] that can be trusted, and back.
//!
//! `RawHeader` has the fields of the file; [`Header`] has those that have been checked, and nothing else of
//! this crate is built from a raw one. The order of checks and the limits are QEMU's, so that both programs
//! accept the same images and refuse the others for the same reason. Tables are checked against the file's
//! length where they are read: showing a header needs nothing but the header.
//!
//! - `fixed`: the fields as stored, and the checks; `checked`: the checked header;
//! - `places`: the places that a header names;
//! - [`extensions`], [`features`]: the extensions behind the fields, and the bits of features;
//! - `encode`: the header of a new image;
//! - `fields`, `room`, `rewrite`: changes to the header of an image in use.

mod checked;
pub(super) mod encode;
pub mod extensions;
pub mod features;
pub(super) mod fields;
mod fixed;
mod places;
pub(super) mod rewrite;
pub(super) mod room;

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
    /// Returns the system's error, or an error if anything is wrong with the header, worded as QEMU words it.
    pub fn read(storage: &dyn Storage) -> Result<Self> {
        let header = Self::read_for_check(storage)?;
        if header.refcount_table.entries == 0 {
            return Err(Error::corrupt(
                "Image does not contain a reference count table",
            ));
        }
        Ok(header)
    }

    /// Reads the header as [`Header::read`] does, of an image that may have lost its refcount table, which a
    /// repair makes anew.
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
