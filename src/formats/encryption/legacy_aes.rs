//! The oldest encryption format of qcow2, which QEMU calls `aes`.
//!
//! It has no header and no key derivation: the password is the key. So a wrong password can't be detected, and gives
//! a disk of noise. Sectors are encrypted by their guest sector numbers.

use std::sync::Arc;

use zeroize::Zeroizing;

use super::{Cipher, EncryptedHeader, Encryption, EncryptionFormat, Numbering};
use crate::crypto::{Backend, KeyedCipher, Secret, chosen_backend, wipe_stack};
use crate::error::Result;

/// Legacy AES: AES-128-CBC with the first 16 bytes of the password as key, padded with zeroes.
#[derive(Debug, Clone, Copy)]
pub struct LegacyAes;

impl LegacyAes {
    /// Returns the cipher for a key, on a backend that this machine must have.
    ///
    /// # Panics
    /// Panics if this machine doesn't have the backend.
    pub fn with_key(key: &[u8; 16], backend: Backend) -> Cipher {
        Cipher::new(
            Arc::new(KeyedCipher::aes_cbc(key, backend)),
            Numbering::Guest,
        )
    }
}

impl Encryption for LegacyAes {
    fn format(&self) -> EncryptionFormat {
        EncryptionFormat::Aes
    }

    fn header_length(&self) -> u64 {
        0
    }

    fn create(&self, secret: &Secret) -> Result<(Vec<u8>, Cipher)> {
        Ok((Vec::new(), self.unlock(secret)?))
    }
}

impl EncryptedHeader for LegacyAes {
    fn format(&self) -> EncryptionFormat {
        EncryptionFormat::Aes
    }

    /// Returns a cipher for any password.
    fn unlock(&self, secret: &Secret) -> Result<Cipher> {
        let backend = chosen_backend()?;
        let cipher = expanded(secret, backend);
        wipe_stack();
        Ok(cipher)
    }
}

/// Derives the cipher in a stack frame of its own, which is overwritten afterwards.
#[inline(never)]
fn expanded(secret: &Secret, backend: Backend) -> Cipher {
    let mut key = Zeroizing::new([0; 16]);
    for (to, from) in key.iter_mut().zip(secret.bytes()) {
        *to = *from;
    }
    LegacyAes::with_key(&key, backend)
}
