//! The command line: from arguments to a typed plan, and from a report to text.
//!
//! Arguments are first brought into one form ([`getopt`]), then parsed by clap, as data only ([`args`]). They
//! are interpreted in a file for each subcommand; what subcommands have in common is in [`operands`]. Nothing in
//! this room opens an image. Errors go to standard error as one line with the program's name in front. On success
//! standard error stays empty, since callers take anything there for a failure.

mod args;
mod check;
mod checksum;
mod compare;
mod convert;
mod create;
mod descriptor;
mod early_checks;
#[cfg(any(test, fuzzing))]
pub mod fuzzing;
mod getopt;
mod help;

mod info;
mod internal_error;
mod map;
mod measure;
mod objects;
mod operands;
mod password;
mod progress;
mod readable_file;
mod render;
mod speed;
mod standard_output;
mod usage;

use std::ffi::{OsStr, OsString};
use std::io::{self, Write as _};
use std::path::Path;
use std::process::ExitCode;
use std::sync::OnceLock;

use anyhow::anyhow;
use clap::{CommandFactory as _, FromArgMatches as _};

pub use self::internal_error::guard;

use self::args::{Cli, Command};
use self::early_checks::{Reading, Stop};
use self::getopt::Call;
use self::standard_output::stdout;
use crate::error::printable;
use crate::options::list;

/// The exit status of every failure, but for the verdicts of `check` and `compare`.
const FAILED: u8 = 1;

/// By what name the program was called; the prefix of its messages.
static PROGRAM: OnceLock<String> = OnceLock::new();
/// The same with the folder that it was called in, as getopt and hints have it.
static CALLED: OnceLock<String> = OnceLock::new();

fn program() -> &'static str {
    PROGRAM.get().map_or("cowhide", String::as_str)
}

fn called() -> &'static str {
    CALLED.get().map_or(program(), String::as_str)
}

/// Why a subcommand ended without doing its work.
enum Failure {
    /// It was called wrongly; help is hinted at.
    Usage(String),
    /// Anything else.
    Error(anyhow::Error),
    /// Who reads our output has seen enough of it, which is no failure.
    OutputClosed,
}

impl<E: Into<anyhow::Error>> From<E> for Failure {
    fn from(error: E) -> Self {
        Self::Error(error.into())
    }
}

type Done = Result<ExitCode, Failure>;

/// Runs the program with the given arguments (the first is its name) and returns its exit status.
pub fn main(arguments: impl Iterator<Item = OsString>) -> ExitCode {
    guard(|| run(arguments))
}

fn run(arguments: impl Iterator<Item = OsString>) -> ExitCode {
    let arguments: Vec<OsString> = arguments.collect();
    let name = arguments.first().map(Path::new).and_then(Path::file_name);
    if let Some(called) = arguments.first() {
        let _ = CALLED.set(called.to_string_lossy().into_owned());
    }
    let _ = PROGRAM.set(name.map_or("cowhide".into(), |name| name.to_string_lossy().into_owned()));
    crate::storage::tell_by(|line| complain(&format!("{}: {line}", program())));
    let mut definition = Cli::command();
    definition.build();
    let mut reading = Reading::default();
    let read = getopt::normalise(&definition, &arguments, |subcommand, option, value| {
        reading.option(subcommand, option, value)
    });
    let secrets = &reading.secrets;
    let (arguments, subcommand) = match read {
        Ok(Call::Run(arguments, subcommand)) => (arguments, subcommand),
        Ok(Call::Help(subcommand)) => {
            let text = match subcommand {
                None => help::page(&definition, program()),
                Some(name) => help::subcommand(&definition, &name, program()),
            };
            return finish(print(&text).map(|()| ExitCode::SUCCESS), None);
        }
        Ok(Call::Version) => {
            let version = help::version(program());
            return finish(print(&version).map(|()| ExitCode::SUCCESS), None);
        }
        Err(Stop::Mistake(mistake)) => {
            return misused(mistake.subcommand.as_deref(), &mistake.message);
        }
        Err(Stop::Helped) => return ExitCode::SUCCESS,
        Err(Stop::Refused(failure, subcommand, option)) => {
            let status = finish(Err(failure), Some(&subcommand));
            return match (subcommand.as_str(), option.as_str()) {
                ("compare", "object") => ExitCode::from(compare::NOT_OPENED),
                _ => status,
            };
        }
    };
    let subcommand = subcommand.as_deref();
    let parsed = definition.try_get_matches_from(arguments);
    let parsed = parsed.and_then(|matches| Cli::from_arg_matches(&matches));
    let cli = match parsed {
        Ok(cli) => cli,
        Err(error) => return misused(subcommand, &usage::describe(&error)),
    };
    // The list of the trace events, of which there are none.
    if cli.trace.iter().any(list::asks_for_help) {
        return ExitCode::SUCCESS;
    }
    let done = match cli.command {
        None => Err(Failure::Usage("Not enough arguments".into())),
        Some(Command::Create(args)) => create::run(&args, secrets),
        Some(Command::Convert(args)) => convert::run(&args, secrets),
        Some(Command::Checksum(args)) => checksum::run(&args, secrets),
        Some(Command::Info(args)) => info::run(&args, secrets),
        Some(Command::Check(args)) => check::run(&args, secrets),
        Some(Command::Compare(args)) => compare::run(&args, secrets),
        Some(Command::Map(args)) => map::run(&args, secrets),
        Some(Command::Measure(args)) => measure::run(&args, secrets),
        Some(Command::Speed(args)) => speed::run(&args),
    };
    finish(done, subcommand)
}

/// A command line that breaks the grammar: the message is prefixed as getopt prefixes it.
fn misused(subcommand: Option<&str>, message: &str) -> ExitCode {
    match subcommand {
        Some(subcommand) => complain(&format!("{} {subcommand}: {message}", called())),
        // Not getopt's words.
        None if message.starts_with(getopt::NOT_FOUND) => {
            complain(&format!("{}: {message}", program()));
        }
        None => complain(&format!("{}: {message}", called())),
    }
    complain(&usage::hint(called(), subcommand));
    ExitCode::from(FAILED)
}

fn finish(done: Done, subcommand: Option<&str>) -> ExitCode {
    match done {
        Ok(status) => return status,
        Err(Failure::OutputClosed) => return ExitCode::SUCCESS,
        Err(Failure::Error(error)) => {
            complain_of(&error);
        }
        Err(Failure::Usage(message)) => {
            complain(&format!("{}: {message}", program()));
            complain(&usage::hint(called(), subcommand));
        }
    }
    ExitCode::from(FAILED)
}

/// Prints an error, and the lines that help with it where there are any.
fn complain_of(error: &anyhow::Error) {
    complain(&format!("{}: {error:#}", program()));
    let known = error.downcast_ref::<crate::error::Error>();
    if let Some(hint) = known.and_then(crate::error::Error::hint) {
        hint.lines().for_each(complain);
    }
}

/// Prints a line on standard error; when that fails, there is nobody left to tell. Messages are full of
/// names, and whatever is in those, it stays one line.
fn complain(line: &str) {
    // In one piece, so that no line of another process gets into it.
    let line = printable(line) + "\n";
    #[cfg(not(test))]
    let _ = io::stderr().lock().write_all(line.as_bytes());
    // Only what is printed so is kept by the harness of the tests, of which some warn thousands of times.
    #[cfg(test)]
    #[expect(clippy::print_stderr, reason = "see above")]
    {
        eprint!("{line}");
    }
}

/// Prints a warning and lines that help with it; what is in them stays in its line.
fn warn_with_help(text: &str, help: &str) {
    warn(text);
    help.lines().for_each(complain);
}

/// Prints a warning; callers do so only where a person reads it, or where `qemu-img` has the same one.
fn warn(text: &str) {
    complain(&format!("{}: warning: {text}", program()));
}

/// Warns of keys without a value in a list of options, as QEMU does wherever such a list names something
/// that exists.
fn warn_of_short(list: &OsStr, implied: Option<&str>) {
    for option in list::parse(list, implied) {
        if let Some(text) = option.deprecation() {
            let (text, help) = text.split_once('\n').unwrap_or((&text, ""));
            warn_with_help(text, help);
        }
    }
}

/// Prints text on standard output at once.
fn print(text: &str) -> Result<(), Failure> {
    print_bytes(text.as_bytes())
}

/// As [`fn@print`], for what need not be UTF-8. A reader who went away leaves the command its own status.
fn print_bytes(bytes: &[u8]) -> Result<(), Failure> {
    if bytes.is_empty() {
        return Ok(());
    }
    let printed = stdout().and_then(|mut out| out.write_all(bytes).and_then(|()| out.flush()));
    match printed.map_err(writing) {
        Err(Failure::OutputClosed) => Ok(()),
        printed => printed,
    }
}

/// Makes a failure of a standard output that can't be written to.
#[expect(clippy::needless_pass_by_value, reason = "for map_err")]
fn writing(error: io::Error) -> Failure {
    if error.kind() == io::ErrorKind::BrokenPipe {
        return Failure::OutputClosed;
    }
    Failure::Error(anyhow!(
        "writing to standard output: {}",
        crate::error::os_reason(&error)
    ))
}
