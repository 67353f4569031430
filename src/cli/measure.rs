//! The subcommand `measure`: it parses the contents and the new image, and prints two or three sizes.

use std::process::ExitCode;

use anyhow::anyhow;

use super::args::MeasureArgs;
use super::convert::snapshot_name;
use super::operands::{self, Output, output, source};
use super::password::PasswordSource;
use super::{Done, Failure, complain_of, print};
use crate::commands::Driver;
use crate::commands::measure::{self, MeasuredDisk};
use crate::crypto::Secrets;
use crate::formats::driver::Measured;
use crate::formats::no_measure;
use crate::formats::{Format, foreign};
use crate::options::Values;
use crate::options::{list, qemu_json};

/// Runs the subcommand.
pub(super) fn run(args: &MeasureArgs, secrets: &Secrets) -> Done {
    let output = output(&args.image.output)?;
    let size = args.size.as_deref();
    let size = size
        .map(|size| operands::size(size, "image size"))
        .transpose()?;
    let snapshot = args.snapshot.as_deref().map(snapshot_name).transpose()?;
    if let Some(list) = args.options.iter().find(|list| !list::is_valid_list(list)) {
        return Err(anyhow!("Invalid option list: {}", list.display()).into());
    }
    let operand = match args.image.operands.as_slice() {
        [] => None,
        [operand] => Some(operand),
        [..] => return Err(anyhow!("At most one filename argument is allowed.").into()),
    };
    let about_the_source = args.image.image_opts || args.image.format.is_some();
    if operand.is_none() && (about_the_source || snapshot.is_some()) {
        return Err(anyhow!("--image-opts, -f, and -l require a filename argument.").into());
    }
    let passwords = PasswordSource::new(&args.password, args.common.quiet)?;
    let contents = match (operand, size) {
        (None, Some(size)) => MeasuredDisk::Empty(size),
        (Some(operand), None) => {
            let format = args.image.format.as_deref();
            let (mut source, _) = source(operand, format, args.image.image_opts, secrets)?;
            source.policy.names = operands::names(&args.common);
            source.snapshot = snapshot;
            source.sharing = args.image.sharing(source.sharing);
            source.policy.sandbox = !args.common.no_sandbox;
            MeasuredDisk::Of(Box::new(source))
        }
        (None, None) => {
            return Err(anyhow!("Either --size N or one filename must be specified.").into());
        }
        (Some(_), Some(_)) => {
            return Err(anyhow!("--size N cannot be used together with a filename.").into());
        }
    };
    let opened = contents.open(&passwords)?;
    let (format, options) = target(args)?;
    let report = measure::run(&opened, format, &options)?;
    match output {
        Output::Human => print(&human(&report))?,
        Output::Json => print(&qemu_json::render(&report)?)?,
    }
    Ok(ExitCode::SUCCESS)
}

/// Returns the format of the new image, and its options.
fn target(args: &MeasureArgs) -> Result<(Format, Values), Failure> {
    let name = args.target_format.as_str();
    if foreign::UNMEASURED.contains(&name) {
        return Err(no_measure(name).into());
    }
    let format = operands::format(name)?;
    let driver = Driver::from(format);
    driver.check_creates()?;
    let specs = driver.create_options();
    let options = Values::of_lists(&specs, &args.options).map_err(|error| {
        complain_of(&error.into());
        anyhow!("Invalid options for file format '{format}'")
    })?;
    Ok((format, options))
}

fn human(report: &Measured) -> String {
    let Measured {
        required,
        fully_allocated,
        bitmaps,
    } = report;
    let bitmaps = bitmaps.map(|size| format!("bitmaps size: {size}\n"));
    format!(
        "required size: {required}\nfully allocated size: {fully_allocated}\n{}",
        bitmaps.unwrap_or_default()
    )
}
