//! From the first bytes of a file to a [`Header`] that can be trusted.
//!
//! [`RawHeader`] is what the file says; [`Header`] is what has been checked, and nothing else of
//! this crate is built from a raw one. The order of checks and the limits are QEMU's, so that both
//! programs accept the same images and refuse the others for the same reason. Whether tables lie
//! inside the file is checked where they are read: showing a header needs nothing but the header.

mod fixed;

use self::fixed::RawHeader;
use super::bitmaps::BitmapsPlace;
use super::extensions::Extension;
use super::features;
use super::geometry::Geometry;
use crate::error::{Error, Result};
use crate::formats::driver::EncryptionRef;
use crate::storage::Storage;
use crate::units::HostOffset;

/// The first four bytes of every qcow2 image.
pub const MAGIC: [u8; 4] = *b"QFI\xfb";
/// The length of a version 2 header, and the least of any, in bytes.
pub const V2_LENGTH: u32 = 72;
/// The least length of a version 3 header in bytes.
pub const V3_MIN_LENGTH: u32 = 104;
/// The length of a version 3 header with the compression type, as written today.
pub const V3_LENGTH: u32 = 112;

/// Where the header has the refcount table's offset and, behind it, its number of clusters.
pub(super) const REFCOUNT_TABLE_FIELD: u64 = 48;
/// Where the header has the number of snapshots and, behind it, their table's offset.
pub(super) const SNAPSHOTS_FIELD: u64 = 60;
/// Where the header has the incompatible features.
pub(super) const INCOMPATIBLE_FIELD: u64 = 72;
/// Where the header has the autoclear features.
pub(super) const AUTOCLEAR_FIELD: u64 = 88;
/// The longest name of a backing file, in bytes.
pub const MAX_BACKING_NAME: u32 = 1023;

/// The format's version.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Version {
    /// Version 2, `compat=0.10`.
    V2,
    /// Version 3, `compat=1.1`.
    V3,
}

impl Version {
    /// The oldest QEMU version that reads it, which is how `qemu-img` names the format's versions.
    pub fn compat(self) -> &'static str {
        match self {
            Self::V2 => "0.10",
            Self::V3 => "1.1",
        }
    }
}

/// How the guest's data is encrypted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EncryptionMethod {
    /// Not at all.
    None,
    /// AES-128-CBC with the password as key ("legacy AES").
    Aes,
    /// LUKS1 header inside the image.
    Luks,
}

impl EncryptionMethod {
    /// The method as the rest of the program sees it.
    pub(crate) fn reference(self) -> Option<EncryptionRef> {
        let is_aes = self == Self::Aes;
        (self != Self::None).then(|| EncryptionRef {
            format: self.name(),
            takes_password: is_aes,
            accepts_any_password: is_aes,
        })
    }

    /// The name that `qemu-img` uses.
    pub fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Aes => "aes",
            Self::Luks => "luks",
        }
    }
}

/// How compressed clusters are compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CompressionType {
    /// Raw deflate.
    Zlib,
    /// Zstandard.
    Zstd,
}

impl CompressionType {
    /// The name that `qemu-img` uses.
    pub fn name(self) -> &'static str {
        match self {
            Self::Zlib => "zlib",
            Self::Zstd => "zstd",
        }
    }
}

/// A table in the image: where it starts and how many entries it has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TablePlace {
    /// Where it starts.
    pub host: HostOffset,
    /// How many entries of 8 bytes it has.
    pub entries: u64,
}

/// A run of bytes in the image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ByteRange {
    /// Where it starts.
    pub host: HostOffset,
    /// Its length in bytes.
    pub length: u64,
}

/// A checked header.
#[derive(Debug, Clone)]
pub struct Header {
    version: Version,
    geometry: Geometry,
    size: u64,
    encryption: EncryptionMethod,
    l1: TablePlace,
    refcount_table: TablePlace,
    snapshots: u32,
    snapshots_offset: HostOffset,
    bitmaps: Option<BitmapsPlace>,
    luks: Option<ByteRange>,
    incompatible: u64,
    compatible: u64,
    autoclear: u64,
    compression: CompressionType,
    backing_file: Option<Vec<u8>>,
    extensions: Vec<Extension>,
}

impl Header {
    /// Reads and checks the header of the image in `storage`.
    ///
    /// # Errors
    /// The system's error; whatever is wrong with the header, worded as QEMU words it.
    pub fn read(storage: &dyn Storage) -> Result<Self> {
        let header = Self::read_for_check(storage)?;
        if header.refcount_table.entries == 0 {
            return Err(Error::corrupt(
                "Image does not contain a reference count table",
            ));
        }
        Ok(header)
    }

    /// The same for an image that may have lost its refcount table, which a repair makes anew.
    ///
    /// # Errors
    /// As [`Header::read`].
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

/// The data of the last extension of a kind: of several, QEMU goes by that.
fn find(extensions: &[Extension], kind: u32) -> Option<&[u8]> {
    extensions
        .iter()
        .rfind(|extension| extension.kind == kind)
        .map(|extension| extension.data.as_slice())
}

/// A name as QEMU reads it: some programs fill it up with zeroes.
pub fn until_zero(name: &[u8]) -> &[u8] {
    name.split(|byte| *byte == 0).next().unwrap_or_default()
}

impl Header {
    /// The format's version.
    pub fn version(&self) -> Version {
        self.version
    }

    /// The sizes that follow from cluster size and refcount width.
    pub fn geometry(&self) -> Geometry {
        self.geometry
    }

    /// The size of the virtual disk in bytes, a multiple of 512.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// How the guest's data is encrypted.
    pub fn encryption(&self) -> EncryptionMethod {
        self.encryption
    }

    /// How compressed clusters are compressed.
    pub fn compression(&self) -> CompressionType {
        self.compression
    }

    /// The active L1 table.
    pub fn l1(&self) -> TablePlace {
        self.l1
    }

    /// The refcount table.
    pub fn refcount_table(&self) -> TablePlace {
        self.refcount_table
    }

    /// How many internal snapshots there are.
    pub fn snapshots(&self) -> u32 {
        self.snapshots
    }

    /// Where the snapshot table starts; its length is known when it has been read, see
    /// [`SnapshotTable`](super::snapshots::SnapshotTable).
    pub fn snapshots_offset(&self) -> HostOffset {
        self.snapshots_offset
    }

    /// Where the bitmap directory is; `None` without bitmaps, or when they are out of date.
    pub fn bitmaps(&self) -> Option<BitmapsPlace> {
        self.bitmaps
    }

    /// Where the LUKS header is, for images that have one.
    pub fn luks(&self) -> Option<ByteRange> {
        self.luks
    }

    /// All incompatible features, as stored.
    pub fn incompatible(&self) -> u64 {
        self.incompatible
    }

    /// All autoclear features, as stored.
    pub fn autoclear(&self) -> u64 {
        self.autoclear
    }

    /// Whether all of `bits` of the incompatible features are set.
    pub fn has_incompatible(&self, bits: u64) -> bool {
        self.incompatible & bits == bits
    }

    /// Whether all of `bits` of the compatible features are set.
    pub fn has_compatible(&self, bits: u64) -> bool {
        self.compatible & bits == bits
    }

    /// Whether all of `bits` of the autoclear features are set.
    pub fn has_autoclear(&self, bits: u64) -> bool {
        self.autoclear & bits == bits
    }

    /// Whether any autoclear feature is set.
    pub fn any_autoclear(&self) -> bool {
        self.autoclear != 0
    }

    /// Refuses what QEMU lets nobody go beyond looking at the header of: a data file that is raw where
    /// there is none.
    ///
    /// # Errors
    /// So it is.
    pub fn check_data_file_raw(&self) -> Result<()> {
        if self.has_autoclear(features::DATA_FILE_RAW)
            && !self.has_incompatible(features::DATA_FILE)
        {
            return Err(Error::corrupt("data-file-raw requires a data file"));
        }
        Ok(())
    }

    /// The header as it was when a snapshot with that L1 table was taken. The disk's size stays what it
    /// is now, as QEMU has it.
    #[must_use]
    pub fn with_l1(mut self, l1: TablePlace) -> Self {
        self.l1 = l1;
        self
    }

    /// The name of the backing file, as stored.
    pub fn backing_file(&self) -> Option<&[u8]> {
        self.backing_file.as_deref()
    }

    /// All header extensions, as they stand one behind the other.
    pub fn extensions(&self) -> &[Extension] {
        &self.extensions
    }

    /// The data of the last header extension of a kind.
    pub fn extension(&self, kind: u32) -> Option<&[u8]> {
        find(&self.extensions, kind)
    }
}
