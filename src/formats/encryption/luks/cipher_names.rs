//! The cipher of a header: three texts and the length of the key.

use super::header::LuksFields;
use crate::crypto::{CipherAlgorithm, CipherMode, CipherSpec, HashAlgorithm, IvGenerator};
use crate::error::{Error, Result, printable};

/// Returns the cipher of the disk, and the hash of its header.
///
/// # Errors
/// Returns an error in QEMU's words if there is no such cipher, or none in this version.
pub(super) fn parse(fields: &LuksFields) -> Result<(CipherSpec, HashAlgorithm)> {
    let (mode_name, vectors) = fields.cipher_mode.split_once('-').ok_or_else(|| {
        Error::corrupt(format!(
            "Unexpected cipher mode string format '{}'",
            printable(&fields.cipher_mode)
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
    let length = usize::try_from(fields.key_length).unwrap_or(usize::MAX);
    if !length.is_multiple_of(keys) {
        return Err(Error::corrupt(
            "XTS cipher key length should be a multiple of 2",
        ));
    }
    let length = length / keys;
    let algorithm = CipherAlgorithm::of_family(&fields.cipher_name, length).ok_or_else(|| {
        Error::unsupported(format!(
            "Algorithm '{}' with key size {length} bytes not supported",
            printable(&fields.cipher_name)
        ))
    })?;
    let hash = hash_of(&fields.hash)?;
    let vectors = match (vectors, vectors_hash) {
        ("plain", _) => IvGenerator::Plain,
        ("plain64", _) => IvGenerator::Plain64,
        ("essiv", Some(hash)) => IvGenerator::Essiv(hash),
        ("essiv", None) => {
            return Err(Error::corrupt("Missing IV generator hash specification"));
        }
        (other, _) => return Err(unknown("IV generator", other)),
    };
    let spec = CipherSpec {
        algorithm,
        mode,
        vectors,
    };
    spec.check()?;
    Ok((spec, hash))
}

/// Returns the text that stands for a mode and the making of vectors.
pub(super) fn mode_text(spec: &CipherSpec) -> String {
    let (mode, vectors) = (spec.mode.name(), spec.vectors.name());
    match spec.vectors {
        IvGenerator::Essiv(hash) => format!("{mode}-{vectors}:{}", hash.name()),
        _ => format!("{mode}-{vectors}"),
    }
}

fn hash_of(name: &str) -> Result<HashAlgorithm> {
    HashAlgorithm::from_name(name).ok_or_else(|| unknown("Hash algorithm", name))
}

fn unknown(what: &str, name: &str) -> Error {
    Error::unsupported(format!("{what} '{}' not supported", printable(name)))
}
