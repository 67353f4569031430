//! The subcommand `compare`: it prints the result, and sets the exit status.

use std::process::ExitCode;

use super::args::CompareArgs;
use super::operands::{self, Output, cache, source};
use super::password::PasswordSource;
use super::progress::Progress;
use super::{Done, Failure, complain_of, print, render};
use crate::commands::{Sharing, compare};
use crate::convert::compare::{Comparison, Difference};
use crate::crypto::Secrets;

/// The exit statuses of `qemu-img compare`, from its manual.
const DIFFERENT: u8 = 1;
pub(super) const NOT_OPENED: u8 = 2;
/// The status if the result can't be printed. It isn't 1, which means that the images differ.
const NOT_PRINTED: u8 = 2;
const NO_STATUS: u8 = 3;
const NO_DATA: u8 = 4;

/// Runs the subcommand.
pub(super) fn run(args: &CompareArgs, secrets: &Secrets) -> Done {
    let [one, other] = args.operands.as_slice() else {
        return Err(Failure::Usage("Expecting two image file names".into()));
    };
    let output = operands::output(&args.output.output)?;
    let passwords = match PasswordSource::new(&args.password, args.common.quiet) {
        Ok(passwords) => passwords,
        Err(error) => return failed(NOT_OPENED, error.into()),
    };
    let progress = Progress::new(&args.progress, args.common.quiet)?.in_larger_steps();
    let open = || -> Result<_, Failure> {
        let cache = cache(&args.cache, "Invalid source cache option")?;
        let open = |operand, format: &Option<String>| -> Result<_, Failure> {
            let (mut source, _) = source(operand, format.as_deref(), args.image_opts, secrets)?;
            source.policy.cache = cache;
            source.policy.names = operands::names(&args.common);
            source.policy.sandbox = !args.common.no_sandbox;
            if args.force_share {
                source.sharing = source.sharing.max(Sharing::Forced);
            }
            Ok(compare::open(source, &passwords)?)
        };
        let first = open(one, &args.first_format)?;
        Ok([first, open(other, &args.second_format)?])
    };
    let outcome = open().map(|images| compare::run(&images, args.strict, &progress));
    let outcome = match outcome {
        Ok(outcome) => outcome,
        Err(failure) => {
            progress.end();
            return failed(NOT_OPENED, failure);
        }
    };
    let printed = match output {
        _ if args.common.quiet => Ok(()),
        Output::Human => print(&render::comparison::human(&outcome)),
        Output::Json => render::comparison::json(&outcome)
            .map_err(Failure::from)
            .and_then(|text| print(&text)),
    };
    let status = status(outcome);
    progress.end();
    match printed {
        Ok(()) => Ok(ExitCode::from(status)),
        Err(failure) => failed(status.max(NOT_PRINTED), failure),
    }
}

/// Returns the exit status. Prints an error that prevented comparing.
fn status(outcome: Comparison) -> u8 {
    let (error, status) = match outcome.finding {
        Difference::Same => return 0,
        Difference::Content(_) | Difference::Size | Difference::Status(_) => return DIFFERENT,
        Difference::NoStatus(error) => (error, NO_STATUS),
        Difference::NoData(error) => (error, NO_DATA),
    };
    complain_of(&error.into());
    status
}

/// Reports an error and ends with `status`.
fn failed(status: u8, failure: Failure) -> Done {
    let Failure::Error(error) = failure else {
        return Err(failure);
    };
    complain_of(&error);
    Ok(ExitCode::from(status))
}
