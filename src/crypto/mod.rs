//! Ciphers and secrets. The room knows no image and no file.
//!
//! * [`SectorCipher`] is a cipher of disks, of 512-byte sectors by their numbers. [`KeyedCipher`] is one with
//!   its key; behind it are `aes_cbc` and `aes_xts`, with kernels, and `block_modes`, for all others;
//! * [`Backend`] is the implementation that does the work, and finds the best;
//! * [`Secret`] is a password, [`Secrets`] are those of a command line, [`Passwords`] is the source of
//!   others;
//! * [`CipherSpec`] is a cipher as a header describes it: a block cipher, a mode and the making of vectors;
//! * [`HashAlgorithm`] is a hash, and [`pbkdf2`] makes a key of a password with one, as [`argon2()`] does
//!   with much memory; [`af_split()`] spreads a key;
//! * `keyring` reads secrets that the kernel keeps, and `sealed` opens secrets that come encrypted.
//!
//! Invariants: a run is a whole number of sectors; keys never leave the room, are never printed, and are
//! wiped when their owner goes; no implementation branches or indexes on secrets.

mod aes_cbc;
#[cfg(target_arch = "x86_64")]
mod aes_x86;
mod aes_xts;
mod af_split;
mod argon2;
mod backend;
mod block_modes;
mod boxed_cipher;
mod cipher_spec;
mod hash;
mod kdf;
mod keyed_cipher;
mod keyring;
pub mod limit;
mod memory;
mod passwords;
pub mod reference;
mod run_cipher;
mod sealed;
mod secret;
mod secrets;
mod sector;
mod sector_cipher;
mod vectors;
mod with_vectors;

pub use af_split::{af_merge, af_split};
pub use argon2::{Argon2Cost, argon2};
pub use backend::{BACKEND_VARIABLE, Backend, BackendError, chosen_backend};
pub use cipher_spec::{CipherAlgorithm, CipherMode, CipherSpec, IvGenerator};
pub use hash::HashAlgorithm;
pub use kdf::{iterations_per_second, pbkdf2};
pub use keyed_cipher::KeyedCipher;
pub use keyring::from_keyring;
pub(crate) use memory::wipe_stack;
pub use passwords::Passwords;
pub use secret::Secret;
pub use secrets::Secrets;
pub use sector::{SECTOR_SIZE, SectorLength};
pub use sector_cipher::SectorCipher;

/// The best speed of the AES unit on registers only.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Limit {
    /// Bytes of AES blocks, in billions a second.
    pub gb_per_s: f64,
    /// Registers in flight when it did.
    pub registers: usize,
}
