//! The checksum of a disk's contents: of all its bytes in order, including zeroes and holes, whatever the
//! format. It equals the checksum of the raw image that `convert` would make.
//!
//! A hole isn't read, but its zeroes are hashed, from one block of zeroes.

use std::fmt;

use sha2::Digest as _;

use crate::units::GuestOffset;

/// The algorithm of a checksum.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Algorithm {
    /// SHA-256, which `sha256sum` checks.
    Sha256,
    /// BLAKE3, several times as fast, which `b3sum` checks.
    Blake3,
}

impl Algorithm {
    /// All algorithms, in the order of the help text.
    pub const ALL: [Self; 2] = [Self::Sha256, Self::Blake3];

    /// Returns the name of the algorithm for users.
    pub fn name(self) -> &'static str {
        match self {
            Self::Sha256 => "sha256",
            Self::Blake3 => "blake3",
        }
    }

    /// Returns the algorithm of that name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL
            .into_iter()
            .find(|algorithm| algorithm.name() == name)
    }
}

/// A checksum, which is printed as hexadecimal digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Digest([u8; 32]);

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// The zeroes that are hashed for holes.
static ZEROES: [u8; 128 << 10] = [0; 128 << 10];

/// A checksum that is being computed in guest order.
pub(super) struct Hasher {
    kind: HasherKind,
    /// The offset up to which the disk has been hashed, in bytes.
    position: u64,
}

enum HasherKind {
    Sha256(sha2::Sha256),
    // This hasher takes kilobytes, and the other is small.
    Blake3(Box<blake3::Hasher>),
}

impl Hasher {
    pub(super) fn new(algorithm: Algorithm) -> Self {
        let kind = match algorithm {
            Algorithm::Sha256 => HasherKind::Sha256(sha2::Sha256::new()),
            Algorithm::Blake3 => HasherKind::Blake3(Box::default()),
        };
        Self { kind, position: 0 }
    }

    /// Hashes zeroes up to `guest`, and then `data`. Calls must come in guest order.
    pub(super) fn update(&mut self, guest: GuestOffset, data: &[u8]) {
        self.zeroes_until(guest.0);
        self.hash(data);
        self.position += data.len() as u64;
    }

    /// Returns the checksum of a disk of `size` bytes, the rest of which is zeroes.
    pub(super) fn finish(mut self, size: u64) -> Digest {
        self.zeroes_until(size);
        Digest(match self.kind {
            HasherKind::Sha256(hasher) => hasher.finalize().into(),
            HasherKind::Blake3(hasher) => *hasher.finalize().as_bytes(),
        })
    }

    fn zeroes_until(&mut self, end: u64) {
        let mut left = end.saturating_sub(self.position);
        while left > 0 {
            let most = ZEROES.len() as u64;
            let part = usize::try_from(left.min(most)).unwrap_or(ZEROES.len());
            self.hash(ZEROES.get(..part).unwrap_or_default());
            self.position += part as u64;
            left -= part as u64;
        }
    }

    fn hash(&mut self, data: &[u8]) {
        match &mut self.kind {
            HasherKind::Sha256(hasher) => hasher.update(data),
            HasherKind::Blake3(hasher) => {
                hasher.update(data);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_answers() {
        let empty = |algorithm| Hasher::new(algorithm).finish(0).to_string();
        assert_eq!(
            empty(Algorithm::Sha256),
            "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
        );
        assert_eq!(
            empty(Algorithm::Blake3),
            "af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262"
        );
    }

    #[test]
    fn gaps_are_zeroes() {
        for algorithm in Algorithm::ALL {
            let mut disk = vec![0; 300_000];
            disk[150_000..150_005].copy_from_slice(b"hello");
            let mut whole = Hasher::new(algorithm);
            whole.update(GuestOffset(0), &disk);
            let mut parts = Hasher::new(algorithm);
            parts.update(GuestOffset(150_000), b"hello");
            assert_eq!(whole.finish(300_000), parts.finish(300_000));
        }
    }
}
