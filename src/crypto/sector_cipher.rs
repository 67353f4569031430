//! Ciphers of disks: each sector of 512 bytes by itself, under one key, by its number.
//!
//! A call is for a run of sectors, as long as the caller has them, so that it costs nothing that the cipher
//! is only known when the program runs. A cipher is given numbers; the encryption format says which number a
//! sector has.

use std::fmt::Debug;

/// A cipher with its key.
pub trait SectorCipher: Debug + Send + Sync {
    /// Encrypts whole sectors in place. The first has the number `first_sector`; numbers wrap around after
    /// [`u64::MAX`].
    ///
    /// # Panics
    ///
    /// Panics if `data` isn't a whole number of sectors.
    fn encrypt(&self, first_sector: u64, data: &mut [u8]);

    /// Decrypts data that [`encrypt`](Self::encrypt) has encrypted.
    ///
    /// # Panics
    ///
    /// Panics if `data` isn't a whole number of sectors.
    fn decrypt(&self, first_sector: u64, data: &mut [u8]);

    /// Encrypts from one buffer to another.
    ///
    /// # Panics
    ///
    /// Panics if `src` isn't a whole number of sectors, or if `dst` isn't as long.
    fn encrypt_to(&self, first_sector: u64, src: &[u8], dst: &mut [u8]);
}
