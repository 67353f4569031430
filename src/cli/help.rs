//! The text of `--help` and `--version`.
//!
//! Scripts search both for the features of a `qemu-img`. Some search for a subcommand's line with an option (`info …
//! -U`, `bitmap … filename bitmap`). Some search for the line `Supported formats: …`, or for the list below
//! `Supported image formats:`. Others search for a version number in the first line.
//!
//! The help texts of QEMU before and after 10.1 differ, and each broke some scripts. This one has all that scripts
//! search for. It is generated from the definition of the options, so it has no others.

use std::fmt::Write as _;

use clap::{Arg, Command};

use super::examples;
use super::getopt::takes_value;
use crate::commands::Driver;
use crate::formats::FORMATS;

/// The version of `qemu-img` with the same behaviour, for scripts that compare versions.
const COMPATIBLE_WITH: &str = "10.0.2";

/// Returns the line of `--version`. It has the version of `qemu-img` first if the program is called by that name.
pub(super) fn version(program: &str) -> String {
    let own = env!("CARGO_PKG_VERSION");
    if program.starts_with("qemu-img") {
        format!("qemu-img version {COMPATIBLE_WITH} (cowhide {own})\n")
    } else {
        format!("cowhide version {own} (as qemu-img version {COMPATIBLE_WITH})\n")
    }
}

/// Returns the help text of the program. `definition` must be built. For people (`is_short`) it has no options of
/// subcommands, which scripts search for.
pub(super) fn page(definition: &Command, program: &str, is_short: bool) -> String {
    let mut text = version(program);
    let about = definition.get_about().map(ToString::to_string);
    // Writing to a string can't fail.
    let _ = writeln!(text, "{}", about.unwrap_or_default());
    let _ = writeln!(
        text,
        "\nUsage: {program} [-h | -V] [-T TRACE] [--error-format FORM] COMMAND ...\n"
    );
    for option in definition.get_arguments() {
        let value = takes_value(option).then(|| option.get_value_names().unwrap_or_default());
        let value = value.map_or_else(String::new, |names| format!(" {}", names.join(" ")));
        let long = option.get_long().unwrap_or_default();
        let name = match option.get_short() {
            Some(short) => format!("-{short}, --{long}{value}"),
            None => format!("    --{long}{value}"),
        };
        let help = option.get_help().map(ToString::to_string);
        let _ = writeln!(text, "    {name:<23}  {}", help.unwrap_or_default());
    }
    let _ = writeln!(
        text,
        "\nCommands ('{program} COMMAND --help' explains their options, and has examples):\n"
    );
    let mut commands: Vec<&Command> = definition.get_subcommands().collect();
    commands.sort_by_key(|command| command.get_name());
    for command in commands {
        let about = command.get_about().map(ToString::to_string);
        let about = about.unwrap_or_default();
        let _ = match is_short {
            true => writeln!(text, "  {:<11}  {about}", command.get_name()),
            false => writeln!(text, "  {}\n      {about}", syntax(command)),
        };
    }
    let mut formats: Vec<&str> = FORMATS.iter().map(|format| format.name()).collect();
    formats.sort_unstable();
    let _ = writeln!(text, "\nSupported formats: {}", formats.join(" "));
    if is_short {
        return text;
    }
    // The older line has only formats. The newer list also has the protocols that `-f` and `-O` take.
    let mut drivers: Vec<&str> = Driver::names().collect();
    drivers.sort_unstable();
    let _ = writeln!(
        text,
        "\nSupported image formats:\n\n  {}",
        drivers.join(" ")
    );
    text
}

/// Returns the help text of a subcommand. `definition` must be built.
pub(super) fn subcommand(definition: &Command, name: &str, program: &str) -> String {
    let Some(command) = definition.find_subcommand(name) else {
        return page(definition, program, false);
    };
    let usage = format!("{program} {}", syntax(command));
    command
        .clone()
        .override_usage(usage)
        .render_help()
        .to_string()
}

/// Returns the help text of a subcommand with examples at its end.
pub(super) fn with_examples(definition: &Command, name: &str, program: &str) -> String {
    let mut text = subcommand(definition, name, program);
    text.push_str("\nExamples:\n");
    for example in examples::of(name) {
        // Writing to a string can't fail.
        let _ = writeln!(
            text,
            "  # {}\n  {program} {}",
            example.purpose, example.arguments
        );
    }
    text
}

/// Formats a subcommand's options and operands, on one line.
pub(super) fn syntax(command: &Command) -> String {
    let mut line = command.get_name().to_owned();
    let shown = |arg: &&Arg| !arg.is_hide_set() && arg.get_id() != "help";
    for option in command.get_arguments().filter(shown) {
        let value =
            takes_value(option).then(|| option.get_value_names().unwrap_or_default().join(" "));
        let name = match (option.get_short(), option.get_long()) {
            (Some(short), _) => format!("-{short}"),
            (None, Some(long)) => format!("--{long}"),
            (None, None) => continue,
        };
        let _ = match value {
            Some(value) => write!(line, " [{name} {value}]"),
            None => write!(line, " [{name}]"),
        };
    }
    for operand in command.get_positionals().filter(shown) {
        let names = operand.get_value_names().unwrap_or_default().join(" ");
        let _ = write!(line, " {}", names.to_lowercase());
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_commands_say_options_and_operands() {
        let command = Command::new("bitmap")
            .arg(Arg::new("add").long("add").action(clap::ArgAction::SetTrue))
            .arg(
                Arg::new("file")
                    .short('b')
                    .long("backing")
                    .value_name("FILE"),
            )
            .arg(Arg::new("operands").value_name("FILENAME BITMAP"));
        assert_eq!(syntax(&command), "bitmap [--add] [-b FILE] filename bitmap");
    }

    #[test]
    fn the_version_is_the_third_word_of_the_first_line() {
        assert!(version("qemu-img").starts_with("qemu-img version 10.0.2 "));
        assert_eq!(
            version("cowhide").split(' ').nth(2),
            Some(env!("CARGO_PKG_VERSION"))
        );
    }
}
