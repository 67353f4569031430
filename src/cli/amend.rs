//! The subcommand `amend`: it parses its options, and those of the image.

use std::process::ExitCode;

use anyhow::anyhow;

use super::args::AmendArgs;
use super::operands::{self, cache, format, source_to_change};
use super::password::PasswordSource;
use super::progress::Progress;
use super::{Done, Failure, print};
use crate::commands;
use crate::commands::amend::{AmendRequest, check_format};
use crate::convert::Observer as _;
use crate::crypto::Secrets;
use crate::error::Error;
use crate::formats::Format;
use crate::options::{Values, list, spec};

/// Runs the subcommand.
pub(super) fn run(args: &AmendArgs, secrets: &Secrets) -> Done {
    if args.options.is_empty() {
        return Err(Failure::Usage("Must specify options (-o)".into()));
    }
    let asks_for_help = args.options.iter().any(list::asks_for_help);
    if let (true, Some(name)) = (asks_for_help, &args.named.format) {
        return help(format(name)?);
    }
    let [operand] = args.operands.as_slice() else {
        // This has no hint at the help, unlike other subcommands, as in qemu-img.
        return Err(anyhow!("Expecting one image file name").into());
    };
    let quiet = args.common.quiet;
    let passwords = PasswordSource::new(&args.password, quiet)?;
    let progress = Progress::new(&args.progress, quiet)?;
    progress.begin();
    let amended = || -> Done {
        let cache = cache(&args.written.cache, "Invalid cache option")?;
        let given = args.named.format.as_deref();
        let mut image = source_to_change(operand, given, args.named.image_opts, secrets)?;
        image.policy.cache = cache;
        image.policy.names = operands::names(&args.common);
        let found = image.find_format()?;
        if asks_for_help {
            return help(found);
        }
        check_format(found)?;
        let request = AmendRequest {
            options: options(found, args)?,
            image,
            secrets,
            force: args.force,
        };
        commands::amend::run(&request, &passwords)?;
        progress.progress(1, 1);
        Ok(ExitCode::SUCCESS)
    };
    let amended = amended();
    progress.end();
    amended
}

/// Prints the options that can be amended for a format.
fn help(format: Format) -> Done {
    check_format(format)?;
    let lines = spec::help_lines(&[format.amend_options()]);
    print(&format!("Amend options for '{format}':\n{lines}"))?;
    Ok(ExitCode::SUCCESS)
}

/// Parses the lists of options.
fn options(format: Format, args: &AmendArgs) -> Result<Values, Failure> {
    for list in &args.options {
        for option in list::parse(list, None) {
            let is_known = |specs: &[crate::options::OptionSpec]| {
                specs.iter().any(|spec| spec.name == option.key)
            };
            if !is_known(format.amend_options()) && is_known(format.create_options()) {
                let message = format!("Invalid parameter '{}'", option.key);
                let hint = "This option is only supported for image creation";
                return Err(Error::invalid(message).with_hint(hint).into());
            }
        }
    }
    Ok(Values::of_lists(&[format.amend_options()], &args.options)?)
}
