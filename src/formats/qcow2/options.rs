//! The options of qcow2 images as data, and their interpretation.
//!
//! They are checked in QEMU's order, so that of several errors the same one is reported.

use std::os::unix::ffi::OsStrExt as _;

use super::create_options::NewQcow2Options;
use super::header::{CompressionType, Version};
use crate::error::{Error, Result};
use crate::formats::driver::Backing;
use crate::formats::encryption::EncryptionFormat;
use crate::formats::encryption::luks::{self, LuksOptions};
use crate::formats::{Preallocation, foreign};
use crate::options::values::not_accepted;
use crate::options::{Kind, OptionSpec, Values};

// These options apply to new images and to amendments.
pub(super) const SIZE: OptionSpec = OptionSpec::new("size", Kind::Size, "Virtual disk size");
pub(super) const COMPAT: OptionSpec = OptionSpec::new(
    "compat",
    Kind::Text,
    "Compatibility level (v2 [0.10] or v3 [1.1])",
);
pub(super) const BACKING_FILE: OptionSpec =
    OptionSpec::new("backing_file", Kind::Text, "File name of a base image");
pub(super) const BACKING_FMT: OptionSpec =
    OptionSpec::new("backing_fmt", Kind::Text, "Image format of the base image");
pub(super) const DATA_FILE: OptionSpec = OptionSpec::new(
    "data_file",
    Kind::Text,
    "File name of an external data file",
);
pub(super) const DATA_FILE_RAW: OptionSpec = OptionSpec::new(
    "data_file_raw",
    Kind::Switch,
    "The external data file must stay valid as a raw image",
);
pub(super) const LAZY_REFCOUNTS: OptionSpec =
    OptionSpec::new("lazy_refcounts", Kind::Switch, "Postpone refcount updates");
pub(super) const REFCOUNT_BITS: OptionSpec = OptionSpec::new(
    "refcount_bits",
    Kind::Number,
    "Width of a reference count entry in bits",
);

/// The options of a new image.
pub(super) const CREATE_OPTIONS: &[OptionSpec] = &[
    OptionSpec::new(
        "encryption",
        Kind::Switch,
        "Encrypt the image with format 'aes'. (Deprecated in favor of encrypt.format=aes)",
    ),
    OptionSpec::new(
        "encrypt.format",
        Kind::Text,
        "Encrypt the image, format choices: 'aes', 'luks'",
    ),
    OptionSpec::new(
        "encrypt.key-secret",
        Kind::Text,
        "ID of secret providing qcow AES key or LUKS passphrase",
    ),
    luks::ENCRYPT_OPTIONS[0],
    luks::ENCRYPT_OPTIONS[1],
    luks::ENCRYPT_OPTIONS[2],
    luks::ENCRYPT_OPTIONS[3],
    luks::ENCRYPT_OPTIONS[4],
    luks::ENCRYPT_OPTIONS[5],
    OptionSpec::new("cluster_size", Kind::Size, "qcow2 cluster size").with_default("65536"),
    OptionSpec::new("extended_l2", Kind::Switch, "Extended L2 tables").with_default("off"),
    OptionSpec::new(
        "preallocation",
        Kind::Text,
        "Preallocation mode (allowed values: off, metadata, falloc, full)",
    ),
    OptionSpec::new(
        "compression_type",
        Kind::Text,
        "Compression method used for image cluster compression",
    )
    .with_default("zlib"),
    SIZE,
    COMPAT,
    BACKING_FILE,
    BACKING_FMT,
    DATA_FILE,
    DATA_FILE_RAW,
    LAZY_REFCOUNTS.with_default("off"),
    REFCOUNT_BITS.with_default("16"),
];

/// The options of a node. Most set the memory for caches of tables, or the checks for overlapping writes. They have
/// no effect here, but are checked as QEMU checks them, so that errors in scripts are reported.
pub(super) const OPEN_OPTIONS: &[OptionSpec] = &[
    // These have no effect here.
    OptionSpec::new("discard-no-unref", Kind::Switch, "No effect"),
    OptionSpec::new("lazy-refcounts", Kind::Switch, "No effect"),
    OptionSpec::new("pass-discard-other", Kind::Switch, "No effect"),
    OptionSpec::new("pass-discard-request", Kind::Switch, "No effect"),
    OptionSpec::new("pass-discard-snapshot", Kind::Switch, "No effect"),
    OptionSpec::new(
        "cache-size",
        Kind::Size,
        "Memory for L2 tables and refcount blocks",
    ),
    OptionSpec::new("l2-cache-size", Kind::Size, "Memory for L2 tables"),
    OptionSpec::new(
        "refcount-cache-size",
        Kind::Size,
        "Memory for refcount blocks",
    ),
    OptionSpec::new(
        "l2-cache-entry-size",
        Kind::Size,
        "How much of an L2 table is cached at a time",
    ),
    OptionSpec::new(
        "cache-clean-interval",
        Kind::Size,
        "Seconds after which tables are forgotten",
    ),
    OptionSpec::new(
        "overlap-check",
        Kind::Text,
        "Metadata that writes are held against",
    ),
    OptionSpec::new("overlap-check.template", Kind::Text, "The same"),
    OptionSpec::new("overlap-check.active-l1", Kind::Switch, "No effect"),
    OptionSpec::new("overlap-check.active-l2", Kind::Switch, "No effect"),
    OptionSpec::new("overlap-check.bitmap-directory", Kind::Switch, "No effect"),
    OptionSpec::new("overlap-check.inactive-l1", Kind::Switch, "No effect"),
    OptionSpec::new("overlap-check.inactive-l2", Kind::Switch, "No effect"),
    OptionSpec::new("overlap-check.main-header", Kind::Switch, "No effect"),
    OptionSpec::new("overlap-check.refcount-block", Kind::Switch, "No effect"),
    OptionSpec::new("overlap-check.refcount-table", Kind::Switch, "No effect"),
    OptionSpec::new("overlap-check.snapshot-table", Kind::Switch, "No effect"),
    OptionSpec::new(
        "encrypt.format",
        Kind::Text,
        "Encryption format, which must be the image's",
    ),
    OptionSpec::new(
        "encrypt.key-secret",
        Kind::Text,
        "ID of the secret with the password",
    ),
];

/// The sets of metadata structures against which QEMU can check writes.
const OVERLAP_TEMPLATES: [&str; 4] = ["none", "constant", "cached", "all"];

/// Checks the options of a node as far as that is possible without an image.
///
/// # Errors
/// Returns an error if a value is invalid, or if options exclude each other.
pub(super) fn check_open_options(values: &Values) -> Result<()> {
    check_cache_sizes(values)?;
    check_overlap_checks(values)?;
    match values.text("encrypt.format") {
        None | Some("aes" | "luks") => Ok(()),
        Some(other) => Err(not_accepted("encrypt.format", other)),
    }
}

fn check_cache_sizes(values: &Values) -> Result<()> {
    let [both, l2, refcounts, interval] = [
        "cache-size",
        "l2-cache-size",
        "refcount-cache-size",
        "cache-clean-interval",
    ]
    .map(|name| values.number(name));
    let exceeds = |part: Option<u64>| both.zip(part).is_some_and(|(both, part)| part > both);
    let mistake = if both.is_some() && l2.is_some() && refcounts.is_some() {
        "cache-size, l2-cache-size and refcount-cache-size may not be set at the same time"
    } else if exceeds(l2) {
        "l2-cache-size may not exceed cache-size"
    } else if exceeds(refcounts) {
        "refcount-cache-size may not exceed cache-size"
    } else if interval.is_some_and(|interval| u32::try_from(interval).is_err()) {
        "Cache clean interval too big"
    } else {
        return Ok(());
    };
    Err(Error::invalid(mistake))
}

fn check_overlap_checks(values: &Values) -> Result<()> {
    let [short, long] = ["overlap-check", "overlap-check.template"].map(|name| values.text(name));
    if let (Some(short), Some(long)) = (short, long)
        && short != long
    {
        return Err(Error::invalid(format!(
            "Conflicting values for qcow2 options 'overlap-check' ('{short}') and \
             'overlap-check.template' ('{long}')"
        )));
    }
    match short.or(long) {
        Some(name) if !OVERLAP_TEMPLATES.contains(&name) => Err(Error::invalid(format!(
            "Unsupported value '{name}' for qcow2 option 'overlap-check'. Allowed are any of the \
             following: {}",
            OVERLAP_TEMPLATES.join(", ")
        ))),
        _ => Ok(()),
    }
}

impl NewQcow2Options {
    /// Reads the options of a new image except for its size.
    ///
    /// # Errors
    /// Returns an error, in `qemu-img`'s words, if a value is out of range or if options exclude each other.
    pub fn of(values: &Values) -> Result<Self> {
        let mut options = Self::new(0);
        if values.text("encrypt.format").is_some() && alias_of_encryption(values).is_some() {
            return Err(Error::invalid(
                "'encrypt.format' and its alias 'encryption' can't be used at the same time",
            ));
        }
        if let Some(size) = values.number("cluster_size") {
            options.cluster_size = size;
        }
        options.version = match values.text("compat") {
            None | Some("1.1" | "v3") => Version::V3,
            Some("0.10" | "v2") => Version::V2,
            Some(other) => return Err(not_accepted("version", other)),
        };
        if let Some(format) = values.text("backing_fmt")
            && !foreign::QEMU_DRIVERS.contains(&format)
        {
            return Err(not_accepted("backing-fmt", format));
        }
        options.encryption = encryption(values)?;
        if options.encryption == Some(EncryptionFormat::Luks) {
            options.luks = LuksOptions::of(values, "encrypt.")?;
        }
        preallocation(values)?;
        options.lazy_refcounts = values.switch("lazy_refcounts") == Some(true);
        options.compression = match values.text("compression_type") {
            None | Some("zlib") => CompressionType::Zlib,
            Some("zstd") => CompressionType::Zstd,
            Some(other) => return Err(not_accepted("compression-type", other)),
        };
        if let Some(bits) = values.text("refcount_bits") {
            options.refcount_bits = bits.parse().unwrap_or(u64::MAX);
        }
        options.backing = Backing::of(values)?;
        options.extended_l2 = values.switch("extended_l2") == Some(true);
        let data_file = values.name("data_file");
        options.data_file = data_file.map(|name| name.as_bytes().to_vec());
        options.data_file_raw = values.switch("data_file_raw") == Some(true);
        Ok(options)
    }
}

/// Reads the preallocation mode of a new image.
///
/// # Errors
/// Returns an error if there is no mode with that name.
pub(super) fn preallocation(values: &Values) -> Result<Preallocation> {
    match values.text("preallocation") {
        None => Ok(Preallocation::Off),
        Some(name) => {
            Preallocation::from_name(name).ok_or_else(|| not_accepted("preallocation", name))
        }
    }
}

/// Returns the value of `encryption` as the user wrote it, unless it is `off`. QEMU accepts only `on` and `off` here,
/// unlike for other switches.
fn alias_of_encryption(values: &Values) -> Option<&str> {
    let given = values.as_written("encryption")?;
    Some(given).filter(|given| *given != "off")
}

fn encryption(values: &Values) -> Result<Option<EncryptionFormat>> {
    let luks_only = || {
        let mut names = luks::ENCRYPT_OPTIONS.iter().map(|spec| spec.name);
        names.find(|name| values.as_written(name).is_some())
    };
    match (values.text("encrypt.format"), alias_of_encryption(values)) {
        (Some("aes" | "qcow"), _) | (None, Some("on")) => match luks_only() {
            Some(name) => Err(Error::invalid(format!("Parameter '{name}' is unexpected"))),
            None => Ok(Some(EncryptionFormat::Aes)),
        },
        (Some("luks"), _) => Ok(Some(EncryptionFormat::Luks)),
        (Some(other), _) | (None, Some(other)) => Err(not_accepted("format", other)),
        (None, None) if values.text("encrypt.key-secret").is_some() || luks_only().is_some() => {
            Err(Error::invalid("Parameter 'encrypt.format' is missing"))
        }
        (None, None) => Ok(None),
    }
}

#[cfg(test)]
mod tests {
    use std::ffi::{OsStr, OsString};

    use super::*;

    fn values_of(lists: &[OsString]) -> Result<Values> {
        Values::of_lists(&[CREATE_OPTIONS], lists)
    }

    fn values(list: &str) -> Result<Values> {
        values_of(&[list.into()])
    }

    fn options(list: &str) -> Result<NewQcow2Options> {
        NewQcow2Options::of(&values(list)?)
    }

    fn line(values: &Values) -> String {
        String::from_utf8(values.formatting_line(OsStr::new("x"), "qcow2")).unwrap()
    }

    #[test]
    fn names_have_any_bytes() {
        let list = OsStr::from_bytes(b"data_file=\xff,,\x1b").to_owned();
        let values = values_of(&[list]).unwrap();
        let typed = NewQcow2Options::of(&values).unwrap();
        assert_eq!(typed.data_file.unwrap(), b"\xff,\x1b");
        let line = values.formatting_line(OsStr::from_bytes(b"\xfe\x1b"), "qcow2");
        assert!(line.starts_with(b"Formatting '\xfe\\u{1b}', fmt=qcow2 "));
        let shown = b" data_file=\xff,,\x1b ";
        assert!(line.windows(shown.len()).any(|part| part == shown));
    }

    #[test]
    fn formatting_line_has_given_options_and_defaults_in_order() {
        let mut values = values("compat=v3,encryption,encrypt.key-secret=a,,b").unwrap();
        values.set_size(1_048_576);
        assert_eq!(
            line(&values),
            "Formatting 'x', fmt=qcow2 encryption=on encrypt.key-secret=a,,b cluster_size=65536 \
             extended_l2=off compression_type=zlib size=1048576 compat=v3 lazy_refcounts=off \
             refcount_bits=16"
        );
    }

    #[test]
    fn values_are_shown_as_qemu_img_shows_them() {
        let line = |list: &str| line(&values(list).unwrap());
        for (list, shown) in [
            ("lazy_refcounts=yes", "lazy_refcounts=yes"),
            ("extended_l2", "extended_l2=on"),
            ("cluster_size=0x1000", "cluster_size=4096"),
            ("refcount_bits=0x10", "refcount_bits=16"),
            ("refcount_bits=020", "refcount_bits=16"),
            ("refcount_bits=-18446744073709551608", "refcount_bits=8"),
            ("refcount_bits=-1", "refcount_bits=-1"),
        ] {
            assert!(line(list).contains(shown), "{}", line(list));
        }
        assert!(options("lazy_refcounts=y").unwrap().lazy_refcounts);
        for bits in ["4294967312", "-1"] {
            let options = options(&format!("refcount_bits={bits}")).unwrap();
            assert!(options.check().is_err(), "{bits}");
        }
    }

    #[test]
    fn the_last_of_repeated_options_counts() {
        let values = values_of(&["cluster_size=512".into(), "cluster_size=4k".into()]).unwrap();
        assert_eq!(NewQcow2Options::of(&values).unwrap().cluster_size, 4096);
    }

    #[test]
    fn mistakes_are_named() {
        for (list, message) in [
            ("foo=1", "Invalid parameter 'foo'"),
            (
                "lazy_refcounts=maybe",
                "'lazy_refcounts' expects 'on' or 'off'",
            ),
            (
                "cluster_size=abc",
                "'cluster_size' expects a non-negative number",
            ),
            ("compat=7", "Parameter 'version' does not accept value '7'"),
            ("encrypt.format=foo", "'format' does not accept value 'foo'"),
            ("encryption=yes", "'format' does not accept value 'yes'"),
            ("encryption=n", "'format' does not accept value 'n'"),
            (
                "backing_fmt=nope",
                "'backing-fmt' does not accept value 'nope'",
            ),
            (
                "encrypt.key-secret=s",
                "Parameter 'encrypt.format' is missing",
            ),
            (
                "encryption,encrypt.format=aes",
                "can't be used at the same time",
            ),
            (
                "backing_fmt=raw",
                "Backing format cannot be used without backing file",
            ),
        ] {
            let text = options(list).unwrap_err().to_string();
            assert!(text.contains(message), "{list}: {text}");
        }
    }
}
