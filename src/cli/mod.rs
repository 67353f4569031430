//! The command line: it parses arguments into the typed parameters of a command, and renders reports as text.
//!
//! Arguments are first brought into a normal form ([`getopt`]), and then parsed by clap as plain data ([`args`]).
//! Each subcommand has a file that interprets them, and [`operands`] has the common parts. This module opens no
//! image. Errors go to standard error as one line with the program's name in front. On success standard error stays
//! empty, since callers treat any output there as a failure.

mod amend;
mod args;
mod bench;
mod bitmap;
mod check;
mod checksum;
mod chosen_format;
mod commit;
mod compare;
mod completions;
mod convert;
mod create;
mod dd;
mod descriptor;
mod early_checks;
mod examples;
mod failure;
#[cfg(any(test, fuzzing))]
pub mod fuzzing;
mod getopt;
mod help;
mod info;
mod internal_error;
mod man;
mod map;
mod measure;
mod messages;
mod objects;
mod operands;
mod other_words;
mod password;
mod progress;
mod readable_file;
mod rebase;
mod render;
mod resize;
mod snapshot;
mod speed;
mod standard_output;
mod usage;
mod wrap;

use std::ffi::OsString;
use std::io::{self, IsTerminal as _};
use std::process::ExitCode;

use anyhow::anyhow;
use clap::FromArgMatches as _;

pub use self::internal_error::guard;

use self::args::{Cli, Command};
use self::early_checks::{Reading, Stop};
use self::failure::{Done, FAILED, Failure};
use self::getopt::Call;
use self::messages::{
    called, complain, complain_of, complain_of_misuse, finding_line, program, warn,
    warn_in_capitals, warn_of_short, warn_with_help,
};
use self::standard_output::{print, print_bytes, stdout, writing};
use crate::crypto::Secrets;
use crate::error::Error;
use crate::options::list;

/// Runs the program with the given arguments (the first is its name) and returns its exit status.
pub fn main(arguments: impl Iterator<Item = OsString>) -> ExitCode {
    guard(|| run(arguments))
}

fn run(arguments: impl Iterator<Item = OsString>) -> ExitCode {
    let arguments: Vec<OsString> = arguments.collect();
    if let Some(name) = arguments.first() {
        messages::called_by(name);
    }
    messages::set_form(&arguments);
    crate::crypto::forbid_core_dumps();
    crate::storage::undo_when_interrupted(|line| complain_of(&anyhow!("{line}")));
    if let Some(status) = completions::answer(&arguments) {
        return status;
    }
    let first = arguments.get(1).and_then(|word| word.to_str());
    let definition = match first.and_then(Cli::of_one_subcommand) {
        Some(mut definition) => {
            definition.build();
            definition
        }
        None => Cli::definition(),
    };
    let mut reading = Reading::default();
    let read = getopt::normalise(&definition, &arguments, |subcommand, option, value| {
        reading.option(subcommand, option, value)
    });
    let secrets = &reading.secrets;
    let (arguments, subcommand) = match read {
        Ok(Call::Run(arguments, subcommand)) => (arguments, subcommand),
        Ok(Call::Help(None)) => {
            return help(&help::page(&Cli::definition(), program(), is_terminal()));
        }
        Ok(Call::Help(Some(name))) => {
            return help(&help::subcommand(&Cli::definition(), &name, program()));
        }
        Ok(Call::LongHelp(name)) => {
            return help(&help::with_examples(&Cli::definition(), &name, program()));
        }
        Ok(Call::Version) => return inform(&help::version(program())),
        Err(stop) => return stopped(stop),
    };
    let subcommand = subcommand.as_deref();
    let parsed = definition.try_get_matches_from(arguments);
    let parsed = parsed.and_then(|matches| Cli::from_arg_matches(&matches));
    let cli = match parsed {
        Ok(cli) => cli,
        Err(error) => return misused(subcommand, &usage::describe(&error), None),
    };
    // This lists the trace events, and there are none.
    if cli.globals.trace.iter().any(list::asks_for_help) {
        return ExitCode::SUCCESS;
    }
    finish(execute(cli.command, secrets), subcommand)
}

fn is_terminal() -> bool {
    io::stdout().is_terminal()
}

/// Prints a help text. On a terminal its lines are broken at its width.
fn help(text: &str) -> ExitCode {
    let size = is_terminal().then(|| rustix::termios::tcgetwinsize(io::stdout()).ok());
    let width = size.flatten().map(|size| usize::from(size.ws_col));
    match width.filter(|width| *width > 0) {
        Some(width) => inform(&wrap::wrapped(text, width, &format!("{} ", program()))),
        None => inform(text),
    }
}

/// Prints a text that was asked for instead of a subcommand.
fn inform(text: &str) -> ExitCode {
    finish(print(text).map(|()| ExitCode::SUCCESS), None)
}

/// Reports why a command line isn't carried out.
fn stopped(stop: Stop) -> ExitCode {
    match stop {
        Stop::Mistake(mistake) => {
            let help = mistake.help.as_deref();
            misused(mistake.subcommand.as_deref(), &mistake.message, help)
        }
        Stop::Helped => ExitCode::SUCCESS,
        Stop::Refused(failure, subcommand, option) => {
            let status = finish(Err(failure), Some(&subcommand));
            match (subcommand.as_str(), option.as_str()) {
                ("compare", "object") => ExitCode::from(compare::NOT_OPENED),
                _ => status,
            }
        }
    }
}

/// Runs a subcommand.
fn execute(command: Option<Command>, secrets: &Secrets) -> Done {
    match command {
        None => Err(Failure::Usage("Not enough arguments".into())),
        Some(Command::Create(args)) => create::run(&args, secrets),
        Some(Command::Convert(args)) => convert::run(&args, secrets),
        Some(Command::Dd(args)) => dd::run(&args, secrets),
        Some(Command::Rebase(args)) => rebase::run(&args, secrets),
        Some(Command::Amend(args)) => amend::run(&args, secrets),
        Some(Command::Bench(args)) => bench::run(&args, secrets),
        Some(Command::Commit(args)) => commit::run(&args, secrets),
        Some(Command::Checksum(args)) => checksum::run(&args, secrets),
        Some(Command::Completions(args)) => completions::run(&args, secrets),
        Some(Command::Man(args)) => man::run(&args, secrets),
        Some(Command::Info(args)) => info::run(&args, secrets),
        Some(Command::Bitmap(args)) => bitmap::run(&args, secrets),
        Some(Command::Check(args)) => check::run(&args, secrets),
        Some(Command::Compare(args)) => compare::run(&args, secrets),
        Some(Command::Map(args)) => map::run(&args, secrets),
        Some(Command::Measure(args)) => measure::run(&args, secrets),
        Some(Command::Snapshot(args)) => snapshot::run(&args, secrets),
        Some(Command::Resize(args)) => resize::run(&args, secrets),
        Some(Command::Speed(args)) => speed::run(&args),
    }
}

/// Reports a syntax error of the command line, with the prefix of getopt. `help` is a line that follows it.
fn misused(subcommand: Option<&str>, message: &str, help: Option<&str>) -> ExitCode {
    let prefix = match subcommand {
        Some(subcommand) => format!("{} {subcommand}", called()),
        // This message isn't from getopt.
        None if message.starts_with(getopt::NOT_FOUND) => program().to_owned(),
        None => called().to_owned(),
    };
    let mut hint = usage::hint(called(), subcommand);
    if let Some(help) = help {
        hint = format!("{help}\n{hint}");
    }
    complain_of_misuse(&prefix, message, &hint);
    ExitCode::from(FAILED)
}

fn finish(done: Done, subcommand: Option<&str>) -> ExitCode {
    match done {
        Ok(status) => return status,
        Err(Failure::OutputClosed) => return ExitCode::SUCCESS,
        // An error without a kind is one in the use of the options.
        Err(Failure::Error(error)) if !error.is::<Error>() && subcommand.is_some() => {
            let message = format!("{error:#}");
            complain_of_misuse(program(), &message, &usage::hint(called(), subcommand));
        }
        Err(Failure::Error(error)) => complain_of(&error),
        Err(Failure::Usage(message)) => {
            complain_of_misuse(program(), &message, &usage::hint(called(), subcommand));
        }
    }
    ExitCode::from(FAILED)
}
