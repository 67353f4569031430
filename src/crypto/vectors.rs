//! Initialisation vectors, which are generated from the numbers of sectors.
//!
//! No two sectors may have the same vector with one key, so vectors depend on the number. Those of CBC should be
//! unpredictable, so the number is encrypted with a hash of the key.

use super::boxed_cipher::BlockCipher;

/// A generator of vectors of `B` bytes, the length of a block, from the numbers of sectors.
pub(super) enum Vectors<const B: usize> {
    /// The lower 32 bits of the number, little-endian, then zeroes: `plain`.
    Plain,
    /// The number, little-endian, then zeroes: `plain64`.
    Plain64,
    /// The vector of `plain64`, encrypted: `essiv`.
    Essiv(Box<dyn BlockCipher<B>>),
}

impl<const B: usize> Vectors<B> {
    /// Generates the vectors of sectors. The first has the number `first_sector`, and each further one a number that
    /// is higher by `step`.
    pub(super) fn fill(&self, first_sector: u64, step: usize, vectors: &mut [[u8; B]]) {
        let mut number = first_sector;
        for vector in &mut *vectors {
            let counted = match self {
                Self::Plain => number & u64::from(u32::MAX),
                Self::Plain64 | Self::Essiv(_) => number,
            };
            *vector = [0; B];
            for (byte, from) in vector.iter_mut().zip(counted.to_le_bytes()) {
                *byte = from;
            }
            number = number.wrapping_add(step as u64);
        }
        if let Self::Essiv(cipher) = self {
            cipher.encrypt(vectors);
        }
    }
}
