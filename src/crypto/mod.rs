//! Ciphers and secrets. The room knows no image and no file.
//!
//! * [`SectorCipher`] is a cipher of disks, of 512-byte sectors by their numbers; `aes_cbc` is the first;
//! * [`Backend`] is the implementation that does the work, and finds the best;
//! * [`Secret`] is a password, [`Secrets`] are those of a command line, [`Passwords`] is the source of
//!   others;
//! * [`HashAlgorithm`] is a hash, and [`pbkdf2`] makes a key of a password with one; [`af_split`] spreads a key;
//! * `keyring` reads secrets that the kernel keeps, and `sealed` opens secrets that come encrypted.
//!
//! Invariants: a run is a whole number of sectors; keys never leave the room, are never printed, and are
//! wiped when their owner goes; no implementation branches or indexes on secrets.

mod aes_cbc;
mod af_split;
mod backend;
mod hash;
mod kdf;
mod keyring;
mod memory;
mod passwords;
mod sealed;
mod secret;
mod secrets;
mod sector;
mod sector_cipher;

pub use aes_cbc::{AesCbc, limit, reference};
pub use af_split::{af_merge, af_split};
pub use backend::{BACKEND_VARIABLE, Backend, BackendError, chosen_backend};
pub use hash::HashAlgorithm;
pub use kdf::{iterations_per_second, pbkdf2};
pub use keyring::from_keyring;
pub(crate) use memory::wipe_stack;
pub use passwords::Passwords;
pub use secret::Secret;
pub use secrets::Secrets;
pub use sector::SECTOR_SIZE;
pub use sector_cipher::SectorCipher;

/// The best speed of the AES unit on registers only.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Limit {
    /// Bytes of AES-128 blocks, in billions a second.
    pub gb_per_s: f64,
    /// Registers in flight when it did.
    pub registers: usize,
}
