//! [`AesCbc`]: the one door to the room.
//!
//! It owns the expanded key in the form that the chosen backend wants, checks
//! that it's given whole sectors, and hands the run on. This is the only
//! place where lengths are checked, so everything behind it can count in
//! sectors.

#![expect(
    clippy::panic,
    reason = "documented contracts of the callers in this crate, who pass whole sectors"
)]

use core::fmt;

use super::backend::Backend;
use super::memory::wipe_stack;
use super::portable::Portable;
use super::soft::Soft;
#[cfg(target_arch = "x86_64")]
use super::x86::{aesni::AesNi, vaes256::Vaes256, vaes512::Vaes512};
use super::{Run, SECTOR_SIZE};

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
    /// If this machine doesn't have `backend`; those that [`Backend::detect`],
    /// [`Backend::available`] and [`Backend::from_name`] give out, it has.
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

    /// The backend that does the work.
    #[must_use]
    pub fn backend(&self) -> Backend {
        self.backend
    }

    /// Encrypts sectors in place. The first of them has the number
    /// `first_sector`, and numbers wrap around after [`u64::MAX`].
    ///
    /// # Panics
    ///
    /// If `data` isn't a whole number of sectors.
    pub fn encrypt(&self, first_sector: u64, data: &mut [u8]) {
        self.encrypt_run(first_sector, in_place(data));
        wipe_stack();
    }

    /// Decrypts sectors in place. The first of them has the number
    /// `first_sector`, and numbers wrap around after [`u64::MAX`].
    ///
    /// # Panics
    ///
    /// If `data` isn't a whole number of sectors.
    pub fn decrypt(&self, first_sector: u64, data: &mut [u8]) {
        self.decrypt_run(first_sector, in_place(data));
        wipe_stack();
    }

    /// As [`encrypt`](Self::encrypt), from one buffer to another.
    ///
    /// # Panics
    ///
    /// If `src` isn't a whole number of sectors, or `dst` isn't as long.
    pub fn encrypt_to(&self, first_sector: u64, src: &[u8], dst: &mut [u8]) {
        self.encrypt_run(first_sector, between(src, dst));
        wipe_stack();
    }

    /// As [`decrypt`](Self::decrypt), from one buffer to another.
    ///
    /// # Panics
    ///
    /// If `src` isn't a whole number of sectors, or `dst` isn't as long.
    pub fn decrypt_to(&self, first_sector: u64, src: &[u8], dst: &mut [u8]) {
        self.decrypt_run(first_sector, between(src, dst));
        wipe_stack();
    }

    #[inline(never)]
    fn encrypt_run(&self, first_sector: u64, run: Run<'_, '_>) {
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
    fn decrypt_run(&self, first_sector: u64, run: Run<'_, '_>) {
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

impl fmt::Debug for AesCbc {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AesCbc")
            .field("backend", &self.backend)
            .finish_non_exhaustive()
    }
}

/// The run that `data` is, in place.
fn in_place(data: &mut [u8]) -> Run<'_, '_> {
    let (sectors, rest) = data.as_chunks_mut::<SECTOR_SIZE>();
    assert!(rest.is_empty(), "the data is not a whole number of sectors");
    Run::from(sectors)
}

/// The run from `src` to `dst`.
fn between<'inp, 'out>(src: &'inp [u8], dst: &'out mut [u8]) -> Run<'inp, 'out> {
    let (src, rest) = src.as_chunks::<SECTOR_SIZE>();
    let (dst, dst_rest) = dst.as_chunks_mut::<SECTOR_SIZE>();
    assert!(
        rest.is_empty() && dst_rest.is_empty(),
        "the data is not a whole number of sectors"
    );
    match Run::new(src, dst) {
        Ok(run) => run,
        Err(_) => panic!("the buffers differ in length"),
    }
}
