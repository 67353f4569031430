//! AES-NI: one block in each register, up to twelve sectors in flight.
//!
//! The AES unit starts two instructions in each cycle, and takes four cycles for each. So eight chains are the least
//! that keeps it busy, and twelve leave a margin. Together with a round key and a block that is loaded, that fills
//! the 16 registers. Each round key is loaded from memory once for all chains, from the one of its two copies that
//! doesn't conflict with the stores (see [`RoundKeys`]).
//!
//! Decryption takes eight blocks of a sector at once. They are independent, and so are the next eight, so
//! out-of-order execution overlaps them.
//!
//! Only SSE2 and AES-NI are used, without AVX, so that the oldest machines with AES-NI can run it, and
//! valgrind, too.
//!
//! Invariant: only the sectors of the run are read and written. Every block is read before it is written, so that
//! source and destination may be the same memory.

use core::arch::x86_64::{
    __m128i, _mm_aesdec_si128, _mm_aesdeclast_si128, _mm_aesenc_si128, _mm_aesenclast_si128,
    _mm_loadu_si128, _mm_set_epi64x, _mm_storeu_si128, _mm_xor_si128,
};
use core::array::from_fn;

use super::even_batches;
use crate::crypto::aes_x86::{self, AES128, AES256, RoundKeys};
use crate::crypto::run_cipher::RunCipher;
use crate::crypto::sector::{BLOCK_SIZE, SECTOR_BLOCKS, Sector, SectorRun};

/// The number of sectors in the largest batch.
const MAX_SECTORS: usize = 12;

/// The backend with its expanded key, of `R` round keys.
pub(in crate::crypto) struct AesNi<const R: usize> {
    keys: Box<RoundKeys<R>>,
}

impl<const R: usize> AesNi<R> {
    /// Expands a key of `K` bytes, if the processor can run the kernels.
    pub(in crate::crypto) fn new<const K: usize>(key: &[u8; K]) -> Option<Self> {
        aes_x86::has_aesni().then(|| Self {
            // SAFETY: the processor has AES-NI, as was just found.
            keys: unsafe { RoundKeys::expand(key) },
        })
    }
}

impl RunCipher for AesNi<AES128> {
    fn encrypt(&self, first_sector: u64, run: SectorRun<'_, '_>) {
        // SAFETY: `new` made `self` only after it had found the features.
        unsafe { cowhide_aes128_cbc_encrypt_aesni(&self.keys, first_sector, run) }
    }

    fn decrypt(&self, first_sector: u64, run: SectorRun<'_, '_>) {
        // SAFETY: `new` made `self` only after it had found the features.
        unsafe { cowhide_aes128_cbc_decrypt_aesni(&self.keys, first_sector, run) }
    }
}

impl RunCipher for AesNi<AES256> {
    fn encrypt(&self, first_sector: u64, run: SectorRun<'_, '_>) {
        // SAFETY: `new` made `self` only after it had found the features.
        unsafe { cowhide_aes256_cbc_encrypt_aesni(&self.keys, first_sector, run) }
    }

    fn decrypt(&self, first_sector: u64, run: SectorRun<'_, '_>) {
        // SAFETY: `new` made `self` only after it had found the features.
        unsafe { cowhide_aes256_cbc_decrypt_aesni(&self.keys, first_sector, run) }
    }
}

/// The encryption kernel of AES-128.
#[unsafe(no_mangle)]
#[inline(never)]
#[target_feature(enable = "aes,sse2")]
fn cowhide_aes128_cbc_encrypt_aesni(
    keys: &RoundKeys<AES128>,
    first_sector: u64,
    run: SectorRun<'_, '_>,
) {
    encrypt_run(keys, first_sector, run);
}

/// The decryption kernel of AES-128.
#[unsafe(no_mangle)]
#[inline(never)]
#[target_feature(enable = "aes,sse2")]
fn cowhide_aes128_cbc_decrypt_aesni(
    keys: &RoundKeys<AES128>,
    first_sector: u64,
    run: SectorRun<'_, '_>,
) {
    decrypt_run(keys, first_sector, run);
}

/// The encryption kernel of AES-256.
#[unsafe(no_mangle)]
#[inline(never)]
#[target_feature(enable = "aes,sse2")]
fn cowhide_aes256_cbc_encrypt_aesni(
    keys: &RoundKeys<AES256>,
    first_sector: u64,
    run: SectorRun<'_, '_>,
) {
    encrypt_run(keys, first_sector, run);
}

/// The decryption kernel of AES-256.
#[unsafe(no_mangle)]
#[inline(never)]
#[target_feature(enable = "aes,sse2")]
fn cowhide_aes256_cbc_decrypt_aesni(
    keys: &RoundKeys<AES256>,
    first_sector: u64,
    run: SectorRun<'_, '_>,
) {
    decrypt_run(keys, first_sector, run);
}

/// Encrypts a run whose first sector has the number `first_sector`.
#[target_feature(enable = "aes,sse2")]
#[inline]
fn encrypt_run<const R: usize>(keys: &RoundKeys<R>, first_sector: u64, run: SectorRun<'_, '_>) {
    let sectors = run.len();
    let (mut src, mut dst) = run.into_raw();
    let mut number = first_sector;
    for (size, batches) in even_batches(sectors, MAX_SECTORS, MAX_SECTORS) {
        for _ in 0..batches {
            // SAFETY: the batches add up to the sectors of the run.
            unsafe {
                match size {
                    0 => return,
                    1 => encrypt_batch::<R, 1>(keys, number, src, dst),
                    2 => encrypt_batch::<R, 2>(keys, number, src, dst),
                    3 => encrypt_batch::<R, 3>(keys, number, src, dst),
                    4 => encrypt_batch::<R, 4>(keys, number, src, dst),
                    5 => encrypt_batch::<R, 5>(keys, number, src, dst),
                    6 => encrypt_batch::<R, 6>(keys, number, src, dst),
                    7 => encrypt_batch::<R, 7>(keys, number, src, dst),
                    8 => encrypt_batch::<R, 8>(keys, number, src, dst),
                    9 => encrypt_batch::<R, 9>(keys, number, src, dst),
                    10 => encrypt_batch::<R, 10>(keys, number, src, dst),
                    11 => encrypt_batch::<R, 11>(keys, number, src, dst),
                    _ => encrypt_batch::<R, MAX_SECTORS>(keys, number, src, dst),
                }
                src = src.add(size);
                dst = dst.add(size);
            }
            number = number.wrapping_add(size as u64);
        }
    }
}

/// Encrypts `N` sectors together.
///
/// # Safety
///
/// `N` sectors must be readable at `src` and writable at `dst`, and the two be
/// the same or disjoint.
#[target_feature(enable = "aes,sse2")]
#[inline]
unsafe fn encrypt_batch<const R: usize, const N: usize>(
    keys: &RoundKeys<R>,
    first_sector: u64,
    src: *const Sector,
    dst: *mut Sector,
) {
    let mut state: [__m128i; N] = from_fn(|i| iv(first_sector.wrapping_add(i as u64)));
    for block in 0..SECTOR_BLOCKS {
        let keys = keys.clear_of(dst.addr() + block * BLOCK_SIZE);
        for (i, state) in state.iter_mut().enumerate() {
            // SAFETY: block `block` of sector `i` of the source.
            let plain = unsafe { _mm_loadu_si128(src.add(i).cast::<__m128i>().add(block)) };
            *state = _mm_xor_si128(*state, _mm_xor_si128(plain, keys[0]));
        }
        for key in &keys[1..R - 1] {
            for state in &mut state {
                *state = _mm_aesenc_si128(*state, *key);
            }
        }
        for (i, state) in state.iter_mut().enumerate() {
            *state = _mm_aesenclast_si128(*state, keys[R - 1]);
            // SAFETY: block `block` of sector `i` of the destination.
            unsafe { _mm_storeu_si128(dst.add(i).cast::<__m128i>().add(block), *state) };
        }
    }
}

/// Returns the initialisation vector of a sector.
#[target_feature(enable = "sse2")]
#[inline]
fn iv(sector: u64) -> __m128i {
    _mm_set_epi64x(0, sector.cast_signed())
}

/// The number of blocks that are decrypted together.
const WIDTH: usize = 8;

/// Decrypts a run whose first sector has the number `first_sector`.
#[target_feature(enable = "aes,sse2")]
#[inline]
fn decrypt_run<const R: usize>(keys: &RoundKeys<R>, first_sector: u64, run: SectorRun<'_, '_>) {
    let keys = keys.dec();
    let sectors = run.len();
    let (src, dst) = run.into_raw();
    for sector in 0..sectors {
        let mut before = iv(first_sector.wrapping_add(sector as u64));
        for part in 0..SECTOR_BLOCKS / WIDTH {
            // SAFETY: part `part` of sector `sector` of the run, all of which
            // is read before any of it is written.
            unsafe {
                let src = src.add(sector).cast::<__m128i>().add(part * WIDTH);
                let dst = dst.add(sector).cast::<__m128i>().add(part * WIDTH);
                let mut state: [__m128i; WIDTH] =
                    from_fn(|i| _mm_xor_si128(_mm_loadu_si128(src.add(i)), keys[0]));
                for key in &keys[1..R - 1] {
                    for state in &mut state {
                        *state = _mm_aesdec_si128(*state, *key);
                    }
                }
                // The ciphertext is loaded again, since there aren't enough registers to keep it.
                let chain: [__m128i; WIDTH] = from_fn(|i| match i {
                    0 => before,
                    _ => _mm_loadu_si128(src.add(i - 1)),
                });
                before = _mm_loadu_si128(src.add(WIDTH - 1));
                for (i, (state, chain)) in state.into_iter().zip(chain).enumerate() {
                    let plain = _mm_xor_si128(_mm_aesdeclast_si128(state, keys[R - 1]), chain);
                    _mm_storeu_si128(dst.add(i), plain);
                }
            }
        }
    }
}
