//! The places that the header stores: tables, byte ranges, and the bitmap directory.
//!
//! The checked header, the reader of bitmaps and the readers of tables share these types, so that they don't depend
//! on each other.

use byteorder::{BigEndian, ReadBytesExt as _};

use super::features;
use crate::error::{Error, Result};
use crate::formats::qcow2::geometry::Geometry;
use crate::units::HostOffset;

/// The largest number of bitmaps in an image.
pub(in crate::formats::qcow2) const MAX_BITMAPS: u32 = 65_535;
/// The largest bitmap directory in bytes.
pub(in crate::formats::qcow2) const MAX_DIRECTORY_BYTES: u64 = 1024 * 65_535;

/// The place of a table in the image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TablePlace {
    /// Its host offset.
    pub host: HostOffset,
    /// The number of its entries of 8 bytes.
    pub entries: u64,
}

/// A range of bytes of the image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ByteRange {
    /// Its host offset.
    pub host: HostOffset,
    /// Its length in bytes.
    pub length: u64,
}

/// The contents of the bitmaps extension: the number of bitmaps, and the place of their directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BitmapsPlace {
    /// The number of bitmaps.
    pub count: u32,
    /// The host offset of the directory.
    pub directory: HostOffset,
    /// The directory's length in bytes.
    pub length: u64,
}

impl BitmapsPlace {
    /// Parses the data of the bitmaps extension. `autoclear` are the header's autoclear bits. Returns `None` if the
    /// bitmaps are outdated.
    ///
    /// # Errors
    /// Returns an error, in QEMU's words, if QEMU refuses the extension.
    pub(super) fn parse(
        mut data: &[u8],
        autoclear: u64,
        geometry: Geometry,
    ) -> Result<Option<Self>> {
        let invalid = |what: String| Error::corrupt(format!("bitmaps_ext: {what}"));
        if data.len() != 24 {
            return Err(invalid("Invalid extension length".into()));
        }
        if autoclear & features::BITMAPS == 0 {
            return Ok(None);
        }
        let cut_off = |_| invalid("Invalid extension length".into());
        let count = data.read_u32::<BigEndian>().map_err(cut_off)?;
        let reserved = data.read_u32::<BigEndian>().map_err(cut_off)?;
        let length = data.read_u64::<BigEndian>().map_err(cut_off)?;
        let directory = HostOffset(data.read_u64::<BigEndian>().map_err(cut_off)?);
        if reserved != 0 {
            return Err(invalid("Reserved field is not zero".into()));
        }
        if count > MAX_BITMAPS {
            return Err(invalid(format!(
                "image has {count} bitmaps, exceeding the QEMU supported maximum of {MAX_BITMAPS}"
            )));
        }
        if count == 0 {
            return Err(Error::corrupt("found bitmaps extension with zero bitmaps"));
        }
        if !geometry.is_aligned(directory) || directory.0 > i64::MAX.cast_unsigned() {
            return Err(invalid("invalid bitmap directory offset".into()));
        }
        if length > MAX_DIRECTORY_BYTES {
            return Err(invalid(format!(
                "bitmap directory size ({length}) exceeds the maximum supported size \
                 ({MAX_DIRECTORY_BYTES})"
            )));
        }
        Ok(Some(Self {
            count,
            directory,
            length,
        }))
    }

    /// Encodes the data of the bitmaps extension.
    pub(in crate::formats::qcow2) fn bytes(self) -> [u8; 24] {
        let mut bytes = [0; 24];
        let (count, rest) = bytes.split_at_mut(8);
        let (length, directory) = rest.split_at_mut(8);
        count.copy_from_slice(&(u64::from(self.count) << 32).to_be_bytes());
        length.copy_from_slice(&self.length.to_be_bytes());
        directory.copy_from_slice(&self.directory.0.to_be_bytes());
        bytes
    }
}
