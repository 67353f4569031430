//! `amend`: other options for an image in use.
//!
//! Options are looked at in the order in which QEMU looks at them, and all that can be refused is refused before
//! anything is written.

use super::header::{Header, Version, features, fields};
use super::options::{
    BACKING_FILE, BACKING_FMT, COMPAT, DATA_FILE, DATA_FILE_RAW, LAZY_REFCOUNTS, REFCOUNT_BITS,
    SIZE,
};
use super::write::refuse_corrupt;
use crate::error::{Error, Result};
use crate::formats::Amend;
use crate::formats::driver::WriteParts;
use crate::formats::encryption::EncryptionFormat;
use crate::formats::encryption::luks::{ENCRYPT_SLOT_OPTIONS, LuksHeader, SlotChange};
use crate::formats::encryption::missing_secret;
use crate::options::OptionSpec;
use crate::storage::Storage;

/// The options that can be named.
pub(super) const AMEND_OPTIONS: &[OptionSpec] = &[
    ENCRYPT_SLOT_OPTIONS[0],
    ENCRYPT_SLOT_OPTIONS[1],
    ENCRYPT_SLOT_OPTIONS[2],
    ENCRYPT_SLOT_OPTIONS[3],
    ENCRYPT_SLOT_OPTIONS[4],
    SIZE,
    COMPAT,
    BACKING_FILE,
    BACKING_FMT,
    DATA_FILE,
    DATA_FILE_RAW,
    LAZY_REFCOUNTS,
    REFCOUNT_BITS,
];

/// An image whose options change.
pub(super) struct Amended<'a> {
    pub(super) storage: &'a dyn Storage,
    pub(super) header: &'a Header,
    pub(super) luks: Option<&'a LuksHeader>,
}

/// Gives an image other options.
///
/// # Errors
/// Returns an error in QEMU's words if an option can't be had, or if this version can't change it: nothing was
/// written then. Returns the system's error.
pub(super) fn amend(file: &Amended<'_>, parts: &WriteParts<'_>, amend: &Amend<'_>) -> Result<()> {
    refuse_corrupt(file.header)?;
    check_fixed(file, amend)?;
    let slots = SlotChange::of(amend.options, "encrypt.", amend.secret)?;
    let lazy = lazy_refcounts(file, amend)?;
    if let Some(change) = slots {
        let luks = match (file.header.encryption(), file.luks) {
            (Some(EncryptionFormat::Luks), Some(luks)) => luks,
            (None, _) => {
                return Err(Error::invalid(
                    "Can't amend encryption options - encryption not present",
                ));
            }
            _ => {
                return Err(Error::invalid(
                    "Only LUKS encryption options can be amended",
                ));
            }
        };
        let secret = parts.secret.ok_or_else(missing_secret)?;
        luks.change_slots(change, secret, amend.force)?;
    }
    if let Some(compatible) = lazy {
        fields::set_compatible(file.storage, compatible)?;
        file.storage.flush()?;
    }
    Ok(())
}

/// Refuses other values of what stays as it is.
fn check_fixed(file: &Amended<'_>, amend: &Amend<'_>) -> Result<()> {
    let header = file.header;
    let options = amend.options;
    let version = match options.text("compat") {
        None => header.version(),
        Some("0.10" | "v2") => Version::V2,
        Some("1.1" | "v3") => Version::V3,
        Some(other) => {
            return Err(Error::invalid(format!(
                "Unknown compatibility level {other}"
            )));
        }
    };
    if options.name("backing_file").is_some() || options.text("backing_fmt").is_some() {
        return Err(Error::invalid("Cannot amend the backing file")
            .with_hint("You can use 'qemu-img rebase' instead."));
    }
    let bits = options.number("refcount_bits");
    if bits.is_some_and(|bits| !bits.is_power_of_two() || bits > 64) {
        return Err(Error::invalid(
            "Refcount width must be a power of two and may not exceed 64 bits",
        ));
    }
    let has_data_file = header.has_incompatible(features::DATA_FILE);
    if options.name("data_file").is_some() && !has_data_file {
        return Err(Error::invalid(
            "data-file can only be set for images that use an external data file",
        ));
    }
    let is_raw = header.has_autoclear(features::DATA_FILE_RAW);
    if options.switch("data_file_raw") == Some(true) && !is_raw {
        return Err(Error::invalid(
            "data-file-raw cannot be set on existing images",
        ));
    }
    let same_bits = bits.is_none_or(|bits| bits == u64::from(header.geometry().refcount_bits()));
    let same_size = options
        .number("size")
        .is_none_or(|size| size == header.size());
    for (stays, option) in [
        (version == header.version(), "compat"),
        (same_bits, "refcount_bits"),
        (options.name("data_file").is_none(), "data_file"),
        (
            options
                .switch("data_file_raw")
                .is_none_or(|raw| raw == is_raw),
            "data_file_raw",
        ),
        (same_size, "size"),
    ] {
        if !stays {
            return Err(Error::unsupported(format!(
                "this version doesn't change '{option}' of an image"
            )));
        }
    }
    Ok(())
}

/// Returns the compatible features with lazy refcounts as they are wished for; `None` if they are so already.
fn lazy_refcounts(file: &Amended<'_>, amend: &Amend<'_>) -> Result<Option<u64>> {
    let header = file.header;
    let Some(lazy) = amend.options.switch("lazy_refcounts") else {
        return Ok(None);
    };
    if lazy && header.version() == Version::V2 {
        return Err(Error::invalid(
            "Lazy refcounts only supported with compatibility level 1.1 and above (use compat=1.1 or \
             greater)",
        ));
    }
    if lazy == header.has_compatible(features::LAZY_REFCOUNTS) {
        return Ok(None);
    }
    // Refcounts of an image that was left dirty would never be put right.
    if header.has_incompatible(features::DIRTY) {
        return Err(Error::invalid(
            "the image was not closed, and its refcounts are out of date; repair it first (check -r all)",
        ));
    }
    let other = header.compatible() & !features::LAZY_REFCOUNTS;
    Ok(Some(match lazy {
        true => other | features::LAZY_REFCOUNTS,
        false => other,
    }))
}
