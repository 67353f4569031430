//! The sector cipher in safe Rust, over the RustCrypto `aes` crate.
//!
//! The crate chooses its implementation at run time: AES instructions on x86 and ARMv8, and a constant-time software
//! cipher elsewhere. Its closure interface (`encrypt_with_backend`) gives the number of independent blocks that the
//! implementation handles best at once. So as many sectors are kept in flight, whatever the implementation. This is
//! the backend for every machine without a kernel in this crate, such as ARMv8.
//!
//! Safe code has to gather the blocks into an array at every step, and scatter them again. That is a few copies of 16
//! bytes for each block, which take little time beside the cipher.

#![expect(
    clippy::indexing_slicing,
    reason = "indices are constants into blocks and sectors, which are arrays"
)]

use aes::cipher::{
    BlockCipherDecrypt, BlockCipherEncBackend, BlockCipherEncClosure, BlockCipherEncrypt,
    BlockModeDecrypt as _, BlockSizeUser, InnerIvInit as _, KeyInit, ParBlocks, consts::U16,
    typenum::Unsigned,
};

use crate::crypto::boxed_cipher::boxed;
use crate::crypto::reference::as_blocks;
use crate::crypto::run_cipher::RunCipher;
use crate::crypto::sector::{BLOCK_SIZE, SECTOR_BLOCKS, SectorRun, iv};

/// The portable backend with its expanded key.
pub(super) struct Portable<C> {
    cipher: Box<C>,
}

impl<C: KeyInit> Portable<C> {
    /// Expands `key`. Returns `None` if it doesn't have the length of the cipher's keys.
    pub(super) fn new(key: &[u8]) -> Option<Self> {
        Some(Self {
            cipher: boxed(key)?,
        })
    }
}

impl<C> RunCipher for Portable<C>
where
    C: BlockCipherEncrypt<BlockSize = U16> + BlockCipherDecrypt<BlockSize = U16> + Send + Sync,
{
    fn encrypt(&self, first_sector: u64, run: SectorRun<'_, '_>) {
        self.cipher
            .encrypt_with_backend(EncryptRun { first_sector, run });
    }

    /// Decrypts a run. A sector's blocks are independent here, and the `cbc` crate passes all of them to the cipher
    /// at once. No other code was as fast.
    fn decrypt(&self, first_sector: u64, mut run: SectorRun<'_, '_>) {
        let mut number = first_sector;
        for i in 0..run.len() {
            let mut sector = run.get(i);
            let mut plain = *sector.get_in();
            let mut cbc = cbc::Decryptor::inner_iv_init(&*self.cipher, &iv(number).into());
            cbc.decrypt_blocks(as_blocks(&mut plain));
            *sector.get_out() = plain;
            number = number.wrapping_add(1);
        }
    }
}

/// The encryption of a run, which `aes` calls with its implementation.
struct EncryptRun<'inp, 'out> {
    first_sector: u64,
    run: SectorRun<'inp, 'out>,
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
                    // Lanes past the last sector encrypt unused data, which is faster than single blocks as long as
                    // most lanes are used.
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
