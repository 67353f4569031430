//! The x86-64 kernels of AES-XTS: AES-NI, VAES on 256 bits and VAES on 512 bits.
//!
//! Each of the three has its own file, and a type whose constructor fails on a processor without the instructions. So
//! the methods are safe to call, and `unsafe` is confined to the files of this folder.
//!
//! All use the same method. The first tweaks of up to 32 sectors are computed at once, with one encryption each. The
//! further tweaks of a sector are multiples of the first by powers of two. 128-bit numbers are shifted to the left,
//! and the bits that are shifted out are multiplied by 0x87 and added. Only AES-NI, which has no wide multiplication,
//! doubles the tweaks one after the other.
//!
//! A long sector is several of 512 bytes, whose first tweaks are multiples of each other, too.
//!
//! Like those of CBC, the kernels have unmangled names (`cowhide_aes256_xts_encrypt_vaes512` and so on), by which
//! `perf annotate` and debuggers find them.

#![expect(
    unsafe_code,
    clippy::indexing_slicing,
    reason = "kernels load and store through pointers; their indices are constants into arrays"
)]

pub(super) mod aesni;
pub(super) mod vaes256;
pub(super) mod vaes512;

use core::arch::x86_64::{__m128i, _mm_slli_epi64, _mm_slli_si128, _mm_srli_si128, _mm_xor_si128};

/// The number of sectors whose first tweaks are computed together.
const BATCH: usize = 32;

/// Replaces the first tweaks of long sectors by those of their `parts` sectors of 512 bytes each.
#[target_feature(enable = "sse2")]
#[inline]
fn spread(first: &mut [__m128i; BATCH], parts: usize) {
    for long in (0..BATCH / parts).rev() {
        let mut tweak = first[long];
        for part in &mut first[long * parts..(long + 1) * parts] {
            *part = tweak;
            tweak = times_2_to_the_32(tweak);
        }
    }
}

/// Multiplies a tweak by 2^32, for the 32 blocks of a sector.
#[target_feature(enable = "sse2")]
#[inline]
fn times_2_to_the_32(tweak: __m128i) -> __m128i {
    // The upper word is shifted out, multiplied by 0x87, and added at the bottom.
    let out = _mm_srli_si128::<12>(tweak);
    let sum = _mm_xor_si128(out, _mm_slli_epi64::<1>(out));
    let sum = _mm_xor_si128(sum, _mm_slli_epi64::<2>(out));
    let sum = _mm_xor_si128(sum, _mm_slli_epi64::<7>(out));
    _mm_xor_si128(_mm_slli_si128::<4>(tweak), sum)
}

/// Forces eight registers to complete this round before any of them starts the next one. Without that, compilers
/// finish several rounds of one block first if registers are short. Then the rounds wait for each other, and the AES
/// unit idles.
macro_rules! in_step {
    ($class:ident, $state:ident) => {{
        let [a, b, c, d, e, f, g, h] = &mut $state;
        // SAFETY: it is no instruction, and only forces all of them to be in registers.
        unsafe {
            core::arch::asm!(
                "/* {} {} {} {} {} {} {} {} */",
                inout($class) * a,
                inout($class) * b,
                inout($class) * c,
                inout($class) * d,
                inout($class) * e,
                inout($class) * f,
                inout($class) * g,
                inout($class) * h,
                options(pure, nomem, nostack, preserves_flags),
            );
        }
    }};
}
use in_step;

/// Defines a backend's type, and its four kernels from the functions `encrypt_run` and `decrypt_run`.
macro_rules! backend {
    (
        $backend:ident, $available:ident, $features:literal,
        $encrypt128:ident, $decrypt128:ident, $encrypt256:ident, $decrypt256:ident
    ) => {
        /// The backend with its two expanded keys, of `R` round keys each.
        pub(in crate::crypto) struct $backend<const R: usize> {
            data: Box<RoundKeys<R>>,
            tweaks: Box<RoundKeys<R>>,
            /// The number of sectors of 512 bytes in a long sector.
            parts: usize,
        }

        impl<const R: usize> $backend<R> {
            /// Expands two keys of `K` bytes, if the processor can run the kernels. Runs are whole numbers of
            /// sectors of that length.
            pub(in crate::crypto) fn new<const K: usize>(
                data: &[u8; K],
                tweaks: &[u8; K],
                length: SectorLength,
            ) -> Option<Self> {
                aes_x86::$available().then(|| Self {
                    // SAFETY: the processor has AES-NI, as was just found.
                    data: unsafe { RoundKeys::expand(data) },
                    // SAFETY: as above.
                    tweaks: unsafe { RoundKeys::expand(tweaks) },
                    parts: length.sectors(),
                })
            }
        }

        impl RunCipher for $backend<AES128> {
            fn encrypt(&self, first_sector: u64, run: SectorRun<'_, '_>) {
                // SAFETY: `new` made `self` only after it had found the features.
                unsafe { $encrypt128(self, first_sector, run) }
            }

            fn decrypt(&self, first_sector: u64, run: SectorRun<'_, '_>) {
                // SAFETY: `new` made `self` only after it had found the features.
                unsafe { $decrypt128(self, first_sector, run) }
            }
        }

        impl RunCipher for $backend<AES256> {
            fn encrypt(&self, first_sector: u64, run: SectorRun<'_, '_>) {
                // SAFETY: `new` made `self` only after it had found the features.
                unsafe { $encrypt256(self, first_sector, run) }
            }

            fn decrypt(&self, first_sector: u64, run: SectorRun<'_, '_>) {
                // SAFETY: `new` made `self` only after it had found the features.
                unsafe { $decrypt256(self, first_sector, run) }
            }
        }

        /// The encryption kernel of AES-128.
        #[unsafe(no_mangle)]
        #[inline(never)]
        #[target_feature(enable = $features)]
        fn $encrypt128(keys: &$backend<AES128>, first_sector: u64, run: SectorRun<'_, '_>) {
            let (data, tweaks) = (keys.data.enc(), keys.tweaks.enc());
            cipher_run::<AES128, true>(data, tweaks, keys.parts, first_sector, run);
        }

        /// The decryption kernel of AES-128.
        #[unsafe(no_mangle)]
        #[inline(never)]
        #[target_feature(enable = $features)]
        fn $decrypt128(keys: &$backend<AES128>, first_sector: u64, run: SectorRun<'_, '_>) {
            let (data, tweaks) = (keys.data.dec(), keys.tweaks.enc());
            cipher_run::<AES128, false>(data, tweaks, keys.parts, first_sector, run);
        }

        /// The encryption kernel of AES-256.
        #[unsafe(no_mangle)]
        #[inline(never)]
        #[target_feature(enable = $features)]
        fn $encrypt256(keys: &$backend<AES256>, first_sector: u64, run: SectorRun<'_, '_>) {
            let (data, tweaks) = (keys.data.enc(), keys.tweaks.enc());
            cipher_run::<AES256, true>(data, tweaks, keys.parts, first_sector, run);
        }

        /// The decryption kernel of AES-256.
        #[unsafe(no_mangle)]
        #[inline(never)]
        #[target_feature(enable = $features)]
        fn $decrypt256(keys: &$backend<AES256>, first_sector: u64, run: SectorRun<'_, '_>) {
            let (data, tweaks) = (keys.data.dec(), keys.tweaks.enc());
            cipher_run::<AES256, false>(data, tweaks, keys.parts, first_sector, run);
        }
    };
}
use backend;
