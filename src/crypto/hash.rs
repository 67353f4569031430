//! The hash functions of disk encryption, by their names.

use hmac::digest::Digest;
use zeroize::Zeroizing;

/// A hash function.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HashAlgorithm {
    /// MD5, which is broken, but used by some images.
    Md5,
    /// RIPEMD-160.
    Ripemd160,
    /// SHA-1.
    Sha1,
    /// SHA-224.
    Sha224,
    /// SHA-256.
    Sha256,
    /// SHA-384.
    Sha384,
    /// SHA-512.
    Sha512,
    /// SM3.
    Sm3,
}

/// Evaluates an expression in which `$type` is the type of the hash function.
macro_rules! with_type {
    ($algorithm:expr, $type:ident => $body:expr) => {
        match $algorithm {
            HashAlgorithm::Md5 => with_type!(@ $type, md5::Md5, $body),
            HashAlgorithm::Ripemd160 => with_type!(@ $type, ripemd::Ripemd160, $body),
            HashAlgorithm::Sha1 => with_type!(@ $type, sha1::Sha1, $body),
            HashAlgorithm::Sha224 => with_type!(@ $type, sha2::Sha224, $body),
            HashAlgorithm::Sha256 => with_type!(@ $type, sha2::Sha256, $body),
            HashAlgorithm::Sha384 => with_type!(@ $type, sha2::Sha384, $body),
            HashAlgorithm::Sha512 => with_type!(@ $type, sha2::Sha512, $body),
            HashAlgorithm::Sm3 => with_type!(@ $type, sm3::Sm3, $body),
        }
    };
    (@ $type:ident, $hash:ty, $body:expr) => {{
        type $type = $hash;
        $body
    }};
}
pub(super) use with_type;

impl HashAlgorithm {
    /// All hash functions.
    pub const ALL: [Self; 8] = [
        Self::Md5,
        Self::Ripemd160,
        Self::Sha1,
        Self::Sha224,
        Self::Sha256,
        Self::Sha384,
        Self::Sha512,
        Self::Sm3,
    ];

    /// Returns the hash function of that name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|hash| hash.name() == name)
    }

    /// Returns the name that LUKS and `qemu-img` use.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Md5 => "md5",
            Self::Ripemd160 => "ripemd160",
            Self::Sha1 => "sha1",
            Self::Sha224 => "sha224",
            Self::Sha256 => "sha256",
            Self::Sha384 => "sha384",
            Self::Sha512 => "sha512",
            Self::Sm3 => "sm3",
        }
    }

    /// Returns the length of a hash in bytes.
    pub fn length(self) -> usize {
        with_type!(self, D => <D as Digest>::output_size())
    }

    /// Returns the hash of the concatenated parts.
    pub fn digest(self, parts: &[&[u8]]) -> Zeroizing<Vec<u8>> {
        with_type!(self, D => digest_of::<D>(parts))
    }
}

fn digest_of<D: Digest>(parts: &[&[u8]]) -> Zeroizing<Vec<u8>> {
    let mut digest = D::new();
    for part in parts {
        digest.update(part);
    }
    Zeroizing::new(digest.finalize().to_vec())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    #[test]
    fn names_lead_back_and_lengths_are_right() {
        for hash in HashAlgorithm::ALL {
            assert_eq!(HashAlgorithm::from_name(hash.name()), Some(hash));
            assert_eq!(hash.digest(&[b"a", b"bc"]), hash.digest(&[b"abc"]));
            assert_eq!(hash.digest(&[]).len(), hash.length());
        }
    }

    /// The hashes of `abc` are from the standards.
    #[test]
    fn known_hashes() {
        for (name, start) in [
            ("md5", "900150983cd24fb0"),
            ("ripemd160", "8eb208f7e05d987a"),
            ("sha1", "a9993e364706816a"),
            ("sha224", "23097d223405d822"),
            ("sha256", "ba7816bf8f01cfea"),
            ("sha384", "cb00753f45a35e8b"),
            ("sha512", "ddaf35a193617aba"),
            ("sm3", "66c7f0f462eeedd9"),
        ] {
            let hash = HashAlgorithm::from_name(name).unwrap();
            assert!(hex(&hash.digest(&[b"abc"])).starts_with(start), "{name}");
        }
    }
}
