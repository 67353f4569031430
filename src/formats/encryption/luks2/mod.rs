//! LUKS version 2, which is read and never written.
//!
//! As in version 1, a random key encrypts the disk, and key slots have that key encrypted with passwords. Almost all
//! of it is described by a JSON text, of which there are two copies. Version 2 adds Argon2, a key derivation that
//! takes memory, sectors of up to 4096 bytes, and disks of any size and at any place. The format is that of "LUKS2
//! On-Disk Format Specification, version 1.1".
//!
//! - [`binary_header`]: the two headers and their checksums; [`metadata`]: the text, and the checks;
//! - [`unlock`]: recovering the disk's key with a password; [`report`]: the header in reports.

mod binary_header;
mod metadata;
mod report;
mod unlock;

use std::sync::Arc;

pub use report::Luks2Info;

use self::binary_header::{BothHeaders, Luks2Fields};
use self::metadata::Luks2Metadata;
use super::cipher_names::spec_of;
use super::{Cipher, EncryptedHeader, EncryptionFormat, Numbering};
use crate::crypto::{CipherSpec, Secret, SectorLength, chosen_backend};
use crate::error::{Error, Result};
use crate::storage::Storage;

/// A header that has been read and checked.
#[derive(Debug, Clone)]
pub struct Luks2Header {
    /// The storage with the headers and key slots.
    area: Arc<dyn Storage>,
    fields: Luks2Fields,
    metadata: Luks2Metadata,
    /// True if only one of the two headers is intact.
    one_is_damaged: bool,
    is_detached: bool,
    /// The cipher of the disk, or `None` if there is no key slot from which its key length is known.
    spec: Option<CipherSpec>,
    sector_length: SectorLength,
    /// The size of the disk in bytes, or `None` if it extends to the end of its file.
    size: Option<u64>,
}

impl Luks2Header {
    /// Reads and checks the header at the start of `area`, which also has the key slots. Returns `None` if there is
    /// no header of this version. The disk of a detached header is in another file.
    ///
    /// # Errors
    /// Returns the system's error. Returns an error if the header is damaged or uses a feature that isn't supported.
    pub fn read(area: Arc<dyn Storage>, is_detached: bool) -> Result<Option<Self>> {
        let Some(both) = binary_header::read(area.as_ref())? else {
            return Ok(None);
        };
        let BothHeaders {
            newer: fields,
            one_is_damaged,
        } = both;
        let metadata = Luks2Metadata::parse(&fields.text, fields.length, is_detached)?;
        let segment = &metadata.segment;
        let slot = metadata.slots.values().next();
        let spec = slot.map(|slot| spec_of(&segment.encryption, u64::from(slot.key_size)));
        let spec = spec.transpose()?;
        Ok(Some(Self {
            spec,
            sector_length: segment.sector_length()?,
            size: segment.size()?,
            area,
            one_is_damaged,
            is_detached,
            fields,
            metadata,
        }))
    }

    /// Returns the offset of the encrypted disk in its file, in bytes.
    pub fn payload_offset(&self) -> u64 {
        self.metadata.segment.offset.0
    }

    /// Returns the size of the disk in bytes, in a file of `length` bytes.
    ///
    /// # Errors
    /// Returns an error if the file ends before the disk does, or within a sector.
    pub fn size(&self, length: u64) -> Result<u64> {
        let space = length.checked_sub(self.payload_offset());
        let Some(space) = space.filter(|space| self.size.is_none_or(|size| size <= *space)) else {
            return Err(Error::corrupt("LUKS2 disk is cut off"));
        };
        let size = self.size.unwrap_or(space);
        let unit = self.sector_length.bytes();
        if !size.is_multiple_of(unit) {
            return Err(Error::corrupt(format!(
                "LUKS2 disk of {size} bytes isn't a whole number of sectors of {unit}"
            )));
        }
        Ok(size)
    }

    /// Returns the sector size with which the disk is encrypted.
    pub fn sector_length(&self) -> SectorLength {
        self.sector_length
    }

    /// Returns true if only one of the two headers is intact.
    pub fn is_half_damaged(&self) -> bool {
        self.one_is_damaged
    }
}

impl EncryptedHeader for Luks2Header {
    fn format(&self) -> EncryptionFormat {
        EncryptionFormat::Luks
    }

    fn unlock(&self, secret: &Secret) -> Result<Cipher> {
        let Some(spec) = self.spec else {
            return Err(Error::invalid(
                "LUKS2 disk has no key slot: nothing opens it",
            ));
        };
        let key = self.disk_key(secret)?;
        let cipher = spec.of_length(self.sector_length, &key, chosen_backend()?)?;
        let first = self.metadata.segment.first_number();
        Ok(Cipher::new(Arc::new(cipher), Numbering::Guest).numbered_from(first))
    }
}

#[cfg(test)]
mod tests;
