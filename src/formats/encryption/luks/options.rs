//! The options of a new header.

use crate::crypto::{CipherAlgorithm, CipherMode, CipherSpec, HashAlgorithm, IvGenerator};
use crate::error::{Error, Result};
use crate::formats::encryption::cipher_names::mode_text;
use crate::options::values::not_accepted;
use crate::options::{Kind, OptionSpec, Values};

/// The default time for deriving a key from a password, in milliseconds.
const ITER_TIME: u64 = 2000;

/// The block ciphers that QEMU knows by name, and that LUKS or this version doesn't have.
const OTHER_CIPHERS: [&str; 3] = ["des", "3des", "sm4"];

/// Defines the options, with a prefix of their names. The option for the secret is defined by the format.
macro_rules! luks_options {
    ($prefix:literal) => {
        [
            OptionSpec::new(
                concat!($prefix, "cipher-alg"),
                Kind::Text,
                "Name of encryption cipher algorithm",
            ),
            OptionSpec::new(
                concat!($prefix, "cipher-mode"),
                Kind::Text,
                "Name of encryption cipher mode",
            ),
            OptionSpec::new(
                concat!($prefix, "ivgen-alg"),
                Kind::Text,
                "Name of IV generator algorithm",
            ),
            OptionSpec::new(
                concat!($prefix, "ivgen-hash-alg"),
                Kind::Text,
                "Name of IV generator hash algorithm",
            ),
            OptionSpec::new(
                concat!($prefix, "hash-alg"),
                Kind::Text,
                "Name of encryption hash algorithm",
            ),
            OptionSpec::new(
                concat!($prefix, "iter-time"),
                Kind::Number,
                "Time to spend in PBKDF in milliseconds",
            ),
        ]
    };
}

/// The options for the format `luks`.
pub const OPTIONS: [OptionSpec; 6] = luks_options!("");

/// The options for formats with an inner LUKS header.
pub const ENCRYPT_OPTIONS: [OptionSpec; 6] = luks_options!("encrypt.");

/// The options of a new header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LuksOptions {
    pub(super) spec: CipherSpec,
    /// The hash that was given for the IV generator, even if that has none.
    pub(super) vectors_hash: Option<HashAlgorithm>,
    pub(super) hash: HashAlgorithm,
    /// The time for deriving a key from a password, in milliseconds.
    pub(super) iter_time: u64,
}

impl Default for LuksOptions {
    fn default() -> Self {
        Self {
            spec: CipherSpec {
                algorithm: CipherAlgorithm::Aes256,
                mode: CipherMode::Xts,
                vectors: IvGenerator::Plain64,
            },
            vectors_hash: None,
            hash: HashAlgorithm::Sha256,
            iter_time: ITER_TIME,
        }
    }
}

impl LuksOptions {
    /// Reads the options whose names begin with `prefix`.
    ///
    /// # Errors
    /// Returns an error, in QEMU's words, if there is no such cipher, or if this version doesn't have it.
    pub fn of(values: &Values, prefix: &str) -> Result<Self> {
        let mut options = Self::default();
        let text = |name: &str| values.text(&format!("{prefix}{name}"));
        if let Some(name) = text("cipher-alg") {
            let mut all = CipherAlgorithm::ALL.into_iter();
            options.spec.algorithm = match all.find(|known| known.name() == name) {
                Some(known) => known,
                None if OTHER_CIPHERS.contains(&name) => {
                    return Err(Error::unsupported(format!(
                        "Algorithm '{name}' not supported"
                    )));
                }
                None => return Err(not_accepted("cipher-alg", name)),
            };
        }
        if let Some(name) = text("cipher-mode") {
            let mut all = CipherMode::ALL.into_iter();
            let known = all.find(|known| known.name() == name);
            options.spec.mode = known.ok_or_else(|| not_accepted("cipher-mode", name))?;
        }
        let hash = |option: &str| match text(option) {
            None => Ok(None),
            Some(name) => match HashAlgorithm::from_name(name) {
                Some(hash) => Ok(Some(hash)),
                None => Err(not_accepted(option, name)),
            },
        };
        options.vectors_hash = hash("ivgen-hash-alg")?;
        options.spec.vectors = match text("ivgen-alg") {
            None | Some("plain64") => IvGenerator::Plain64,
            Some("plain") => IvGenerator::Plain,
            Some("essiv") => {
                IvGenerator::Essiv(options.vectors_hash.unwrap_or(HashAlgorithm::Sha256))
            }
            Some(other) => return Err(not_accepted("ivgen-alg", other)),
        };
        options.hash = hash("hash-alg")?.unwrap_or(options.hash);
        if let Some(time) = values.number(&format!("{prefix}iter-time")) {
            options.iter_time = time;
        }
        options.spec.check()?;
        Ok(options)
    }

    /// Returns the name of the mode and the IV generator in the header.
    pub(super) fn mode_text(&self) -> String {
        match (self.spec.vectors, self.vectors_hash) {
            (IvGenerator::Essiv(_), _) | (_, None) => mode_text(&self.spec),
            // The IV generator ignores the hash, but QEMU writes it.
            (_, Some(hash)) => format!("{}:{}", mode_text(&self.spec), hash.name()),
        }
    }
}
