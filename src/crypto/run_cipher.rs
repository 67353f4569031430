//! The inner interface of sector ciphers: one implementation, under one key, on runs of whole sectors.
//!
//! Lengths are checked in front of it, so that everything behind it can count in sectors. It is called
//! once for a run, so it costs nothing that the implementation is only known when the program runs.

use super::sector::SectorRun;

/// A cipher of whole sectors, by their numbers.
pub(super) trait RunCipher: Send + Sync {
    /// Encrypts a run whose first sector has the number `first_sector`.
    fn encrypt(&self, first_sector: u64, run: SectorRun<'_, '_>);

    /// Decrypts a run whose first sector has the number `first_sector`.
    fn decrypt(&self, first_sector: u64, run: SectorRun<'_, '_>);
}
