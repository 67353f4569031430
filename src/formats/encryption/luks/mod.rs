//! LUKS version 1: a header with eight key slots, each of which unlocks the disk with another password.
//!
//! The disk is encrypted with a random master key. A key slot has the master key, encrypted with a key that PBKDF2
//! derives from a password. It is split so that all of the slot's 4000 stripes are needed to recover it. A digest of
//! the master key in the header identifies a wrong password.
//!
//! Numbers are big-endian, and offsets are in sectors of 512 bytes from the start of the header. The checks and their
//! messages are QEMU's. The format is that of "LUKS On-Disk Format Specification, version 1.2.3".
//!
//! - [`header`]: the fields, and the checks;
//! - [`unlock`]: recovering the master key with a password; [`create`]: a new header;
//! - [`key_slots`]: adding and erasing passwords;
//! - [`options`]: the options of a new header; [`report`]: the header in reports.

mod create;
mod header;
mod key_slots;
mod options;
mod report;
mod unlock;

use std::sync::Arc;

pub use create::LuksCreation;
pub use header::FIELDS_LENGTH;
pub use key_slots::{ENCRYPT_SLOT_OPTIONS, SLOT_OPTIONS, SlotChange};
pub use options::{ENCRYPT_OPTIONS, LuksOptions, OPTIONS};
pub use report::LuksInfo;

use self::header::LuksFields;
use super::cipher_names::{NamedCipher, hash_of};
use super::{Cipher, EncryptedHeader, EncryptionFormat, Numbering};
use crate::crypto::{CipherSpec, HashAlgorithm, Secret, chosen_backend};
use crate::error::Result;
use crate::storage::Storage;
use crate::units::SECTOR_SIZE;

/// The first bytes of a header of version 1: the magic number and the version.
pub const LUKS_MARK: &[u8; 8] = b"LUKS\xba\xbe\0\x01";

/// A header that has been read and checked.
#[derive(Debug, Clone)]
pub struct LuksHeader {
    /// The storage with the header and its key slots.
    area: Arc<dyn Storage>,
    fields: LuksFields,
    spec: CipherSpec,
    hash: HashAlgorithm,
    numbering: Numbering,
}

impl LuksHeader {
    /// Reads and checks the header at the start of `area`, which also has the key slots. `numbering` says which
    /// sector numbers the disk is encrypted with.
    ///
    /// # Errors
    /// Returns the system's error. Returns an error, in QEMU's words, if the header is invalid.
    pub fn read(area: Arc<dyn Storage>, numbering: Numbering) -> Result<Self> {
        let fields = LuksFields::read(area.as_ref(), false)?;
        Self::of(area, fields, numbering)
    }

    /// Reads and checks a detached header, whose disk is in another file.
    ///
    /// # Errors
    /// Returns an error as [`read`](Self::read) does.
    pub fn read_detached(area: Arc<dyn Storage>, numbering: Numbering) -> Result<Self> {
        let fields = LuksFields::read(area.as_ref(), true)?;
        Self::of(area, fields, numbering)
    }

    fn of(area: Arc<dyn Storage>, fields: LuksFields, numbering: Numbering) -> Result<Self> {
        let key_length = u64::from(fields.key_length);
        let cipher = NamedCipher::parse(&fields.cipher_name, &fields.cipher_mode, key_length)?;
        let hash = hash_of(&fields.hash)?;
        let spec = cipher.spec()?;
        Ok(Self {
            area,
            fields,
            spec,
            hash,
            numbering,
        })
    }

    /// Returns the offset of the encrypted disk in bytes, or 0 for a detached header.
    pub fn payload_offset(&self) -> u64 {
        u64::from(self.fields.payload_offset) * SECTOR_SIZE
    }
}

impl EncryptedHeader for LuksHeader {
    fn format(&self) -> EncryptionFormat {
        EncryptionFormat::Luks
    }

    fn unlock(&self, secret: &Secret) -> Result<Cipher> {
        let key = self.master_key(secret)?;
        let cipher = self.spec.with_key(&key, chosen_backend()?)?;
        Ok(Cipher::new(Arc::new(cipher), self.numbering))
    }
}

#[cfg(test)]
mod tests;
