//! The options of a new image, and the check that they go together.

use std::ops::RangeInclusive;

use super::geometry::{ENTRY_SIZE, Geometry, MAX_L1_BYTES};
use super::header::encode;
use super::header::{CompressionType, EncryptionMethod, Version};
use crate::error::{Error, Result};
use crate::formats::Preallocation;
pub use crate::formats::driver::Backing;
use crate::formats::encryption::Cipher;

/// The cluster sizes that can be asked for, in bytes.
pub const CLUSTER_SIZES: RangeInclusive<u64> = 512..=2 << 20;
/// The words for a disk for which the L1 table, or the file system, has no room.
pub const TOO_LARGE: &str =
    "The image size is too large for file format 'qcow2' (try using a larger cluster size)";
/// The smallest clusters that have subclusters, in bytes.
const LEAST_EXTENDED: u64 = 16384;

/// The options of a new image.
#[derive(Debug, Clone)]
pub struct CreateOptions {
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
    pub encryption: EncryptionMethod,
    /// True if L2 entries tell subclusters apart (version 3, clusters of 16 KiB and more).
    pub extended_l2: bool,
    /// The backing file, from which everything is read that the image doesn't store.
    pub backing: Option<Backing>,
    /// The name of the file that holds the guest's data, as it is stored (version 3 only).
    pub data_file: Option<Vec<u8>>,
    /// True if that file is a raw image of the disk at all times.
    pub data_file_raw: bool,
}

impl CreateOptions {
    /// Makes the options of a version 3 image with QEMU's defaults: 64 KiB clusters, not encrypted.
    pub fn new(size: u64) -> Self {
        Self {
            size,
            version: Version::V3,
            cluster_size: 65536,
            lazy_refcounts: false,
            refcount_bits: 16,
            compression: CompressionType::Zlib,
            encryption: EncryptionMethod::None,
            extended_l2: false,
            backing: None,
            data_file: None,
            data_file_raw: false,
        }
    }

    /// Checks the options and returns the geometry that they give; nothing is written.
    ///
    /// # Errors
    /// Returns an error if options are out of range or exclude each other, worded as `qemu-img`
    /// words it.
    pub fn check(&self) -> Result<Geometry> {
        let version_3 = self.version == Version::V3;
        let needs_version_3 = |what: &str, above: &str| {
            Err(Error::invalid(format!(
                "{what} compatibility level 1.1 {above} above (use version=v3 or greater)"
            )))
        };
        let refuse = |why: &str| Err(Error::invalid(why));
        if self.extended_l2 && !version_3 {
            return needs_version_3("Extended L2 entries are only supported with", "and");
        }
        if !self.cluster_size.is_power_of_two() || !CLUSTER_SIZES.contains(&self.cluster_size) {
            return refuse("Cluster size must be a power of two between 512 and 2048k");
        }
        if self.extended_l2 && self.cluster_size < LEAST_EXTENDED {
            return Err(Error::invalid(format!(
                "Extended L2 entries are only supported with cluster sizes of at least \
                 {LEAST_EXTENDED} bytes"
            )));
        }
        if self.lazy_refcounts && !version_3 {
            return needs_version_3("Lazy refcounts only supported with", "and");
        }
        if !self.refcount_bits.is_power_of_two() || self.refcount_bits > 64 {
            return refuse("Refcount width must be a power of two and may not exceed 64 bits");
        }
        if self.refcount_bits != 16 && !version_3 {
            return needs_version_3("Different refcount widths than 16 bits require", "or");
        }
        self.check_data_file()?;
        if self.data_file.is_some() && !version_3 {
            return needs_version_3("External data files are only supported with", "and");
        }
        if self.compression != CompressionType::Zlib && !version_3 {
            return needs_version_3("Non-zlib compression type is only supported with", "and");
        }
        encode::check_room(self)?;
        let cluster_bits = self.cluster_size.trailing_zeros();
        let refcount_order = self.refcount_bits.trailing_zeros();
        let geometry = Geometry::new(cluster_bits, self.extended_l2, refcount_order)
            .ok_or_else(|| Error::invalid("the cluster size is out of range"))?;
        if geometry.l1_entries(self.size) > MAX_L1_BYTES / ENTRY_SIZE {
            return Err(Error::invalid(TOO_LARGE));
        }
        Ok(geometry)
    }

    fn check_data_file(&self) -> Result<()> {
        let refuse = |why: &str| Err(Error::invalid(why));
        if !self.data_file_raw {
            return Ok(());
        }
        if self.data_file.is_none() {
            return refuse("data-file-raw requires data-file");
        }
        if self.backing.is_some() {
            return refuse("Backing file and data-file-raw cannot be used at the same time");
        }
        if self.encryption != EncryptionMethod::None {
            return refuse("data-file-raw and encryption cannot be used at the same time");
        }
        Ok(())
    }

    /// Checks that so much of the space can be taken beforehand.
    ///
    /// # Errors
    /// Returns an error if there is a backing file, since a cluster that has its place would hide
    /// it, unless subclusters say that nothing is stored there yet.
    pub fn check_preallocation(&self, preallocation: Preallocation) -> Result<()> {
        if preallocation != Preallocation::Off && self.backing.is_some() && !self.extended_l2 {
            return Err(Error::invalid(
                "Backing file and preallocation can only be used at the same time if extended_l2 \
                 is on",
            ));
        }
        Ok(())
    }

    /// Returns the name of the backing file as it is stored; empty when there is none.
    pub(super) fn backing_name(&self) -> &[u8] {
        self.backing.as_ref().map_or(&[], |backing| &backing.name)
    }

    /// Checks that there is a cipher exactly when the options ask for one that this version has.
    ///
    /// # Errors
    /// Returns an error if the cipher is missing, or if the options don't ask for it.
    pub(super) fn check_cipher(&self, cipher: Option<&Cipher>) -> Result<()> {
        match (self.encryption, cipher) {
            (EncryptionMethod::None, None) | (EncryptionMethod::Aes, Some(_)) => Ok(()),
            (EncryptionMethod::Aes | EncryptionMethod::Luks, None) => Err(super::missing_secret()),
            (EncryptionMethod::None | EncryptionMethod::Luks, Some(_)) => Err(Error::unsupported(
                "this version can encrypt with 'aes' only",
            )),
        }
    }
}
