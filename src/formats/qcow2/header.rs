//! From the first bytes of a file to a [`Header`] that can be trusted.
//!
//! [`RawHeader`] is what the file says; [`Header`] is what has been checked, and nothing else of
//! this crate is built from a raw one. The order of checks and the limits are QEMU's, so that both
//! programs accept the same images and refuse the others for the same reason. Whether tables lie
//! inside the file is checked where they are read: showing a header needs nothing but the header.

use byteorder::{BigEndian, ReadBytesExt as _};

use super::bitmaps::BitmapsPlace;
use super::extensions::{self, Extension};
use super::features;
use super::geometry::{
    ENTRY_SIZE, Geometry, MAX_CLUSTER_BITS, MAX_L1_BYTES, MAX_REFCOUNT_TABLE_BYTES,
    MIN_CLUSTER_BITS,
};
use crate::error::{Error, Result};
use crate::storage::Storage;
use crate::units::{HostOffset, SECTOR_SIZE};

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
/// LUKS, as `crypt_method`.
const LUKS: u32 = 2;
const MAX_SNAPSHOTS: u32 = 65_536;
/// The longest name of a backing file, in bytes.
pub const MAX_BACKING_NAME: u32 = 1023;
const MAX_BACKING_FORMAT: usize = 15;
/// 2^63 − 1: sizes are signed 64-bit numbers in QEMU and in every system call.
const MAX_SIZE: u64 = i64::MAX.cast_unsigned();

/// The header's fields as stored, unchecked.
#[derive(Debug)]
struct RawHeader {
    magic: [u8; 4],
    version: u32,
    backing_file_offset: u64,
    backing_file_size: u32,
    cluster_bits: u32,
    size: u64,
    crypt_method: u32,
    l1_size: u32,
    l1_table_offset: u64,
    refcount_table_offset: u64,
    refcount_table_clusters: u32,
    nb_snapshots: u32,
    snapshots_offset: u64,
    // Version 3; version 2 has the values that the specification gives for it.
    incompatible: u64,
    compatible: u64,
    autoclear: u64,
    refcount_order: u32,
    header_length: u32,
    compression_type: u8,
}

impl RawHeader {
    fn parse(mut bytes: &[u8]) -> std::io::Result<Self> {
        let r = &mut bytes;
        let mut magic = [0; 4];
        for byte in &mut magic {
            *byte = r.read_u8()?;
        }
        let mut raw = Self {
            magic,
            version: r.read_u32::<BigEndian>()?,
            backing_file_offset: r.read_u64::<BigEndian>()?,
            backing_file_size: r.read_u32::<BigEndian>()?,
            cluster_bits: r.read_u32::<BigEndian>()?,
            size: r.read_u64::<BigEndian>()?,
            crypt_method: r.read_u32::<BigEndian>()?,
            l1_size: r.read_u32::<BigEndian>()?,
            l1_table_offset: r.read_u64::<BigEndian>()?,
            refcount_table_offset: r.read_u64::<BigEndian>()?,
            refcount_table_clusters: r.read_u32::<BigEndian>()?,
            nb_snapshots: r.read_u32::<BigEndian>()?,
            snapshots_offset: r.read_u64::<BigEndian>()?,
            incompatible: 0,
            compatible: 0,
            autoclear: 0,
            refcount_order: 4,
            header_length: V2_LENGTH,
            compression_type: 0,
        };
        if raw.version >= 3 {
            raw.incompatible = r.read_u64::<BigEndian>()?;
            raw.compatible = r.read_u64::<BigEndian>()?;
            raw.autoclear = r.read_u64::<BigEndian>()?;
            raw.refcount_order = r.read_u32::<BigEndian>()?;
            raw.header_length = r.read_u32::<BigEndian>()?;
            if raw.header_length > V3_MIN_LENGTH {
                raw.compression_type = r.read_u8()?;
            }
        }
        Ok(raw)
    }
}

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

impl RawHeader {
    /// Checks what must hold before the rest of the header cluster can be read.
    fn check_fixed_part(&self) -> Result<Geometry> {
        if self.magic != MAGIC {
            return Err(Error::corrupt("Image is not in qcow2 format"));
        }
        if !(2..=3).contains(&self.version) {
            return Err(Error::unsupported(format!(
                "Unsupported qcow2 version {}",
                self.version
            )));
        }
        if !(MIN_CLUSTER_BITS..=MAX_CLUSTER_BITS).contains(&self.cluster_bits) {
            return Err(Error::corrupt(format!(
                "Unsupported cluster size: 2^{}",
                self.cluster_bits
            )));
        }
        if self.version == 3 && self.header_length < V3_MIN_LENGTH {
            return Err(Error::corrupt("qcow2 header too short"));
        }
        if u64::from(self.header_length) > 1 << self.cluster_bits {
            return Err(Error::corrupt("qcow2 header exceeds cluster size"));
        }
        if self.refcount_order > 6 {
            return Err(Error::corrupt(
                "Reference count entry width too large; may not exceed 64 bits",
            ));
        }
        let extended_l2 = self.incompatible & features::EXTENDED_L2 != 0;
        let geometry = Geometry::new(self.cluster_bits, extended_l2, self.refcount_order);
        let geometry = geometry.ok_or_else(|| {
            Error::corrupt(format!("Unsupported cluster size: 2^{}", self.cluster_bits))
        })?;
        let subcluster = geometry.subcluster_size();
        if extended_l2 && subcluster < SECTOR_SIZE {
            return Err(Error::corrupt(format!(
                "Unsupported subcluster size: {subcluster}"
            )));
        }
        Ok(geometry)
    }

    fn check(&self, geometry: Geometry, cluster: &[u8]) -> Result<Header> {
        let cluster_size = geometry.cluster_size();
        if self.backing_file_offset > cluster_size {
            return Err(Error::corrupt("Invalid backing file offset"));
        }
        let extensions_end = match self.backing_file_offset {
            0 => cluster.len(),
            offset => index(offset).min(cluster.len()),
        };
        let extensions_start = index(u64::from(self.header_length)).min(extensions_end);
        let area = cluster.get(extensions_start..extensions_end);
        let extensions = extensions::parse(area.unwrap_or_default());
        // A feature's name is worth having even if what follows it is damaged, since the feature
        // may be what explains the damage.
        let names = extensions
            .iter()
            .flatten()
            .find(|extension| extension.kind == extensions::FEATURE_NAMES)
            .map_or(&[][..], |extension| &extension.data);
        if let Some(unknown) = features::describe_unknown(self.incompatible, names) {
            return Err(Error::unsupported(format!(
                "Unsupported qcow2 feature(s): {unknown}"
            )));
        }
        let extensions = extensions?;
        if let Some(format) = find(&extensions, extensions::BACKING_FORMAT)
            && format.len() > MAX_BACKING_FORMAT
        {
            return Err(Error::corrupt(format!(
                "ext_backing_format: len={} too large (>={})",
                format.len(),
                MAX_BACKING_FORMAT + 1
            )));
        }
        Ok(Header {
            version: if self.version == 2 {
                Version::V2
            } else {
                Version::V3
            },
            geometry,
            encryption: self.check_encryption()?,
            compression: self.check_compression()?,
            size: self.check_size()?,
            l1: self.check_l1(geometry)?,
            refcount_table: self.check_refcount_table(geometry)?,
            snapshots: self.check_snapshots(geometry)?,
            snapshots_offset: HostOffset(self.snapshots_offset),
            bitmaps: match find(&extensions, extensions::BITMAPS) {
                Some(data) => BitmapsPlace::parse(data, self.autoclear, geometry)?,
                None => None,
            },
            luks: self.check_luks(geometry, find(&extensions, extensions::CRYPTO))?,
            backing_file: self.check_backing_file(cluster)?,
            incompatible: self.incompatible,
            compatible: self.compatible,
            autoclear: self.autoclear,
            extensions,
        })
    }

    fn check_encryption(&self) -> Result<EncryptionMethod> {
        match self.crypt_method {
            0 => Ok(EncryptionMethod::None),
            1 => Ok(EncryptionMethod::Aes),
            LUKS => Ok(EncryptionMethod::Luks),
            other => Err(Error::unsupported(format!(
                "Unsupported encryption method {other}"
            ))),
        }
    }

    /// Where the LUKS header is.
    fn check_luks(&self, geometry: Geometry, data: Option<&[u8]>) -> Result<Option<ByteRange>> {
        let Some(data) = data else {
            if self.crypt_method == LUKS {
                return Err(Error::corrupt("Missing CRYPTO header for crypt method 2"));
            }
            return Ok(None);
        };
        if self.crypt_method != LUKS {
            return Err(Error::corrupt(
                "CRYPTO header extension only expected with LUKS encryption method",
            ));
        }
        let ([offset, length], []) = data.as_chunks() else {
            return Err(Error::corrupt(format!(
                "CRYPTO header extension size {}, but expected size 16",
                data.len()
            )));
        };
        let host = HostOffset(u64::from_be_bytes(*offset));
        if !geometry.is_aligned(host) {
            return Err(Error::corrupt(format!(
                "Encryption header offset '{}' is not a multiple of cluster size '{}'",
                host.0,
                geometry.cluster_size()
            )));
        }
        Ok(Some(ByteRange {
            host,
            length: u64::from_be_bytes(*length),
        }))
    }

    fn check_compression(&self) -> Result<CompressionType> {
        let flagged = self.incompatible & features::COMPRESSION != 0;
        match (self.compression_type, flagged) {
            (0, false) => Ok(CompressionType::Zlib),
            (1, true) => Ok(CompressionType::Zstd),
            (0, true) => Err(Error::corrupt(
                "qcow2: Compression type incompatible feature bit must not be set",
            )),
            (_, false) => Err(Error::corrupt(
                "qcow2: Compression type incompatible feature bit must be set",
            )),
            (other, true) => Err(Error::unsupported(format!(
                "qcow2: unknown compression type: {other}"
            ))),
        }
    }

    fn check_size(&self) -> Result<u64> {
        if self.size > MAX_SIZE {
            return Err(Error::corrupt("Image is too big"));
        }
        // QEMU counts a disk in whole sectors and leaves out a last one that isn't whole.
        Ok(self.size / SECTOR_SIZE * SECTOR_SIZE)
    }

    fn check_l1(&self, geometry: Geometry) -> Result<TablePlace> {
        let entries = u64::from(self.l1_size);
        if entries > MAX_L1_BYTES / ENTRY_SIZE {
            return Err(Error::corrupt("Active L1 table too large"));
        }
        let host = HostOffset(self.l1_table_offset);
        if !geometry.is_aligned(host) || host.0 > MAX_SIZE {
            return Err(Error::corrupt("Active L1 table offset invalid"));
        }
        if entries < geometry.l1_entries(self.size) {
            return Err(Error::corrupt("L1 table is too small"));
        }
        Ok(TablePlace { host, entries })
    }

    fn check_refcount_table(&self, geometry: Geometry) -> Result<TablePlace> {
        let bytes = u64::from(self.refcount_table_clusters) * geometry.cluster_size();
        if bytes > MAX_REFCOUNT_TABLE_BYTES {
            return Err(Error::corrupt("Reference count table too large"));
        }
        let host = HostOffset(self.refcount_table_offset);
        if !geometry.is_aligned(host) || host.0 > MAX_SIZE {
            return Err(Error::corrupt("Reference count table offset invalid"));
        }
        Ok(TablePlace {
            host,
            entries: bytes / ENTRY_SIZE,
        })
    }

    fn check_snapshots(&self, geometry: Geometry) -> Result<u32> {
        if self.nb_snapshots > MAX_SNAPSHOTS {
            return Err(Error::corrupt("Snapshot table too large"));
        }
        if !geometry.is_aligned(HostOffset(self.snapshots_offset))
            || self.snapshots_offset > MAX_SIZE
        {
            return Err(Error::corrupt("Snapshot table offset invalid"));
        }
        Ok(self.nb_snapshots)
    }

    fn check_backing_file(&self, cluster: &[u8]) -> Result<Option<Vec<u8>>> {
        if self.backing_file_offset == 0 {
            return Ok(None);
        }
        let start = index(self.backing_file_offset);
        let length = index(u64::from(self.backing_file_size));
        let too_long = || Error::corrupt("Backing file name too long");
        if self.backing_file_size > MAX_BACKING_NAME {
            return Err(too_long());
        }
        let end = start.checked_add(length).ok_or_else(too_long)?;
        let name = until_zero(cluster.get(start..end).ok_or_else(too_long)?);
        Ok((!name.is_empty()).then(|| name.to_vec()))
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

/// An index into the header cluster; what doesn't fit is beyond its end.
fn index(value: u64) -> usize {
    usize::try_from(value).unwrap_or(usize::MAX)
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
