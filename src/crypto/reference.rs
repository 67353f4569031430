//! Reference implementations of the ciphers: one block at a time, or a `cbc` encryptor for each sector.
//!
//! Tests compare every backend with them, because they are too simple to be wrong in the same way as a kernel.
//! Benchmarks compare with them, because they are the simplest use of the RustCrypto crates. Production code doesn't
//! call them.

#![expect(clippy::panic, reason = "tests and benchmarks know how long a key is")]

use aes::cipher::consts::U16;
use aes::cipher::{BlockCipherDecrypt, BlockCipherEncrypt};
use aes::{Aes128, Aes256, Block};
use cbc::cipher::{BlockModeDecrypt, BlockModeEncrypt, InnerIvInit, KeyInit};

use super::sector::{BLOCK_SIZE, SECTOR_SIZE, Sector, iv};

/// A simple AES cipher of sectors.
pub struct Reference(Box<dyn PlainCipher>);

impl Reference {
    /// Expands a key of 16 or 32 bytes for CBC.
    ///
    /// # Panics
    ///
    /// Panics if the key has another length.
    #[must_use]
    pub fn cbc(key: &[u8]) -> Self {
        match key.len() {
            16 => Self(Box::new(PlainCbc(expanded::<Aes128>(key)))),
            _ => Self(Box::new(PlainCbc(expanded::<Aes256>(key)))),
        }
    }

    /// Expands a pair of keys, of 16 or 32 bytes each, for XTS.
    ///
    /// # Panics
    ///
    /// Panics if the keys have another length.
    #[must_use]
    pub fn xts(keys: &[u8]) -> Self {
        let (data, tweaks) = keys.split_at(keys.len() / 2);
        match data.len() {
            16 => Self(Box::new(PlainXts(
                expanded::<Aes128>(data),
                expanded::<Aes128>(tweaks),
            ))),
            _ => Self(Box::new(PlainXts(
                expanded::<Aes256>(data),
                expanded::<Aes256>(tweaks),
            ))),
        }
    }

    /// Encrypts whole sectors in place. The first has the number `first_sector`.
    pub fn encrypt(&self, first_sector: u64, data: &mut [u8]) {
        let mut number = first_sector;
        for sector in data.as_chunks_mut().0 {
            self.0.encrypt(number, sector);
            number = number.wrapping_add(1);
        }
    }

    /// Decrypts whole sectors in place. The first has the number `first_sector`.
    pub fn decrypt(&self, first_sector: u64, data: &mut [u8]) {
        let mut number = first_sector;
        for sector in data.as_chunks_mut().0 {
            self.0.decrypt(number, sector);
            number = number.wrapping_add(1);
        }
    }
}

fn expanded<C: KeyInit>(key: &[u8]) -> C {
    match C::new_from_slice(key) {
        Ok(cipher) => cipher,
        Err(_) => panic!("a key of {} bytes", key.len()),
    }
}

trait PlainCipher: Send + Sync {
    fn encrypt(&self, number: u64, sector: &mut Sector);
    fn decrypt(&self, number: u64, sector: &mut Sector);
}

struct PlainCbc<C>(C);

impl<C> PlainCipher for PlainCbc<C>
where
    C: BlockCipherEncrypt<BlockSize = U16> + BlockCipherDecrypt<BlockSize = U16> + Send + Sync,
{
    fn encrypt(&self, number: u64, sector: &mut Sector) {
        let mut cbc = cbc::Encryptor::inner_iv_init(&self.0, &iv(number).into());
        cbc.encrypt_blocks(as_blocks(sector));
    }

    fn decrypt(&self, number: u64, sector: &mut Sector) {
        let mut cbc = cbc::Decryptor::inner_iv_init(&self.0, &iv(number).into());
        cbc.decrypt_blocks(as_blocks(sector));
    }
}

/// The ciphers of the data and of the tweaks.
struct PlainXts<C>(C, C);

impl<C: BlockCipherEncrypt<BlockSize = U16>> PlainXts<C> {
    fn each_block(&self, number: u64, sector: &mut Sector, work: impl Fn(&mut Block)) {
        let mut tweak = Block::from(iv(number));
        self.1.encrypt_block(&mut tweak);
        for block in as_blocks(sector) {
            add(block, &tweak);
            work(block);
            add(block, &tweak);
            double(&mut tweak);
        }
    }
}

impl<C> PlainCipher for PlainXts<C>
where
    C: BlockCipherEncrypt<BlockSize = U16> + BlockCipherDecrypt<BlockSize = U16> + Send + Sync,
{
    fn encrypt(&self, number: u64, sector: &mut Sector) {
        self.each_block(number, sector, |block| self.0.encrypt_block(block));
    }

    fn decrypt(&self, number: u64, sector: &mut Sector) {
        self.each_block(number, sector, |block| self.0.decrypt_block(block));
    }
}

fn add(block: &mut Block, tweak: &Block) {
    for (byte, with) in block.iter_mut().zip(tweak) {
        *byte ^= with;
    }
}

/// Doubles a tweak byte by byte, as IEEE 1619 defines it.
fn double(tweak: &mut Block) {
    let mut carry = 0;
    for byte in tweak.iter_mut() {
        let fell_out = *byte >> 7;
        *byte = (*byte << 1) | carry;
        carry = fell_out;
    }
    if let Some(lowest) = tweak.first_mut() {
        *lowest ^= carry * 0x87;
    }
}

/// Casts a sector to the block type of the RustCrypto traits.
pub(super) fn as_blocks(sector: &mut [u8; SECTOR_SIZE]) -> &mut [Block] {
    Block::cast_slice_from_core_mut(sector.as_chunks_mut::<BLOCK_SIZE>().0)
}
