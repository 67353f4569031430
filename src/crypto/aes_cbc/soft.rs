//! AES in constant-time software, even where the processor has instructions.
//!
//! `aes` 0.9 can only be forced to software at compile time, for the whole program. Its 0.7 series has the
//! cargo feature `force-soft` for that, and Cargo builds both series. So this backend can be chosen, measured
//! and tested on any machine at run time.
//!
//! The implementation is *fixslicing*, a form of bitslicing. Four blocks are spread over eight 64-bit words, one word
//! for each bit position. The S-box is a circuit of ands and xors. There are no table look-ups and no branches on
//! data, so the time doesn't depend on the key or the text. A call always takes the time of four blocks. To use all
//! four, encryption uses sectors as lanes, and decryption takes whole sectors.

#![expect(
    clippy::indexing_slicing,
    reason = "indices are constants into blocks and sectors, which are arrays"
)]

use aes_soft::{Block, ParBlocks};

use crate::crypto::boxed_cipher::{BoxedSoft, SOFT_BLOCKS, SoftAes};
use crate::crypto::run_cipher::RunCipher;
use crate::crypto::sector::{BLOCK_SIZE, SECTOR_BLOCKS, SectorRun, iv};

/// The software backend with its expanded key.
pub(super) struct Soft<C: SoftAes> {
    cipher: BoxedSoft<C>,
}

impl<C: SoftAes> Soft<C> {
    /// Expands `key`. Returns `None` if it doesn't have the length of the cipher's keys.
    pub(super) fn new(key: &[u8]) -> Option<Self> {
        Some(Self {
            cipher: BoxedSoft::new(key)?,
        })
    }
}

impl<C: SoftAes> RunCipher for Soft<C> {
    fn encrypt(&self, first_sector: u64, mut run: SectorRun<'_, '_>) {
        let mut number = first_sector;
        let mut state = ParBlocks::default();
        while !run.is_empty() {
            let count = run.len().min(SOFT_BLOCKS);
            let (mut batch, rest) = run.split_at(count);
            run = rest;
            for lane in &mut state[..count] {
                *lane = iv(number).into();
                number = number.wrapping_add(1);
            }
            for block in 0..SECTOR_BLOCKS {
                let at = block * BLOCK_SIZE..(block + 1) * BLOCK_SIZE;
                for (lane, sector) in state.iter_mut().zip(batch.get_in()) {
                    xor(lane, &sector[at.clone()]);
                }
                if count == 1 {
                    self.cipher.get().encrypt_block(&mut state[0]);
                } else {
                    self.cipher.get().encrypt_par_blocks(&mut state);
                }
                for (lane, sector) in state.iter().zip(batch.get_out()) {
                    sector[at.clone()].copy_from_slice(lane);
                }
            }
        }
    }

    fn decrypt(&self, first_sector: u64, mut run: SectorRun<'_, '_>) {
        let mut number = first_sector;
        for i in 0..run.len() {
            let mut sector = run.get(i);
            let mut chain = Block::from(iv(number));
            number = number.wrapping_add(1);
            for batch in 0..SECTOR_BLOCKS / SOFT_BLOCKS {
                let start = batch * SOFT_BLOCKS * BLOCK_SIZE;
                let mut cipher = ParBlocks::default();
                for (j, block) in cipher.iter_mut().enumerate() {
                    let at = start + j * BLOCK_SIZE;
                    block.copy_from_slice(&sector.get_in()[at..at + BLOCK_SIZE]);
                }
                let mut plain = cipher;
                self.cipher.get().decrypt_par_blocks(&mut plain);
                for (j, (block, cipher)) in plain.iter_mut().zip(&cipher).enumerate() {
                    xor(block, &chain);
                    chain = *cipher;
                    let at = start + j * BLOCK_SIZE;
                    sector.get_out()[at..at + BLOCK_SIZE].copy_from_slice(block);
                }
            }
        }
    }
}

/// `block ^= with`.
fn xor(block: &mut Block, with: &[u8]) {
    for (b, w) in block.iter_mut().zip(with) {
        *b ^= w;
    }
}
