//! `check`: findings as they come, a report, and a verdict as exit status.

use std::process::ExitCode;

use super::args::CheckArgs;
use super::objects::Secrets;
use super::operands::{Output, cache, one_operand, output, source, warn_of_guess};
use super::{Done, Failure, complain, print, program, render};
use crate::commands;
use crate::commands::check::Outcome;
use crate::formats::Format;
use crate::formats::qcow2::Repair;
use crate::formats::qcow2::check::Event;

/// Exit statuses, as `qemu-img` documents them.
const CORRUPTIONS: u8 = 2;
const LEAKS: u8 = 3;
const NO_CHECK: u8 = 63;

/// Runs the subcommand.
pub(super) fn run(args: &CheckArgs, secrets: &Secrets) -> Done {
    let output = output(&args.image.output)?;
    let operand = one_operand(&args.image.operands)?;
    let cache = cache(&args.cache, "Invalid source cache option")?;
    let repair = args.repair.as_deref().map(repair).transpose()?;
    let (mut source, _) = source(
        operand,
        args.image.format.as_deref(),
        args.image.image_opts,
        secrets,
    )?;
    source.cache = cache;
    source.sharing = args.image.sharing(source.sharing);
    source.sandbox = !args.common.no_sandbox && repair.is_none();
    let mut on_event = |event: Event<'_>| complain(&event.to_string());
    let Outcome::Checked { format, report } = commands::check::run(&source, repair, &mut on_event)?
    else {
        if repair.is_some() && source.format.is_none() {
            warn_of_guess(&source, Format::Raw);
        }
        complain(&format!(
            "{}: This image format does not support checks",
            program()
        ));
        return Ok(ExitCode::from(NO_CHECK));
    };
    match output {
        _ if args.common.quiet => {}
        Output::Json => print(&render::check::json(&source.name, format, &report)?)?,
        Output::Human => print(&render::check::human(&report))?,
    }
    Ok(ExitCode::from(if report.corruptions != 0 {
        CORRUPTIONS
    } else if report.leaks != 0 {
        LEAKS
    } else {
        0
    }))
}

/// What `-r` asks to repair.
pub(super) fn repair(what: &str) -> Result<Repair, Failure> {
    match what {
        "leaks" => Ok(Repair::Leaks),
        "all" => Ok(Repair::All),
        other => Err(Failure::Usage(format!(
            "--repair (-r) expects 'leaks' or 'all' not '{other}'"
        ))),
    }
}
