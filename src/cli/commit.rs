//! The subcommand `commit`: it parses its options, and prints the result.

use std::process::ExitCode;

use super::args::CommitArgs;
use super::operands::{self, cache, one_operand, source_to_change};
use super::password::PasswordSource;
use super::progress::Progress;
use super::{Done, Failure, print};
use crate::commands;
use crate::commands::commit::CommitPlan;
use crate::convert::Settings;
use crate::crypto::Secrets;

/// Runs the subcommand.
pub(super) fn run(args: &CommitArgs, secrets: &Secrets) -> Done {
    let rate = args.rate.as_deref();
    let rate = rate.map(|text| operands::size(text, "rate limit"));
    let settings = Settings {
        rate: rate.transpose()?,
        ..Settings::default()
    };
    let operand = one_operand(&args.operands)?;
    let quiet = args.common.quiet;
    let passwords = PasswordSource::new(&args.password, quiet)?;
    let cache = cache(&args.cache, "Invalid cache option")?;
    let format = args.named.format.as_deref();
    let mut image = source_to_change(operand, format, args.named.image_opts, secrets)?;
    image.policy.cache = cache;
    image.policy.names = operands::names(&args.common);
    let plan = CommitPlan {
        image,
        base: args.base.as_deref(),
        keeps: args.drop || args.base.is_some(),
        settings,
    };
    let progress = Progress::new(&args.progress, quiet)?;
    let committed =
        || -> Result<(), Failure> { Ok(commands::commit::run(&plan, &passwords, &progress)?) };
    let committed = committed();
    progress.end();
    committed?;
    if !quiet {
        print("Image committed.\n")?;
    }
    Ok(ExitCode::SUCCESS)
}
