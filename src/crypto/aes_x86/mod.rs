//! The parts that the x86-64 kernels of all modes share: the processor's
//! features, round keys, and the limit of the AES unit.
//!
//! Features are detected with the `cpufeatures` crate, which caches the result. VAES on 256 bits is detected with the
//! standard library. The crate (0.3) assumes that VAES comes with 512-bit registers, so it misses it on Zen 3 and on
//! Alder Lake and its successors.
//!
//! A processor with VAES also has the carry-less multiplication of the same width, which the tweaks of XTS
//! need. So both are tested together.

#![expect(
    unsafe_code,
    clippy::indexing_slicing,
    reason = "round keys are loaded through pointers; their indices are constants into arrays"
)]

mod keys;
pub(super) mod limit;

pub(super) use keys::{AES128, AES256, RoundKeys};

cpufeatures::new!(aesni, "aes", "sse2");
cpufeatures::new!(vaes512, "aes", "vaes", "vpclmulqdq", "avx512f");

/// Returns true if the processor has the instructions of the AES-NI kernels.
pub(super) fn has_aesni() -> bool {
    aesni::get()
}

/// Returns true if the processor has the instructions of the 256-bit VAES
/// kernels.
pub(super) fn has_vaes256() -> bool {
    is_x86_feature_detected!("aes")
        && is_x86_feature_detected!("vaes")
        && is_x86_feature_detected!("vpclmulqdq")
        && is_x86_feature_detected!("avx2")
}

/// Returns true if the processor has the instructions of the 512-bit VAES
/// kernels.
pub(super) fn has_vaes512() -> bool {
    vaes512::get()
}
