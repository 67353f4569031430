//! AES-XTS over 512-byte sectors, many at a time.
//!
//! This is the default cipher of LUKS. Each block is encrypted independently, between two additions of its tweak. So
//! a single sector has enough blocks to keep the AES unit busy in both directions. The rest of the work is the
//! tweaks. The first tweak of a sector is an encryption under a second key. Each further one is twice the one before,
//! in the field of 2^128 elements. Computed one after the other, both would be slower than the AES unit. So the
//! kernels encrypt the first tweaks of many sectors at once, and compute those of a sector in parallel, as multiples
//! of the first.
//!
//! `portable` and `soft` are the general mode over two series of the `aes` crate, and `x86` has the kernels.

#[cfg(target_arch = "x86_64")]
mod x86;

use aes::{Aes128, Aes256};

#[cfg(target_arch = "x86_64")]
use self::x86::{aesni::AesNi, vaes256::Vaes256, vaes512::Vaes512};
#[cfg(target_arch = "x86_64")]
use super::aes_x86::{AES128, AES256};
use super::backend::Backend;
use super::block_modes::{AnyBlockCipher, SectorVectors, Xts};
use super::boxed_cipher::{BoxedSoft, boxed};
use super::run_cipher::RunCipher;
use super::sector::SectorLength;
use super::vectors::Vectors;

/// Expands a pair of keys, of 16 or 32 bytes each, for sectors of a length and for `backend`. Returns `None` if the
/// keys have another length, or if this machine doesn't have the backend.
pub(super) fn new(
    keys: &[u8],
    length: SectorLength,
    backend: Backend,
) -> Option<Box<dyn RunCipher>> {
    if let Ok(keys) = keys.try_into() {
        return of_128_bits(keys, length, backend);
    }
    of_256_bits(keys.try_into().ok()?, length, backend)
}

fn of_128_bits(
    keys: &[u8; 32],
    length: SectorLength,
    backend: Backend,
) -> Option<Box<dyn RunCipher>> {
    let [data, tweaks] = halves::<16>(keys)?;
    Some(match backend {
        Backend::Soft => soft::<aes_soft::Aes128>(data, tweaks, length)?,
        Backend::Portable => plain64(boxed::<Aes128>(data)?, boxed::<Aes128>(tweaks)?, length),
        #[cfg(target_arch = "x86_64")]
        Backend::AesNi => Box::new(AesNi::<AES128>::new::<16>(data, tweaks, length)?),
        #[cfg(target_arch = "x86_64")]
        Backend::Vaes256 => Box::new(Vaes256::<AES128>::new::<16>(data, tweaks, length)?),
        #[cfg(target_arch = "x86_64")]
        Backend::Vaes512 => Box::new(Vaes512::<AES128>::new::<16>(data, tweaks, length)?),
        #[cfg(not(target_arch = "x86_64"))]
        Backend::AesNi | Backend::Vaes256 | Backend::Vaes512 => return None,
    })
}

fn of_256_bits(
    keys: &[u8; 64],
    length: SectorLength,
    backend: Backend,
) -> Option<Box<dyn RunCipher>> {
    let [data, tweaks] = halves::<32>(keys)?;
    Some(match backend {
        Backend::Soft => soft::<aes_soft::Aes256>(data, tweaks, length)?,
        Backend::Portable => plain64(boxed::<Aes256>(data)?, boxed::<Aes256>(tweaks)?, length),
        #[cfg(target_arch = "x86_64")]
        Backend::AesNi => Box::new(AesNi::<AES256>::new::<32>(data, tweaks, length)?),
        #[cfg(target_arch = "x86_64")]
        Backend::Vaes256 => Box::new(Vaes256::<AES256>::new::<32>(data, tweaks, length)?),
        #[cfg(target_arch = "x86_64")]
        Backend::Vaes512 => Box::new(Vaes512::<AES256>::new::<32>(data, tweaks, length)?),
        #[cfg(not(target_arch = "x86_64"))]
        Backend::AesNi | Backend::Vaes256 | Backend::Vaes512 => return None,
    })
}

/// Splits a pair of keys of `K` bytes each.
fn halves<const K: usize>(keys: &[u8]) -> Option<[&[u8; K]; 2]> {
    let (data, tweaks) = keys.split_first_chunk()?;
    Some([data, tweaks.try_into().ok()?])
}

fn soft<C: super::boxed_cipher::SoftAes + 'static>(
    data: &[u8],
    tweaks: &[u8],
    length: SectorLength,
) -> Option<Box<dyn RunCipher>> {
    Some(plain64(
        Box::new(BoxedSoft::<C>::new(data)?),
        Box::new(BoxedSoft::<C>::new(tweaks)?),
        length,
    ))
}

/// Returns the mode of two ciphers, with `plain64` vectors.
fn plain64(
    cipher: AnyBlockCipher<16>,
    tweaks: AnyBlockCipher<16>,
    length: SectorLength,
) -> Box<dyn RunCipher> {
    Box::new(Xts {
        cipher,
        tweaks,
        vectors: SectorVectors {
            vectors: Vectors::Plain64,
            length,
        },
    })
}
