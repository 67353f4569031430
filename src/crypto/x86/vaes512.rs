//! VAES on 512 bits.
use super::batch_groups;
use super::keys::{ROUND_KEYS, RoundKeys};
use crate::crypto::{Run, SECTOR_SIZE, Sector};
use core::arch::x86_64::*;

const FULL: usize = 8;
const MAX: usize = 16;

pub(in crate::crypto) struct Vaes512 {
    keys: Box<RoundKeys>,
}

impl Vaes512 {
    pub(in crate::crypto) fn available() -> bool {
        is_x86_feature_detected!("aes")
            && is_x86_feature_detected!("vaes")
            && is_x86_feature_detected!("avx512f")
    }
    pub(in crate::crypto) fn new(key: &[u8; 16]) -> Option<Self> {
        // SAFETY: the feature was just detected.
        Self::available().then(|| Self {
            keys: unsafe { RoundKeys::expand(key) },
        })
    }
    pub(in crate::crypto) fn encrypt(&self, first_sector: u64, run: Run<'_, '_>) {
        // SAFETY: `new` gave out `self` only after it had found the features.
        unsafe { cowhide_aes128_cbc_encrypt_vaes512(&self.keys, first_sector, run) }
    }
    pub(in crate::crypto) fn decrypt(&self, first_sector: u64, run: Run<'_, '_>) {
        // SAFETY: `new` gave out `self` only after it had found the features.
        unsafe { cowhide_aes128_cbc_decrypt_vaes512(&self.keys, first_sector, run) }
    }
}

#[unsafe(no_mangle)]
#[inline(never)]
#[target_feature(enable = "avx512f,vaes,aes")]
fn cowhide_aes128_cbc_encrypt_vaes512(keys: &RoundKeys, first: u64, run: Run<'_, '_>) {
    let rk: [__m512i; ROUND_KEYS] = core::array::from_fn(|i| _mm512_broadcast_i32x4(keys.enc[i]));
    let mut left = run.len();
    let (mut src, mut dst) = run.into_raw();
    let mut number = first;
    while left > 0 {
        let groups = batch_groups(left.div_ceil(4), FULL, MAX);
        let n = left.min(groups * 4);
        // SAFETY: xx
        unsafe {
            match groups {
                1 => batch::<1>(&rk, number, src, dst, n),
                2 => batch::<2>(&rk, number, src, dst, n),
                3 => batch::<3>(&rk, number, src, dst, n),
                4 => batch::<4>(&rk, number, src, dst, n),
                5 => batch::<5>(&rk, number, src, dst, n),
                6 => batch::<6>(&rk, number, src, dst, n),
                7 => batch::<7>(&rk, number, src, dst, n),
                8 => batch::<8>(&rk, number, src, dst, n),
                9 => batch::<9>(&rk, number, src, dst, n),
                10 => batch::<10>(&rk, number, src, dst, n),
                11 => batch::<11>(&rk, number, src, dst, n),
                12 => batch::<12>(&rk, number, src, dst, n),
                13 => batch::<13>(&rk, number, src, dst, n),
                14 => batch::<14>(&rk, number, src, dst, n),
                15 => batch::<15>(&rk, number, src, dst, n),
                _ => batch::<16>(&rk, number, src, dst, n),
            }
            src = src.add(n);
            dst = dst.add(n);
        }
        number = number.wrapping_add(n as u64);
        left -= n;
    }
}

#[target_feature(enable = "avx512f,vaes,aes")]
#[inline]
unsafe fn batch<const N: usize>(
    rk: &[__m512i; ROUND_KEYS],
    first: u64,
    src: *const Sector,
    dst: *mut Sector,
    sectors: usize,
) {
    let tail = sectors - 4 * (N - 1);
    let mut scratch = [[0u8; SECTOR_SIZE]; 4];
    unsafe {
        let last_src = src.add(4 * (N - 1));
        let last_dst = dst.add(4 * (N - 1));
        if tail == 4 {
            chains::<N>(
                rk,
                first,
                src.cast(),
                dst.cast(),
                last_src.cast(),
                last_dst.cast(),
            );
        } else {
            core::ptr::copy_nonoverlapping(last_src, scratch.as_mut_ptr(), tail);
            let p: *mut u8 = scratch.as_mut_ptr().cast();
            chains::<N>(rk, first, src.cast(), dst.cast(), p, p);
            core::ptr::copy_nonoverlapping(scratch.as_ptr(), last_dst, tail);
        }
    }
}

#[target_feature(enable = "avx512f,vaes,aes")]
#[inline(never)]
unsafe fn chains<const N: usize>(
    rk: &[__m512i; ROUND_KEYS],
    first: u64,
    src: *const u8,
    dst: *mut u8,
    last_src: *const u8,
    last_dst: *mut u8,
) {
    let rk = *rk;
    let lanes = _mm512_set_epi64(0, 3, 0, 2, 0, 1, 0, 0);
    let mut state: [__m512i; N] = core::array::from_fn(|i| {
        let base = first.wrapping_add(4 * i as u64) as i64;
        _mm512_add_epi64(lanes, _mm512_maskz_set1_epi64(0x55, base))
    });
    let mut stage = [[_mm512_setzero_si512(); N]; 4];
    for chunk in 0..8 {
        for i in 0..N {
            let p = if i == N - 1 {
                last_src
            } else {
                src.wrapping_add(i * 2048)
            };
            let p = p.wrapping_add(chunk * 64);
            let r = unsafe { [0, 1, 2, 3].map(|l| _mm512_loadu_si512(p.add(l * 512).cast())) };
            let x = transpose(r);
            for k in 0..4 {
                stage[k][i] = x[k];
            }
        }
        for row in &mut stage {
            for i in 0..N {
                state[i] = _mm512_ternarylogic_epi64::<0x96>(state[i], row[i], rk[0]);
            }
            for k in &rk[1..10] {
                for s in &mut state {
                    *s = _mm512_aesenc_epi128(*s, *k);
                }
            }
            for i in 0..N {
                state[i] = _mm512_aesenclast_epi128(state[i], rk[10]);
                row[i] = state[i];
            }
        }
        for i in 0..N {
            let p = if i == N - 1 {
                last_dst
            } else {
                dst.wrapping_add(i * 2048)
            };
            let p = p.wrapping_add(chunk * 64);
            let x = transpose([stage[0][i], stage[1][i], stage[2][i], stage[3][i]]);
            for l in 0..4 {
                unsafe { _mm512_storeu_si512(p.add(l * 512).cast(), x[l]) };
            }
        }
    }
}

#[target_feature(enable = "avx512f")]
#[inline]
fn transpose(r: [__m512i; 4]) -> [__m512i; 4] {
    let a = _mm512_shuffle_i64x2::<0b01_00_01_00>(r[0], r[1]);
    let b = _mm512_shuffle_i64x2::<0b11_10_11_10>(r[0], r[1]);
    let c = _mm512_shuffle_i64x2::<0b01_00_01_00>(r[2], r[3]);
    let d = _mm512_shuffle_i64x2::<0b11_10_11_10>(r[2], r[3]);
    [
        _mm512_shuffle_i64x2::<0b10_00_10_00>(a, c),
        _mm512_shuffle_i64x2::<0b11_01_11_01>(a, c),
        _mm512_shuffle_i64x2::<0b10_00_10_00>(b, d),
        _mm512_shuffle_i64x2::<0b11_01_11_01>(b, d),
    ]
}

#[unsafe(no_mangle)]
#[inline(never)]
#[target_feature(enable = "avx512f,vaes,aes")]
fn cowhide_aes128_cbc_decrypt_vaes512(keys: &RoundKeys, first: u64, run: Run<'_, '_>) {
    let rk: [__m512i; ROUND_KEYS] = core::array::from_fn(|i| _mm512_broadcast_i32x4(keys.dec[i]));
    let sectors = run.len();
    let (src, dst) = run.into_raw();
    for n in 0..sectors {
        let iv = _mm512_maskz_set1_epi64(0x40, first.wrapping_add(n as u64) as i64);
        unsafe {
            let s: *const __m512i = src.add(n).cast();
            let d: *mut __m512i = dst.add(n).cast();
            let c: [__m512i; 8] = core::array::from_fn(|i| _mm512_loadu_si512(s.add(i)));
            let mut x = c;
            for v in &mut x {
                *v = _mm512_xor_si512(*v, rk[0]);
            }
            for k in &rk[1..10] {
                for v in &mut x {
                    *v = _mm512_aesdec_epi128(*v, *k);
                }
            }
            for i in 0..8 {
                let before = if i == 0 { iv } else { c[i - 1] };
                let prev = _mm512_alignr_epi64::<6>(c[i], before);
                x[i] = _mm512_aesdeclast_epi128(x[i], _mm512_xor_si512(prev, rk[10]));
            }
            for i in 0..8 {
                _mm512_storeu_si512(d.add(i), x[i]);
            }
        }
    }
}
