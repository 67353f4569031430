//! The anti-forensic splitter of LUKS: a key is spread over many stripes, all of which are needed to recover it.
//!
//! A disk may keep a copy of a sector that was overwritten. With the key in a single sector, that copy would be the
//! key. With the key in thousands of stripes, it can't be recovered once a single stripe is lost. Every stripe but
//! the last is random. They are added (xor) one after the other, and the sum is hashed after each. The last stripe is
//! the sum xor the key.

use zeroize::Zeroizing;

use super::hash::HashAlgorithm;

/// Spreads a key over stripes. `stripes` has the total length of all of them, a multiple of the key's length. All of
/// it but the last stripe must be random.
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

/// Recovers a key of `length` bytes from its stripes.
pub fn af_merge(hash: HashAlgorithm, length: usize, stripes: &[u8]) -> Zeroizing<Vec<u8>> {
    let noise = stripes.len().saturating_sub(length);
    let (noise, last) = stripes.split_at(noise);
    let mut sum = summed(hash, length, noise);
    add(&mut sum, last);
    sum
}

/// Adds up stripes, and hashes the sum after each.
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

/// Hashes each part of the sum of a hash's length, with the part's number. The last part may be shorter.
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
