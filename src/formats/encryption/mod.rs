//! Encryption formats: the derivation of a disk's cipher from a password and a header.
//!
//! Image formats share them: qcow2 may contain a LUKS header, and LUKS is an image format itself. An encryption
//! format returns a [`Cipher`]. The image format passes the guest offset and the host offset of sectors to the
//! cipher, which uses the one that the encryption format requires.

mod cipher_names;
mod key_material;
mod legacy_aes;
pub mod luks;
pub mod luks2;

use std::sync::Arc;

pub use legacy_aes::LegacyAes;

use crate::crypto::{Secret, SectorCipher};
use crate::error::{Error, ErrorKind, Result};
use crate::options::Values;
use crate::units::{GuestOffset, HostOffset, SECTOR_SIZE};

/// The encryption formats, by QEMU's names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EncryptionFormat {
    /// AES-128-CBC with the password as the key.
    Aes,
    /// LUKS.
    Luks,
}

impl EncryptionFormat {
    /// The recommended format for new images.
    pub const RECOMMENDED: Self = Self::Luks;

    /// All formats.
    pub const ALL: [Self; 2] = [Self::Aes, Self::Luks];

    /// Returns the name that `qemu-img` uses.
    pub fn name(self) -> &'static str {
        match self {
            Self::Aes => "aes",
            Self::Luks => "luks",
        }
    }

    /// Returns a description of the format and its security.
    pub fn description(self) -> &'static str {
        match self {
            Self::Aes => {
                "Legacy AES: AES-128-CBC on sectors of 512 bytes, with an IV from the guest sector number. The first \
                 16 bytes of the password are the key: there is no key derivation, so a password that can be \
                 guessed is guessed fast. Sectors that begin with the same 16 bytes can be told from others, and \
                 nothing detects a wrong password or changed data. Use LUKS for new images."
            }
            Self::Luks => {
                "LUKS: a random master key encrypts the sectors. Several passwords open it, each through PBKDF2 \
                 (in version 2 also Argon2), which makes guessing slow, and can be changed or erased. A wrong \
                 password is detected; changed data isn't."
            }
        }
    }

    /// Returns true if a wrong password can only be recognised by the noise that it gives.
    pub fn accepts_any_password(self) -> bool {
        self == Self::Aes
    }
}

/// The encryption of a new image.
pub trait Encryption: Sync {
    /// Returns the format.
    fn format(&self) -> EncryptionFormat;

    /// Returns the length of its header in bytes, for which a new image reserves space, or 0 without one.
    fn header_length(&self) -> u64;

    /// Returns a new header, and the cipher of the disk.
    ///
    /// # Errors
    /// Returns an error if this machine doesn't have the requested cipher.
    fn create(&self, secret: &Secret) -> Result<(Vec<u8>, Cipher)>;
}

/// The encryption of an existing image, whose header has been read and checked.
pub trait EncryptedHeader: Send + Sync {
    /// Returns the format.
    fn format(&self) -> EncryptionFormat;

    /// Returns the cipher that the password unlocks.
    ///
    /// # Errors
    /// Returns an error if the password is known to be wrong, or if this machine doesn't have the cipher.
    fn unlock(&self, secret: &Secret) -> Result<Cipher>;
}

/// The sector numbers with which sectors are encrypted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Numbering {
    /// The guest sector number, as in legacy AES.
    Guest,
    /// The host sector number, as in LUKS inside qcow2.
    Host,
}

/// The cipher of a disk.
#[derive(Debug, Clone)]
pub struct Cipher {
    sectors: Arc<dyn SectorCipher>,
    numbering: Numbering,
    /// The number of the disk's first sector.
    first: u64,
}

impl Cipher {
    /// Returns the cipher that encrypts with `sectors`, by these sector numbers.
    pub fn new(sectors: Arc<dyn SectorCipher>, numbering: Numbering) -> Self {
        Self {
            sectors,
            numbering,
            first: 0,
        }
    }

    /// Returns the same cipher for a disk whose first sector has another number than 0.
    #[must_use]
    pub fn numbered_from(self, first: u64) -> Self {
        Self { first, ..self }
    }

    /// Encrypts whole sectors in place. Their guest offset is `guest`, and they will be written to `host`.
    ///
    /// # Panics
    /// Panics if `data` isn't a whole number of sectors.
    pub fn encrypt(&self, guest: GuestOffset, host: HostOffset, data: &mut [u8]) {
        self.sectors.encrypt(self.number(guest, host), data);
    }

    /// Encrypts as [`encrypt`](Self::encrypt) does, from one buffer to another.
    ///
    /// # Panics
    /// Panics if `src` isn't a whole number of sectors, or if `dst` isn't as long.
    pub fn encrypt_to(&self, guest: GuestOffset, host: HostOffset, src: &[u8], dst: &mut [u8]) {
        self.sectors.encrypt_to(self.number(guest, host), src, dst);
    }

    /// Decrypts whole sectors in place. Their guest offset is `guest`, and they were read from `host`.
    ///
    /// # Panics
    /// Panics if `data` isn't a whole number of sectors.
    pub fn decrypt(&self, guest: GuestOffset, host: HostOffset, data: &mut [u8]) {
        self.sectors.decrypt(self.number(guest, host), data);
    }

    fn number(&self, guest: GuestOffset, host: HostOffset) -> u64 {
        let byte = match self.numbering {
            Numbering::Guest => guest.0,
            Numbering::Host => host.0,
        };
        self.first.wrapping_add(byte / SECTOR_SIZE)
    }
}

/// Returns the error for an encrypted image without a password, in a format with inner encryption.
pub fn missing_secret() -> Error {
    missing_option(ENCRYPT_KEY_SECRET)
}

/// Returns the error for an encrypted image without a password; `option` is the option for it.
pub fn missing_option(option: &str) -> Error {
    Error::new(
        ErrorKind::MissingSecret,
        format!("Parameter '{option}' is required for cipher"),
    )
}

/// The name of the option for the secret, in formats with inner encryption.
const ENCRYPT_KEY_SECRET: &str = "encrypt.key-secret";

/// The names of the option for the secret: in formats with inner encryption, and in `luks`.
pub const KEY_SECRETS: [&str; 2] = [ENCRYPT_KEY_SECRET, "key-secret"];

/// Returns the name of the option for the secret, among those of an image's options.
pub fn key_secret_option(options: &Values) -> &'static str {
    let mut names = KEY_SECRETS.into_iter();
    let known = names.find(|name| options.knows(name));
    known.unwrap_or(ENCRYPT_KEY_SECRET)
}

/// Returns the id of the secret in an image's options.
pub fn key_secret(options: &Values) -> Option<&str> {
    KEY_SECRETS.iter().find_map(|name| options.text(name))
}
