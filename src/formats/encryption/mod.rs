//! Encryption formats: the making of a disk's cipher from a password and a header.
//!
//! Image formats share them: qcow2 has LUKS inside, and a LUKS header is a format by itself. An encryption
//! format gives a [`Cipher`]. An image format tells the cipher where on the disk and where in the file its
//! sectors are. The cipher uses the one of both by which its format numbers sectors.

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

/// The encryption formats that are known by name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EncryptionFormat {
    /// AES-128-CBC with the password as key.
    Aes,
    /// LUKS.
    Luks,
}

impl EncryptionFormat {
    /// The format that new images should have.
    pub const RECOMMENDED: Self = Self::Luks;

    /// All of them.
    pub const ALL: [Self; 2] = [Self::Aes, Self::Luks];

    /// Returns the name that `qemu-img` uses.
    pub fn name(self) -> &'static str {
        match self {
            Self::Aes => "aes",
            Self::Luks => "luks",
        }
    }

    /// Returns what it does, and what it is worth, in words.
    pub fn worth(self) -> &'static str {
        match self {
            Self::Aes => {
                "Legacy AES: AES-128-CBC on sectors of 512 bytes, with an IV from the guest sector number. The first \
                 16 bytes of the password are the key: there is no key derivation, so a password that can be \
                 guessed is guessed fast. Sectors that begin with the same 16 bytes can be told from others, and \
                 nothing detects a wrong password or changed data. Use LUKS for new images."
            }
            Self::Luks => {
                "LUKS: a random master key encrypts the sectors. Several passwords open it, each through PBKDF2 or \
                 Argon2, which make guessing slow, and can be changed or erased. A wrong password is \
                 detected; changed data isn't."
            }
        }
    }

    /// Returns true if the disk reads as noise with a wrong password, and nothing else tells that it is wrong.
    pub fn accepts_any_password(self) -> bool {
        self == Self::Aes
    }
}

/// The encryption of a new image.
pub trait Encryption: Sync {
    /// Returns the format.
    fn format(&self) -> EncryptionFormat;

    /// Returns the length of its header in bytes, for which a new image leaves room; 0 where there is none.
    fn header_length(&self) -> u64;

    /// Makes a header, and the cipher that it stands for.
    ///
    /// # Errors
    /// Returns an error if this machine doesn't have the cipher that was asked for.
    fn create(&self, secret: &Secret) -> Result<(Vec<u8>, Cipher)>;
}

/// The encryption of an image that exists, its header read and checked, and not opened.
pub trait EncryptedHeader: Send + Sync {
    /// Returns the format.
    fn format(&self) -> EncryptionFormat;

    /// Makes the cipher that the password stands for.
    ///
    /// # Errors
    /// Returns an error if the password is known to be wrong, or if this machine doesn't have the cipher.
    fn unlock(&self, secret: &Secret) -> Result<Cipher>;
}

/// The number by which a sector is encrypted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Numbering {
    /// Its number on the disk that the image stands for, as in legacy AES.
    Guest,
    /// Its number in the file that holds it, as in LUKS inside of qcow2.
    Host,
}

/// The cipher of a disk.
#[derive(Debug, Clone)]
pub struct Cipher {
    sectors: Arc<dyn SectorCipher>,
    numbering: Numbering,
    /// The number of the first sector.
    first: u64,
}

impl Cipher {
    /// Makes a cipher of a cipher of sectors and the number that it uses.
    pub fn new(sectors: Arc<dyn SectorCipher>, numbering: Numbering) -> Self {
        Self {
            sectors,
            numbering,
            first: 0,
        }
    }

    /// Returns the same cipher of a disk whose first sector has another number than 0.
    #[must_use]
    pub fn numbered_from(self, first: u64) -> Self {
        Self { first, ..self }
    }

    /// Encrypts whole sectors in place, which stand for `guest` and go to `host`.
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

    /// Decrypts whole sectors in place, which stand for `guest` and were read at `host`.
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

/// Returns the error for an encrypted image without a password, in a format with encryption inside.
pub fn missing_secret() -> Error {
    missing_option(ENCRYPT_KEY_SECRET)
}

/// Returns the error for an encrypted image without a password, which an option would give.
pub fn missing_option(option: &str) -> Error {
    Error::new(
        ErrorKind::MissingSecret,
        format!("Parameter '{option}' is required for cipher"),
    )
}

/// The name of the option in formats with encryption inside.
const ENCRYPT_KEY_SECRET: &str = "encrypt.key-secret";

/// The names of the option that names the secret of an image: of those with a header inside, and of `luks`.
pub const KEY_SECRETS: [&str; 2] = [ENCRYPT_KEY_SECRET, "key-secret"];

/// Returns the name of the option that gives a secret to an image with such options.
pub fn key_secret_option(options: &Values) -> &'static str {
    let mut names = KEY_SECRETS.into_iter();
    let known = names.find(|name| options.knows(name));
    known.unwrap_or(ENCRYPT_KEY_SECRET)
}

/// Returns the id of the secret that options name for an image's key.
pub fn key_secret(options: &Values) -> Option<&str> {
    KEY_SECRETS.iter().find_map(|name| options.text(name))
}
