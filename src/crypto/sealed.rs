//! Secrets that are encrypted with another secret.
//!
//! Management software passes passwords in this way. The text on a command line or in a file is useless without a
//! master key that was given separately. The scheme is QEMU's: AES-256 in CBC mode with the 32 bytes of the master
//! key, and PKCS#7 padding. A wrong master key is only noticed by wrong padding, so 1 in 256 is accepted.

use aes::Aes256;
use cbc::cipher::{BlockModeDecrypt as _, KeyIvInit as _};
use zeroize::Zeroizing;

use super::Secret;
use super::sector::BLOCK_SIZE;
use crate::error::{Error, Result};

impl Secret {
    /// Decrypts `payload` with this secret as the key.
    ///
    /// # Errors
    /// Returns an error if the key doesn't have 32 bytes, or if the initialisation vector doesn't have 16. Returns an
    /// error if the payload isn't a whole number of blocks. Returns an error if the padding of the plaintext is
    /// wrong.
    pub fn unseal(&self, iv: &[u8], payload: &Secret) -> Result<Secret> {
        let key: &[u8; 32] = self
            .bytes()
            .try_into()
            .map_err(|_| Error::invalid("Key should be 32 bytes in length"))?;
        let iv: &[u8; BLOCK_SIZE] = iv.try_into().map_err(|_| {
            let length = iv.len();
            Error::invalid(format!("IV should be 16 bytes in length not {length}"))
        })?;
        let mut bytes = Zeroizing::new(payload.bytes().to_vec());
        let length = bytes.len();
        let (blocks, rest) = bytes.as_chunks_mut::<BLOCK_SIZE>();
        if !rest.is_empty() {
            return Err(Error::invalid(format!(
                "Length {length} must be a multiple of block size {BLOCK_SIZE}"
            )));
        }
        cbc::Decryptor::<Aes256>::new(key.into(), iv.into())
            .decrypt_blocks(aes::Block::cast_slice_from_core_mut(blocks));
        let filling = bytes.last().copied().unwrap_or(0);
        let kept = length
            .checked_sub(usize::from(filling))
            .filter(|_| (1..=BLOCK_SIZE).contains(&usize::from(filling)));
        match kept.and_then(|kept| bytes.get(..kept)) {
            Some(bytes) => Ok(Secret::new(bytes.to_vec())),
            None => Err(Error::invalid(format!(
                "Incorrect number of padding bytes ({filling}) found on decrypted data"
            ))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Made with `openssl enc -aes-256-cbc`: the word `secret`, key `k` × 32, vector `i` × 16.
    const SEALED: [u8; BLOCK_SIZE] = [
        0x4b, 0x34, 0xb3, 0xae, 0x87, 0x8e, 0xbd, 0x3e, 0x79, 0x02, 0x4c, 0x06, 0xcf, 0xb4, 0x46,
        0x5a,
    ];

    fn unseal(key: &[u8], iv: &[u8], payload: &[u8]) -> Result<Vec<u8>, String> {
        Secret::new(key.to_vec())
            .unseal(iv, &Secret::new(payload.to_vec()))
            .map(|secret| secret.bytes().to_vec())
            .map_err(|error| error.to_string())
    }

    #[test]
    fn the_key_opens_it() {
        let opened = unseal(&[b'k'; 32], &[b'i'; 16], &SEALED);
        assert_eq!(opened, Ok(b"secret".to_vec()));
    }

    #[test]
    fn what_is_wrong_is_said() {
        let (key, iv) = ([b'k'; 32], [b'i'; 16]);
        for (key, iv, payload, message) in [
            (&key[..31], &iv[..], &SEALED[..], "Key should be 32 bytes"),
            (&key, &iv[..3], &SEALED, "16 bytes in length not 3"),
            (&key, &iv, &SEALED[..3], "Length 3 must be a multiple"),
            (&key, &iv, &[], "padding bytes (0)"),
            (&[b'j'; 32], &iv, &SEALED, "number of padding bytes"),
        ] {
            let error = unseal(key, iv, payload).unwrap_err();
            assert!(error.contains(message), "{error}");
        }
    }
}
