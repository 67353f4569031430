//! The internal interface of sector ciphers: an implementation with a key, for runs of whole sectors.
//!
//! Callers check lengths, so that implementations can count in sectors. A call is for a whole run, so that dynamic
//! dispatch costs nothing.

use super::sector::SectorRun;

/// A cipher of whole sectors, by their numbers.
pub(super) trait RunCipher: Send + Sync {
    /// Encrypts a run whose first sector has the number `first_sector`.
    fn encrypt(&self, first_sector: u64, run: SectorRun<'_, '_>);

    /// Decrypts a run whose first sector has the number `first_sector`.
    fn decrypt(&self, first_sector: u64, run: SectorRun<'_, '_>);
}
