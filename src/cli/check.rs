//! The subcommand `check`: it prints findings as they come and a report, and sets the exit status.

use std::io::{self, BufWriter, IsTerminal as _, Stderr, Write as _};
use std::process::ExitCode;

use super::args::CheckArgs;
use super::operands::{Output, cache, one_operand, output, source, warn_of_guess};
use super::{Done, Failure, complain_of, finding_line, print, render};
use crate::commands;
use crate::commands::check::{CheckLine, CheckOutcome};
use crate::crypto::Secrets;
use crate::error::Error;
use crate::formats::check::Repair;

/// The exit statuses of `qemu-img check`, from its manual.
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
    source.policy.cache = cache;
    source.sharing = args.image.sharing(source.sharing);
    source.policy.sandbox = !args.common.no_sandbox && repair.is_none();
    let mut findings = Findings::new();
    let outcome = commands::check::run(&source, repair, &mut |finding| findings.print(finding));
    findings.flush();
    let (format, report) = match outcome? {
        CheckOutcome::Checked { format, report } => (format, report),
        CheckOutcome::NoCheck { format } => {
            if repair.is_some() && source.format.is_none() {
                warn_of_guess(&source, format);
            }
            let error = Error::unsupported("This image format does not support checks");
            complain_of(&error.into());
            return Ok(ExitCode::from(NO_CHECK));
        }
    };
    let printed = match output {
        _ if args.common.quiet => Ok(()),
        Output::Json => print(&render::check::json(&source.name, format, &report)?),
        Output::Human => print(&render::check::human(&report)),
    };
    let verdict = if report.corruptions != 0 {
        CORRUPTIONS
    } else if report.leaks != 0 {
        LEAKS
    } else {
        printed?;
        return Ok(ExitCode::SUCCESS);
    };
    // The status of the image matters more than an error in printing it.
    if let Err(Failure::Error(error)) = printed {
        complain_of(&error);
    }
    Ok(ExitCode::from(verdict))
}

/// The printer of findings on standard error. A badly damaged image has hundreds of thousands of them, so they are
/// only flushed one by one on a terminal.
struct Findings {
    out: BufWriter<Stderr>,
    at_once: bool,
}

impl Findings {
    fn new() -> Self {
        let stderr = io::stderr();
        Self {
            at_once: stderr.is_terminal(),
            out: BufWriter::with_capacity(64 << 10, stderr),
        }
    }

    fn print(&mut self, finding: &CheckLine<'_>) {
        let line = finding_line(&finding.text.to_string(), finding.is_complaint);
        // A failure can't be reported anywhere.
        let _ = writeln!(self.out, "{line}");
        if self.at_once {
            self.flush();
        }
    }

    fn flush(&mut self) {
        let _ = self.out.flush();
    }
}

/// Parses the value of `-r`.
///
/// # Errors
/// Returns [`Failure::Usage`] if it is neither `leaks` nor `all`.
pub(super) fn repair(what: &str) -> Result<Repair, Failure> {
    match what {
        "leaks" => Ok(Repair::Leaks),
        "all" => Ok(Repair::All),
        other => Err(Failure::Usage(format!(
            "--repair (-r) expects 'leaks' or 'all' not '{other}'"
        ))),
    }
}
