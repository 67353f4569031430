//! The anti-forensic splitter of LUKS: a key spread over many stripes, all of which it takes to get it back.
//!
//! A disk may keep a copy of a sector that was overwritten. With the key in one sector, that copy is the key;
//! with the key spread over thousands of stripes, one that is gone takes the key with it. Every stripe but the
//! last is noise. They are added up one after the other, and the sum is hashed between two of them; the last
//! stripe is the sum and the key.

use zeroize::Zeroizing;

use super::hash::HashAlgorithm;

/// Spreads a key over stripes. `stripes` is as long as all of them together, a multiple of the key's length,
/// and all of it but the last stripe holds noise.
pub fn af_split(hash: HashAlgorithm, key: &[u8], stripes: &mut [u8]) {
    let Some(noise) = stripes.len().checked_sub(key.len()) else {
        return;
    };
    let (noise, last) = stripes.split_at_mut(noise);
    let sum = summed(hash, key.len(), noise);
    for ((to, sum), key) in last.iter_mut().zip(sum.iter()).zip(key) {
        *to = sum ^ key;
    }
}

/// Gets back a key of `length` bytes from its stripes.
pub fn af_merge(hash: HashAlgorithm, length: usize, stripes: &[u8]) -> Zeroizing<Vec<u8>> {
    let noise = stripes.len().saturating_sub(length);
    let (noise, last) = stripes.split_at(noise);
    let mut sum = summed(hash, length, noise);
    add(&mut sum, last);
    sum
}

/// Adds up stripes, hashing the sum after each.
fn summed(hash: HashAlgorithm, length: usize, stripes: &[u8]) -> Zeroizing<Vec<u8>> {
    let mut sum = Zeroizing::new(vec![0; length]);
    for stripe in stripes.chunks(length.max(1)) {
        add(&mut sum, stripe);
        diffuse(hash, &mut sum);
    }
    sum
}

fn add(sum: &mut [u8], stripe: &[u8]) {
    for (sum, byte) in sum.iter_mut().zip(stripe) {
        *sum ^= byte;
    }
}

/// Hashes each part of the sum that is as long as a hash, with the part's number; the last may be shorter.
fn diffuse(hash: HashAlgorithm, sum: &mut [u8]) {
    for (number, part) in (0_u32..).zip(sum.chunks_mut(hash.length())) {
        let hashed = hash.digest(&[&number.to_be_bytes(), part]);
        for (byte, hashed) in part.iter_mut().zip(hashed.iter()) {
            *byte = *hashed;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stripes_give_the_key_back_and_none_may_miss() {
        for hash in HashAlgorithm::ALL {
            for length in [16, 24, 32, 64] {
                let key: Vec<u8> = (0..length).map(|i| u8::try_from(i * 3).unwrap()).collect();
                let mut stripes: Vec<u8> = (0..length * 5)
                    .map(|i| u8::try_from(i % 251).unwrap())
                    .collect();
                af_split(hash, &key, &mut stripes);
                assert_eq!(*af_merge(hash, length, &stripes), key, "{hash:?}, {length}");
                for stripe in 0..5 {
                    let mut damaged = stripes.clone();
                    damaged[stripe * length] ^= 1;
                    assert_ne!(*af_merge(hash, length, &damaged), key);
                }
            }
        }
    }
}
