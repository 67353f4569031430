//! The scheme as one would write it down first: a `cbc` encryptor a sector.
//!
//! It has two uses. Tests compare every backend with it, because it is too
//! plain to be wrong in the same way as a kernel. Benchmarks divide by it,
//! because a program that takes the RustCrypto crates as they come gets this.
//! Production code doesn't call it.

use aes::Aes128;
use cbc::cipher::{BlockModeDecrypt, BlockModeEncrypt, InnerIvInit, KeyInit};

use crate::crypto::sector::{BLOCK_SIZE, SECTOR_SIZE, iv};

/// A sector cipher that runs `cbc::Encryptor` and `cbc::Decryptor` over one
/// sector at a time.
pub struct Reference {
    cipher: Aes128,
}

impl Reference {
    /// Expands `key`.
    #[must_use]
    pub fn new(key: &[u8; 16]) -> Self {
        Self {
            cipher: Aes128::new(key.into()),
        }
    }

    /// Encrypts whole sectors in place; the first has the number
    /// `first_sector`.
    pub fn encrypt(&self, first_sector: u64, data: &mut [u8]) {
        let mut number = first_sector;
        for sector in data.as_chunks_mut::<SECTOR_SIZE>().0 {
            let mut cbc = cbc::Encryptor::inner_iv_init(&self.cipher, &iv(number).into());
            cbc.encrypt_blocks(as_blocks(sector));
            number = number.wrapping_add(1);
        }
    }

    /// Decrypts whole sectors in place; the first has the number
    /// `first_sector`.
    pub fn decrypt(&self, first_sector: u64, data: &mut [u8]) {
        let mut number = first_sector;
        for sector in data.as_chunks_mut::<SECTOR_SIZE>().0 {
            let mut cbc = cbc::Decryptor::inner_iv_init(&self.cipher, &iv(number).into());
            cbc.decrypt_blocks(as_blocks(sector));
            number = number.wrapping_add(1);
        }
    }
}

/// Sees a sector as the block type of the RustCrypto traits.
pub(super) fn as_blocks(sector: &mut [u8; SECTOR_SIZE]) -> &mut [aes::Block] {
    aes::Block::cast_slice_from_core_mut(sector.as_chunks_mut::<BLOCK_SIZE>().0)
}
