//! VAES on 256 bits: two sectors in a register, up to 24 in flight.
//!
//! A `ymm` register has one block of each of two neighbouring sectors, and is called a group here. Twelve
//! groups, a round key and a block that is loaded fill the 16 registers of AVX2. As with AES-NI, keys are
//! loaded from memory, from the one of the two copies that doesn't conflict with the stores (see
//! [`RoundKeys`]). That raised the speed from 13 to 22 GB/s when the address of the keys was unfavourable.
//!
//! Blocks are loaded and stored 16 bytes at a time. At this width that costs little, and transposing wider
//! rows, as the 512-bit kernel does, would need more registers.
//!
//! AVX-512 isn't needed, so this is the widest backend that Zen 3 and Intel's desktop processors can run.
//!
//! Invariant: only the sectors of the run are read and written. Every block is read before it is written, so that
//! source and destination may be the same memory. A last group with one sector works on a copy.

use core::arch::x86_64::{
    __m128i, __m256i, _mm_loadu_si128, _mm_set_epi64x, _mm256_aesdec_epi128,
    _mm256_aesdeclast_epi128, _mm256_aesenc_epi128, _mm256_aesenclast_epi128,
    _mm256_broadcastsi128_si256, _mm256_castsi128_si256, _mm256_inserti128_si256,
    _mm256_loadu_si256, _mm256_loadu2_m128i, _mm256_set_epi64x, _mm256_storeu_si256,
    _mm256_storeu2_m128i, _mm256_xor_si256,
};
use core::array::from_fn;

use super::even_batches;
use crate::crypto::aes_x86::{self, AES128, AES256, RoundKeys};
use crate::crypto::run_cipher::RunCipher;
use crate::crypto::sector::{BLOCK_SIZE, SECTOR_BLOCKS, SECTOR_SIZE, Sector, SectorRun};

/// The number of sectors in a group.
const LANES: usize = 2;
/// The number of groups in the largest batch.
const MAX_GROUPS: usize = 12;
/// The number of bytes from a group's first sector to that of the next.
const GROUP_SIZE: usize = LANES * SECTOR_SIZE;

/// The backend with its expanded key, of `R` round keys.
pub(in crate::crypto) struct Vaes256<const R: usize> {
    keys: Box<RoundKeys<R>>,
}

impl<const R: usize> Vaes256<R> {
    /// Expands a key of `K` bytes, if the processor can run the kernels.
    pub(in crate::crypto) fn new<const K: usize>(key: &[u8; K]) -> Option<Self> {
        aes_x86::has_vaes256().then(|| Self {
            // SAFETY: the processor has AES-NI, as was just found.
            keys: unsafe { RoundKeys::expand(key) },
        })
    }
}

impl RunCipher for Vaes256<AES128> {
    fn encrypt(&self, first_sector: u64, run: SectorRun<'_, '_>) {
        // SAFETY: `new` made `self` only after it had found the features.
        unsafe { cowhide_aes128_cbc_encrypt_vaes256(&self.keys, first_sector, run) }
    }

    fn decrypt(&self, first_sector: u64, run: SectorRun<'_, '_>) {
        // SAFETY: `new` made `self` only after it had found the features.
        unsafe { cowhide_aes128_cbc_decrypt_vaes256(&self.keys, first_sector, run) }
    }
}

impl RunCipher for Vaes256<AES256> {
    fn encrypt(&self, first_sector: u64, run: SectorRun<'_, '_>) {
        // SAFETY: `new` made `self` only after it had found the features.
        unsafe { cowhide_aes256_cbc_encrypt_vaes256(&self.keys, first_sector, run) }
    }

    fn decrypt(&self, first_sector: u64, run: SectorRun<'_, '_>) {
        // SAFETY: `new` made `self` only after it had found the features.
        unsafe { cowhide_aes256_cbc_decrypt_vaes256(&self.keys, first_sector, run) }
    }
}

/// The encryption kernel of AES-128.
#[unsafe(no_mangle)]
#[inline(never)]
#[target_feature(enable = "avx2,vaes")]
fn cowhide_aes128_cbc_encrypt_vaes256(
    keys: &RoundKeys<AES128>,
    first_sector: u64,
    run: SectorRun<'_, '_>,
) {
    encrypt_run(keys, first_sector, run);
}

/// The decryption kernel of AES-128.
#[unsafe(no_mangle)]
#[inline(never)]
#[target_feature(enable = "avx2,vaes")]
fn cowhide_aes128_cbc_decrypt_vaes256(
    keys: &RoundKeys<AES128>,
    first_sector: u64,
    run: SectorRun<'_, '_>,
) {
    decrypt_run(keys, first_sector, run);
}

/// The encryption kernel of AES-256.
#[unsafe(no_mangle)]
#[inline(never)]
#[target_feature(enable = "avx2,vaes")]
fn cowhide_aes256_cbc_encrypt_vaes256(
    keys: &RoundKeys<AES256>,
    first_sector: u64,
    run: SectorRun<'_, '_>,
) {
    encrypt_run(keys, first_sector, run);
}

/// The decryption kernel of AES-256.
#[unsafe(no_mangle)]
#[inline(never)]
#[target_feature(enable = "avx2,vaes")]
fn cowhide_aes256_cbc_decrypt_vaes256(
    keys: &RoundKeys<AES256>,
    first_sector: u64,
    run: SectorRun<'_, '_>,
) {
    decrypt_run(keys, first_sector, run);
}

/// Encrypts a run whose first sector has the number `first_sector`.
#[target_feature(enable = "avx2,vaes")]
#[inline]
fn encrypt_run<const R: usize>(keys: &RoundKeys<R>, first_sector: u64, run: SectorRun<'_, '_>) {
    let mut left = run.len();
    let (mut src, mut dst) = run.into_raw();
    let mut number = first_sector;
    for (size, batches) in even_batches(left.div_ceil(LANES), MAX_GROUPS, MAX_GROUPS) {
        for _ in 0..batches {
            let sectors = left.min(size * LANES);
            // SAFETY: the batches add up to the groups of the run, of which only the last can have one sector.
            unsafe {
                match size {
                    0 => return,
                    1 => encrypt_batch::<R, 1>(keys, number, src, dst, sectors),
                    2 => encrypt_batch::<R, 2>(keys, number, src, dst, sectors),
                    3 => encrypt_batch::<R, 3>(keys, number, src, dst, sectors),
                    4 => encrypt_batch::<R, 4>(keys, number, src, dst, sectors),
                    5 => encrypt_batch::<R, 5>(keys, number, src, dst, sectors),
                    6 => encrypt_batch::<R, 6>(keys, number, src, dst, sectors),
                    7 => encrypt_batch::<R, 7>(keys, number, src, dst, sectors),
                    8 => encrypt_batch::<R, 8>(keys, number, src, dst, sectors),
                    9 => encrypt_batch::<R, 9>(keys, number, src, dst, sectors),
                    10 => encrypt_batch::<R, 10>(keys, number, src, dst, sectors),
                    11 => encrypt_batch::<R, 11>(keys, number, src, dst, sectors),
                    _ => encrypt_batch::<R, MAX_GROUPS>(keys, number, src, dst, sectors),
                }
                src = src.add(sectors);
                dst = dst.add(sectors);
            }
            number = number.wrapping_add(sectors as u64);
            left -= sectors;
        }
    }
}

/// Encrypts a batch of `N` groups.
///
/// # Safety
///
/// There must be `2 * N` or one fewer `sectors`, readable at `src` and writable
/// at `dst`, which are the same or disjoint.
#[target_feature(enable = "avx2,vaes")]
#[inline]
unsafe fn encrypt_batch<const R: usize, const N: usize>(
    keys: &RoundKeys<R>,
    first_sector: u64,
    src: *const Sector,
    dst: *mut Sector,
    sectors: usize,
) {
    let whole = LANES * (N - 1);
    // SAFETY: this function's own contract. A last, partial group works on a copy with two sectors.
    unsafe {
        let mut place = GroupPlaces {
            src: src.cast(),
            dst: dst.cast(),
            last_src: src.add(whole).cast(),
            last_dst: dst.add(whole).cast(),
        };
        if sectors == whole + LANES {
            encrypt_groups::<R, N>(keys, first_sector, &place);
        } else {
            let mut copy = [[0; SECTOR_SIZE]; LANES];
            copy[0] = src.add(whole).read();
            place.last_dst = copy.as_mut_ptr().cast();
            place.last_src = place.last_dst;
            encrypt_groups::<R, N>(keys, first_sector, &place);
            dst.add(whole).write(copy[0]);
        }
    }
}

/// The places of a batch's groups. All but the last are contiguous, and the last may be anywhere.
struct GroupPlaces {
    src: *const u8,
    dst: *mut u8,
    last_src: *const u8,
    last_dst: *mut u8,
}

/// Encrypts `N` whole groups.
///
/// # Safety
///
/// There must be `N - 1` groups at `src` and `dst` of `place`, and one at `last_src` and `last_dst`. Each pair must
/// be the same memory or disjoint.
#[target_feature(enable = "avx2,vaes")]
#[inline(never)]
unsafe fn encrypt_groups<const R: usize, const N: usize>(
    keys: &RoundKeys<R>,
    first_sector: u64,
    place: &GroupPlaces,
) {
    let mut state: [__m256i; N] = from_fn(|i| {
        let low = first_sector.wrapping_add((LANES * i) as u64);
        let high = low.wrapping_add(1);
        _mm256_set_epi64x(0, high.cast_signed(), 0, low.cast_signed())
    });
    for block in 0..SECTOR_BLOCKS {
        let at = block * BLOCK_SIZE;
        let keys = keys.clear_of(place.dst.addr() + at);
        let key = _mm256_broadcastsi128_si256(keys[0]);
        for (i, state) in state.iter_mut().enumerate() {
            let src = if i == N - 1 {
                place.last_src.wrapping_add(at)
            } else {
                place.src.wrapping_add(i * GROUP_SIZE + at)
            };
            // SAFETY: block `block` of both sectors of group `i`.
            let plain = unsafe { _mm256_loadu2_m128i(src.add(SECTOR_SIZE).cast(), src.cast()) };
            *state = _mm256_xor_si256(*state, _mm256_xor_si256(plain, key));
        }
        for key in &keys[1..R - 1] {
            let key = _mm256_broadcastsi128_si256(*key);
            for state in &mut state {
                *state = _mm256_aesenc_epi128(*state, key);
            }
        }
        let key = _mm256_broadcastsi128_si256(keys[R - 1]);
        for (i, state) in state.iter_mut().enumerate() {
            *state = _mm256_aesenclast_epi128(*state, key);
            let dst = if i == N - 1 {
                place.last_dst.wrapping_add(at)
            } else {
                place.dst.wrapping_add(i * GROUP_SIZE + at)
            };
            // SAFETY: as above.
            unsafe { _mm256_storeu2_m128i(dst.add(SECTOR_SIZE).cast(), dst.cast(), *state) };
        }
    }
}

/// The number of registers that are decrypted together: half a sector.
const WIDTH: usize = 8;

/// Decrypts a run whose first sector has the number `first_sector`.
#[target_feature(enable = "avx2,vaes")]
#[inline]
fn decrypt_run<const R: usize>(keys: &RoundKeys<R>, first_sector: u64, run: SectorRun<'_, '_>) {
    let keys = keys.dec();
    let sectors = run.len();
    let (src, dst) = run.into_raw();
    for sector in 0..sectors {
        let number = first_sector.wrapping_add(sector as u64);
        let mut before = _mm_set_epi64x(0, number.cast_signed());
        for half in 0..2 {
            // SAFETY: a half of sector `sector` of the run, all of which is
            // read before any of it is written.
            unsafe {
                let src = src.add(sector).cast::<__m256i>().add(half * WIDTH);
                let dst = dst.add(sector).cast::<__m256i>().add(half * WIDTH);
                let key = _mm256_broadcastsi128_si256(keys[0]);
                let mut state: [__m256i; WIDTH] =
                    from_fn(|i| _mm256_xor_si256(_mm256_loadu_si256(src.add(i)), key));
                for key in &keys[1..R - 1] {
                    let key = _mm256_broadcastsi128_si256(*key);
                    for state in &mut state {
                        *state = _mm256_aesdec_epi128(*state, key);
                    }
                }
                let key = _mm256_broadcastsi128_si256(keys[R - 1]);
                let first = _mm256_inserti128_si256::<1>(
                    _mm256_castsi128_si256(before),
                    _mm_loadu_si128(src.cast()),
                );
                for (i, state) in state.iter_mut().enumerate() {
                    // The chain is the ciphertext from one block earlier on.
                    let chain = match i {
                        0 => first,
                        _ => _mm256_loadu_si256(src.byte_add(32 * i - BLOCK_SIZE)),
                    };
                    // The last round key and the ciphertext of the chain are added in one instruction.
                    *state = _mm256_aesdeclast_epi128(*state, _mm256_xor_si256(chain, key));
                }
                before = _mm_loadu_si128(src.add(WIDTH).cast::<__m128i>().sub(1));
                for (i, state) in state.into_iter().enumerate() {
                    _mm256_storeu_si256(dst.add(i), state);
                }
            }
        }
    }
}
