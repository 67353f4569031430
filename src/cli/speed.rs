//! The subcommand `speed`: the rates of the ciphers and of conversions on this machine.

use std::process::ExitCode;

use super::args::SpeedArgs;
use super::operands::{Output, output};
use super::{Done, Failure, print, render};
use crate::commands;
use crate::options::qemu_json;

/// Runs the subcommand.
pub(super) fn run(args: &SpeedArgs) -> Done {
    let output = output(&args.output)?;
    if let [unexpected, ..] = args.operands.as_slice() {
        let unexpected = unexpected.to_string_lossy();
        return Err(Failure::Usage(format!("Unexpected argument: {unexpected}")));
    }
    let plan = commands::speed::SpeedPlan::new(args.seconds, args.threads)?;
    if let Some(path) = &args.storage {
        let report = commands::speed::run_storage(path, plan.budget)?;
        let text = match output {
            Output::Human => render::storage::human(&report),
            Output::Json => qemu_json::render(&report)?,
        };
        print(&text)?;
        return Ok(ExitCode::SUCCESS);
    }
    let report = commands::speed::run(plan)?;
    let text = match output {
        Output::Human => render::speed::human(&report),
        Output::Json => qemu_json::render(&report)?,
    };
    print(&text)?;
    Ok(ExitCode::SUCCESS)
}
