//! The limit of the AES unit: AES rounds on registers only.
//!
//! These loops run the ten rounds of AES-128, or the fourteen of AES-256, on enough independent blocks. Each block's
//! result is its next input, and all data and keys are in registers: no loads, no stores, no chains, no xors. The
//! speed of a kernel divided by that is its share of the hardware's limit.
//!
//! The number of registers that saturates the unit depends on the processor, so several numbers are tried, and the
//! best result counts.

use core::arch::x86_64::{
    __m128i, __m256i, __m512i, _mm_aesenc_si128, _mm_aesenclast_si128, _mm_set1_epi32,
    _mm256_aesenc_epi128, _mm256_aesenclast_epi128, _mm256_set1_epi32, _mm512_aesenc_epi128,
    _mm512_aesenclast_epi128, _mm512_set1_epi32,
};
use core::hint::black_box;
use std::time::{Duration, Instant};

use super::{AES128, AES256, has_aesni, has_vaes256, has_vaes512};
use crate::crypto::Limit;

/// The number of encryptions of a register in one measurement. They take some tens of microseconds, which is well
/// above the resolution of the clock and well below a time slice.
const STEPS: usize = 1000;

macro_rules! limit {
    ($name:ident, $available:ident, $features:literal, $vector:ty, $set:ident, $enc:ident, $last:ident) => {
        /// Measures the limit at this width with keys of `bits`. Returns `None` if the processor lacks the
        /// instructions.
        pub(in crate::crypto) fn $name(bits: usize, repetitions: usize) -> Option<Limit> {
            /// Does the rounds of `R` round keys for each of `N` registers, `STEPS` times.
            #[target_feature(enable = $features)]
            #[inline(never)]
            fn rounds<const R: usize, const N: usize>(
                keys: [$vector; 2],
                mut state: [$vector; N],
            ) -> [$vector; N] {
                for _ in 0..STEPS {
                    // Two keys alternate, since a schedule would not fit into 16 registers. The AES unit takes the
                    // same time for any key.
                    for round in 1..R - 1 {
                        for state in &mut state {
                            *state = $enc(*state, keys[round % 2]);
                        }
                    }
                    for state in &mut state {
                        *state = $last(*state, keys[1]);
                    }
                }
                state
            }

            #[target_feature(enable = $features)]
            fn measure<const R: usize, const N: usize>(repetitions: usize, best: &mut Limit) {
                let mut shortest = Duration::MAX;
                for _ in 0..repetitions {
                    let keys = black_box([$set(0x0123_4567), $set(0x89ab_cdef_u32.cast_signed())]);
                    let state = black_box([$set(42); N]);
                    let start = Instant::now();
                    black_box(rounds::<R, N>(keys, state));
                    shortest = shortest.min(start.elapsed());
                }
                let bytes = size_of::<[$vector; N]>() * STEPS;
                let gb_per_s = bytes as f64 / shortest.as_secs_f64() / 1e9;
                if gb_per_s > best.gb_per_s {
                    *best = Limit {
                        gb_per_s,
                        registers: N,
                    };
                }
            }

            #[target_feature(enable = $features)]
            fn all<const R: usize>(repetitions: usize) -> Limit {
                let mut best = Limit {
                    gb_per_s: 0.0,
                    registers: 0,
                };
                measure::<R, 6>(repetitions, &mut best);
                measure::<R, 8>(repetitions, &mut best);
                measure::<R, 10>(repetitions, &mut best);
                measure::<R, 12>(repetitions, &mut best);
                measure::<R, 14>(repetitions, &mut best);
                best
            }

            $available().then(|| {
                // SAFETY: the processor has the features, as was just found.
                unsafe {
                    match bits {
                        256 => all::<AES256>(repetitions),
                        _ => all::<AES128>(repetitions),
                    }
                }
            })
        }
    };
}

limit!(
    aesni,
    has_aesni,
    "aes,sse2",
    __m128i,
    _mm_set1_epi32,
    _mm_aesenc_si128,
    _mm_aesenclast_si128
);
limit!(
    vaes256,
    has_vaes256,
    "avx2,vaes",
    __m256i,
    _mm256_set1_epi32,
    _mm256_aesenc_epi128,
    _mm256_aesenclast_epi128
);
limit!(
    vaes512,
    has_vaes512,
    "avx512f,vaes",
    __m512i,
    _mm512_set1_epi32,
    _mm512_aesenc_epi128,
    _mm512_aesenclast_epi128
);
