//! AES round keys, expanded by AES-NI: of AES-128 and of AES-256.
//!
//! `AESKEYGENASSIST` runs in constant time, unlike a key schedule with an S-box in memory. Decryption uses the
//! equivalent inverse cipher that `AESDEC` implements. Its round keys are the same in reverse order, and all but the
//! outer two have passed through `InvMixColumns`.
//!
//! The keys are kept as 128-bit values. Wider kernels broadcast them, once for each call or for each use.
//! They are boxed and expanded in place, so that moving the owner doesn't leave copies, and are wiped when
//! they are dropped.

use core::arch::x86_64::{
    __m128i, _mm_aesimc_si128, _mm_aeskeygenassist_si128, _mm_loadu_si128, _mm_setzero_si128,
    _mm_shuffle_epi32, _mm_slli_si128, _mm_xor_si128,
};
use zeroize::Zeroize;

use crate::crypto::memory::keep_out_of_swap;

/// The number of round keys in an AES-128 schedule.
pub(in crate::crypto) const AES128: usize = 11;
/// The number of round keys in an AES-256 schedule.
pub(in crate::crypto) const AES256: usize = 15;

/// Both schedules of one key, of `N` round keys each.
///
/// Kernels with 16 registers load each round key from memory when they need it. To find a store that a load
/// depends on, processors compare only the low 12 bits of the addresses. Encryption stores to many sectors at
/// once, all at the same offset in a 512-byte row. So a single schedule would have false dependencies in a
/// third of the steps, which cost up to 40 % of the speed in measurements. So there are two copies of it, in
/// the two halves of an aligned row. [`clear_of`](Self::clear_of) returns the one in the other half than the
/// stores.
#[repr(C, align(512))]
pub(in crate::crypto) struct RoundKeys<const N: usize> {
    /// Two copies of the round keys for `AESENC`, in the order of use, of 256 bytes each.
    enc: [[__m128i; 16]; 2],
    /// The round keys for `AESDEC`, in the order of use.
    dec: [__m128i; N],
}

impl<const N: usize> RoundKeys<N> {
    /// Expands a key of `K` bytes.
    #[target_feature(enable = "aes,sse2")]
    pub(in crate::crypto) fn expand<const K: usize>(key: &[u8; K]) -> Box<Self> {
        const { assert!((K == 16 || K == 32) && N == K / 4 + 7) };
        let zero = _mm_setzero_si128();
        let mut keys = Box::new(Self {
            enc: [[zero; 16]; 2],
            dec: [zero; N],
        });
        keep_out_of_swap(&*keys);
        let enc = &mut keys.enc[0];
        // SAFETY: the source is 16 readable bytes, and the load has no need of
        // alignment.
        enc[0] = unsafe { _mm_loadu_si128(key.as_ptr().cast()) };
        if K == 16 {
            enc[1] = next::<0x01>(enc[0]);
            enc[2] = next::<0x02>(enc[1]);
            enc[3] = next::<0x04>(enc[2]);
            enc[4] = next::<0x08>(enc[3]);
            enc[5] = next::<0x10>(enc[4]);
            enc[6] = next::<0x20>(enc[5]);
            enc[7] = next::<0x40>(enc[6]);
            enc[8] = next::<0x80>(enc[7]);
            enc[9] = next::<0x1b>(enc[8]);
            enc[10] = next::<0x36>(enc[9]);
        } else {
            // SAFETY: the key has 32 bytes.
            enc[1] = unsafe { _mm_loadu_si128(key.as_ptr().add(16).cast()) };
            next_two::<0x01>(enc, 2);
            next_two::<0x02>(enc, 4);
            next_two::<0x04>(enc, 6);
            next_two::<0x08>(enc, 8);
            next_two::<0x10>(enc, 10);
            next_two::<0x20>(enc, 12);
            enc[14] = sums(enc[12], word_3(_mm_aeskeygenassist_si128::<0x40>(enc[13])));
        }
        keys.enc[1] = keys.enc[0];
        keys.dec[0] = keys.enc[0][N - 1];
        for i in 1..N - 1 {
            keys.dec[i] = _mm_aesimc_si128(keys.enc[0][N - 1 - i]);
        }
        keys.dec[N - 1] = keys.enc[0][0];
        keys
    }

    /// Returns the round keys for `AESENC`.
    pub(in crate::crypto) fn enc(&self) -> &[__m128i; N] {
        self.clear_of(0)
    }

    /// Returns the round keys for `AESDEC`.
    pub(in crate::crypto) fn dec(&self) -> &[__m128i; N] {
        &self.dec
    }

    /// Returns the copy of the round keys for `AESENC` that has no false dependencies on stores to `address` and a
    /// little below it. The same holds for addresses multiples of 512 away.
    #[inline(always)]
    pub(in crate::crypto) fn clear_of(&self, address: usize) -> &[__m128i; N] {
        // Stores to the upper half of a row don't conflict with the lower copy, and the reverse.
        let copy = &self.enc[(address / 256 + 1) % 2];
        const { assert!(N <= 16) };
        match copy.first_chunk() {
            Some(keys) => keys,
            None => unreachable!(),
        }
    }
}

impl<const N: usize> Drop for RoundKeys<N> {
    fn drop(&mut self) {
        self.enc.zeroize();
        self.dec.zeroize();
    }
}

/// Makes the round key of AES-128 that follows `key`.
#[target_feature(enable = "aes,sse2")]
fn next<const RCON: i32>(key: __m128i) -> __m128i {
    sums(key, word_3(_mm_aeskeygenassist_si128::<RCON>(key)))
}

/// Makes the two round keys of AES-256 with the numbers `at` and `at + 1`.
#[target_feature(enable = "aes,sse2")]
fn next_two<const RCON: i32>(keys: &mut [__m128i; 16], at: usize) {
    let assist = _mm_aeskeygenassist_si128::<RCON>(keys[at - 1]);
    keys[at] = sums(keys[at - 2], word_3(assist));
    // The second of them takes the substituted word without its rotation.
    let assist = _mm_aeskeygenassist_si128::<0>(keys[at]);
    keys[at + 1] = sums(keys[at - 1], _mm_shuffle_epi32::<0xaa>(assist));
}

/// Repeats the highest word.
#[target_feature(enable = "sse2")]
fn word_3(words: __m128i) -> __m128i {
    _mm_shuffle_epi32::<0xff>(words)
}

/// Adds `assist` to the running sums of a key's words. Each word of the next key is the xor of all words of this one
/// up to the same index, in two doubling steps.
#[target_feature(enable = "sse2")]
fn sums(key: __m128i, assist: __m128i) -> __m128i {
    let key = _mm_xor_si128(key, _mm_slli_si128::<4>(key));
    let key = _mm_xor_si128(key, _mm_slli_si128::<8>(key));
    _mm_xor_si128(key, assist)
}
