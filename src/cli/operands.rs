//! The interpretation of operands and options that several subcommands have.

use std::ffi::{OsStr, OsString};
use std::ops::RangeInclusive;

use anyhow::anyhow;

use super::args::CommonArgs;
use super::chosen_format::{ChosenFormat, formats_with, has_option};
use super::{Failure, print, warn_in_capitals, warn_of_short, warn_with_help};
use crate::commands::{Driver, Existing, Purpose, Sharing, Target};
use crate::crypto::Secrets;
use crate::error::Error;
use crate::formats::Format;
use crate::formats::encryption::EncryptionFormat;
use crate::nodes::{Names, Node, file_name, image_name};
use crate::options::{Values, list, similar, spec};
use crate::storage::CacheMode;
use crate::units::{SizeError, parse_size};

/// The format of a report.
#[derive(PartialEq, Eq)]
pub(super) enum Output {
    /// Text for people.
    Human,
    /// QEMU's JSON.
    Json,
}

/// Returns the format that `--output` names.
pub(super) fn output(value: &str) -> Result<Output, Failure> {
    match value {
        "human" => Ok(Output::Human),
        "json" => Ok(Output::Json),
        other => Err(Failure::Usage(format!(
            "--output expects 'human' or 'json' not '{other}'"
        ))),
    }
}

/// Returns the cache mode that an option names.
pub(super) fn cache(name: &str, complaint: &str) -> Result<CacheMode, Failure> {
    CacheMode::from_name(name).ok_or_else(|| {
        let error = Error::invalid(format!("{complaint}: {name}"));
        let known = CacheMode::NAMES.join(", ");
        error
            .with_hint(format!("The cache modes are {known}"))
            .into()
    })
}

/// Returns the operand, if there is exactly one.
pub(super) fn one_operand(operands: &[OsString]) -> Result<&OsStr, Failure> {
    match operands {
        [operand] => Ok(operand),
        _ => Err(Failure::Usage("Expecting one image file name".into())),
    }
}

/// Parses a size in bytes of an option or operand, which messages call `what`.
pub(super) fn size(text: &str, what: &str) -> Result<u64, Failure> {
    size_between(text, what, 0, MOST)
}

/// Parses a size as [`size`] does, from `least` to `most`.
pub(super) fn size_between(text: &str, what: &str, least: u64, most: u64) -> Result<u64, Failure> {
    // The text may be one like `10GB` or `1,5G`.
    let help = "A size is a number of bytes, or has one of the suffixes k, M, G, T, P and E (powers of 1024), as in 1.5G.";
    between(parse_size(text), text, what, least..=most, Some(help))
}

/// Parses the size of a new image, which follows its name.
pub(super) fn size_after_name(name: &OsStr, text: &str) -> Result<u64, Failure> {
    if is_size(name) && parse_size(text) == Err(SizeError::Malformed) {
        let error = Error::invalid(format!("Invalid image size specified: '{text}'."));
        return Err(error.with_hint(order_of_size(name, text)).into());
    }
    size(text, "image size")
}

/// Returns true if an operand is a size or a difference of sizes, and not the name of an image.
pub(super) fn is_size(operand: &OsStr) -> bool {
    let text = operand.to_string_lossy();
    parse_size(text.trim_start_matches(['+', '-'])).is_ok()
}

/// Returns a line of help on the order of an image's name and its size. `first` may be the size.
pub(super) fn order_of_size(first: &OsStr, second: &str) -> String {
    let first = first.display();
    match is_size(OsStr::new(&first.to_string())) {
        true => format!("The size follows the name of the image: '{second} {first}'"),
        false => format!("The size follows the name of the image: '{first} SIZE'"),
    }
}

/// Parses a whole number of an operand in C's syntax, without a suffix.
pub(super) fn number(text: &str, what: &str) -> Result<u64, Failure> {
    number_between(text, what, 0, MOST)
}

/// Parses a number as [`number`] does, from `least` to `most`.
pub(super) fn number_between(
    text: &str,
    what: &str,
    least: u64,
    most: u64,
) -> Result<u64, Failure> {
    between(list::parse_number(text), text, what, least..=most, None)
}

/// The largest number of an option without another limit.
const MOST: u64 = i64::MAX.cast_unsigned();

/// Returns a number that is in range. `help` is the hint for text that isn't a number.
fn between(
    parsed: Result<u64, SizeError>,
    text: &str,
    what: &str,
    range: RangeInclusive<u64>,
    help: Option<&str>,
) -> Result<u64, Failure> {
    let (least, most) = (range.start(), range.end());
    match parsed {
        Ok(size) if range.contains(&size) => Ok(size),
        Ok(_) | Err(SizeError::OutOfRange) => {
            Err(anyhow!("Invalid {what} specified. Must be between {least} and {most}.").into())
        }
        Err(SizeError::Malformed) => {
            let error = Error::invalid(format!("Invalid {what} specified: '{text}'."));
            Err(error.with_hints(help.map(str::to_owned)).into())
        }
    }
}

/// The policy by which all names found inside images are followed.
pub(super) const FOLLOW: Names = Names::Follow(warn_with_help);

/// Returns the policy for names found inside images: they aren't followed with `--untrusted`.
pub(super) fn names(args: &CommonArgs) -> Names {
    if args.untrusted {
        Names::Refuse
    } else {
        FOLLOW
    }
}

/// Returns the format of that name.
///
/// # Errors
/// Returns an error if this version doesn't have it.
pub(super) fn format(name: &str) -> crate::error::Result<Format> {
    Format::from_name(name).ok_or_else(|| unknown_format(name))
}

/// Returns the format or driver of that name, for an image that is written.
///
/// # Errors
/// Returns an error if this version doesn't have it.
pub(super) fn driver(name: &str) -> crate::error::Result<Driver> {
    Driver::from_name(name).ok_or_else(|| unknown_format(name))
}

fn unknown_format(name: &str) -> Error {
    unknown_format_in(&format!("Unknown file format '{name}'"), name)
}

/// Returns the error for an unknown format, with a message and a hint at the formats of new images.
pub(super) fn unknown_format_in(message: &str, name: &str) -> Error {
    Error::invalid(message).with_hint(similar::format(name, formats_with(|_| true)))
}

/// Checks the name of an encryption format for a new image.
///
/// # Errors
/// Returns an error if there is none of that name, for example because the name of an image was given instead.
pub(super) fn encryption(name: &str) -> Result<(), Failure> {
    let formats = EncryptionFormat::ALL.map(EncryptionFormat::name);
    if formats.contains(&name) {
        return Ok(());
    }
    let known = formats.join(" and ");
    Err(
        anyhow!("--encrypt does not accept value '{name}': the formats of encryption are {known}")
            .into(),
    )
}

/// Parses the option string of an existing image. Returns its node, and the name that `info` shows. Warns of short
/// forms.
///
/// # Errors
/// Returns the errors of [`image_name::by_options`].
pub(super) fn by_options<'a>(
    text: &OsStr,
    secrets: &'a Secrets,
) -> crate::error::Result<(Node<'a>, String)> {
    warn_of_short(text, Some("file"));
    image_name::by_options(text, secrets, warn_with_help)
}

/// Returns the node of the image that an operand names, and the name that `info` shows.
pub(super) fn source<'a>(
    operand: &OsStr,
    format: Option<&str>,
    image_opts: bool,
    secrets: &'a Secrets,
) -> Result<(Node<'a>, String), Failure> {
    let (mut source, shown) = if !image_opts {
        image_name::by_name(operand, format, secrets, warn_with_help)?
    } else if format.is_some() {
        return Err(anyhow!("--image-opts and --format are mutually exclusive").into());
    } else {
        by_options(operand, secrets)?
    };
    source.policy.warn = warn_with_help;
    Ok((source, shown))
}

/// Returns the node of the image that an operand names and that will be changed. Warns if no format is given and the
/// image was probed as raw.
pub(super) fn source_to_change<'a>(
    operand: &OsStr,
    format: Option<&str>,
    image_opts: bool,
    secrets: &'a Secrets,
) -> Result<Node<'a>, Failure> {
    let (source, _) = source(operand, format, image_opts, secrets)?;
    // As in QEMU, the reasons against a change are found before anything else.
    let opened = source.open_file(Purpose::Change)?;
    if source.format.is_none() {
        warn_of_guess(&source, opened.format);
    }
    Ok(source)
}

/// Prints help and returns true if one of the lists of `-o` asks for it. The help has the options of the format, and
/// with a name also those of its file.
pub(super) fn helped(
    format: &str,
    name: Option<&OsStr>,
    lists: &[OsString],
) -> Result<bool, Failure> {
    if !lists.iter().any(list::asks_for_help) {
        return Ok(false);
    }
    let driver = driver(format)?;
    driver.check_creates()?;
    name.map(file_name::file).transpose()?;
    print(&help(driver, name.is_some()))?;
    Ok(true)
}

/// Returns the text of `-o help`. As in `qemu-img`, it has no options of the file without a file's name.
pub(super) fn help(driver: Driver, has_name: bool) -> String {
    let [own, of_file] = driver.create_options();
    if has_name {
        let lines = spec::help_lines(&[own, of_file]);
        return format!("Supported options:\n{lines}");
    }
    format!(
        "Supported {} options:\n{}\nThe protocol level may support further options.\n\
         Specify the target filename to include those options.\n",
        driver.name(),
        spec::help_lines(&[own])
    )
}

/// Parses the lists of `-o`.
pub(super) fn target_options(
    driver: Driver,
    lists: &[OsString],
    encrypt: Option<&str>,
    chosen: ChosenFormat<'_>,
) -> crate::error::Result<Values> {
    let mut options = Values::of_lists(&driver.create_options(), lists)
        .map_err(|error| chosen.with_options(error, driver, lists))?;
    if let Some(encryption) = encrypt {
        if !options.knows("encrypt.format") {
            let message = format!("format '{}' can't be encrypted", driver.name());
            return Err(chosen.refuse(message, |format| has_option(format, "encrypt.format")));
        }
        options.set("encrypt.format", encryption.to_owned());
    }
    Ok(options)
}

/// Sets the backing file and its format, as `-b` and `-F` do.
///
/// # Errors
/// Returns an error if the format has no backing files.
pub(super) fn set_backing(
    options: &mut Values,
    driver: Driver,
    file: Option<&OsStr>,
    format: Option<&str>,
    chosen: ChosenFormat<'_>,
) -> crate::error::Result<()> {
    for (key, value, what) in [
        ("backing_file", file, "Backing file"),
        ("backing_fmt", format.map(OsStr::new), "Backing file format"),
    ] {
        let Some(value) = value else { continue };
        if !options.knows(key) {
            let message = format!("{what} not supported for file format '{}'", driver.name());
            return Err(chosen.refuse(message, |format| has_option(format, key)));
        }
        options.set(key, value);
    }
    Ok(())
}

/// Returns the description of a new image.
pub(super) fn target<'a>(
    operand: &OsStr,
    driver: Driver,
    options: Values,
    secrets: &'a Secrets,
    cache: CacheMode,
) -> crate::error::Result<Target<'a>> {
    Ok(Target {
        path: file_name::new_file(operand)?,
        name: operand.to_string_lossy().into_owned(),
        driver,
        secrets,
        options,
        backing_purpose: Some(Purpose::Read),
        align: None,
        compressed: false,
        cache,
        existing: None,
        names: FOLLOW,
        names_below: FOLLOW,
    })
}

/// Returns the description of an existing image that will be overwritten. It is named in the way of sources.
pub(super) fn existing_target<'a>(
    operand: &OsStr,
    format_name: &str,
    image_opts: bool,
    secrets: &'a Secrets,
    cache: CacheMode,
) -> Result<Target<'a>, Failure> {
    let (source, _) = if image_opts {
        by_options(operand, secrets)?
    } else {
        image_name::by_name(operand, Some(format_name), secrets, warn_with_help)?
    };
    if source.sharing == Sharing::Forced {
        return Err(anyhow!(
            "Could not open '{}': force-share=on can only be used with read-only images",
            source.name
        )
        .into());
    }
    if source.is_read_only {
        return Err(anyhow!("Could not open '{}': Block node is read-only", source.name).into());
    }
    let format = match source.format {
        Some(format) => format,
        None => found_format(&source)?,
    };
    Ok(Target {
        path: source.path.clone(),
        name: source.name.clone(),
        driver: match source.protocol {
            Some(protocol) if source.is_bare => Driver::Protocol(protocol),
            _ => Driver::Format(format),
        },
        options: Values::default(),
        secrets,
        backing_purpose: Some(Purpose::Read),
        align: None,
        compressed: false,
        cache,
        existing: Some(Existing {
            is_zero: false,
            leaves_parts: false,
            guarded: source.format.is_none(),
            source,
        }),
        names: FOLLOW,
        names_below: FOLLOW,
    })
}

/// Probes the format of an image that will be written. Warns if it is raw, since that can only be a guess.
fn found_format(source: &Node<'_>) -> Result<Format, Failure> {
    let format = source.find_format()?;
    warn_of_guess(source, format);
    Ok(format)
}

/// Warns if a probed format is raw, which is only a guess.
pub(super) fn warn_of_guess(source: &Node<'_>, format: Format) {
    if format == Format::RAW {
        let name = source.path.display();
        warn_in_capitals(
            &format!("Image format was not specified for '{name}' and probing guessed raw."),
            &[
                "Automatically detecting the format is dangerous for raw images, write operations \
                 on block 0 will be restricted.",
                "Specify the 'raw' format explicitly to remove the restrictions.",
            ],
        );
    }
}
