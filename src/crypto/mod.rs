//! The sector cipher room: AES-128-CBC over 512-byte sectors, many at a time.
//!
//! This is the cipher of legacy encrypted qcow2 images. Every sector is a
//! CBC chain of its own, of 32 blocks, whose initialisation vector is the
//! 64-bit little-endian number of the sector followed by eight zero bytes.
//!
//! CBC encryption is serial inside a sector: a block can't start before the
//! one in front of it is done, and an AES unit that could begin two blocks
//! every cycle idles for some forty cycles on each. Sectors however do not
//! depend on each other. So every backend in here does the same thing, each
//! with its own machinery: it keeps as many sectors in flight as the machine
//! has room for, one *lane* a sector, and walks all lanes down their chains
//! in step. Decryption needs no such trick, since all its inputs are known in
//! advance; it only needs wide batches.
//!
//! The map:
//!
//! * [`AesCbc`] is the only thing that the rest of the program uses;
//! * [`Backend`] says which implementation does the work, and finds the best;
//! * `portable` and `soft` are safe Rust over the `aes` crate;
//! * `x86` has the hand-written kernels, the only `unsafe` code of the room,
//!   and the register-only loops that say how fast the AES unit can possibly
//!   go;
//! * [`mod@reference`] is the plain construction with the `cbc` crate, which all
//!   others are tested against and measured by.
//!
//! Invariants: a run is a whole number of sectors (checked once, in
//! [`AesCbc`]); keys never leave the room, are never printed, and are wiped
//! when their owner goes; no implementation branches or indexes on secrets.

mod backend;
mod keyring;
pub mod limit;
mod memory;
mod passwords;
mod portable;
pub mod reference;
mod secret;
mod secrets;
mod sector_cipher;
mod soft;
mod wrapped;
#[cfg(target_arch = "x86_64")]
mod x86;

pub use backend::{Backend, BackendError};
pub use keyring::from_keyring;
pub use passwords::Passwords;
pub use secret::{BACKEND_VARIABLE, Secret, chosen_backend, legacy_aes};
pub use secrets::Secrets;
pub use sector_cipher::AesCbc;

/// Bytes in a sector, the unit that is encrypted as one CBC chain.
pub const SECTOR_SIZE: usize = 512;

/// Bytes in an AES block.
pub(crate) const BLOCK_SIZE: usize = 16;

/// AES blocks in a sector.
pub(crate) const SECTOR_BLOCKS: usize = SECTOR_SIZE / BLOCK_SIZE;

/// One sector's bytes.
pub(crate) type Sector = [u8; SECTOR_SIZE];

/// A run of whole sectors to be ciphered in place or from buffer to buffer.
///
/// Its two halves have the same length and are either the very same memory or
/// do not overlap at all, which the safe constructors of [`InOutBuf`]
/// guarantee and the x86 kernels rely on.
///
/// [`InOutBuf`]: aes::cipher::InOutBuf
pub(crate) type Run<'inp, 'out> = aes::cipher::InOutBuf<'inp, 'out, Sector>;

/// The initialisation vector of a sector.
pub(crate) fn iv(sector: u64) -> [u8; BLOCK_SIZE] {
    let mut iv = [0; BLOCK_SIZE];
    iv[..8].copy_from_slice(&sector.to_le_bytes());
    iv
}
