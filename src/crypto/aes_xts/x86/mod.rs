//! The x86-64 kernels of AES-XTS: AES-NI, VAES on 256 bits and VAES on 512 bits.
//!
//! Each of the three has a file of its own, and a type that can only be made on a machine with the
//! instructions: its constructor asks the processor. So the methods are safe to call, and `unsafe` is
//! confined to the files of this folder.
//!
//! All do the same. The first tweaks of up to 32 sectors are made at once, one encryption each. Then every
//! sector gets its further tweaks as multiples of the first by powers of two: as 128-bit numbers shifted to
//! the left, with the bits that fall out added again, times 0x87. Only AES-NI, which has no wide
//! multiplication, doubles them one after the other.
//!
//! Like those of CBC, the kernels have plain, unmangled names (`cowhide_aes256_xts_encrypt_vaes512` and so
//! on), by which `perf annotate` and a debugger find them.

#![expect(
    unsafe_code,
    clippy::indexing_slicing,
    reason = "kernels load and store through pointers; their indices are constants into arrays"
)]

pub(super) mod aesni;
pub(super) mod vaes256;
pub(super) mod vaes512;

/// The number of sectors whose first tweaks are made together.
const BATCH: usize = 32;

/// Makes a backend's type, and its four kernels of the functions `encrypt_run` and `decrypt_run`.
macro_rules! backend {
    (
        $backend:ident, $available:ident, $features:literal,
        $encrypt128:ident, $decrypt128:ident, $encrypt256:ident, $decrypt256:ident
    ) => {
        /// The backend with its two expanded keys, of `R` round keys each.
        pub(in crate::crypto) struct $backend<const R: usize> {
            data: Box<RoundKeys<R>>,
            tweaks: Box<RoundKeys<R>>,
        }

        impl<const R: usize> $backend<R> {
            /// Expands two keys of `K` bytes, if the processor can run the kernels.
            pub(in crate::crypto) fn new<const K: usize>(
                data: &[u8; K],
                tweaks: &[u8; K],
            ) -> Option<Self> {
                aes_x86::$available().then(|| Self {
                    // SAFETY: the processor has AES-NI, as was just found.
                    data: unsafe { RoundKeys::expand(data) },
                    // SAFETY: as above.
                    tweaks: unsafe { RoundKeys::expand(tweaks) },
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
            cipher_run::<AES128, true>(keys.data.enc(), keys.tweaks.enc(), first_sector, run);
        }

        /// The decryption kernel of AES-128.
        #[unsafe(no_mangle)]
        #[inline(never)]
        #[target_feature(enable = $features)]
        fn $decrypt128(keys: &$backend<AES128>, first_sector: u64, run: SectorRun<'_, '_>) {
            cipher_run::<AES128, false>(keys.data.dec(), keys.tweaks.enc(), first_sector, run);
        }

        /// The encryption kernel of AES-256.
        #[unsafe(no_mangle)]
        #[inline(never)]
        #[target_feature(enable = $features)]
        fn $encrypt256(keys: &$backend<AES256>, first_sector: u64, run: SectorRun<'_, '_>) {
            cipher_run::<AES256, true>(keys.data.enc(), keys.tweaks.enc(), first_sector, run);
        }

        /// The decryption kernel of AES-256.
        #[unsafe(no_mangle)]
        #[inline(never)]
        #[target_feature(enable = $features)]
        fn $decrypt256(keys: &$backend<AES256>, first_sector: u64, run: SectorRun<'_, '_>) {
            cipher_run::<AES256, false>(keys.data.dec(), keys.tweaks.enc(), first_sector, run);
        }
    };
}
use backend;
