//! Key material: a key as a LUKS header keeps it for a password, spread over stripes and encrypted.
//!
//! A header names the cost of a guess itself, and a stranger's may name one that takes days or all memory. So costs are
//! bounded, and no more is read of a slot than a key of this version's ciphers takes.

use zeroize::Zeroizing;

use crate::crypto::{HashAlgorithm, KeyedCipher, af_merge};
use crate::error::{Error, Result};
use crate::storage::Storage;
use crate::units::SECTOR_LEN;

/// The number of stripes that a key is split into. Headers may say another number, and nothing does.
pub(super) const STRIPES: u32 = 4000;

/// The most iterations of PBKDF2 that are done for a slot or for the hash of a key. It takes minutes.
const MOST_ITERATIONS: u32 = 1 << 28;

/// Refuses a number of PBKDF2 iterations that would take too long.
///
/// # Errors
/// Returns an error that says how many there are, and how many there may be.
pub(super) fn refuse_endless(what: &str, iterations: u32) -> Result<()> {
    if iterations <= MOST_ITERATIONS {
        return Ok(());
    }
    Err(Error::unsupported(format!(
        "{what} takes {iterations} iterations of PBKDF2, more than the {MOST_ITERATIONS} that this \
         version does"
    )))
}

/// Reads the stripes of a key of `length` bytes that start at `start`, in bytes, and decrypts them by a password's
/// cipher. Any password gives a key.
///
/// # Errors
/// Returns the system's error, or an error if the stripes are cut off.
pub(super) fn read_key(
    area: &dyn Storage,
    start: u64,
    cipher: &KeyedCipher,
    hash: HashAlgorithm,
    length: usize,
) -> Result<Zeroizing<Vec<u8>>> {
    let bytes = length.saturating_mul(STRIPES as usize);
    // The last sector may be a part of one, and the rest of it be anything.
    let mut material = Zeroizing::new(vec![0; bytes.next_multiple_of(SECTOR_LEN)]);
    let read = area.read_at(start, &mut material)?;
    if read < bytes {
        return Err(Error::corrupt("Unable to read key material: it is cut off"));
    }
    cipher.decrypt(0, &mut material);
    let stripes = material.get(..bytes).unwrap_or_default();
    Ok(af_merge(hash, length, stripes))
}
