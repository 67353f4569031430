//! What a new image is to be like, and which of these wishes can't be had together.

use std::ops::RangeInclusive;

use super::geometry::{ENTRY_SIZE, Geometry, MAX_L1_BYTES};
use super::header::{CompressionType, EncryptionMethod, Version};
use crate::crypto::AesCbc;
use crate::error::{Error, Result};

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
    /// How wide a refcount is: 1, 2, 4, … 64 bits (version 2: only 16).
    pub refcount_bits: u64,
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
            refcount_bits: 16,
            compression: CompressionType::Zlib,
            encryption: EncryptionMethod::None,
        }
    }

    /// The geometry that these options give; nothing is written.
    ///
    /// # Errors
    /// Options that are out of range or exclude each other, worded as `qemu-img` words it.
    pub fn check(&self) -> Result<Geometry> {
        let version_3 = self.version == Version::V3;
        let needs_version_3 = |what: &str, above: &str| {
            Error::invalid(format!(
                "{what} compatibility level 1.1 {above} above (use version=v3 or greater)"
            ))
        };
        if !self.cluster_size.is_power_of_two() || !CLUSTER_SIZES.contains(&self.cluster_size) {
            return Err(Error::invalid(
                "Cluster size must be a power of two between 512 and 2048k",
            ));
        }
        if self.lazy_refcounts && !version_3 {
            return Err(needs_version_3("Lazy refcounts only supported with", "and"));
        }
        if !self.refcount_bits.is_power_of_two() || self.refcount_bits > 64 {
            return Err(Error::invalid(
                "Refcount width must be a power of two and may not exceed 64 bits",
            ));
        }
        if self.refcount_bits != 16 && !version_3 {
            return Err(needs_version_3(
                "Different refcount widths than 16 bits require",
                "or",
            ));
        }
        if self.compression != CompressionType::Zlib && !version_3 {
            return Err(needs_version_3(
                "Non-zlib compression type is only supported with",
                "and",
            ));
        }
        let refcount_order = self.refcount_bits.trailing_zeros();
        let geometry = Geometry::new(self.cluster_size.trailing_zeros(), false, refcount_order)
            .ok_or_else(|| Error::invalid("the cluster size is out of range"))?;
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
