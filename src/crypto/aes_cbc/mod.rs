//! AES-128-CBC over 512-byte sectors, many at a time.
//!
//! This is the cipher of legacy encrypted qcow2 images. Every sector is a CBC
//! chain of its own, of 32 blocks. Its initialisation vector is the 64-bit
//! little-endian number of the sector followed by eight zero bytes.
//!
//! CBC encryption is serial inside a sector: a block can't start before the one
//! in front of it is done. An AES unit that could begin two blocks every cycle
//! idles for some forty cycles on each. Sectors however do not depend on each
//! other. So every backend in here does the same thing, each with its own
//! machinery. It keeps as many sectors in flight as the machine has room for,
//! one *lane* a sector, and walks all lanes down their chains in step.
//! Decryption needs no such trick, since all its inputs are known in advance;
//! it only needs wide batches.
//!
//! * [`AesCbc`] owns the expanded key in the form that the chosen backend
//!   wants, checks that it's given whole sectors, and hands the run on. Lengths
//!   are checked here alone, so everything behind it can count in sectors;
//! * `portable` and `soft` are safe Rust over the `aes` crate;
//! * `x86` has the hand-written kernels, the only `unsafe` code of the room,
//!   and the register-only loops that measure the AES unit's limit;
//! * [`mod@reference`] is the plain construction with the `cbc` crate, with
//!   which all others are compared in tests and benchmarks.

#![expect(
    clippy::panic,
    reason = "documented contracts of the callers in this crate, who pass whole sectors"
)]

pub mod limit;
mod portable;
pub mod reference;
mod soft;
#[cfg(target_arch = "x86_64")]
pub(super) mod x86;

use core::fmt;

use self::portable::Portable;
use self::soft::Soft;
#[cfg(target_arch = "x86_64")]
use self::x86::{aesni::AesNi, vaes256::Vaes256, vaes512::Vaes512};
use super::backend::Backend;
use super::memory::wipe_stack;
use super::sector::{SECTOR_SIZE, SectorRun};
use super::sector_cipher::SectorCipher;

/// AES-128-CBC of 512-byte sectors under one key.
///
/// There is deliberately no `Clone`, and `Debug` tells only the backend.
pub struct AesCbc {
    backend: Backend,
    keyed: Keyed,
}

/// The backend's implementation with its expanded key. All variants keep
/// their keys in a box and wipe them when dropped.
enum Keyed {
    Soft(Soft),
    Portable(Portable),
    #[cfg(target_arch = "x86_64")]
    AesNi(AesNi),
    #[cfg(target_arch = "x86_64")]
    Vaes256(Vaes256),
    #[cfg(target_arch = "x86_64")]
    Vaes512(Vaes512),
}

impl AesCbc {
    /// Expands `key` for `backend`.
    ///
    /// The caller's copy of the key is the caller's to wipe.
    ///
    /// # Panics
    ///
    /// Panics if this machine doesn't have `backend`. It has those that
    /// [`Backend::detect`], [`Backend::available`] and [`Backend::from_name`]
    /// return.
    #[must_use]
    pub fn new(key: &[u8; 16], backend: Backend) -> Self {
        let keyed = match backend {
            Backend::Soft => Some(Keyed::Soft(Soft::new(key))),
            Backend::Portable => Some(Keyed::Portable(Portable::new(key))),
            #[cfg(target_arch = "x86_64")]
            Backend::AesNi => AesNi::new(key).map(Keyed::AesNi),
            #[cfg(target_arch = "x86_64")]
            Backend::Vaes256 => Vaes256::new(key).map(Keyed::Vaes256),
            #[cfg(target_arch = "x86_64")]
            Backend::Vaes512 => Vaes512::new(key).map(Keyed::Vaes512),
            #[cfg(not(target_arch = "x86_64"))]
            Backend::AesNi | Backend::Vaes256 | Backend::Vaes512 => None,
        };
        let Some(keyed) = keyed else {
            panic!("this machine lacks the cipher backend `{backend}`");
        };
        Self { backend, keyed }
    }

    /// Returns the backend that does the work.
    #[must_use]
    pub fn backend(&self) -> Backend {
        self.backend
    }

    /// Encrypts sectors in place. The first of them has the number
    /// `first_sector`, and numbers wrap around after [`u64::MAX`].
    ///
    /// # Panics
    ///
    /// Panics if `data` isn't a whole number of sectors.
    pub fn encrypt(&self, first_sector: u64, data: &mut [u8]) {
        self.encrypt_run(first_sector, in_place(data));
        wipe_stack();
    }

    /// Decrypts sectors in place. The first of them has the number
    /// `first_sector`, and numbers wrap around after [`u64::MAX`].
    ///
    /// # Panics
    ///
    /// Panics if `data` isn't a whole number of sectors.
    pub fn decrypt(&self, first_sector: u64, data: &mut [u8]) {
        self.decrypt_run(first_sector, in_place(data));
        wipe_stack();
    }

    /// Encrypts as [`encrypt`](Self::encrypt) does, from one buffer to another.
    ///
    /// # Panics
    ///
    /// Panics if `src` isn't a whole number of sectors, or if `dst` isn't as
    /// long.
    pub fn encrypt_to(&self, first_sector: u64, src: &[u8], dst: &mut [u8]) {
        self.encrypt_run(first_sector, between(src, dst));
        wipe_stack();
    }

    /// Decrypts as [`decrypt`](Self::decrypt) does, from one buffer to another.
    ///
    /// # Panics
    ///
    /// Panics if `src` isn't a whole number of sectors, or if `dst` isn't as
    /// long.
    pub fn decrypt_to(&self, first_sector: u64, src: &[u8], dst: &mut [u8]) {
        self.decrypt_run(first_sector, between(src, dst));
        wipe_stack();
    }

    #[inline(never)]
    fn encrypt_run(&self, first_sector: u64, run: SectorRun<'_, '_>) {
        match &self.keyed {
            Keyed::Soft(soft) => soft.encrypt(first_sector, run),
            Keyed::Portable(portable) => portable.encrypt(first_sector, run),
            #[cfg(target_arch = "x86_64")]
            Keyed::AesNi(aesni) => aesni.encrypt(first_sector, run),
            #[cfg(target_arch = "x86_64")]
            Keyed::Vaes256(vaes) => vaes.encrypt(first_sector, run),
            #[cfg(target_arch = "x86_64")]
            Keyed::Vaes512(vaes) => vaes.encrypt(first_sector, run),
        }
    }

    #[inline(never)]
    fn decrypt_run(&self, first_sector: u64, run: SectorRun<'_, '_>) {
        match &self.keyed {
            Keyed::Soft(soft) => soft.decrypt(first_sector, run),
            Keyed::Portable(portable) => portable.decrypt(first_sector, run),
            #[cfg(target_arch = "x86_64")]
            Keyed::AesNi(aesni) => aesni.decrypt(first_sector, run),
            #[cfg(target_arch = "x86_64")]
            Keyed::Vaes256(vaes) => vaes.decrypt(first_sector, run),
            #[cfg(target_arch = "x86_64")]
            Keyed::Vaes512(vaes) => vaes.decrypt(first_sector, run),
        }
    }
}

impl SectorCipher for AesCbc {
    fn encrypt(&self, first_sector: u64, data: &mut [u8]) {
        Self::encrypt(self, first_sector, data);
    }

    fn decrypt(&self, first_sector: u64, data: &mut [u8]) {
        Self::decrypt(self, first_sector, data);
    }

    fn encrypt_to(&self, first_sector: u64, src: &[u8], dst: &mut [u8]) {
        Self::encrypt_to(self, first_sector, src, dst);
    }
}

impl fmt::Debug for AesCbc {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AesCbc")
            .field("backend", &self.backend)
            .finish_non_exhaustive()
    }
}

/// Makes a run of `data`, in place.
fn in_place(data: &mut [u8]) -> SectorRun<'_, '_> {
    let (sectors, rest) = data.as_chunks_mut::<SECTOR_SIZE>();
    assert!(rest.is_empty(), "the data is not a whole number of sectors");
    SectorRun::from(sectors)
}

/// Makes a run from `src` to `dst`.
fn between<'inp, 'out>(src: &'inp [u8], dst: &'out mut [u8]) -> SectorRun<'inp, 'out> {
    let (src, rest) = src.as_chunks::<SECTOR_SIZE>();
    let (dst, dst_rest) = dst.as_chunks_mut::<SECTOR_SIZE>();
    assert!(
        rest.is_empty() && dst_rest.is_empty(),
        "the data is not a whole number of sectors"
    );
    match SectorRun::new(src, dst) {
        Ok(run) => run,
        Err(_) => panic!("the buffers differ in length"),
    }
}
