//! The sector cipher in safe Rust, over the RustCrypto `aes` crate.
//!
//! The crate picks its implementation when the program runs: AES instructions
//! on x86 and ARMv8, a constant-time software cipher elsewhere. Its closure
//! interface (`encrypt_with_backend`) tells how many independent blocks that
//! implementation likes to have at once, and lets us keep that many sectors
//! in flight without knowing which one it is. This is the backend of every
//! machine for which there is no kernel of our own, ARMv8 among them.
//!
//! The price of safety here is that blocks are gathered into an array at
//! every step and scattered again; it costs a few copies of 16 bytes a block,
//! little beside the cipher.

#![expect(
    clippy::indexing_slicing,
    reason = "indices are constants into blocks and sectors, which are arrays"
)]

use aes::Aes128;
use aes::cipher::{
    Array, BlockCipherDecrypt, BlockCipherEncBackend, BlockCipherEncClosure, BlockCipherEncrypt,
    BlockSizeUser, KeyInit, ParBlocks, consts::U16, typenum::Unsigned,
};

use super::{BLOCK_SIZE, Run, SECTOR_BLOCKS, Sector, iv};

/// Sectors whose blocks are decrypted in one batch: enough to keep the
/// prologue of a batch small, and few enough for their copy to stay in the
/// first-level cache.
const DECRYPT_BATCH: usize = 8;

/// The portable backend with its expanded key.
pub(super) struct Portable {
    /// Boxed so that moving the owner leaves no copies of the round keys; the
    /// `zeroize` feature of `aes` wipes them when dropped.
    cipher: Box<Aes128>,
}

impl Portable {
    /// Expands `key`.
    pub(super) fn new(key: &[u8; 16]) -> Self {
        Self {
            cipher: Box::new(Aes128::new(key.into())),
        }
    }

    /// Encrypts a run whose first sector has the number `first_sector`.
    pub(super) fn encrypt(&self, first_sector: u64, run: Run<'_, '_>) {
        self.cipher
            .encrypt_with_backend(EncryptRun { first_sector, run });
    }

    /// Decrypts a run whose first sector has the number `first_sector`.
    pub(super) fn decrypt(&self, first_sector: u64, mut run: Run<'_, '_>) {
        let mut number = first_sector;
        let mut plain = [[0; size_of::<Sector>()]; DECRYPT_BATCH];
        while !run.is_empty() {
            let count = run.len().min(DECRYPT_BATCH);
            let (mut batch, rest) = run.split_at(count);
            run = rest;
            // Decrypt a copy: the run's own ciphertext is still needed for the
            // xor, and in place its memory is where the plaintext goes.
            let plain = &mut plain[..count];
            plain.copy_from_slice(batch.get_in());
            let blocks = plain.as_flattened_mut().as_chunks_mut::<BLOCK_SIZE>().0;
            self.cipher
                .decrypt_blocks(Array::cast_slice_from_core_mut(blocks));
            for (i, plain) in plain.iter().enumerate() {
                let mut chain = iv(number);
                number = number.wrapping_add(1);
                let mut sector = batch.get(i);
                for block in 0..SECTOR_BLOCKS {
                    let at = block * BLOCK_SIZE..(block + 1) * BLOCK_SIZE;
                    let mut cipher = [0; BLOCK_SIZE];
                    cipher.copy_from_slice(&sector.get_in()[at.clone()]);
                    let out = &mut sector.get_out()[at.clone()];
                    out.copy_from_slice(&plain[at]);
                    xor(out, &chain);
                    chain = cipher;
                }
            }
        }
    }
}

/// `block ^= with`.
fn xor(block: &mut [u8], with: &[u8; BLOCK_SIZE]) {
    for (b, w) in block.iter_mut().zip(with) {
        *b ^= w;
    }
}

/// The encryption of a run, to be called with whatever implementation `aes`
/// found.
struct EncryptRun<'inp, 'out> {
    first_sector: u64,
    run: Run<'inp, 'out>,
}

impl BlockSizeUser for EncryptRun<'_, '_> {
    type BlockSize = U16;
}

impl BlockCipherEncClosure for EncryptRun<'_, '_> {
    #[inline(always)]
    fn call<B: BlockCipherEncBackend<BlockSize = U16>>(self, backend: &B) {
        let Self {
            first_sector: mut number,
            mut run,
        } = self;
        let width = B::ParBlocksSize::USIZE;
        let mut state = ParBlocks::<B>::default();
        while !run.is_empty() {
            let count = run.len().min(width);
            let (mut batch, rest) = run.split_at(count);
            run = rest;
            let lanes = &mut state[..count];
            for lane in &mut *lanes {
                *lane = iv(number).into();
                number = number.wrapping_add(1);
            }
            for block in 0..SECTOR_BLOCKS {
                let at = block * BLOCK_SIZE..(block + 1) * BLOCK_SIZE;
                for (lane, sector) in state[..count].iter_mut().zip(batch.get_in()) {
                    for (s, p) in lane.iter_mut().zip(&sector[at.clone()]) {
                        *s ^= p;
                    }
                }
                if 2 * count > width {
                    // Lanes past the last sector compute on leftovers, which
                    // is cheaper than single blocks as long as most are used.
                    backend.encrypt_par_blocks_inplace(&mut state);
                } else {
                    backend.encrypt_tail_blocks_inplace(&mut state[..count]);
                }
                for (lane, sector) in state[..count].iter().zip(batch.get_out()) {
                    sector[at.clone()].copy_from_slice(lane);
                }
            }
        }
    }
}
