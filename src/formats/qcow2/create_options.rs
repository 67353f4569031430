//! The options of a new image, as data.
//!
//! [`create_check`](super::create_check) tells if they go together. It needs the header, which is made of the
//! options.

use crate::formats::encryption::luks::{LuksCreation, LuksOptions};
use crate::formats::encryption::{Encryption, EncryptionFormat, LegacyAes, Numbering};
use crate::units::HostOffset;
use std::ops::RangeInclusive;

use super::header::{ByteRange, CompressionType, Version};
pub use crate::formats::driver::Backing;

/// The cluster sizes that can be asked for, in bytes.
pub const CLUSTER_SIZES: RangeInclusive<u64> = 512..=2 << 20;
/// The words for a disk for which the L1 table, or the file system, has no room.
pub const TOO_LARGE: &str =
    "The image size is too large for file format 'qcow2' (try using a larger cluster size)";

/// The options of a new image.
#[derive(Debug, Clone)]
pub struct NewQcow2Options {
    /// The size of the virtual disk in bytes; rounded up to a multiple of 512.
    pub size: u64,
    /// The format's version.
    pub version: Version,
    /// The cluster size in bytes: a power of two of [`CLUSTER_SIZES`].
    pub cluster_size: u64,
    /// True if refcounts may be updated late (version 3 only).
    pub lazy_refcounts: bool,
    /// The width of a refcount: 1, 2, 4, … 64 bits (version 2: only 16).
    pub refcount_bits: u64,
    /// The method by which compressed clusters will be compressed (anything but zlib: version 3
    /// only).
    pub compression: CompressionType,
    /// The method by which the guest's data is encrypted.
    pub encryption: Option<EncryptionFormat>,
    /// The header of LUKS, where that is the format.
    pub luks: LuksOptions,
    /// True if L2 entries tell subclusters apart (version 3, clusters of 16 KiB and more).
    pub extended_l2: bool,
    /// The backing file, from which everything is read that the image doesn't store.
    pub backing: Option<Backing>,
    /// The name of the file that holds the guest's data, as it is stored (version 3 only).
    pub data_file: Option<Vec<u8>>,
    /// True if that file is a raw image of the disk at all times.
    pub data_file_raw: bool,
}

impl NewQcow2Options {
    /// Makes the options of a version 3 image with QEMU's defaults: 64 KiB clusters, not encrypted.
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

    /// Returns the place of the header of the encryption, where its format has one: right behind the image's own.
    pub(super) fn encryption_header(&self) -> Option<ByteRange> {
        let length = self.encryption()?.header_length();
        (length > 0).then_some(ByteRange {
            host: HostOffset(self.cluster_size),
            length,
        })
    }

    /// Returns the name of the backing file as it is stored; empty when there is none.
    pub(super) fn backing_name(&self) -> &[u8] {
        self.backing.as_ref().map_or(&[], |backing| &backing.name)
    }
}
