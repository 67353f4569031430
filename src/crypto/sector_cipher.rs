//! The interface of disk ciphers, which encrypt each sector of 512 bytes independently, with one key, by its number.
//!
//! A call is for a run of sectors, so that dynamic dispatch costs nothing. The encryption format decides the number
//! of each sector.

use std::fmt::Debug;

/// A cipher with its key.
pub trait SectorCipher: Debug + Send + Sync {
    /// Encrypts whole sectors in place. The first has the number `first_sector`, and numbers wrap around after
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
