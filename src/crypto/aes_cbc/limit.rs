//! The register-only limit of the AES unit, for reports and benchmarks.
//!
//! A cipher's speed says little by itself: only its share of the hardware's
//! limit tells whether there's anything left to gain. See `x86/limit.rs` for
//! how it is measured.

use crate::crypto::{Backend, Limit};

/// Measures the limit of the instructions that `backend` uses, on this thread.
/// It is the best of `repetitions` of some tens of microseconds each, for every
/// number of registers.
///
/// Returns `None` for a backend that isn't built on AES instructions of our own
/// choosing (`soft` and `portable`), and for one that the machine lacks.
#[must_use]
pub fn register_limit(backend: Backend, repetitions: usize) -> Option<Limit> {
    match backend {
        Backend::Soft | Backend::Portable => None,
        #[cfg(target_arch = "x86_64")]
        Backend::AesNi => super::x86::limit::aesni(repetitions),
        #[cfg(target_arch = "x86_64")]
        Backend::Vaes256 => super::x86::limit::vaes256(repetitions),
        #[cfg(target_arch = "x86_64")]
        Backend::Vaes512 => super::x86::limit::vaes512(repetitions),
        #[cfg(not(target_arch = "x86_64"))]
        Backend::AesNi | Backend::Vaes256 | Backend::Vaes512 => {
            let _ = repetitions;
            None
        }
    }
}
