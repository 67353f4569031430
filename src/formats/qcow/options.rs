//! The options of a new image, and their interpretation.

use crate::error::{Error, Result};
use crate::options::values::not_accepted;
use crate::options::{Kind, OptionSpec, Values};

/// The options of a new image.
pub(super) const CREATE_OPTIONS: &[OptionSpec] = &[
    OptionSpec::new("size", Kind::Size, "Virtual disk size"),
    OptionSpec::new("backing_file", Kind::Text, "File name of a base image"),
    OptionSpec::new("backing_fmt", Kind::Text, "Format of the backing image"),
    OptionSpec::new(
        "encryption",
        Kind::Switch,
        "Encrypt the image with format 'aes'. (Deprecated in favor of encrypt.format=aes)",
    ),
    OptionSpec::new(
        "encrypt.format",
        Kind::Text,
        "Encrypt the image, format choices: 'aes'",
    ),
    OptionSpec::new(
        "encrypt.key-secret",
        Kind::Text,
        "ID of the secret that provides the AES encryption key",
    ),
];

/// Returns true if the options require an encrypted image.
///
/// # Errors
/// Returns an error, in QEMU's words, if they contradict each other, or require another encryption.
pub(super) fn is_encrypted(values: &Values) -> Result<bool> {
    let alias = values
        .as_written("encryption")
        .filter(|given| *given != "off");
    match (values.text("encrypt.format"), alias) {
        (Some(_), Some(_)) => Err(Error::invalid(
            "'encrypt.format' and its alias 'encryption' can't be used at the same time",
        )),
        (Some("aes" | "qcow"), None) | (None, Some("on")) => Ok(true),
        (Some("luks"), None) => Err(Error::unsupported("Unsupported encryption format")),
        (Some(other), None) | (None, Some(other)) => Err(not_accepted("format", other)),
        (None, None) if values.text("encrypt.key-secret").is_some() => {
            Err(Error::invalid("Parameter 'encrypt.format' is missing"))
        }
        (None, None) => Ok(false),
    }
}
