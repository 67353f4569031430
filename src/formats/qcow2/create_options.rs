//! What a new image is to be like, and which of these wishes can't be had together.

use std::ops::RangeInclusive;

use super::geometry::{ENTRY_SIZE, Geometry, MAX_L1_BYTES};
use super::header::{CompressionType, EncryptionMethod, Version};
use crate::crypto::AesCbc;
use crate::error::{Error, Result};

/// Refcounts are 2^4 = 16 bits wide in the images that this version writes.
pub(super) const REFCOUNT_ORDER: u32 = 4;
/// The cluster sizes that can be asked for, in bytes.
pub const CLUSTER_SIZES: RangeInclusive<u64> = 512..=2 << 20;

/// What a new image is to be like.
#[derive(Debug, Clone)]
pub struct CreateOptions {
    /// The size of the virtual disk in bytes; rounded up to a multiple of 512.
    pub size: u64,
    /// The format's version.
    pub version: Version,
    /// The cluster size in bytes: a power of two of [`CLUSTER_SIZES`].
    pub cluster_size: u64,
    /// Whether refcounts may be updated late (version 3 only).
    pub lazy_refcounts: bool,
    /// How compressed clusters will be compressed (anything but zlib: version 3 only).
    pub compression: CompressionType,
    /// How the guest's data is encrypted.
    pub encryption: EncryptionMethod,
}

impl CreateOptions {
    /// A version 3 image with QEMU's defaults: 64 KiB clusters, not encrypted.
    pub fn new(size: u64) -> Self {
        Self {
            size,
            version: Version::V3,
            cluster_size: 65536,
            lazy_refcounts: false,
            compression: CompressionType::Zlib,
            encryption: EncryptionMethod::None,
        }
    }

    /// The geometry that these options give; nothing is written.
    ///
    /// # Errors
    /// Options that are out of range or exclude each other, worded as `qemu-img` words it.
    pub fn check(&self) -> Result<Geometry> {
        let bits = self.cluster_size.trailing_zeros();
        let geometry = Geometry::new(bits, false, REFCOUNT_ORDER)
            .filter(|geometry| geometry.cluster_size() == self.cluster_size)
            .ok_or_else(|| {
                Error::invalid("Cluster size must be a power of two between 512 and 2048k")
            })?;
        if self.version == Version::V2 {
            if self.lazy_refcounts {
                return Err(Error::invalid(
                    "Lazy refcounts only supported with compatibility level 1.1 and above (use \
                     version=v3 or greater)",
                ));
            }
            if self.compression != CompressionType::Zlib {
                return Err(Error::invalid(
                    "Non-zlib compression type is only supported with compatibility level 1.1 and \
                     above (use version=v3 or greater)",
                ));
            }
        }
        if geometry.l1_entries(self.size) > MAX_L1_BYTES / ENTRY_SIZE {
            return Err(Error::invalid(
                "The image size is too large for file format 'qcow2' (try using a larger cluster \
                 size)",
            ));
        }
        Ok(geometry)
    }

    /// That there is a cipher exactly when the options ask for one that this version has.
    ///
    /// # Errors
    /// There isn't.
    pub(super) fn check_cipher(&self, cipher: Option<&AesCbc>) -> Result<()> {
        match (self.encryption, cipher) {
            (EncryptionMethod::None, None) | (EncryptionMethod::Aes, Some(_)) => Ok(()),
            (EncryptionMethod::Aes | EncryptionMethod::Luks, None) => Err(super::missing_secret()),
            (EncryptionMethod::None | EncryptionMethod::Luks, Some(_)) => Err(Error::unsupported(
                "this version can encrypt with 'aes' only",
            )),
        }
    }
}
