//! The fixed part of the header: its fields as stored, and the check of each.

use byteorder::{BigEndian, ReadBytesExt as _};

use super::checked::{CompressionType, Header, Version, find, until_zero};
use super::extensions;
use super::features;
use super::fields::{MAGIC, MAX_BACKING_NAME, V2_LENGTH, V3_MIN_LENGTH};
use super::places::{BitmapsPlace, ByteRange, TablePlace};
use crate::error::{Error, Result};
use crate::formats::encryption::EncryptionFormat;
use crate::formats::qcow2::geometry::{
    ENTRY_SIZE, Geometry, MAX_CLUSTER_BITS, MAX_L1_BYTES, MAX_REFCOUNT_TABLE_BYTES,
    MIN_CLUSTER_BITS,
};
use crate::units::{HostOffset, SECTOR_SIZE};

/// LUKS, as a value of `crypt_method`.
const LUKS: u32 = 2;
pub(in crate::formats::qcow2) const MAX_SNAPSHOTS: u32 = 65_536;
/// The longest name of a backing file's format, in bytes.
pub(super) const MAX_BACKING_FORMAT: usize = 15;
/// 2^63 − 1 bytes: QEMU and system calls have signed 64-bit sizes.
const MAX_SIZE: u64 = i64::MAX.cast_unsigned();

/// The header's fields as stored, unchecked.
#[derive(Debug)]
pub(super) struct RawHeader {
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
    // Version 3 has the following fields; for version 2 the specification defines their values.
    incompatible: u64,
    compatible: u64,
    autoclear: u64,
    refcount_order: u32,
    header_length: u32,
    compression_type: u8,
}

impl RawHeader {
    pub(super) fn parse(mut bytes: &[u8]) -> std::io::Result<Self> {
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

impl RawHeader {
    /// Checks the fields on which reading the rest of the header cluster depends.
    ///
    /// # Errors
    /// Returns an error, in QEMU's words, if one of these fields is invalid, or if this version doesn't support its
    /// value.
    pub(super) fn check_fixed_part(&self) -> Result<Geometry> {
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

    /// Checks the fields and the header extensions, and returns the checked header. `cluster` is the header cluster.
    ///
    /// # Errors
    /// Returns an error, in QEMU's words, if a field or a header extension is invalid, or if this version doesn't
    /// support it.
    pub(super) fn check(&self, geometry: Geometry, cluster: &[u8]) -> Result<Header> {
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
        // An unknown feature is named even if a later extension is damaged, since the feature may be the cause.
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

    fn check_encryption(&self) -> Result<Option<EncryptionFormat>> {
        match self.crypt_method {
            0 => Ok(None),
            1 => Ok(Some(EncryptionFormat::Aes)),
            LUKS => Ok(Some(EncryptionFormat::Luks)),
            other => Err(Error::unsupported(format!(
                "Unsupported encryption method {other}"
            ))),
        }
    }

    /// Checks and returns the place of the LUKS header.
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
        // QEMU counts whole sectors, and ignores a last partial one.
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
        let needed = geometry.l1_entries(self.size);
        // QEMU stores the number of entries in an `int`.
        if needed > i32::MAX.cast_unsigned().into() {
            return Err(Error::corrupt("Image is too big"));
        }
        if entries < needed {
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

/// Returns a header field as an index into the cluster; values that don't fit are beyond its end.
fn index(value: u64) -> usize {
    usize::try_from(value).unwrap_or(usize::MAX)
}
