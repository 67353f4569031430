//! The subcommand `create`: it parses its options, prints the line `Formatting '…'`, and creates the image.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt as _;
use std::process::ExitCode;

use anyhow::anyhow;
use serde::Serialize;

use super::args::CreateArgs;
use super::chosen_format::{ChosenFormat, with_values};
use super::operands::{self, Output, target, target_options};
use super::password::PasswordSource;
use super::{Done, Failure, print, print_bytes};
use crate::commands::{self, Purpose};
use crate::crypto::Secrets;
use crate::error::{Error, Result};
use crate::formats::driver::Backing;
use crate::nodes::file_name;
use crate::options::{Values, qemu_json};
use crate::storage::{CacheMode, list};

/// Runs the subcommand.
pub(super) fn run(args: &CreateArgs, secrets: &Secrets) -> Done {
    let passwords = PasswordSource::new(&args.password, args.common.quiet)?;
    let output = operands::output(&args.output.output)?;
    let name = args.operands.first();
    let format_name = args.format.as_deref().unwrap_or("raw");
    if operands::helped(format_name, name.map(OsString::as_os_str), &args.options)? {
        return Ok(ExitCode::SUCCESS);
    }
    let Some(operand) = name else {
        return Err(Failure::Usage("Expecting image file name".into()));
    };
    let size = args.operands.get(1);
    let size = size.map(|size| operands::size_after_name(operand, &size.to_string_lossy()));
    let size = size.transpose()?;
    if let Some(unexpected) = args.operands.get(2) {
        let unexpected = unexpected.to_string_lossy();
        return Err(Failure::Usage(format!("Unexpected argument: {unexpected}")));
    }
    let name = operand.to_string_lossy();
    let with_name = |error: Error| error.context(&name);
    let driver = operands::driver(format_name).map_err(with_name)?;
    driver.check_creates().map_err(with_name)?;
    let path = file_name::new_file(operand).map_err(with_name)?;
    list::check_creates(driver.protocol(), &path).map_err(with_name)?;
    let encrypt = args.encrypt.as_deref();
    let chosen = ChosenFormat {
        option: "-f",
        given: args.format.as_deref(),
    };
    let mut options = target_options(driver, &args.options, encrypt, chosen).map_err(with_name)?;
    let (backing, format) = (args.backing.as_deref(), args.backing_format.as_deref());
    operands::set_backing(&mut options, driver, backing, format, chosen).map_err(with_name)?;
    let below = backing_size(args, &options, operand).map_err(with_name)?;
    if size.is_some() && options.text("size").is_some() {
        return Err(anyhow!("{name}: The image size must be specified only once").into());
    }
    let size = match (size, options.size()) {
        (Some(size), _) | (None, Some(size)) => size,
        (None, None) if below.is_some() => below.unwrap_or(0),
        (None, None) => {
            let error = Error::invalid(format!("{name}: Image creation needs a size parameter"));
            let hint = operands::order_of_size(operand, "NAME");
            return Err(error.with_hint(hint).into());
        }
    };
    options.set_size(size);
    if !args.common.quiet {
        chosen.warn_of_name(operand);
    }
    // The image is created even if the line can't be printed.
    let printed = match output {
        _ if args.common.quiet => Ok(()),
        Output::Human => {
            let mut line = options.formatting_line(operand, driver.name());
            line.push(b'\n');
            print_bytes(&line)
        }
        Output::Json => print(&qemu_json::render(&CreateReport {
            filename: name.clone(),
            format: driver.name(),
            virtual_size: size,
            options: options
                .shown()
                .filter(|(name, _)| *name != "size")
                .map(|(name, value)| (name.to_owned(), value.to_string_lossy()))
                .collect(),
        })?),
    };
    let mut target =
        target(operand, driver, options, secrets, CacheMode::Writeback).map_err(with_name)?;
    target.names_below = operands::names(&args.common);
    target.backing_purpose = (!args.backing_unsafe).then_some(Purpose::Probe);
    commands::create::run(&target, size, &passwords)
        .map_err(|error| with_values(error, driver, &args.options))?;
    printed?;
    Ok(ExitCode::SUCCESS)
}

/// The new image, as a report.
#[derive(Serialize)]
#[serde(rename_all = "kebab-case")]
struct CreateReport<'a> {
    filename: Cow<'a, str>,
    format: &'static str,
    /// The size of the disk in bytes.
    virtual_size: u64,
    /// The options that were given or have a default, as `Formatting '…'` shows them.
    options: BTreeMap<String, Cow<'a, str>>,
}

/// Returns the size of the backing file's disk in bytes, or `None` without one, or if it isn't opened.
fn backing_size(args: &CreateArgs, options: &Values, image: &OsStr) -> Result<Option<u64>> {
    if options.name("backing_file").is_none() {
        return Ok(None);
    }
    let Some(backing) = Backing::of(options)? else {
        return Ok(None);
    };
    if backing.name == image.as_bytes() {
        return Err(Error::invalid(
            "Error: Trying to create an image with the same filename as the backing file",
        ));
    }
    let no_format = "Backing file specified without backing format";
    if args.backing_unsafe {
        return match backing.format {
            Some(_) => Ok(None),
            None => Err(Error::invalid(no_format).with_hint("-F FORMAT gives it")),
        };
    }
    let image = file_name::file(image)?;
    let below = operands::names(&args.common);
    let found = commands::backing::size_and_format(&image, &backing, operands::FOLLOW, below);
    // Callers of qemu-img look for the second line.
    let (size, format) = found.map_err(|error| error.with_hint("Could not open backing image."))?;
    match backing.format {
        Some(_) => Ok(Some(size)),
        None => Err(Error::invalid(no_format).with_hint(format!(
            "Detected format of {format}.\n-F {format} gives it"
        ))),
    }
}
