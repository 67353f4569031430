//! AES-CBC over 512-byte sectors, many at a time.
//!
//! With keys of 128 bits, this is the cipher of legacy encrypted qcow2 images. Every sector is a separate CBC chain
//! of 32 blocks. Its initialisation vector is the 64-bit little-endian number of the sector, followed by eight zero
//! bytes.
//!
//! CBC encryption is serial inside a sector: a block depends on the block before it. An AES unit that could begin two
//! blocks every cycle waits about forty cycles for each. But sectors don't depend on each other. So every backend
//! encrypts as many sectors at once as fit its registers, one *lane* for each sector, and advances all lanes block by
//! block. Decryption doesn't need that, since all its inputs are known in advance. It only needs wide batches.
//!
//! * `portable` and `soft` are safe Rust over the `aes` crate;
//! * `x86` has the hand-written kernels, with the only `unsafe` code.

mod portable;
mod soft;
#[cfg(target_arch = "x86_64")]
mod x86;

use aes::{Aes128, Aes256};

use self::portable::Portable;
use self::soft::Soft;
#[cfg(target_arch = "x86_64")]
use self::x86::{aesni::AesNi, vaes256::Vaes256, vaes512::Vaes512};
#[cfg(target_arch = "x86_64")]
use super::aes_x86::{AES128, AES256};
use super::backend::Backend;
use super::run_cipher::RunCipher;

/// Expands a key of 16 or 32 bytes for `backend`. Returns `None` if it has another length, or if this machine doesn't
/// have the backend.
///
/// All implementations keep their keys in a box, and wipe them when they are dropped.
pub(super) fn new(key: &[u8], backend: Backend) -> Option<Box<dyn RunCipher>> {
    if let Ok(key) = key.try_into() {
        return of_128_bits(key, backend);
    }
    of_256_bits(key.try_into().ok()?, backend)
}

fn of_128_bits(key: &[u8; 16], backend: Backend) -> Option<Box<dyn RunCipher>> {
    Some(match backend {
        Backend::Soft => Box::new(Soft::<aes_soft::Aes128>::new(key)?),
        Backend::Portable => Box::new(Portable::<Aes128>::new(key)?),
        #[cfg(target_arch = "x86_64")]
        Backend::AesNi => Box::new(AesNi::<AES128>::new(key)?),
        #[cfg(target_arch = "x86_64")]
        Backend::Vaes256 => Box::new(Vaes256::<AES128>::new(key)?),
        #[cfg(target_arch = "x86_64")]
        Backend::Vaes512 => Box::new(Vaes512::<AES128>::new(key)?),
        #[cfg(not(target_arch = "x86_64"))]
        Backend::AesNi | Backend::Vaes256 | Backend::Vaes512 => return None,
    })
}

fn of_256_bits(key: &[u8; 32], backend: Backend) -> Option<Box<dyn RunCipher>> {
    Some(match backend {
        Backend::Soft => Box::new(Soft::<aes_soft::Aes256>::new(key)?),
        Backend::Portable => Box::new(Portable::<Aes256>::new(key)?),
        #[cfg(target_arch = "x86_64")]
        Backend::AesNi => Box::new(AesNi::<AES256>::new(key)?),
        #[cfg(target_arch = "x86_64")]
        Backend::Vaes256 => Box::new(Vaes256::<AES256>::new(key)?),
        #[cfg(target_arch = "x86_64")]
        Backend::Vaes512 => Box::new(Vaes512::<AES256>::new(key)?),
        #[cfg(not(target_arch = "x86_64"))]
        Backend::AesNi | Backend::Vaes256 | Backend::Vaes512 => return None,
    })
}
