//! The subcommand `resize`: it parses a size or a difference.

use std::ffi::OsStr;
use std::process::ExitCode;

use anyhow::anyhow;

use super::args::ResizeArgs;
use super::failure::{Done, FAILED, Failure};
use super::messages::{complain_of, warn};
use super::operands::{self, source, warn_of_guess};
use super::password::PasswordSource;
use super::standard_output::print;
use crate::commands::resize::{self, ResizeOutcome, ResizeWish, WantedSize};
use crate::crypto::Secrets;
use crate::error::{Error, Result};
use crate::formats::Preallocation;
use crate::options::list::no_size;
use crate::units::parse_size;

/// Runs the subcommand.
pub(super) fn run(args: &ResizeArgs, secrets: &Secrets) -> Done {
    let passwords = PasswordSource::new(&args.password, args.common.quiet)?;
    let wrong = |message: &str| Err(Failure::Usage(message.into()));
    let (operand, size) = match args.operands.as_slice() {
        [operand, size] => {
            let size = new_size(size).map_err(|error| match operands::is_size(operand) {
                true => error.with_hint(operands::order_of_size(operand, &size.to_string_lossy())),
                false => error,
            });
            (operand, size?)
        }
        [] | [_] => return wrong("Expecting image file name and size"),
        _ => return wrong("Extra argument(s) in command line"),
    };
    let wish = ResizeWish {
        size,
        preallocation: preallocation(&args.preallocation)?,
        may_shrink: args.shrink,
    };
    let format = args.named.format.as_deref();
    let (mut node, _) = source(operand, format, args.named.image_opts, secrets)?;
    node.policy.names = operands::names(&args.common);
    let outcome = resize::run(&node, &wish, &passwords, &mut |format| {
        if node.format.is_none() {
            warn_of_guess(&node, format);
        }
    });
    match outcome? {
        ResizeOutcome::Resized if args.common.quiet => Ok(ExitCode::SUCCESS),
        ResizeOutcome::Resized => {
            print("Image resized.\n")?;
            Ok(ExitCode::SUCCESS)
        }
        ResizeOutcome::WouldShrink => {
            complain_of(&anyhow!(
                "Use the --shrink option to perform a shrink operation."
            ));
            warn(
                "Shrinking an image will delete all data beyond the shrunken image's end. Before \
                 performing such an operation, make sure there is no important data there.",
            );
            Ok(ExitCode::from(FAILED))
        }
    }
}

/// Parses `--preallocation`.
pub(super) fn preallocation(name: &str) -> Result<Preallocation, Failure> {
    Preallocation::from_name(name).ok_or_else(|| {
        let error = Error::invalid(format!("Invalid preallocation mode '{name}'"));
        error
            .with_hint("The modes are off, metadata, falloc and full")
            .into()
    })
}

/// Parses a size, or a difference with a sign in front.
fn new_size(text: &OsStr) -> Result<WantedSize> {
    let text = text.to_string_lossy();
    let (kind, size): (fn(u64) -> WantedSize, &str) =
        match (text.strip_prefix('+'), text.strip_prefix('-')) {
            (Some(rest), _) => (WantedSize::More, rest),
            (_, Some(rest)) => (WantedSize::Less, rest),
            _ => (WantedSize::Exactly, &text),
        };
    let size = parse_size(size).map_err(|error| no_size("size", size, error))?;
    Ok(kind(size))
}
