//! VAES on 256 bits: two blocks of a sector in a register, half a sector in eight.
//!
//! Eight registers of text leave few of AVX2's sixteen. Each round key is loaded from memory once for eight
//! instructions, and tweaks are kept in memory for their second addition.
//!
//! AVX-512 isn't needed, so this is the widest backend that Zen 3 and Intel's desktop processors can run.
//!
//! Invariant: only the sectors of the run are read and written. All of a half is read before any of it is written, so
//! that source and destination may be the same memory.

use core::arch::x86_64::{
    __m128i, __m256i, _mm256_aesdec_epi128, _mm256_aesdeclast_epi128, _mm256_aesenc_epi128,
    _mm256_aesenclast_epi128, _mm256_broadcastsi128_si256, _mm256_clmulepi64_epi128,
    _mm256_loadu_si256, _mm256_set_epi64x, _mm256_set1_epi64x, _mm256_setzero_si256,
    _mm256_slli_epi64, _mm256_sllv_epi64, _mm256_srli_epi64, _mm256_srlv_epi64,
    _mm256_storeu_si256, _mm256_unpacklo_epi64, _mm256_xor_si256,
};
use core::array::from_fn;

use super::{BATCH, backend, in_step, spread};
use crate::crypto::aes_x86::{self, AES128, AES256, RoundKeys};
use crate::crypto::run_cipher::RunCipher;
use crate::crypto::sector::{SectorLength, SectorRun};

/// The number of blocks in a register.
const LANES: usize = 2;
/// The number of registers that are processed together: half a sector.
const WIDTH: usize = 8;

backend!(
    Vaes256,
    has_vaes256,
    "avx2,vaes,vpclmulqdq",
    cowhide_aes128_xts_encrypt_vaes256,
    cowhide_aes128_xts_decrypt_vaes256,
    cowhide_aes256_xts_encrypt_vaes256,
    cowhide_aes256_xts_decrypt_vaes256
);

/// Encrypts or decrypts a run whose first sector has the number `first_sector`. Every `parts` sectors of 512 bytes
/// are one long sector, and the run is a whole number of these.
#[target_feature(enable = "avx2,vaes,vpclmulqdq")]
#[inline]
fn cipher_run<const R: usize, const ENCRYPT: bool>(
    data: &[__m128i; R],
    tweaks: &[__m128i; R],
    parts: usize,
    first_sector: u64,
    run: SectorRun<'_, '_>,
) {
    let mut left = run.len();
    let (mut src, mut dst) = run.into_raw();
    let mut number = first_sector;
    let step = parts as u64;
    let mut first = [_mm256_setzero_si256(); BATCH / LANES];
    while left > 0 {
        let count = left.min(BATCH);
        for (i, part) in first.chunks_exact_mut(WIDTH / 2).enumerate() {
            let before = i * WIDTH / 2 * LANES;
            // A short run doesn't need all of these tweaks.
            if before < count {
                let made: [__m256i; WIDTH / 2] =
                    first_tweaks(tweaks, number.wrapping_add(step * before as u64), step);
                part.copy_from_slice(&made);
            }
        }
        if parts > 1 {
            // SAFETY: `first` is `BATCH` tweaks, one after the other.
            spread(unsafe { &mut *first.as_mut_ptr().cast() }, parts);
        }
        // SAFETY: `first` has a tweak for each of `BATCH` sectors.
        let tweak = |i: usize| unsafe { *first.as_ptr().cast::<__m128i>().add(i % BATCH) };
        let mut base = lane_tweaks(_mm256_broadcastsi128_si256(tweak(0)));
        let mut tweaks = half_tweaks(base);
        for i in 0..count {
            let second = times::<16, 48>(base);
            base = lane_tweaks(_mm256_broadcastsi128_si256(tweak(i + 1)));
            // SAFETY: `count` sectors are left at `src` and `dst`, which are the same or disjoint.
            tweaks = unsafe {
                let (src, dst) = (src.add(i).cast(), dst.add(i).cast());
                let tweaks = half::<R, ENCRYPT>(data, tweaks, second, src, dst);
                half::<R, ENCRYPT>(data, tweaks, base, src.add(WIDTH), dst.add(WIDTH))
            };
        }
        // SAFETY: `count` sectors of the run are done.
        (src, dst) = unsafe { (src.add(count), dst.add(count)) };
        number = number.wrapping_add(count as u64);
        left -= count;
    }
}

/// Computes the first tweaks of `N * 2` sectors whose numbers are `step` apart.
#[target_feature(enable = "avx2,vaes")]
#[inline]
fn first_tweaks<const R: usize, const N: usize>(
    keys: &[__m128i; R],
    first_sector: u64,
    step: u64,
) -> [__m256i; N] {
    let key = _mm256_broadcastsi128_si256(keys[0]);
    let mut state: [__m256i; N] = from_fn(|i| {
        let low = first_sector.wrapping_add(step * (LANES * i) as u64);
        let high = low.wrapping_add(step);
        let numbers = _mm256_set_epi64x(0, high.cast_signed(), 0, low.cast_signed());
        _mm256_xor_si256(numbers, key)
    });
    for key in &keys[1..R - 1] {
        let key = _mm256_broadcastsi128_si256(*key);
        for state in &mut state {
            *state = _mm256_aesenc_epi128(*state, key);
        }
    }
    let key = _mm256_broadcastsi128_si256(keys[R - 1]);
    state.map(|state| _mm256_aesenclast_epi128(state, key))
}

/// Encrypts or decrypts half a sector, and returns the tweaks of the next half, of which `next` is the first
/// register. They are computed between the rounds: all at once they would fill the scheduler, so that the AES unit
/// would idle.
///
/// # Safety
///
/// Half a sector must be readable at `src` and writable at `dst`, and the two be the same or disjoint.
#[target_feature(enable = "avx2,vaes,vpclmulqdq")]
#[inline]
unsafe fn half<const R: usize, const ENCRYPT: bool>(
    keys: &[__m128i; R],
    tweaks: [__m256i; WIDTH],
    next: __m256i,
    src: *const __m256i,
    dst: *mut __m256i,
) -> [__m256i; WIDTH] {
    let key = _mm256_broadcastsi128_si256(keys[0]);
    let mut state: [__m256i; WIDTH] = from_fn(|i| {
        // SAFETY: register `i` of the half.
        let text = unsafe { _mm256_loadu_si256(src.add(i)) };
        _mm256_xor_si256(_mm256_xor_si256(tweaks[i], key), text)
    });
    let mut following = [next; WIDTH];
    for (round, key) in keys[1..R - 1].iter().enumerate() {
        let key = _mm256_broadcastsi128_si256(*key);
        for state in &mut state {
            *state = if ENCRYPT {
                _mm256_aesenc_epi128(*state, key)
            } else {
                _mm256_aesdec_epi128(*state, key)
            };
        }
        in_step!(ymm_reg, state);
        if round < WIDTH {
            following[round] = register(next, round);
        }
    }
    let key = _mm256_broadcastsi128_si256(keys[R - 1]);
    for (i, state) in state.into_iter().enumerate() {
        // The last round key and the tweak are added in one instruction.
        let last = _mm256_xor_si256(key, tweaks[i]);
        let text = if ENCRYPT {
            _mm256_aesenclast_epi128(state, last)
        } else {
            _mm256_aesdeclast_epi128(state, last)
        };
        // SAFETY: as above.
        unsafe { _mm256_storeu_si256(dst.add(i), text) };
    }
    following
}

/// Computes the tweaks of half a sector from their first register.
#[target_feature(enable = "avx2,vpclmulqdq")]
#[inline]
fn half_tweaks(first: __m256i) -> [__m256i; WIDTH] {
    from_fn(|i| register(first, i))
}

/// Computes register `i` of the tweaks of half a sector from their first register.
#[target_feature(enable = "avx2,vpclmulqdq")]
#[inline]
fn register(first: __m256i, i: usize) -> __m256i {
    match i {
        0 => first,
        1 => times::<2, 62>(first),
        2 => times::<4, 60>(first),
        3 => times::<6, 58>(first),
        4 => times::<8, 56>(first),
        5 => times::<10, 54>(first),
        6 => times::<12, 52>(first),
        _ => times::<14, 50>(first),
    }
}

/// Computes the first register of a sector's tweaks from the first tweak, which is in both lanes.
#[target_feature(enable = "avx2,vpclmulqdq")]
#[inline]
fn lane_tweaks(tweak: __m256i) -> __m256i {
    let shifts = _mm256_set_epi64x(1, 1, 0, 0);
    let back = _mm256_set_epi64x(63, 63, 64, 64);
    sum(
        _mm256_sllv_epi64(tweak, shifts),
        _mm256_srlv_epi64(tweak, back),
    )
}

/// Multiplies by `2^UP`. `DOWN` is `64 − UP`.
#[target_feature(enable = "avx2,vpclmulqdq")]
#[inline]
fn times<const UP: i32, const DOWN: i32>(tweak: __m256i) -> __m256i {
    const { assert!(UP + DOWN == 64) };
    sum(
        _mm256_slli_epi64::<UP>(tweak),
        _mm256_srli_epi64::<DOWN>(tweak),
    )
}

/// Computes a product from its shifted 64-bit halves and the bits that were shifted out. Those of the lower half are
/// added to the upper one, and those of the upper half are multiplied by 0x87 and added at the bottom.
#[target_feature(enable = "avx2,vpclmulqdq")]
#[inline]
fn sum(shifted: __m256i, fell_out: __m256i) -> __m256i {
    let polynomial = _mm256_set1_epi64x(0x87);
    let upper = _mm256_unpacklo_epi64(_mm256_setzero_si256(), fell_out);
    let lower = _mm256_clmulepi64_epi128::<0x01>(fell_out, polynomial);
    _mm256_xor_si256(_mm256_xor_si256(shifted, upper), lower)
}
