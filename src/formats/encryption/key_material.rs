//! The key material of a LUKS key slot: a key that is split into stripes and encrypted with a password.
//!
//! The header determines the cost of trying a password, and a malicious one may demand days or all memory. So the
//! costs are limited, and no more is read of a slot than a key of this version's ciphers takes.

use zeroize::Zeroizing;

use crate::crypto::{HashAlgorithm, KeyedCipher, af_merge};
use crate::error::{Error, Result};
use crate::storage::Storage;
use crate::units::SECTOR_LEN;

/// The number of stripes of a key. Headers could have another number, but none does.
pub(super) const STRIPES: u32 = 4000;

/// The largest number of PBKDF2 iterations for a key slot or for the digest of a key. They take minutes.
const MOST_ITERATIONS: u32 = 1 << 28;

/// Refuses a number of PBKDF2 iterations that would take too long.
///
/// # Errors
/// Returns an error with the number of iterations and the limit if the number is over it.
pub(super) fn refuse_endless(what: &str, iterations: u32) -> Result<()> {
    if iterations <= MOST_ITERATIONS {
        return Ok(());
    }
    Err(Error::unsupported(format!(
        "{what} takes {iterations} iterations of PBKDF2, more than the {MOST_ITERATIONS} that this \
         version does"
    )))
}

/// Reads the stripes of a key of `length` bytes at byte `start`, decrypts them with a cipher derived from a password,
/// and merges them. A wrong password gives a wrong key.
///
/// # Errors
/// Returns the system's error. Returns an error if the stripes are beyond the end of the file.
pub(super) fn read_key(
    area: &dyn Storage,
    start: u64,
    cipher: &KeyedCipher,
    hash: HashAlgorithm,
    length: usize,
) -> Result<Zeroizing<Vec<u8>>> {
    let bytes = length.saturating_mul(STRIPES as usize);
    // The stripes may end within a sector, whose rest is undefined.
    let mut material = Zeroizing::new(vec![0; bytes.next_multiple_of(SECTOR_LEN)]);
    let read = area.read_at(start, &mut material)?;
    if read < bytes {
        return Err(Error::corrupt("Unable to read key material: it is cut off"));
    }
    cipher.decrypt(0, &mut material);
    let stripes = material.get(..bytes).unwrap_or_default();
    Ok(af_merge(hash, length, stripes))
}
