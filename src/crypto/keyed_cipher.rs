//! Sector ciphers with their keys, as other modules use them.
//!
//! Lengths are checked and the stack is wiped only here, for all implementations.
//!
//! Most disks use AES in CBC or XTS mode with keys of 128 or 256 bits, so there are kernels for these. Their
//! initialisation vectors are those that LUKS calls `plain64`: the 64-bit little-endian number of the sector,
//! followed by eight zero bytes. [`CipherSpec`](super::CipherSpec) builds ciphers with other vectors on them, and all
//! other ciphers.

#![expect(
    clippy::panic,
    reason = "documented contracts of the callers in this crate, who pass whole sectors and whole keys"
)]

use core::fmt;

use super::backend::Backend;
use super::memory::wipe_stack;
use super::run_cipher::RunCipher;
use super::sector::{SECTOR_SIZE, SectorLength, SectorRun};
use super::sector_cipher::SectorCipher;
use super::{aes_cbc, aes_xts};

/// A cipher of 512-byte sectors under one key, or under the two keys of XTS.
///
/// There is deliberately no `Clone`, and `Debug` prints only the backend.
pub struct KeyedCipher {
    name: &'static str,
    backend: Backend,
    cipher: Box<dyn RunCipher>,
}

impl KeyedCipher {
    /// Expands a key of 16 or 32 bytes for AES-CBC with `backend`.
    ///
    /// The caller has to wipe its copy of the key.
    ///
    /// # Panics
    ///
    /// Panics if the key has another length, or if this machine doesn't have `backend`. It has those that
    /// [`Backend::detect`], [`Backend::available`] and [`Backend::from_name`] return.
    #[must_use]
    pub fn aes_cbc(key: &[u8], backend: Backend) -> Self {
        Self::of_aes("AesCbc", backend, aes_cbc::new(key, backend))
    }

    /// Expands a pair of keys for AES-XTS with `backend`. The first, of 16 or 32 bytes, is for the data, and the
    /// second, of the same length, is for the tweaks.
    ///
    /// The caller has to wipe its copy of the keys.
    ///
    /// # Panics
    ///
    /// Panics as [`aes_cbc`](Self::aes_cbc) does.
    #[must_use]
    pub fn aes_xts(keys: &[u8], backend: Backend) -> Self {
        Self::of_aes(
            "AesXts",
            backend,
            aes_xts::new(keys, SectorLength::SHORTEST, backend),
        )
    }

    fn of_aes(name: &'static str, backend: Backend, cipher: Option<Box<dyn RunCipher>>) -> Self {
        let Some(cipher) = cipher else {
            panic!("no key of AES, or this machine lacks the cipher backend `{backend}`");
        };
        Self::new(name, backend, cipher)
    }

    /// Wraps an implementation with its key. `name` is for `Debug`.
    pub(super) fn new(name: &'static str, backend: Backend, cipher: Box<dyn RunCipher>) -> Self {
        Self {
            name,
            backend,
            cipher,
        }
    }

    /// Returns the backend.
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

    /// Does the same as [`encrypt`](Self::encrypt) from one buffer to another.
    ///
    /// # Panics
    ///
    /// Panics if `src` isn't a whole number of sectors, or if `dst` isn't as
    /// long.
    pub fn encrypt_to(&self, first_sector: u64, src: &[u8], dst: &mut [u8]) {
        self.encrypt_run(first_sector, between(src, dst));
        wipe_stack();
    }

    /// Does the same as [`decrypt`](Self::decrypt) from one buffer to another.
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
        self.cipher.encrypt(first_sector, run);
    }

    #[inline(never)]
    fn decrypt_run(&self, first_sector: u64, run: SectorRun<'_, '_>) {
        self.cipher.decrypt(first_sector, run);
    }
}

impl SectorCipher for KeyedCipher {
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

impl fmt::Debug for KeyedCipher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct(self.name)
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
