//! The part of a report that only qcow2 images have, with the field names of QEMU's `ImageInfoSpecificQCow2`.

use serde::Serialize;

use super::header::{Header, Version, until_zero};
use super::header::{extensions, features};
use super::snapshots::Snapshot;
use crate::formats::bitmaps::BitmapInfo;
use crate::formats::encryption::luks::{LuksHeader, LuksInfo};
use crate::formats::snapshots::SnapshotInfo;

/// The fields that only qcow2 images have. Version 2 has no features, so their fields are absent.
#[derive(Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) struct Qcow2Info {
    /// The oldest QEMU version that reads the image.
    compat: &'static str,
    /// The compression type of compressed clusters.
    compression_type: &'static str,
    /// True if refcounts may be updated lazily.
    #[serde(skip_serializing_if = "Option::is_none")]
    lazy_refcounts: Option<bool>,
    /// The persistent bitmaps; absent if there are none.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    bitmaps: Vec<BitmapInfo>,
    /// The refcount width in bits.
    refcount_bits: u32,
    /// The encryption of the data.
    #[serde(skip_serializing_if = "Option::is_none")]
    encrypt: Option<EncryptInfo>,
    /// The name of the external data file.
    #[serde(skip_serializing_if = "Option::is_none")]
    data_file: Option<String>,
    /// True if the external data file is a raw image of the disk.
    #[serde(skip_serializing_if = "Option::is_none")]
    data_file_raw: Option<bool>,
    /// True if the image is marked as corrupt.
    #[serde(skip_serializing_if = "Option::is_none")]
    corrupt: Option<bool>,
    /// True if L2 entries have subclusters.
    #[serde(skip_serializing_if = "Option::is_none")]
    extended_l2: Option<bool>,
}

/// The encryption of an image.
#[derive(Debug, Serialize)]
struct EncryptInfo {
    /// The format's name.
    format: &'static str,
    /// The LUKS header inside the image, for that format.
    #[serde(flatten)]
    luks: Option<LuksInfo>,
}

impl Qcow2Info {
    /// Returns the fields for an image with this header, LUKS header and bitmaps.
    pub(super) fn of(header: &Header, luks: Option<&LuksHeader>, bitmaps: Vec<BitmapInfo>) -> Self {
        let v3 = header.version() == Version::V3;
        let data_file = header.has_incompatible(features::DATA_FILE);
        let name = header
            .extension(extensions::DATA_FILE)
            .filter(|_| data_file);
        Self {
            compat: header.version().compat(),
            compression_type: header.compression().name(),
            lazy_refcounts: v3.then(|| header.has_compatible(features::LAZY_REFCOUNTS)),
            bitmaps,
            refcount_bits: header.geometry().refcount_bits(),
            encrypt: header.encryption().map(|format| EncryptInfo {
                format: format.name(),
                luks: luks.map(LuksHeader::info),
            }),
            data_file: name
                .map(until_zero)
                .map(|name| String::from_utf8_lossy(name).into_owned()),
            data_file_raw: (v3 && data_file).then(|| header.has_autoclear(features::DATA_FILE_RAW)),
            corrupt: v3.then(|| header.has_incompatible(features::CORRUPT)),
            extended_l2: v3.then(|| header.has_incompatible(features::EXTENDED_L2)),
        }
    }
}

impl Snapshot {
    /// Returns the snapshot in the form that reports have.
    pub(super) fn info(&self) -> SnapshotInfo {
        const SECOND: u64 = 1_000_000_000;
        // QEMU's reports truncate ids and names to these lengths.
        let text = |bytes: &[u8], most: usize| {
            String::from_utf8_lossy(bytes.get(..most).unwrap_or(bytes)).into_owned()
        };
        SnapshotInfo {
            id: text(&self.id, 127),
            name: text(&self.name, 255),
            vm_state_size: self.vm_state_size.cast_signed(),
            date_sec: self.date_sec,
            date_nsec: self.date_nsec,
            vm_clock_sec: self.vm_clock_nsec / SECOND,
            vm_clock_nsec: self.vm_clock_nsec % SECOND,
            icount: self.icount.map(u64::cast_signed),
        }
    }
}
