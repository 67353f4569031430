//! The register-only limit of the AES unit, for reports and benchmarks.
//!
//! The speed of a cipher alone says little: only its share of the hardware's limit shows how much could be gained.
//! `aes_x86/limit.rs` measures the limit.

use super::{Backend, Limit};

/// Measures the limit of the instructions that `backend` uses, on this thread, with keys of `bits`: 128 or 256. The
/// result is the best of `repetitions` of some tens of microseconds each, for several numbers of registers.
///
/// Returns `None` for a backend without AES instructions of this crate (`soft` and `portable`), and for one that the
/// machine doesn't have.
#[must_use]
pub fn register_limit(backend: Backend, bits: usize, repetitions: usize) -> Option<Limit> {
    match backend {
        Backend::Soft | Backend::Portable => None,
        #[cfg(target_arch = "x86_64")]
        Backend::AesNi => super::aes_x86::limit::aesni(bits, repetitions),
        #[cfg(target_arch = "x86_64")]
        Backend::Vaes256 => super::aes_x86::limit::vaes256(bits, repetitions),
        #[cfg(target_arch = "x86_64")]
        Backend::Vaes512 => super::aes_x86::limit::vaes512(bits, repetitions),
        #[cfg(not(target_arch = "x86_64"))]
        Backend::AesNi | Backend::Vaes256 | Backend::Vaes512 => {
            let _ = (bits, repetitions);
            None
        }
    }
}
