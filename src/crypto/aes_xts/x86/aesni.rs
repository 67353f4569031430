//! AES-NI: one block in each register, eight blocks of a sector in flight.
//!
//! Each round key is loaded from memory once for eight blocks. Tweaks are doubled one after the other, between the
//! rounds of the blocks before, and kept in memory: eight blocks leave few of the sixteen registers.
//!
//! Only SSE2 and AES-NI are used, without AVX, so that the oldest machines with AES-NI can run it, and valgrind, too.
//!
//! Invariant: only the sectors of the run are read and written. Every block is read before it is written, so that
//! source and destination may be the same memory.

use core::arch::x86_64::{
    __m128i, _mm_add_epi64, _mm_aesdec_si128, _mm_aesdeclast_si128, _mm_aesenc_si128,
    _mm_aesenclast_si128, _mm_and_si128, _mm_loadu_si128, _mm_set_epi32, _mm_set_epi64x,
    _mm_setzero_si128, _mm_shuffle_epi32, _mm_srai_epi32, _mm_storeu_si128, _mm_xor_si128,
};
use core::array::from_fn;

use super::{BATCH, backend, in_step, spread};
use crate::crypto::aes_x86::{self, AES128, AES256, RoundKeys};
use crate::crypto::run_cipher::RunCipher;
use crate::crypto::sector::{SECTOR_BLOCKS, SectorLength, SectorRun};

/// The number of blocks that are processed together.
const WIDTH: usize = 8;

backend!(
    AesNi,
    has_aesni,
    "aes,sse2",
    cowhide_aes128_xts_encrypt_aesni,
    cowhide_aes128_xts_decrypt_aesni,
    cowhide_aes256_xts_encrypt_aesni,
    cowhide_aes256_xts_decrypt_aesni
);

/// Encrypts or decrypts a run whose first sector has the number `first_sector`. Every `parts` sectors of 512 bytes
/// are one long sector, and the run is a whole number of these.
#[target_feature(enable = "aes,sse2")]
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
    let mut first = [_mm_setzero_si128(); BATCH];
    while left > 0 {
        let count = left.min(BATCH);
        for (i, part) in first.chunks_exact_mut(WIDTH).enumerate() {
            // A short run doesn't need all of these tweaks.
            if i * WIDTH < count {
                let before = step * (i * WIDTH) as u64;
                let made = first_tweaks(tweaks, number.wrapping_add(before), step);
                part.copy_from_slice(&made);
            }
        }
        if parts > 1 {
            spread(&mut first, parts);
        }
        let mut made = doubled(first[0]);
        for i in 0..count {
            for part in 0..SECTOR_BLOCKS / WIDTH {
                let next = match part + 1 < SECTOR_BLOCKS / WIDTH {
                    true => double(made[WIDTH - 1]),
                    false => first[(i + 1) % BATCH],
                };
                // SAFETY: `count` sectors are left at `src` and `dst`, which are the same or disjoint;
                // part `part` of sector `i` of them.
                unsafe {
                    let src = src.add(i).cast::<__m128i>().add(part * WIDTH);
                    let dst = dst.add(i).cast::<__m128i>().add(part * WIDTH);
                    made = blocks::<R, ENCRYPT>(data, &made, next, src, dst);
                }
            }
        }
        // SAFETY: `count` sectors of the run are done.
        (src, dst) = unsafe { (src.add(count), dst.add(count)) };
        number = number.wrapping_add(count as u64);
        left -= count;
    }
}

/// Computes the first tweaks of sectors whose numbers are `step` apart.
#[target_feature(enable = "aes,sse2")]
#[inline]
fn first_tweaks<const R: usize>(
    keys: &[__m128i; R],
    first_sector: u64,
    step: u64,
) -> [__m128i; WIDTH] {
    let mut state: [__m128i; WIDTH] = from_fn(|i| {
        let number = first_sector.wrapping_add(step * i as u64);
        _mm_xor_si128(_mm_set_epi64x(0, number.cast_signed()), keys[0])
    });
    for key in &keys[1..R - 1] {
        for state in &mut state {
            *state = _mm_aesenc_si128(*state, *key);
        }
    }
    state.map(|state| _mm_aesenclast_si128(state, keys[R - 1]))
}

/// Encrypts or decrypts blocks, and returns the tweaks of the blocks that follow, the first of which is `next`. They
/// are computed between the rounds, since each depends on the one before it, and the AES unit would wait for them
/// otherwise.
///
/// # Safety
///
/// `WIDTH` blocks must be readable at `src` and writable at `dst`, and the two be the same or disjoint.
#[target_feature(enable = "aes,sse2")]
#[inline]
unsafe fn blocks<const R: usize, const ENCRYPT: bool>(
    keys: &[__m128i; R],
    tweaks: &[__m128i; WIDTH],
    mut next: __m128i,
    src: *const __m128i,
    dst: *mut __m128i,
) -> [__m128i; WIDTH] {
    let mut state: [__m128i; WIDTH] = from_fn(|i| {
        // SAFETY: block `i`.
        let text = unsafe { _mm_loadu_si128(src.add(i)) };
        _mm_xor_si128(_mm_xor_si128(text, keys[0]), tweaks[i])
    });
    let mut following = [next; WIDTH];
    for (round, key) in keys[1..R - 1].iter().enumerate() {
        for state in &mut state {
            *state = if ENCRYPT {
                _mm_aesenc_si128(*state, *key)
            } else {
                _mm_aesdec_si128(*state, *key)
            };
        }
        in_step!(xmm_reg, state);
        if round < WIDTH {
            following[round] = next;
            next = double(next);
        }
    }
    for (i, state) in state.into_iter().enumerate() {
        // The last round key and the tweak are added in one instruction.
        let last = _mm_xor_si128(keys[R - 1], tweaks[i]);
        let text = if ENCRYPT {
            _mm_aesenclast_si128(state, last)
        } else {
            _mm_aesdeclast_si128(state, last)
        };
        // SAFETY: as above.
        unsafe { _mm_storeu_si128(dst.add(i), text) };
    }
    following
}

/// Computes the tweaks of blocks from the first one.
#[target_feature(enable = "sse2")]
#[inline]
fn doubled(first: __m128i) -> [__m128i; WIDTH] {
    let mut next = first;
    from_fn(|_| {
        let tweak = next;
        next = double(tweak);
        tweak
    })
}

/// Doubles a tweak.
#[target_feature(enable = "sse2")]
#[inline]
fn double(tweak: __m128i) -> __m128i {
    // The carry bits of words 1 and 3, the highest of the two halves, are added to words 2 and 0.
    let signs = _mm_shuffle_epi32::<0b00_01_00_11>(_mm_srai_epi32::<31>(tweak));
    let fell_out = _mm_and_si128(signs, _mm_set_epi32(0, 1, 0, 0x87));
    _mm_xor_si128(_mm_add_epi64(tweak, tweak), fell_out)
}
