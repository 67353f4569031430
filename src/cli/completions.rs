//! The subcommand `completions`: it prints a script for a shell. The completion itself is here as well.
//!
//! The script runs this program with the environment variable [`VARIABLE`] for each completion. So formats and their
//! options are those of this program, and aren't written anywhere else. The completions of a value follow from its
//! name in the definition ([`with_completers`]).

use std::ffi::{OsStr, OsString};
use std::process::ExitCode;

use clap::builder::ValueHint;
use clap::{Arg, Command, CommandFactory as _};
use clap_complete::engine::{ArgValueCompleter, CompletionCandidate};
use clap_complete::env::{CompleteEnv, Shells};

use super::args::{Cli, CompletionsArgs};
use super::failure::FAILED;
use super::getopt::{self, Mistake, short_names};
use super::{Done, Failure, complain, print_bytes, program};
use crate::commands::Driver;
use crate::convert::Algorithm;
use crate::crypto::Secrets;
use crate::formats::encryption::EncryptionFormat;
use crate::options::spec::united;
use crate::options::{Kind, OptionSpec};
use crate::storage::CacheMode;

/// The environment variable that asks for completions.
const VARIABLE: &str = "COWHIDE_COMPLETE";

/// The supported shells.
const SHELLS: [&str; 3] = ["bash", "zsh", "fish"];

/// Runs the subcommand.
pub(super) fn run(args: &CompletionsArgs, _secrets: &Secrets) -> Done {
    let expected = || Failure::Usage(format!("Expecting one shell: {}", SHELLS.join(", ")));
    let [shell] = args.operands.as_slice() else {
        return Err(expected());
    };
    let shell = shell.to_str().filter(|shell| SHELLS.contains(shell));
    let shells = Shells::builtins();
    let shell = shell.and_then(|shell| shells.completer(shell));
    let shell = shell.ok_or_else(expected)?;
    let mut script = Vec::new();
    let name = program();
    shell.write_registration(VARIABLE, name, name, name, &mut script)?;
    print_bytes(&script)?;
    Ok(ExitCode::SUCCESS)
}

/// Prints completions if a shell asks for them. Returns `None` otherwise.
pub(super) fn answer(arguments: &[OsString]) -> Option<ExitCode> {
    std::env::var_os(VARIABLE)?;
    // The command line follows the script's own arguments.
    let words = arguments.iter().skip_while(|word| *word != "--");
    let words: Vec<OsString> = words.skip(1).cloned().collect();
    let definition = move || with_completers(Cli::command(), &words);
    let asked = CompleteEnv::with_factory(definition).var(VARIABLE);
    let folder = std::env::current_dir().ok();
    match asked.try_complete(arguments.iter(), folder.as_deref()) {
        Ok(_) => Some(ExitCode::SUCCESS),
        Err(error) => {
            complain(&format!("{}: {}", program(), error.to_string().trim_end()));
            Some(ExitCode::from(FAILED))
        }
    }
}

/// Adds the completions of each value to a definition. `words` are those of the command line.
fn with_completers(definition: Command, words: &[OsString]) -> Command {
    let format = format_of_options(words);
    definition.mut_subcommands(|command: Command| command.mut_args(|arg| completed(arg, &format)))
}

/// Adds the completions of its value to an option or operand.
fn completed(arg: Arg, format: &str) -> Arg {
    let name = arg.get_value_names().and_then(|names| names.first());
    let name = name.map(|name| name.as_str().to_owned());
    match name.as_deref() {
        Some("FMT" | "SRC_FMT") => arg.add(one_of(Driver::names().collect::<Vec<_>>())),
        Some("OPTS") => {
            let specs = Driver::from_name(format).map(|driver| driver.create_options());
            let specs = specs.map(|lists| united(&lists)).unwrap_or_default();
            arg.add(ArgValueCompleter::new(move |current: &OsStr| {
                options(&specs, current)
            }))
        }
        Some("CACHE") => arg.add(one_of(CacheMode::NAMES)),
        Some("FORM") if arg.get_id() == "output" => arg.add(one_of(["human", "json"])),
        Some("FORM") => arg.add(one_of(["json"])),
        Some("FORMAT") => arg.add(one_of(EncryptionFormat::ALL.map(EncryptionFormat::name))),
        Some("NAME") => arg.add(one_of(Algorithm::ALL.map(Algorithm::name))),
        Some("MODE") => arg.add(one_of(["off", "metadata", "falloc", "full"])),
        Some("WHEN") => arg.add(one_of(["auto", "always", "never"])),
        Some("WHAT") => arg.add(one_of(["leaks", "all"])),
        Some("SHELL") => arg.add(one_of(SHELLS)),
        Some("DIRECTORY") => arg.value_hint(ValueHint::DirPath),
        Some("FILE" | "PATH" | "SRC_FILENAME") => arg.value_hint(ValueHint::AnyPath),
        _ if arg.is_positional() => arg.value_hint(ValueHint::AnyPath),
        _ => arg,
    }
}

/// Returns a completer for the names of a list.
fn one_of(names: impl Into<Vec<&'static str>>) -> ArgValueCompleter {
    let names = names.into();
    ArgValueCompleter::new(move |current: &OsStr| {
        let current = current.to_string_lossy();
        let names = names.iter().filter(|name| name.starts_with(&*current));
        names.map(CompletionCandidate::new).collect::<Vec<_>>()
    })
}

/// Completes the last option of a list: its name, or the value of a switch.
fn options(specs: &[&OptionSpec], current: &OsStr) -> Vec<CompletionCandidate> {
    let current = current.to_string_lossy();
    let (before, last) = match current.rfind(',') {
        Some(comma) => current.split_at(comma + 1),
        None => ("", &*current),
    };
    if let Some((key, value)) = last.split_once('=') {
        let is_switch = |spec: &&&OptionSpec| spec.name == key && spec.kind == Kind::Switch;
        let values = specs.iter().find(is_switch).map(|_| ["on", "off"]);
        let fitting = values.into_iter().flatten();
        let fitting = fitting.filter(|known| known.starts_with(value));
        return fitting
            .map(|known| CompletionCandidate::new(format!("{before}{key}={known}")))
            .collect();
    }
    let fitting = specs.iter().filter(|spec| spec.name.starts_with(last));
    fitting
        .map(|spec| {
            let candidate = CompletionCandidate::new(format!("{before}{}=", spec.name));
            candidate.help(Some(spec.help.into()))
        })
        .collect()
}

/// Returns the format whose options a command line has: that of `-O` if a subcommand has it, or else that of `-f`. A
/// mistake in the line ends the search.
fn format_of_options(words: &[OsString]) -> String {
    let mut definition = Cli::command();
    definition.build();
    let mut format = "raw".to_owned();
    let seen = |subcommand: &str, option: &str, value: &OsStr| {
        let command = definition.find_subcommand(subcommand);
        let by_letter = |letter| {
            let mut options = command?.get_arguments();
            options.find(|option| short_names(option).any(|name| name == letter))
        };
        if by_letter('O')
            .or_else(|| by_letter('f'))
            .is_some_and(|arg| arg.get_id() == option)
        {
            format = value.to_string_lossy().into_owned();
        }
        Ok::<(), Mistake>(())
    };
    let _ = getopt::normalise(&definition, words, seen);
    format
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns the completions of the last word of a line.
    fn completed(line: &str) -> Vec<String> {
        let words: Vec<OsString> = line.split(' ').map(OsString::from).collect();
        let mut definition = with_completers(Cli::command(), &words);
        let last = words.len() - 1;
        let found = clap_complete::engine::complete(&mut definition, words, last, None);
        let mut names: Vec<String> = found
            .unwrap()
            .iter()
            .map(|candidate| candidate.get_value().to_string_lossy().into_owned())
            .collect();
        names.sort();
        names
    }

    #[test]
    fn subcommands_options_and_formats_are_completed() {
        assert_eq!(completed("cowhide conv"), ["convert"]);
        assert_eq!(completed("cowhide convert --target-f"), ["--target-format"]);
        assert_eq!(completed("cowhide convert -O qco"), ["qcow", "qcow2"]);
        assert_eq!(completed("cowhide info --output=j"), ["--output=json"]);
    }

    #[test]
    fn options_of_the_format_that_is_named_are_completed() {
        assert_eq!(
            completed("cowhide create -f qcow2 -o clus"),
            ["cluster_size="]
        );
        assert_eq!(
            completed("cowhide convert -O qcow2 -o compat=1.1,lazy_refcounts=o"),
            [
                "compat=1.1,lazy_refcounts=off",
                "compat=1.1,lazy_refcounts=on"
            ]
        );
        assert_eq!(
            completed("cowhide convert --target-format=vdi -o s"),
            ["size=", "static="]
        );
        assert!(completed("cowhide create -f raw -o clus").is_empty());
    }
}
