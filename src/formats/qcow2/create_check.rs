//! The check of a new image's options.
//!
//! The order of the checks is QEMU's, so that of several errors the same one is reported.

use super::create_options::{CLUSTER_SIZES, NewQcow2Options, TOO_LARGE};
use super::geometry::{ENTRY_SIZE, Geometry, MAX_L1_BYTES};
use super::header::{CompressionType, Version, encode};
use crate::error::{Error, Result};
use crate::formats::Preallocation;
use crate::formats::encryption::Cipher;

/// Refuses compression for an image that excludes it. Compressed clusters are never encrypted, and can't be in an
/// external data file.
///
/// # Errors
/// Returns an error if the image is encrypted, or if its data is in an external data file.
pub(super) fn check_compression(is_encrypted: bool, has_data_file: bool) -> Result<()> {
    let other = if is_encrypted {
        "encryption"
    } else if has_data_file {
        "an external data file are"
    } else {
        return Ok(());
    };
    Err(Error::unsupported(format!(
        "Compression and {other} not supported at the same time"
    )))
}

/// The smallest cluster size with subclusters, in bytes.
const LEAST_EXTENDED: u64 = 16384;

impl NewQcow2Options {
    /// Checks the options and returns their geometry. Writes nothing.
    ///
    /// # Errors
    /// Returns an error, in `qemu-img`'s words, if options are out of range or exclude each other.
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
        encode::check_space(self)?;
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
        if self.encryption.is_some() {
            return refuse("data-file-raw and encryption cannot be used at the same time");
        }
        Ok(())
    }

    /// Checks that the image can have this preallocation.
    ///
    /// # Errors
    /// Returns an error if there is a backing file and the image has no subclusters. A preallocated cluster would
    /// hide the backing file, unless its subclusters are unallocated.
    pub fn check_preallocation(&self, preallocation: Preallocation) -> Result<()> {
        if preallocation != Preallocation::Off && self.backing.is_some() && !self.extended_l2 {
            return Err(Error::invalid(
                "Backing file and preallocation can only be used at the same time if extended_l2 \
                 is on",
            ));
        }
        Ok(())
    }

    /// Checks that there is a cipher if the options require one, and none otherwise.
    ///
    /// # Errors
    /// Returns an error if the cipher is missing, or if the options don't require it.
    pub(super) fn check_cipher(&self, cipher: Option<&Cipher>) -> Result<()> {
        match (self.encryption, cipher) {
            (None, None) | (Some(_), Some(_)) => Ok(()),
            (Some(_), None) => Err(super::missing_secret()),
            (None, Some(_)) => Err(Error::invalid("a cipher for an image that isn't encrypted")),
        }
    }
}
