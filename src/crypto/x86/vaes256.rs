//! VAES on 256 bits.
use super::batch_groups;
use super::keys::RoundKeys;
use crate::crypto::{Run, SECTOR_BLOCKS, SECTOR_SIZE, Sector};
use core::arch::x86_64::*;

const FULL: usize = 6;
const MAX: usize = 12;

pub(in crate::crypto) struct Vaes256 {
    keys: Box<RoundKeys>,
}

impl Vaes256 {
    pub(in crate::crypto) fn available() -> bool {
        is_x86_feature_detected!("aes")
            && is_x86_feature_detected!("vaes")
            && is_x86_feature_detected!("avx2")
    }
    pub(in crate::crypto) fn new(key: &[u8; 16]) -> Option<Self> {
        // SAFETY: the feature was just detected.
        Self::available().then(|| Self {
            keys: unsafe { RoundKeys::expand(key) },
        })
    }
    pub(in crate::crypto) fn encrypt(&self, first_sector: u64, run: Run<'_, '_>) {
        // SAFETY: `new` gave out `self` only after it had found the features.
        unsafe { cowhide_aes128_cbc_encrypt_vaes256(&self.keys, first_sector, run) }
    }
    pub(in crate::crypto) fn decrypt(&self, first_sector: u64, run: Run<'_, '_>) {
        // SAFETY: `new` gave out `self` only after it had found the features.
        unsafe { cowhide_aes128_cbc_decrypt_vaes256(&self.keys, first_sector, run) }
    }
}

#[unsafe(no_mangle)]
#[inline(never)]
#[target_feature(enable = "avx2,vaes,aes")]
fn cowhide_aes128_cbc_encrypt_vaes256(keys: &RoundKeys, first: u64, run: Run<'_, '_>) {
    let mut left = run.len();
    let (mut src, mut dst) = run.into_raw();
    let mut number = first;
    while left > 0 {
        let groups = batch_groups(left.div_ceil(2), FULL, MAX);
        let n = left.min(groups * 2);
        // SAFETY: xx
        unsafe {
            match groups {
                1 => batch::<1>(keys, number, src, dst, n),
                2 => batch::<2>(keys, number, src, dst, n),
                3 => batch::<3>(keys, number, src, dst, n),
                4 => batch::<4>(keys, number, src, dst, n),
                5 => batch::<5>(keys, number, src, dst, n),
                6 => batch::<6>(keys, number, src, dst, n),
                7 => batch::<7>(keys, number, src, dst, n),
                8 => batch::<8>(keys, number, src, dst, n),
                9 => batch::<9>(keys, number, src, dst, n),
                10 => batch::<10>(keys, number, src, dst, n),
                11 => batch::<11>(keys, number, src, dst, n),
                _ => batch::<12>(keys, number, src, dst, n),
            }
            src = src.add(n);
            dst = dst.add(n);
        }
        number = number.wrapping_add(n as u64);
        left -= n;
    }
}

#[target_feature(enable = "avx2,vaes,aes")]
#[inline]
unsafe fn batch<const N: usize>(
    rk: &RoundKeys,
    first: u64,
    src: *const Sector,
    dst: *mut Sector,
    sectors: usize,
) {
    let tail = sectors - 2 * (N - 1);
    let mut scratch = [[0u8; SECTOR_SIZE]; 2];
    unsafe {
        let last_src = src.add(2 * (N - 1));
        let last_dst = dst.add(2 * (N - 1));
        if tail == 2 {
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

#[target_feature(enable = "avx2,vaes,aes")]
#[inline(never)]
unsafe fn chains<const N: usize>(
    keys: &RoundKeys,
    first: u64,
    src: *const u8,
    dst: *mut u8,
    last_src: *const u8,
    last_dst: *mut u8,
) {
    let rk = &keys.enc;
    let mut state: [__m256i; N] = core::array::from_fn(|i| {
        let a = first.wrapping_add(2 * i as u64);
        let b = a.wrapping_add(1);
        _mm256_set_epi64x(0, b as i64, 0, a as i64)
    });
    for block in 0..SECTOR_BLOCKS {
        let k = _mm256_broadcastsi128_si256(rk[0]);
        for i in 0..N {
            let p = if i == N - 1 {
                last_src
            } else {
                src.wrapping_add(i * 1024)
            };
            let p = p.wrapping_add(block * 16);
            let p = unsafe { _mm256_loadu2_m128i(p.add(512).cast(), p.cast()) };
            state[i] = _mm256_xor_si256(state[i], _mm256_xor_si256(p, k));
        }
        for k in &rk[1..10] {
            let k = _mm256_broadcastsi128_si256(*k);
            for s in &mut state {
                *s = _mm256_aesenc_epi128(*s, k);
            }
        }
        let k = _mm256_broadcastsi128_si256(rk[10]);
        for i in 0..N {
            state[i] = _mm256_aesenclast_epi128(state[i], k);
            let p = if i == N - 1 {
                last_dst
            } else {
                dst.wrapping_add(i * 1024)
            };
            let p = p.wrapping_add(block * 16);
            unsafe { _mm256_storeu2_m128i(p.add(512).cast(), p.cast(), state[i]) };
        }
    }
}

#[unsafe(no_mangle)]
#[inline(never)]
#[target_feature(enable = "avx2,vaes,aes")]
fn cowhide_aes128_cbc_decrypt_vaes256(keys: &RoundKeys, first: u64, run: Run<'_, '_>) {
    let rk = &keys.dec;
    let sectors = run.len();
    let (src, dst) = run.into_raw();
    for n in 0..sectors {
        let mut prev = _mm_set_epi64x(0, first.wrapping_add(n as u64) as i64);
        unsafe {
            let s: *const u8 = src.add(n).cast();
            let d: *mut u8 = dst.add(n).cast();
            for b in 0..2 {
                let s = s.add(256 * b);
                let d = d.add(256 * b);
                let k = _mm256_broadcastsi128_si256(rk[0]);
                let mut x: [__m256i; 8] = core::array::from_fn(|i| {
                    _mm256_xor_si256(_mm256_loadu_si256(s.add(32 * i).cast()), k)
                });
                for k in &rk[1..10] {
                    let k = _mm256_broadcastsi128_si256(*k);
                    for v in &mut x {
                        *v = _mm256_aesdec_epi128(*v, k);
                    }
                }
                let k = _mm256_broadcastsi128_si256(rk[10]);
                for i in 0..8 {
                    let p = if i == 0 {
                        _mm256_inserti128_si256::<1>(
                            _mm256_castsi128_si256(prev),
                            _mm_loadu_si128(s.cast()),
                        )
                    } else {
                        _mm256_loadu_si256(s.add(32 * i - 16).cast())
                    };
                    x[i] = _mm256_aesdeclast_epi128(x[i], _mm256_xor_si256(p, k));
                }
                prev = _mm_loadu_si128(s.add(240).cast());
                for i in 0..8 {
                    _mm256_storeu_si256(d.add(32 * i).cast(), x[i]);
                }
            }
        }
    }
}
