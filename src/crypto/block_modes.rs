//! Modes of operation over any block cipher, in safe Rust: ECB, CBC, CTR and XTS.
//!
//! It is used for ciphers that few disks have, such as Serpent and Twofish, and for AES on a processor without a
//! kernel. The cipher gets as many blocks at once as the mode allows: all of a sector, except for CBC encryption,
//! which is serial.

use super::boxed_cipher::BlockCipher;
use super::run_cipher::RunCipher;
use super::sector::{SECTOR_BLOCKS, SectorLength, SectorRun};
use super::vectors::Vectors;

/// The number of sectors of 512 bytes that are processed together.
const BATCH: usize = 32;

/// The number of blocks that are processed together in modes that need a copy of them.
const PART: usize = 64;

/// A boxed cipher of blocks of `B` bytes.
pub(super) type AnyBlockCipher<const B: usize> = Box<dyn BlockCipher<B>>;

/// The initialisation vectors of a cipher's sectors.
pub(super) struct SectorVectors<const B: usize> {
    /// The generator of vectors.
    pub(super) vectors: Vectors<B>,
    /// The length of a sector with one vector. Numbers count sectors of 512 bytes nevertheless, and a run is a whole
    /// number of such sectors.
    pub(super) length: SectorLength,
}

impl<const B: usize> SectorVectors<B> {
    /// Copies the input of each sector to its output, and then processes it in place with its vector, which `prepare`
    /// has changed.
    fn each_sector(
        &self,
        first_sector: u64,
        mut run: SectorRun<'_, '_>,
        prepare: impl Fn(&mut [[u8; B]]),
        work: impl Fn([u8; B], &mut [[u8; B]]),
    ) {
        let sectors = self.length.sectors();
        let mut number = first_sector;
        let mut made = [[0; B]; BATCH];
        while !run.is_empty() {
            let count = run.len().min(BATCH);
            let (mut batch, rest) = run.split_at(count);
            run = rest;
            let (made, _) = made.split_at_mut(count.div_ceil(sectors));
            self.vectors.fill(number, sectors, made);
            prepare(made);
            for i in 0..count {
                let mut sector = batch.get(i);
                let bytes = *sector.get_in();
                *sector.get_out() = bytes;
            }
            for (vector, sector) in made.iter().zip(batch.get_out().chunks_mut(sectors)) {
                work(*vector, sector.as_flattened_mut().as_chunks_mut().0);
            }
            number = number.wrapping_add(count as u64);
        }
    }
}

/// `block ^= with`.
fn xor<const B: usize>(block: &mut [u8; B], with: &[u8; B]) {
    for (byte, with) in block.iter_mut().zip(with) {
        *byte ^= with;
    }
}

/// The mode ECB: every block is encrypted independently.
pub(super) struct Ecb<const B: usize>(pub(super) AnyBlockCipher<B>);

impl<const B: usize> Ecb<B> {
    /// The vectors aren't used, but generated nevertheless. The speed doesn't matter, since nobody should use this
    /// mode.
    const VECTORS: SectorVectors<B> = SectorVectors {
        vectors: Vectors::Plain64,
        length: SectorLength::SHORTEST,
    };
}

impl<const B: usize> RunCipher for Ecb<B> {
    fn encrypt(&self, first_sector: u64, run: SectorRun<'_, '_>) {
        let encrypt = |_, blocks: &mut [[u8; B]]| self.0.encrypt(blocks);
        Self::VECTORS.each_sector(first_sector, run, |_| {}, encrypt);
    }

    fn decrypt(&self, first_sector: u64, run: SectorRun<'_, '_>) {
        let decrypt = |_, blocks: &mut [[u8; B]]| self.0.decrypt(blocks);
        Self::VECTORS.each_sector(first_sector, run, |_| {}, decrypt);
    }
}

/// The mode CBC: a chain of blocks for each sector.
pub(super) struct Cbc<const B: usize> {
    pub(super) cipher: AnyBlockCipher<B>,
    pub(super) vectors: SectorVectors<B>,
}

impl<const B: usize> RunCipher for Cbc<B> {
    fn encrypt(&self, first_sector: u64, run: SectorRun<'_, '_>) {
        let encrypt = |vector, blocks: &mut [[u8; B]]| {
            let mut chain = vector;
            for block in blocks {
                xor(block, &chain);
                self.cipher.encrypt(std::slice::from_mut(block));
                chain = *block;
            }
        };
        self.vectors.each_sector(first_sector, run, |_| {}, encrypt);
    }

    fn decrypt(&self, first_sector: u64, run: SectorRun<'_, '_>) {
        let decrypt = |vector, blocks: &mut [[u8; B]]| {
            let mut secret = [[0; B]; PART];
            let mut chain = vector;
            for blocks in blocks.chunks_mut(PART) {
                let secret = secret.split_at_mut(blocks.len()).0;
                secret.copy_from_slice(blocks);
                self.cipher.decrypt(blocks);
                for (block, secret) in blocks.iter_mut().zip(secret) {
                    xor(block, &chain);
                    chain = *secret;
                }
            }
        };
        self.vectors.each_sector(first_sector, run, |_| {}, decrypt);
    }
}

/// The mode CTR: a key stream for each sector, of the encrypted numbers from its vector on, as big-endian numbers.
pub(super) struct Ctr<const B: usize> {
    pub(super) cipher: AnyBlockCipher<B>,
    pub(super) vectors: SectorVectors<B>,
}

impl<const B: usize> RunCipher for Ctr<B> {
    fn encrypt(&self, first_sector: u64, run: SectorRun<'_, '_>) {
        let encrypt = |vector: [u8; B], blocks: &mut [[u8; B]]| {
            let mut counter = vector;
            let mut stream = [[0; B]; PART];
            for blocks in blocks.chunks_mut(PART) {
                let stream = stream.split_at_mut(blocks.len()).0;
                for block in &mut *stream {
                    *block = counter;
                    for byte in counter.iter_mut().rev() {
                        *byte = byte.wrapping_add(1);
                        if *byte != 0 {
                            break;
                        }
                    }
                }
                self.cipher.encrypt(stream);
                for (block, with) in blocks.iter_mut().zip(stream) {
                    xor(block, with);
                }
            }
        };
        self.vectors.each_sector(first_sector, run, |_| {}, encrypt);
    }

    fn decrypt(&self, first_sector: u64, run: SectorRun<'_, '_>) {
        self.encrypt(first_sector, run);
    }
}

/// The mode XTS: every block is encrypted between two additions of its tweak. A sector's first tweak is its vector,
/// encrypted with the second key. Each further tweak is twice the one before, in the field of 2^128 elements.
pub(super) struct Xts {
    pub(super) cipher: AnyBlockCipher<16>,
    pub(super) tweaks: AnyBlockCipher<16>,
    pub(super) vectors: SectorVectors<16>,
}

impl Xts {
    fn with_tweaks(
        &self,
        first_sector: u64,
        run: SectorRun<'_, '_>,
        work: impl Fn(&mut [[u8; 16]]),
    ) {
        let between = |tweak, blocks: &mut [[u8; 16]]| {
            let mut tweaks = [[0; 16]; SECTOR_BLOCKS];
            let mut next = u128::from_le_bytes(tweak);
            for blocks in blocks.chunks_mut(SECTOR_BLOCKS) {
                for tweak in &mut tweaks {
                    *tweak = next.to_le_bytes();
                    next = (next << 1) ^ ((next >> 127) * 0x87);
                }
                let add = |blocks: &mut [[u8; 16]]| {
                    for (block, tweak) in blocks.iter_mut().zip(&tweaks) {
                        xor(block, tweak);
                    }
                };
                add(blocks);
                work(blocks);
                add(blocks);
            }
        };
        let encrypt = |vectors: &mut [[u8; 16]]| self.tweaks.encrypt(vectors);
        self.vectors
            .each_sector(first_sector, run, encrypt, between);
    }
}

impl RunCipher for Xts {
    fn encrypt(&self, first_sector: u64, run: SectorRun<'_, '_>) {
        self.with_tweaks(first_sector, run, |blocks| self.cipher.encrypt(blocks));
    }

    fn decrypt(&self, first_sector: u64, run: SectorRun<'_, '_>) {
        self.with_tweaks(first_sector, run, |blocks| self.cipher.decrypt(blocks));
    }
}
