//! The subcommand `rebase`: it parses its options, and applies their defaults.

use std::ffi::OsStr;
use std::process::ExitCode;

use super::args::RebaseArgs;
use super::operands::{self, cache, one_operand, source_to_change};
use super::password::PasswordSource;
use super::progress::Progress;
use super::{Done, Failure};
use crate::commands::rebase::{NewBacking, RebasePlan};
use crate::commands::{self, Sharing};
use crate::convert::Settings;
use crate::crypto::Secrets;

/// Runs the subcommand.
pub(super) fn run(args: &RebaseArgs, secrets: &Secrets) -> Done {
    let operand = one_operand(&args.operands)?;
    if args.backing.is_none() && !args.backing_unsafe {
        let message = "Must specify backing file (-b) or use unsafe mode (-u)";
        return Err(Failure::Usage(message.into()));
    }
    let quiet = args.common.quiet;
    let passwords = PasswordSource::new(&args.password, quiet)?;
    let progress = Progress::new(&args.progress, quiet)?;
    progress.begin();
    let rebased = || -> Result<(), Failure> {
        let image_cache = cache(&args.written.cache, "Invalid cache option")?;
        let backing_cache = cache(&args.backing_cache, "Invalid source cache option")?;
        let format = args.named.format.as_deref();
        let mut image = source_to_change(operand, format, args.named.image_opts, secrets)?;
        image.policy.cache = image_cache;
        image.policy.names = operands::names(&args.common);
        let plan = RebasePlan {
            image,
            backing: NewBacking {
                name: args.backing.as_deref().unwrap_or(OsStr::new("")),
                format: args.backing_format.as_deref(),
                cache: backing_cache,
                sharing: match args.force_share {
                    true => Sharing::Forced,
                    false => Sharing::Agreed,
                },
            },
            header_only: args.backing_unsafe,
            compressed: args.compress,
            workers: Settings::default().workers,
        };
        Ok(commands::rebase::run(&plan, &passwords, &progress)?)
    };
    let rebased = rebased();
    progress.end();
    rebased.map(|()| ExitCode::SUCCESS)
}
