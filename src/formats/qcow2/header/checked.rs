//! The checked header, from which the rest of the format takes all facts about an image.
//!
//! Only `fixed` sets its fields, after it has checked them.

use super::extensions::Extension;
use super::features;
use super::places::{BitmapsPlace, ByteRange, TablePlace};
use crate::error::{Error, Result};
use crate::formats::codec::Codec;
use crate::formats::encryption::EncryptionFormat;
use crate::formats::qcow2::geometry::Geometry;
use crate::units::HostOffset;

/// The format's version.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Version {
    /// Version 2, `compat=0.10`.
    V2,
    /// Version 3, `compat=1.1`.
    V3,
}

impl Version {
    /// Returns the oldest QEMU version that reads this version, which is `qemu-img`'s name for it.
    pub fn compat(self) -> &'static str {
        match self {
            Self::V2 => "0.10",
            Self::V3 => "1.1",
        }
    }
}

/// The compression type of compressed clusters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CompressionType {
    /// Deflate without a zlib header.
    Zlib,
    /// Zstandard.
    Zstd,
}

impl CompressionType {
    /// Returns the name that `qemu-img` uses.
    pub fn name(self) -> &'static str {
        match self {
            Self::Zlib => "zlib",
            Self::Zstd => "zstd",
        }
    }

    /// Returns the codec of a compressed cluster.
    pub fn codec(self) -> Codec {
        match self {
            Self::Zlib => Codec::Deflate,
            Self::Zstd => Codec::Zstd,
        }
    }
}

/// A checked header.
#[derive(Debug, Clone)]
pub struct Header {
    pub(super) version: Version,
    pub(super) geometry: Geometry,
    pub(super) size: u64,
    pub(super) encryption: Option<EncryptionFormat>,
    pub(super) l1: TablePlace,
    pub(super) refcount_table: TablePlace,
    pub(super) snapshots: u32,
    pub(super) snapshots_offset: HostOffset,
    pub(super) bitmaps: Option<BitmapsPlace>,
    pub(super) luks: Option<ByteRange>,
    pub(super) incompatible: u64,
    pub(super) compatible: u64,
    pub(super) autoclear: u64,
    pub(super) compression: CompressionType,
    pub(super) backing_file: Option<Vec<u8>>,
    pub(super) extensions: Vec<Extension>,
}

impl Header {
    /// Returns the format's version.
    pub fn version(&self) -> Version {
        self.version
    }

    /// Returns the sizes that follow from the cluster size, the L2 entry size and the refcount width.
    pub fn geometry(&self) -> Geometry {
        self.geometry
    }

    /// Returns the size of the virtual disk in bytes, a multiple of 512.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Returns the encryption format of the guest's data, or `None` if it isn't encrypted.
    pub fn encryption(&self) -> Option<EncryptionFormat> {
        self.encryption
    }

    /// Returns the compression type of compressed clusters.
    pub fn compression(&self) -> CompressionType {
        self.compression
    }

    /// Returns the active L1 table.
    pub fn l1(&self) -> TablePlace {
        self.l1
    }

    /// Returns the refcount table.
    pub fn refcount_table(&self) -> TablePlace {
        self.refcount_table
    }

    /// Returns the number of internal snapshots.
    pub fn snapshots(&self) -> u32 {
        self.snapshots
    }

    /// Returns the host offset of the snapshot table. Its length is known only after it has been read; see
    /// [`SnapshotTable`](crate::formats::qcow2::snapshots::SnapshotTable).
    pub fn snapshots_offset(&self) -> HostOffset {
        self.snapshots_offset
    }

    /// Returns the place of the bitmap directory, or `None` if there are no bitmaps or they are outdated.
    pub fn bitmaps(&self) -> Option<BitmapsPlace> {
        self.bitmaps
    }

    /// Returns the place of the LUKS header, if the image has one.
    pub fn luks(&self) -> Option<ByteRange> {
        self.luks
    }

    /// Returns the incompatible features as stored.
    pub fn incompatible(&self) -> u64 {
        self.incompatible
    }

    /// Returns the compatible features as stored.
    pub fn compatible(&self) -> u64 {
        self.compatible
    }

    /// Returns the autoclear features as stored.
    pub fn autoclear(&self) -> u64 {
        self.autoclear
    }

    /// Returns true if all of `bits` of the incompatible features are set.
    pub fn has_incompatible(&self, bits: u64) -> bool {
        self.incompatible & bits == bits
    }

    /// Returns true if all of `bits` of the compatible features are set.
    pub fn has_compatible(&self, bits: u64) -> bool {
        self.compatible & bits == bits
    }

    /// Returns true if all of `bits` of the autoclear features are set.
    pub fn has_autoclear(&self, bits: u64) -> bool {
        self.autoclear & bits == bits
    }

    /// Returns true if any autoclear feature is set.
    pub fn any_autoclear(&self) -> bool {
        self.autoclear != 0
    }

    /// Rejects the raw-data-file bit without a data file. As in QEMU, such a header can be reported, but the image
    /// can't be opened.
    ///
    /// # Errors
    /// Returns `data-file-raw requires a data file` if the bit is set and there is no data file.
    pub fn check_data_file_raw(&self) -> Result<()> {
        if self.has_autoclear(features::DATA_FILE_RAW)
            && !self.has_incompatible(features::DATA_FILE)
        {
            return Err(Error::corrupt("data-file-raw requires a data file"));
        }
        Ok(())
    }

    /// Returns the header with the L1 table of a snapshot as the active one. The disk keeps its present size, as in
    /// QEMU.
    #[must_use]
    pub fn with_l1(mut self, l1: TablePlace) -> Self {
        self.l1 = l1;
        self
    }

    /// Returns the name of the backing file as stored.
    pub fn backing_file(&self) -> Option<&[u8]> {
        self.backing_file.as_deref()
    }

    /// Returns all header extensions in their stored order.
    pub fn extensions(&self) -> &[Extension] {
        &self.extensions
    }

    /// Returns the data of the last header extension of a type.
    pub fn extension(&self, kind: u32) -> Option<&[u8]> {
        find(&self.extensions, kind)
    }
}

/// Returns the data of the last extension of a type, which is the one that QEMU uses.
pub(super) fn find(extensions: &[Extension], kind: u32) -> Option<&[u8]> {
    extensions
        .iter()
        .rfind(|extension| extension.kind == kind)
        .map(|extension| extension.data.as_slice())
}

/// Returns the name up to its first zero byte, as QEMU reads it, since some programs pad names with zeroes.
pub fn until_zero(name: &[u8]) -> &[u8] {
    name.split(|byte| *byte == 0).next().unwrap_or_default()
}
