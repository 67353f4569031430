//! limits
use core::arch::x86_64::*;
use core::hint::black_box;
use std::time::Instant;

macro_rules! limit {
    ($outer:ident, $name:ident, $features:literal, $vec:ty, $set:ident, $enc:ident, $last:ident) => {
        #[inline(never)]
        #[target_feature(enable = $features)]
        fn $name<const N: usize>(blocks: usize, k: [$vec; 2], mut s: [$vec; N]) -> [$vec; N] {
            for _ in 0..blocks {
                for _ in 0..4 {
                    for x in &mut s {
                        *x = $enc(*x, k[0]);
                    }
                    for x in &mut s {
                        *x = $enc(*x, k[1]);
                    }
                }
                for x in &mut s {
                    *x = $enc(*x, k[0]);
                }
                for x in &mut s {
                    *x = $last(*x, k[1]);
                }
            }
            s
        }
        #[target_feature(enable = $features)]
        pub(in crate::crypto) fn $outer(reps: usize) -> Vec<(usize, f64)> {
            #[target_feature(enable = $features)]
            fn one<const N: usize>(reps: usize) -> (usize, f64) {
                let mut best = f64::MAX;
                let blocks = 2000;
                for _ in 0..reps {
                    let k = black_box([$set(0x1234567), $set(0x7654321)]);
                    let s = black_box([$set(42); N]);
                    let t = Instant::now();
                    black_box($name::<N>(blocks, k, s));
                    best = best.min(t.elapsed().as_secs_f64());
                }
                (N, (size_of::<$vec>() * N * blocks) as f64 / best / 1e9)
            }
            vec![
                one::<6>(reps),
                one::<8>(reps),
                one::<9>(reps),
                one::<10>(reps),
                one::<12>(reps),
                one::<13>(reps),
                one::<14>(reps),
            ]
        }
    };
}
limit!(
    aesni,
    r128,
    "aes,sse2",
    __m128i,
    _mm_set1_epi32,
    _mm_aesenc_si128,
    _mm_aesenclast_si128
);
limit!(
    vaes256,
    r256,
    "avx2,vaes",
    __m256i,
    _mm256_set1_epi32,
    _mm256_aesenc_epi128,
    _mm256_aesenclast_epi128
);
limit!(
    vaes512,
    r512,
    "avx512f,vaes",
    __m512i,
    _mm512_set1_epi32,
    _mm512_aesenc_epi128,
    _mm512_aesenclast_epi128
);
