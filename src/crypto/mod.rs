//! Ciphers and secrets. The module knows no image and no file.
//!
//! * [`SectorCipher`] is a cipher of disks, which encrypts 512-byte sectors by their numbers. [`KeyedCipher`] is one
//!   with its key. It uses `aes_cbc` and `aes_xts`, with kernels, and `block_modes` for all others;
//! * [`Backend`] is an implementation of the ciphers, and detects the fastest;
//! * [`Secret`] is a password, [`Secrets`] are those of a command line, and [`Passwords`] is the source of others;
//! * [`CipherSpec`] is a cipher as a header describes it: a block cipher, a mode and a generator of vectors;
//! * [`HashAlgorithm`] is a hash function. [`pbkdf2`] derives a key from a password with one, and [`argon2()`] with
//!   much memory. [`af_split()`] spreads a key over stripes;
//! * `keyring` reads secrets from the kernel, and `sealed` decrypts secrets that were given encrypted.
//!
//! Invariants: a run is a whole number of sectors. Keys never leave the module, are never printed, and are wiped when
//! they are dropped. No implementation branches or indexes on secrets.

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
pub use secret::{Secret, forbid_core_dumps};
pub use secrets::Secrets;
pub use sector::{SECTOR_SIZE, SectorLength};
pub use sector_cipher::SectorCipher;

/// The highest speed of the AES unit on registers only.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Limit {
    /// The speed in 10^9 bytes per second.
    pub gb_per_s: f64,
    /// The number of registers in flight at that speed.
    pub registers: usize,
}
