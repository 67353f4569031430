//! Adapters that give other initialisation vectors to kernels.
//!
//! A kernel's vector is the 64-bit number of a sector. Vectors of 32 bits are the same as long as a run doesn't cross
//! 2^32. In CBC, a vector is only added (xor) to a sector's first block. So to replace it, both vectors are added to
//! that block, before encryption or after decryption.

use super::run_cipher::RunCipher;
use super::sector::{BLOCK_SIZE, SectorLength, SectorRun, iv};
use super::vectors::Vectors;

/// A cipher whose vectors are the lower 32 bits of sectors' numbers.
pub(super) struct ShortNumbers {
    /// The cipher, whose vectors have 64 bits.
    pub(super) cipher: Box<dyn RunCipher>,
    /// The length of its sectors.
    pub(super) length: SectorLength,
}

impl ShortNumbers {
    /// Calls `work` with parts of the run, of whole sectors, whose numbers don't cross 2^32.
    fn each_part(
        &self,
        first_sector: u64,
        mut run: SectorRun<'_, '_>,
        work: impl Fn(u64, SectorRun<'_, '_>),
    ) {
        let mut number = first_sector & u64::from(u32::MAX);
        while !run.is_empty() {
            let left = usize::try_from((1 << 32) - number).unwrap_or(usize::MAX);
            let left = left.div_ceil(self.length.sectors());
            let count = left.saturating_mul(self.length.sectors()).min(run.len());
            let (part, rest) = run.split_at(count);
            work(number, part);
            run = rest;
            number = (number + count as u64) & u64::from(u32::MAX);
        }
    }
}

impl RunCipher for ShortNumbers {
    fn encrypt(&self, first_sector: u64, run: SectorRun<'_, '_>) {
        let encrypt = |number, part: SectorRun<'_, '_>| self.cipher.encrypt(number, part);
        self.each_part(first_sector, run, encrypt);
    }

    fn decrypt(&self, first_sector: u64, run: SectorRun<'_, '_>) {
        let decrypt = |number, part: SectorRun<'_, '_>| self.cipher.decrypt(number, part);
        self.each_part(first_sector, run, decrypt);
    }
}

/// The number of sectors whose vectors are generated together: 32 KiB of data, which stay in the first-level cache.
const BATCH: usize = 64;

/// A cipher in CBC mode with other vectors.
pub(super) struct WithVectors {
    cipher: Box<dyn RunCipher>,
    vectors: Vectors<BLOCK_SIZE>,
}

impl WithVectors {
    /// Wraps a cipher in CBC mode whose own vectors are the numbers of sectors.
    pub(super) fn new(cipher: Box<dyn RunCipher>, vectors: Vectors<BLOCK_SIZE>) -> Self {
        Self { cipher, vectors }
    }

    /// Adds both vectors to the first block of every sector of the run's output.
    fn exchange(&self, first_sector: u64, run: &mut SectorRun<'_, '_>) {
        let mut made = [[0; BLOCK_SIZE]; BATCH];
        let (made, _) = made.split_at_mut(run.len());
        self.vectors.fill(first_sector, 1, made);
        let mut number = first_sector;
        for (sector, vector) in run.get_out().iter_mut().zip(made) {
            let plain = iv(number);
            for ((byte, one), other) in sector.iter_mut().zip(vector).zip(plain) {
                *byte ^= *one ^ other;
            }
            number = number.wrapping_add(1);
        }
    }
}

impl RunCipher for WithVectors {
    fn encrypt(&self, first_sector: u64, mut run: SectorRun<'_, '_>) {
        let mut number = first_sector;
        while !run.is_empty() {
            let count = run.len().min(BATCH);
            let (mut batch, rest) = run.split_at(count);
            run = rest;
            for i in 0..count {
                let mut sector = batch.get(i);
                let bytes = *sector.get_in();
                *sector.get_out() = bytes;
            }
            self.exchange(number, &mut batch);
            self.cipher
                .encrypt(number, SectorRun::from(batch.get_out()));
            number = number.wrapping_add(count as u64);
        }
    }

    fn decrypt(&self, first_sector: u64, mut run: SectorRun<'_, '_>) {
        let mut number = first_sector;
        while !run.is_empty() {
            let count = run.len().min(BATCH);
            let (mut batch, rest) = run.split_at(count);
            run = rest;
            self.cipher.decrypt(number, batch.reborrow());
            self.exchange(number, &mut batch);
            number = number.wrapping_add(count as u64);
        }
    }
}
