//! `create`: options, the line that says what is made, and the command.

use std::ffi::OsStr;
use std::process::ExitCode;

use anyhow::anyhow;

use super::args::CreateArgs;
use super::objects::Secrets;
use super::operands::{self, target, target_options};
use super::password::PasswordSource;
use super::{Done, Failure, image_name, options, print};
use crate::commands;
use crate::error::printable;
use crate::storage::CacheMode;

/// Runs the subcommand.
pub(super) fn run(args: &CreateArgs) -> Done {
    let secrets = Secrets::parse(&args.common.object)?;
    let passwords = PasswordSource::new(&args.password, args.common.quiet);
    let (operand, size) = match args.operands.as_slice() {
        [] if args.options.iter().any(|list| options::asks_for_help(list)) => {
            (OsStr::new(""), None)
        }
        [] => return Err(Failure::Usage("Expecting image file name".into())),
        [name] => (name.as_os_str(), None),
        [name, size] => (name.as_os_str(), Some(size)),
        [_, _, unexpected, ..] => {
            let unexpected = unexpected.to_string_lossy();
            return Err(Failure::Usage(format!("Unexpected argument: {unexpected}")));
        }
    };
    let name = operand.to_string_lossy();
    let format =
        image_name::format(&args.format).map_err(|error| match args.operands.as_slice() {
            [] => error,
            _ => error.context(&name),
        })?;
    let size = size.map(|size| operands::size(&size.to_string_lossy(), "image size"));
    let size = size.transpose()?;
    let Some(mut options) = target_options(format, &name, &args.options, args.encrypt.as_deref())?
    else {
        return Ok(ExitCode::SUCCESS);
    };
    let size = match (size, options.size()) {
        (Some(_), Some(_)) => {
            return Err(anyhow!("{name}: The image size must be specified only once").into());
        }
        (Some(size), None) | (None, Some(size)) => size,
        (None, None) => {
            return Err(anyhow!("{name}: Image creation needs a size parameter").into());
        }
    };
    options.set("size", size.to_string());
    if !args.common.quiet {
        print(&format!("{}\n", options.formatting_line(&printable(&name))))?;
    }
    let target = target(operand, format, &options, &secrets, CacheMode::Writeback)
        .map_err(|error| error.context(&name))?;
    commands::create::run(&target, size, &passwords)?;
    Ok(ExitCode::SUCCESS)
}
