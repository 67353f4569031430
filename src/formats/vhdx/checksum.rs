//! The checksum of structures: CRC-32C over all their bytes, in which its own field counts as zeroes.
//!
//! The field is at the same offset in all structures, after the signature.

use std::ops::Range;

/// The range of the checksum field in bytes.
const FIELD: Range<usize> = 4..8;

/// Returns the checksum of a structure.
pub(super) fn checksum(bytes: &[u8]) -> u32 {
    let before = bytes.get(..FIELD.start).unwrap_or(bytes);
    let after = bytes.get(FIELD.end..).unwrap_or_default();
    let sum = crc32c::crc32c_append(crc32c::crc32c(before), &[0; 4]);
    crc32c::crc32c_append(sum, after)
}

/// Returns true if the checksum of a structure is correct.
pub(super) fn is_right(bytes: &[u8]) -> bool {
    let stored = bytes.get(FIELD).and_then(|field| field.try_into().ok());
    stored.map(u32::from_le_bytes) == Some(checksum(bytes))
}

/// Stores the checksum in a structure.
pub(super) fn seal(bytes: &mut [u8]) {
    let sum = checksum(bytes);
    if let Some(field) = bytes.get_mut(FIELD) {
        field.copy_from_slice(&sum.to_le_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_field_itself_does_not_count() {
        let mut bytes: Vec<u8> = (0..64).collect();
        seal(&mut bytes);
        assert!(is_right(&bytes));
        let sum = checksum(&bytes);
        bytes[5] ^= 1;
        assert!(!is_right(&bytes));
        assert_eq!(checksum(&bytes), sum);
        bytes[5] ^= 1;
        bytes[63] ^= 1;
        assert!(!is_right(&bytes));
        assert!(!is_right(&bytes[..6]));
    }

    #[test]
    fn the_polynomial_is_castagnoli() {
        // These are the published value for "123456789", and that for 32 zeroes.
        assert_eq!(crc32c::crc32c(b"123456789"), 0xe306_9283);
        assert_eq!(checksum(&[0; 32]), 0x8a91_36aa);
    }
}
