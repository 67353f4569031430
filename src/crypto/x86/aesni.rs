//! AES-NI.
use super::batch_groups;
use super::keys::RoundKeys;
use crate::crypto::{Run, SECTOR_BLOCKS, Sector, iv};
use core::arch::x86_64::*;

const FULL: usize = 6;
const MAX: usize = 12;

pub(in crate::crypto) struct AesNi {
    keys: Box<RoundKeys>,
}

impl AesNi {
    pub(in crate::crypto) fn available() -> bool {
        is_x86_feature_detected!("aes") && is_x86_feature_detected!("sse2")
    }
    pub(in crate::crypto) fn new(key: &[u8; 16]) -> Option<Self> {
        // SAFETY: the feature was just detected.
        Self::available().then(|| Self {
            keys: unsafe { RoundKeys::expand(key) },
        })
    }
    pub(in crate::crypto) fn encrypt(&self, first_sector: u64, run: Run<'_, '_>) {
        // SAFETY: `new` gave out `self` only after it had found the features.
        unsafe { cowhide_aes128_cbc_encrypt_aesni(&self.keys, first_sector, run) }
    }
    pub(in crate::crypto) fn decrypt(&self, first_sector: u64, run: Run<'_, '_>) {
        // SAFETY: `new` gave out `self` only after it had found the features.
        unsafe { cowhide_aes128_cbc_decrypt_aesni(&self.keys, first_sector, run) }
    }
}

#[unsafe(no_mangle)]
#[inline(never)]
#[target_feature(enable = "aes,sse2")]
fn cowhide_aes128_cbc_encrypt_aesni(keys: &RoundKeys, first: u64, run: Run<'_, '_>) {
    let mut left = run.len();
    let (mut src, mut dst) = run.into_raw();
    let mut number = first;
    while left > 0 {
        let n = batch_groups(left, FULL, MAX);
        // SAFETY: xx
        unsafe {
            match n {
                1 => chains::<1>(keys, number, src, dst),
                2 => chains::<2>(keys, number, src, dst),
                3 => chains::<3>(keys, number, src, dst),
                4 => chains::<4>(keys, number, src, dst),
                5 => chains::<5>(keys, number, src, dst),
                6 => chains::<6>(keys, number, src, dst),
                7 => chains::<7>(keys, number, src, dst),
                8 => chains::<8>(keys, number, src, dst),
                9 => chains::<9>(keys, number, src, dst),
                10 => chains::<10>(keys, number, src, dst),
                11 => chains::<11>(keys, number, src, dst),
                _ => chains::<12>(keys, number, src, dst),
            }
            src = src.add(n);
            dst = dst.add(n);
        }
        number = number.wrapping_add(n as u64);
        left -= n;
    }
}

#[target_feature(enable = "aes,sse2")]
#[inline]
unsafe fn chains<const N: usize>(
    keys: &RoundKeys,
    first: u64,
    src: *const Sector,
    dst: *mut Sector,
) {
    let rk = &keys.enc;
    let mut state: [__m128i; N] =
        core::array::from_fn(|i| _mm_set_epi64x(0, first.wrapping_add(i as u64) as i64));
    for block in 0..SECTOR_BLOCKS {
        for i in 0..N {
            let p = unsafe { _mm_loadu_si128(src.add(i).cast::<__m128i>().add(block)) };
            state[i] = _mm_xor_si128(state[i], _mm_xor_si128(p, rk[0]));
        }
        for k in &rk[1..10] {
            for s in &mut state {
                *s = _mm_aesenc_si128(*s, *k);
            }
        }
        for i in 0..N {
            state[i] = _mm_aesenclast_si128(state[i], rk[10]);
            unsafe { _mm_storeu_si128(dst.add(i).cast::<__m128i>().add(block), state[i]) };
        }
    }
}

#[unsafe(no_mangle)]
#[inline(never)]
#[target_feature(enable = "aes,sse2")]
fn cowhide_aes128_cbc_decrypt_aesni(keys: &RoundKeys, first: u64, run: Run<'_, '_>) {
    let rk = &keys.dec;
    let sectors = run.len();
    let (src, dst) = run.into_raw();
    for n in 0..sectors {
        let iv = iv(first.wrapping_add(n as u64));
        unsafe {
            let s: *const __m128i = src.add(n).cast();
            let d: *mut __m128i = dst.add(n).cast();
            let mut prev = _mm_loadu_si128(iv.as_ptr().cast());
            for b in 0..4 {
                let s = s.add(8 * b);
                let d = d.add(8 * b);
                let mut x: [__m128i; 8] =
                    core::array::from_fn(|i| _mm_xor_si128(_mm_loadu_si128(s.add(i)), rk[0]));
                for k in &rk[1..10] {
                    for v in &mut x {
                        *v = _mm_aesdec_si128(*v, *k);
                    }
                }
                for v in &mut x {
                    *v = _mm_aesdeclast_si128(*v, rk[10]);
                }
                x[0] = _mm_xor_si128(x[0], prev);
                for i in 1..8 {
                    x[i] = _mm_xor_si128(x[i], _mm_loadu_si128(s.add(i - 1)));
                }
                prev = _mm_loadu_si128(s.add(7));
                for i in 0..8 {
                    _mm_storeu_si128(d.add(i), x[i]);
                }
            }
        }
    }
}
