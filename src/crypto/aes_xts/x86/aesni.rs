//! AES-NI: one block a register, eight blocks of a sector in flight.
//!
//! Round keys come from memory, one load for eight blocks' use of it. Tweaks are doubled one after the other,
//! four instructions each, which wait for one another while the AES unit works on the blocks before.
//!
//! Only SSE2 and AES-NI are used, without AVX, so that the oldest machines with the instructions can run it,
//! and valgrind.
//!
//! Invariant: only the sectors of the run are read and written, and every block is read before it's written,
//! so that source and destination may be the same memory.

use core::arch::x86_64::{
    __m128i, _mm_add_epi64, _mm_aesdec_si128, _mm_aesdeclast_si128, _mm_aesenc_si128,
    _mm_aesenclast_si128, _mm_and_si128, _mm_loadu_si128, _mm_set_epi32, _mm_set_epi64x,
    _mm_setzero_si128, _mm_shuffle_epi32, _mm_srai_epi32, _mm_storeu_si128, _mm_xor_si128,
};
use core::array::from_fn;

use super::{BATCH, backend};
use crate::crypto::aes_x86::{self, AES128, AES256, RoundKeys};
use crate::crypto::run_cipher::RunCipher;
use crate::crypto::sector::{SECTOR_BLOCKS, SectorRun};

/// Blocks that are ciphered together.
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

/// Encrypts or decrypts a run whose first sector has the number `first_sector`.
#[target_feature(enable = "aes,sse2")]
#[inline]
fn cipher_run<const R: usize, const ENCRYPT: bool>(
    data: &[__m128i; R],
    tweaks: &[__m128i; R],
    first_sector: u64,
    run: SectorRun<'_, '_>,
) {
    let mut left = run.len();
    let (mut src, mut dst) = run.into_raw();
    let mut number = first_sector;
    let mut first = [_mm_setzero_si128(); BATCH];
    while left > 0 {
        let count = left.min(BATCH);
        for (i, part) in first.chunks_exact_mut(WIDTH).enumerate() {
            // A short run doesn't wait for tweaks that it has no sectors for.
            if i * WIDTH < count {
                let made = first_tweaks(tweaks, number.wrapping_add((i * WIDTH) as u64));
                part.copy_from_slice(&made);
            }
        }
        for (i, tweak) in first[..count].iter().enumerate() {
            let mut tweak = *tweak;
            for part in 0..SECTOR_BLOCKS / WIDTH {
                // SAFETY: `count` sectors are left at `src` and `dst`, which are the same or disjoint;
                // part `part` of sector `i` of them.
                unsafe {
                    let src = src.add(i).cast::<__m128i>().add(part * WIDTH);
                    let dst = dst.add(i).cast::<__m128i>().add(part * WIDTH);
                    tweak = blocks::<R, ENCRYPT>(data, tweak, src, dst);
                }
            }
        }
        // SAFETY: `count` sectors of the run are done.
        (src, dst) = unsafe { (src.add(count), dst.add(count)) };
        number = number.wrapping_add(count as u64);
        left -= count;
    }
}

/// Makes the first tweaks of sectors.
#[target_feature(enable = "aes,sse2")]
#[inline]
fn first_tweaks<const R: usize>(keys: &[__m128i; R], first_sector: u64) -> [__m128i; WIDTH] {
    let mut state: [__m128i; WIDTH] = from_fn(|i| {
        let number = first_sector.wrapping_add(i as u64);
        _mm_xor_si128(_mm_set_epi64x(0, number.cast_signed()), keys[0])
    });
    for key in &keys[1..R - 1] {
        for state in &mut state {
            *state = _mm_aesenc_si128(*state, *key);
        }
    }
    state.map(|state| _mm_aesenclast_si128(state, keys[R - 1]))
}

/// Encrypts or decrypts blocks, the first of which has the tweak `first`, and returns the one that follows
/// their last.
///
/// # Safety
///
/// `WIDTH` blocks must be readable at `src` and writable at `dst`, and the two be the same or disjoint.
#[target_feature(enable = "aes,sse2")]
#[inline]
unsafe fn blocks<const R: usize, const ENCRYPT: bool>(
    keys: &[__m128i; R],
    first: __m128i,
    src: *const __m128i,
    dst: *mut __m128i,
) -> __m128i {
    let mut next = first;
    let tweaks: [__m128i; WIDTH] = from_fn(|_| {
        let tweak = next;
        next = double(tweak);
        tweak
    });
    let mut state: [__m128i; WIDTH] = from_fn(|i| {
        // SAFETY: block `i`.
        let text = unsafe { _mm_loadu_si128(src.add(i)) };
        _mm_xor_si128(_mm_xor_si128(text, keys[0]), tweaks[i])
    });
    for key in &keys[1..R - 1] {
        for state in &mut state {
            *state = if ENCRYPT {
                _mm_aesenc_si128(*state, *key)
            } else {
                _mm_aesdec_si128(*state, *key)
            };
        }
    }
    for (i, state) in state.into_iter().enumerate() {
        // The last round key and the tweak go in as one.
        let last = _mm_xor_si128(keys[R - 1], tweaks[i]);
        let text = if ENCRYPT {
            _mm_aesenclast_si128(state, last)
        } else {
            _mm_aesdeclast_si128(state, last)
        };
        // SAFETY: as above.
        unsafe { _mm_storeu_si128(dst.add(i), text) };
    }
    next
}

/// Doubles a tweak.
#[target_feature(enable = "sse2")]
#[inline]
fn double(tweak: __m128i) -> __m128i {
    // The highest bits of words 1 and 3 fall out of the two halves; they come back in words 2 and 0.
    let signs = _mm_shuffle_epi32::<0b00_01_00_11>(_mm_srai_epi32::<31>(tweak));
    let fell_out = _mm_and_si128(signs, _mm_set_epi32(0, 1, 0, 0x87));
    _mm_xor_si128(_mm_add_epi64(tweak, tweak), fell_out)
}
