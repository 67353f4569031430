//! Block ciphers of the RustCrypto crates, with their expanded keys in a box.
//!
//! Since they are boxed, moving the owner leaves no copies of the round keys. The pages of the box are locked in
//! memory, and the keys are wiped when they are dropped. Modes that process many independent blocks at once use them
//! as [`BlockCipher`], for both series of the `aes` crate.

use core::hint::black_box;

use aes::cipher::consts::{U8, U16};
use aes::cipher::{Array, BlockCipherDecrypt, BlockCipherEncrypt, KeyInit};
use aes_soft::ParBlocks as SoftBlocks;
use aes_soft::{BlockDecrypt, BlockEncrypt, NewBlockCipher};

use super::memory::keep_out_of_swap;

/// A cipher of blocks of `B` bytes, under one key.
pub(super) trait BlockCipher<const B: usize>: Send + Sync {
    /// Encrypts blocks in place, each independently.
    fn encrypt(&self, blocks: &mut [[u8; B]]);

    /// Decrypts blocks in place, each independently.
    fn decrypt(&self, blocks: &mut [[u8; B]]);
}

/// Expands a key in a box. Returns `None` if it doesn't have the length of the cipher's keys.
///
/// The cipher's crate wipes the round keys when they are dropped, by its feature `zeroize`.
pub(super) fn boxed<C: KeyInit>(key: &[u8]) -> Option<Box<C>> {
    // The pages are locked before they contain a key.
    let mut cipher = Box::new(C::new_from_slice([0; 64].get(..key.len())?).ok()?);
    keep_out_of_swap(&*cipher);
    *cipher = C::new_from_slice(key).ok()?;
    Some(cipher)
}

impl<C> BlockCipher<16> for C
where
    C: BlockCipherEncrypt<BlockSize = U16> + BlockCipherDecrypt<BlockSize = U16> + Send + Sync,
{
    fn encrypt(&self, blocks: &mut [[u8; 16]]) {
        self.encrypt_blocks(Array::cast_slice_from_core_mut(blocks));
    }

    fn decrypt(&self, blocks: &mut [[u8; 16]]) {
        self.decrypt_blocks(Array::cast_slice_from_core_mut(blocks));
    }
}

impl<C> BlockCipher<8> for C
where
    C: BlockCipherEncrypt<BlockSize = U8> + BlockCipherDecrypt<BlockSize = U8> + Send + Sync,
{
    fn encrypt(&self, blocks: &mut [[u8; 8]]) {
        self.encrypt_blocks(Array::cast_slice_from_core_mut(blocks));
    }

    fn decrypt(&self, blocks: &mut [[u8; 8]]) {
        self.decrypt_blocks(Array::cast_slice_from_core_mut(blocks));
    }
}

/// A cipher of the 0.7 series of the `aes` crate, in constant-time software.
pub(super) trait SoftAes:
    NewBlockCipher
    + BlockEncrypt<BlockSize = U16, ParBlocks = U8>
    + BlockDecrypt<BlockSize = U16, ParBlocks = U8>
    + Send
    + Sync
{
}

impl SoftAes for aes_soft::Aes128 {}
impl SoftAes for aes_soft::Aes192 {}
impl SoftAes for aes_soft::Aes256 {}

/// The number of blocks in a call of the batch interface, two of the cipher's own batches.
pub(super) const SOFT_BLOCKS: usize = 8;

/// A cipher of the 0.7 series with its expanded key.
pub(super) struct BoxedSoft<C: SoftAes>(Box<C>);

impl<C: SoftAes> BoxedSoft<C> {
    /// Expands a key. Returns `None` if it doesn't have the length of the cipher's keys.
    pub(super) fn new(key: &[u8]) -> Option<Self> {
        let mut cipher = Self(Box::new(empty()));
        keep_out_of_swap(&*cipher.0);
        *cipher.0 = C::new_from_slice(key).ok()?;
        Some(cipher)
    }

    /// Returns the cipher.
    pub(super) fn get(&self) -> &C {
        &self.0
    }
}

/// Expands a key of zeroes.
fn empty<C: SoftAes>() -> C {
    C::new(&Default::default())
}

impl<C: SoftAes> Drop for BoxedSoft<C> {
    fn drop(&mut self) {
        // The 0.7 series has no `zeroize`. Overwriting the schedule with that of another key does the same, as long
        // as the compiler must assume that it is read.
        *self.0 = empty();
        black_box(&*self.0);
    }
}

impl<C: SoftAes> BlockCipher<16> for BoxedSoft<C> {
    fn encrypt(&self, blocks: &mut [[u8; 16]]) {
        in_batches(blocks, |batch| self.0.encrypt_par_blocks(batch));
    }

    fn decrypt(&self, blocks: &mut [[u8; 16]]) {
        in_batches(blocks, |batch| self.0.decrypt_par_blocks(batch));
    }
}

/// Does `work` on all blocks. The unused rest of the last batch is discarded.
fn in_batches(blocks: &mut [[u8; 16]], work: impl Fn(&mut SoftBlocks)) {
    for blocks in blocks.chunks_mut(SOFT_BLOCKS) {
        let mut batch = SoftBlocks::default();
        for (to, block) in batch.iter_mut().zip(&*blocks) {
            to.copy_from_slice(block);
        }
        work(&mut batch);
        for (block, from) in blocks.iter_mut().zip(&batch) {
            block.copy_from_slice(from);
        }
    }
}
