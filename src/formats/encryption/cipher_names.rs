//! The conversion between ciphers and their names in LUKS headers.

use crate::crypto::{CipherAlgorithm, CipherMode, CipherSpec, HashAlgorithm, IvGenerator};
use crate::error::{Error, Result, printable};

/// A cipher whose names are known, and whose IV generator isn't checked yet.
pub(super) struct NamedCipher<'a> {
    algorithm: CipherAlgorithm,
    mode: CipherMode,
    vectors: &'a str,
    vectors_hash: Option<HashAlgorithm>,
}

impl<'a> NamedCipher<'a> {
    /// Parses a cipher name such as `aes` and a mode such as `xts-plain64` or `cbc-essiv:sha256`. `key_length` is in
    /// bytes; for XTS it is the length of both keys together.
    ///
    /// # Errors
    /// Returns an error, in QEMU's words, if there is no such cipher, or if this version doesn't have it.
    pub(super) fn parse(family: &str, mode: &'a str, key_length: u64) -> Result<Self> {
        let (mode_name, vectors) = mode.split_once('-').ok_or_else(|| {
            Error::corrupt(format!(
                "Unexpected cipher mode string format '{}'",
                printable(mode)
            ))
        })?;
        let (vectors, vectors_hash) = match vectors.split_once(':') {
            Some((vectors, hash)) => (vectors, Some(hash_of(hash)?)),
            None => (vectors, None),
        };
        let mut modes = CipherMode::ALL.into_iter();
        let mode = modes.find(|known| known.name() == mode_name);
        let mode = mode.ok_or_else(|| unknown("Cipher mode", mode_name))?;
        let keys = mode.keys();
        let length = usize::try_from(key_length).unwrap_or(usize::MAX);
        if !length.is_multiple_of(keys) {
            return Err(Error::corrupt(
                "XTS cipher key length should be a multiple of 2",
            ));
        }
        let length = length / keys;
        let algorithm = CipherAlgorithm::of_family(family, length).ok_or_else(|| {
            Error::unsupported(format!(
                "Algorithm '{}' with key size {length} bytes not supported",
                printable(family)
            ))
        })?;
        Ok(Self {
            algorithm,
            mode,
            vectors,
            vectors_hash,
        })
    }

    /// Returns the cipher.
    ///
    /// # Errors
    /// Returns an error, in QEMU's words, if there is no such IV generator, or if it doesn't fit the cipher.
    pub(super) fn spec(&self) -> Result<CipherSpec> {
        let vectors = match (self.vectors, self.vectors_hash) {
            ("plain", _) => IvGenerator::Plain,
            ("plain64", _) => IvGenerator::Plain64,
            ("essiv", Some(hash)) => IvGenerator::Essiv(hash),
            ("essiv", None) => {
                return Err(Error::corrupt("Missing IV generator hash specification"));
            }
            (other, _) => return Err(unknown("IV generator", other)),
        };
        let spec = CipherSpec {
            algorithm: self.algorithm,
            mode: self.mode,
            vectors,
        };
        spec.check()?;
        Ok(spec)
    }
}

/// Returns the cipher of a name such as `aes-xts-plain64`. `key_length` is in bytes; for XTS it is the length of both
/// keys together.
///
/// # Errors
/// Returns an error, in QEMU's words, if there is no such cipher, or if this version doesn't have it.
pub(super) fn spec_of(text: &str, key_length: u64) -> Result<CipherSpec> {
    let (family, mode) = text.split_once('-').unwrap_or((text, ""));
    NamedCipher::parse(family, mode, key_length)?.spec()
}

/// Returns the name of a mode and an IV generator in a header.
pub(super) fn mode_text(spec: &CipherSpec) -> String {
    let (mode, vectors) = (spec.mode.name(), spec.vectors.name());
    match spec.vectors {
        IvGenerator::Essiv(hash) => format!("{mode}-{vectors}:{}", hash.name()),
        _ => format!("{mode}-{vectors}"),
    }
}

/// Returns the hash with this name.
///
/// # Errors
/// Returns an error, in QEMU's words, if this version doesn't have it.
pub(super) fn hash_of(name: &str) -> Result<HashAlgorithm> {
    HashAlgorithm::from_name(name).ok_or_else(|| unknown("Hash algorithm", name))
}

fn unknown(what: &str, name: &str) -> Error {
    Error::unsupported(format!("{what} '{}' not supported", printable(name)))
}
