//! VAES on 512 bits: four blocks of a sector in a register, a sector in eight.
//!
//! Eight registers keep the AES unit busy, and the 32 registers hold them with fifteen round keys and half of the
//! tweaks. A tweak is added twice. Before the first round it is added together with the first round key. In the last
//! round it is a part of the round key, to which it is added beforehand. So a block takes only a load, an addition,
//! the rounds and a store, and out-of-order execution overlaps a sector with the next one.
//!
//! All tweaks of a sector are multiples of its first register of tweaks, by shifts that are known at compile time. So
//! no tweak waits for another. They are computed between the rounds of the sector before.
//!
//! Invariant: only the sectors of the run are read and written. All of a sector is read before any of it is written,
//! so that source and destination may be the same memory.

use core::arch::x86_64::{
    __m128i, __m512i, _mm512_add_epi64, _mm512_aesdec_epi128, _mm512_aesdeclast_epi128,
    _mm512_aesenc_epi128, _mm512_aesenclast_epi128, _mm512_broadcast_i32x4,
    _mm512_clmulepi64_epi128, _mm512_loadu_si512, _mm512_maskz_set1_epi64, _mm512_set_epi64,
    _mm512_set1_epi64, _mm512_setzero_si512, _mm512_slli_epi64, _mm512_sllv_epi64,
    _mm512_srli_epi64, _mm512_srlv_epi64, _mm512_storeu_si512, _mm512_ternarylogic_epi64,
    _mm512_unpacklo_epi64, _mm512_xor_si512,
};
use core::array::from_fn;

use super::{BATCH, backend, in_step, spread};
use crate::crypto::aes_x86::{self, AES128, AES256, RoundKeys};
use crate::crypto::run_cipher::RunCipher;
use crate::crypto::sector::{SECTOR_SIZE, SectorLength, SectorRun};

/// The number of blocks in a register.
const LANES: usize = 4;
/// The number of registers in a sector.
const REGISTERS: usize = SECTOR_SIZE / size_of::<__m512i>();

backend!(
    Vaes512,
    has_vaes512,
    "avx512f,vaes,vpclmulqdq",
    cowhide_aes128_xts_encrypt_vaes512,
    cowhide_aes128_xts_decrypt_vaes512,
    cowhide_aes256_xts_encrypt_vaes512,
    cowhide_aes256_xts_decrypt_vaes512
);

/// Encrypts or decrypts a run whose first sector has the number `first_sector`. Every `parts` sectors of 512 bytes
/// are one long sector, and the run is a whole number of these.
#[target_feature(enable = "avx512f,vaes,vpclmulqdq")]
#[inline]
fn cipher_run<const R: usize, const ENCRYPT: bool>(
    data: &[__m128i; R],
    tweaks: &[__m128i; R],
    parts: usize,
    first_sector: u64,
    run: SectorRun<'_, '_>,
) {
    let keys: [__m512i; R] = from_fn(|i| _mm512_broadcast_i32x4(data[i]));
    let mut left = run.len();
    let (mut src, mut dst) = run.into_raw();
    let mut number = first_sector;
    let step = parts as u64;
    let mut first = [_mm512_setzero_si512(); BATCH / LANES];
    while left > 0 {
        let count = left.min(BATCH);
        // A short run doesn't need all of these tweaks.
        if count > BATCH / 4 {
            first = first_tweaks(tweaks, number, step);
        } else {
            let few: [__m512i; BATCH / LANES / 4] = first_tweaks(tweaks, number, step);
            first[..few.len()].copy_from_slice(&few);
        }
        if parts > 1 {
            // SAFETY: `first` is `BATCH` tweaks, one after the other.
            spread(unsafe { &mut *first.as_mut_ptr().cast() }, parts);
        }
        // SAFETY: `first` has a tweak for each of `BATCH` sectors.
        let tweak = |i: usize| unsafe { *first.as_ptr().cast::<__m128i>().add(i % BATCH) };
        let mut tweaks = sector_tweaks(_mm512_broadcast_i32x4(tweak(0)));
        for i in 0..count {
            let next = _mm512_broadcast_i32x4(tweak(i + 1));
            // SAFETY: `count` sectors are left at `src` and `dst`, which are the same or disjoint.
            tweaks = unsafe {
                let (src, dst) = (src.add(i).cast(), dst.add(i).cast());
                sector::<R, ENCRYPT>(&keys, tweaks, next, src, dst)
            };
        }
        // SAFETY: `count` sectors of the run are done.
        (src, dst) = unsafe { (src.add(count), dst.add(count)) };
        number = number.wrapping_add(count as u64);
        left -= count;
    }
}

/// Computes the first tweaks of `N * 4` sectors whose numbers are `step` apart.
#[target_feature(enable = "avx512f,vaes")]
#[inline]
fn first_tweaks<const R: usize, const N: usize>(
    keys: &[__m128i; R],
    first_sector: u64,
    step: u64,
) -> [__m512i; N] {
    let lane = |lane| step.wrapping_mul(lane).cast_signed();
    let lanes = _mm512_set_epi64(0, lane(3), 0, lane(2), 0, lane(1), 0, 0);
    let key = _mm512_broadcast_i32x4(keys[0]);
    let mut state: [__m512i; N] = from_fn(|i| {
        let number = first_sector.wrapping_add(step * (LANES * i) as u64);
        // Only the even 64-bit words are set: the other half of a vector is zero.
        let numbers = _mm512_maskz_set1_epi64(0b0101_0101, number.cast_signed());
        _mm512_xor_si512(_mm512_add_epi64(numbers, lanes), key)
    });
    for key in &keys[1..R - 1] {
        let key = _mm512_broadcast_i32x4(*key);
        for state in &mut state {
            *state = _mm512_aesenc_epi128(*state, key);
        }
    }
    let key = _mm512_broadcast_i32x4(keys[R - 1]);
    state.map(|state| _mm512_aesenclast_epi128(state, key))
}

/// Encrypts or decrypts a sector, and returns the tweaks of the next one, whose first is in every lane of `next`.
/// They are computed between the rounds: all at once they would fill the scheduler, so that the AES unit would idle.
///
/// # Safety
///
/// A sector must be readable at `src` and writable at `dst`, and the two be the same or disjoint.
#[target_feature(enable = "avx512f,vaes,vpclmulqdq")]
#[inline]
unsafe fn sector<const R: usize, const ENCRYPT: bool>(
    keys: &[__m512i; R],
    tweaks: [__m512i; REGISTERS],
    next: __m512i,
    src: *const __m512i,
    dst: *mut __m512i,
) -> [__m512i; REGISTERS] {
    let mut state: [__m512i; REGISTERS] = from_fn(|i| {
        // SAFETY: register `i` of the sector.
        let text = unsafe { _mm512_loadu_si512(src.add(i)) };
        _mm512_ternarylogic_epi64::<0x96>(text, tweaks[i], keys[0])
    });
    let first = first_register(next);
    let mut following = [first; REGISTERS];
    for (round, key) in keys[1..R - 1].iter().enumerate() {
        for state in &mut state {
            *state = if ENCRYPT {
                _mm512_aesenc_epi128(*state, *key)
            } else {
                _mm512_aesdec_epi128(*state, *key)
            };
        }
        in_step!(zmm_reg, state);
        if round < REGISTERS {
            following[round] = register(first, round);
        }
    }
    for (i, state) in state.into_iter().enumerate() {
        let last = _mm512_xor_si512(keys[R - 1], tweaks[i]);
        let text = if ENCRYPT {
            _mm512_aesenclast_epi128(state, last)
        } else {
            _mm512_aesdeclast_epi128(state, last)
        };
        // SAFETY: as above.
        unsafe { _mm512_storeu_si512(dst.add(i), text) };
    }
    following
}

/// Computes the tweaks of a sector from its first one, which is in every lane.
#[target_feature(enable = "avx512f,vpclmulqdq")]
#[inline]
fn sector_tweaks(tweak: __m512i) -> [__m512i; REGISTERS] {
    let first = first_register(tweak);
    from_fn(|i| register(first, i))
}

/// Computes the first register of a sector's tweaks from the first tweak, which is in every lane.
#[target_feature(enable = "avx512f,vpclmulqdq")]
#[inline]
fn first_register(tweak: __m512i) -> __m512i {
    let shifts = _mm512_set_epi64(3, 3, 2, 2, 1, 1, 0, 0);
    let back = _mm512_set_epi64(61, 61, 62, 62, 63, 63, 64, 64);
    sum(
        _mm512_sllv_epi64(tweak, shifts),
        _mm512_srlv_epi64(tweak, back),
    )
}

/// Computes register `i` of a sector's tweaks from the first register.
#[target_feature(enable = "avx512f,vpclmulqdq")]
#[inline]
fn register(first: __m512i, i: usize) -> __m512i {
    match i {
        0 => first,
        1 => times::<4, 60>(first),
        2 => times::<8, 56>(first),
        3 => times::<12, 52>(first),
        4 => times::<16, 48>(first),
        5 => times::<20, 44>(first),
        6 => times::<24, 40>(first),
        _ => times::<28, 36>(first),
    }
}

/// Multiplies by `2^UP`. `DOWN` is `64 − UP`.
#[target_feature(enable = "avx512f,vpclmulqdq")]
#[inline]
fn times<const UP: u32, const DOWN: u32>(tweak: __m512i) -> __m512i {
    const { assert!(UP + DOWN == 64) };
    sum(
        _mm512_slli_epi64::<UP>(tweak),
        _mm512_srli_epi64::<DOWN>(tweak),
    )
}

/// Computes a product from its shifted 64-bit halves and the bits that were shifted out. Those of the lower half are
/// added to the upper one, and those of the upper half are multiplied by 0x87 and added at the bottom.
#[target_feature(enable = "avx512f,vpclmulqdq")]
#[inline]
fn sum(shifted: __m512i, fell_out: __m512i) -> __m512i {
    let polynomial = _mm512_set1_epi64(0x87);
    let upper = _mm512_unpacklo_epi64(_mm512_setzero_si512(), fell_out);
    let lower = _mm512_clmulepi64_epi128::<0x01>(fell_out, polynomial);
    _mm512_ternarylogic_epi64::<0x96>(shifted, upper, lower)
}
