//! The options of a new image, as data.
//!
//! [`create_check`](super::create_check) checks if they are compatible. It needs the header, which is derived from
//! the options.

use crate::formats::encryption::luks::{LuksCreation, LuksOptions};
use crate::formats::encryption::{Encryption, EncryptionFormat, LegacyAes, Numbering};
use crate::units::HostOffset;
use std::ops::RangeInclusive;

use super::header::{ByteRange, CompressionType, Version};
pub use crate::formats::driver::Backing;

/// The allowed cluster sizes in bytes.
pub const CLUSTER_SIZES: RangeInclusive<u64> = 512..=2 << 20;
/// The message for a disk that is too large for the L1 table or for the file system.
pub const TOO_LARGE: &str =
    "The image size is too large for file format 'qcow2' (try using a larger cluster size)";

/// The options of a new image.
#[derive(Debug, Clone)]
pub struct NewQcow2Options {
    /// The size of the virtual disk in bytes, which is rounded up to a multiple of 512.
    pub size: u64,
    /// The format's version.
    pub version: Version,
    /// The cluster size in bytes: a power of two in [`CLUSTER_SIZES`].
    pub cluster_size: u64,
    /// True if refcounts may be updated lazily (version 3 only).
    pub lazy_refcounts: bool,
    /// The width of a refcount: 1, 2, 4, … 64 bits (version 2: only 16).
    pub refcount_bits: u64,
    /// The compression type of compressed clusters (only zlib in version 2).
    pub compression: CompressionType,
    /// The encryption format of the guest's data.
    pub encryption: Option<EncryptionFormat>,
    /// The options of the LUKS header, for that encryption format.
    pub luks: LuksOptions,
    /// True for extended L2 entries with subclusters (version 3, clusters of at least 16 KiB).
    pub extended_l2: bool,
    /// The backing file, from which unallocated clusters are read.
    pub backing: Option<Backing>,
    /// The name of the external data file in the header (version 3 only).
    pub data_file: Option<Vec<u8>>,
    /// True if the external data file must be a raw image of the disk at all times.
    pub data_file_raw: bool,
}

impl NewQcow2Options {
    /// Returns the options of a version 3 image with QEMU's defaults: clusters of 64 KiB, no encryption.
    pub fn new(size: u64) -> Self {
        Self {
            size,
            version: Version::V3,
            cluster_size: 65536,
            lazy_refcounts: false,
            refcount_bits: 16,
            compression: CompressionType::Zlib,
            encryption: None,
            luks: LuksOptions::default(),
            extended_l2: false,
            backing: None,
            data_file: None,
            data_file_raw: false,
        }
    }

    /// Returns the encryption of the new image.
    pub(super) fn encryption(&self) -> Option<Box<dyn Encryption>> {
        Some(match self.encryption? {
            EncryptionFormat::Aes => Box::new(LegacyAes),
            EncryptionFormat::Luks => Box::new(LuksCreation {
                options: self.luks,
                numbering: Numbering::Host,
                is_detached: false,
            }),
        })
    }

    /// Returns the place of the encryption header, which follows the image's header cluster, if its format has one.
    pub(super) fn encryption_header(&self) -> Option<ByteRange> {
        let length = self.encryption()?.header_length();
        (length > 0).then_some(ByteRange {
            host: HostOffset(self.cluster_size),
            length,
        })
    }

    /// Returns the name of the backing file in the header, or an empty name without one.
    pub(super) fn backing_name(&self) -> &[u8] {
        self.backing.as_ref().map_or(&[], |backing| &backing.name)
    }
}
