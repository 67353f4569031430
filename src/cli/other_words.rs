//! Words that people type for a subcommand or an option of another name. A message about an unknown word has them as a
//! suggestion.

use super::args::Cli;
use crate::options::similar;

/// Other words for subcommands, and what to type instead.
const SUBCOMMANDS: &[(&str, &str)] = &[
    ("benchmark", "bench"),
    ("cmp", "compare"),
    ("copy", "convert"),
    ("cp", "convert"),
    ("compress", "convert -c"),
    ("decrypt", "convert"),
    ("describe", "info --explain"),
    ("diff", "compare"),
    ("encrypt", "convert --encrypt"),
    ("expand", "resize"),
    ("explain", "info --explain"),
    ("fsck", "check"),
    ("grow", "resize"),
    ("hash", "checksum"),
    ("help", "--help"),
    ("inspect", "info"),
    ("list", "info"),
    ("ls", "info"),
    ("make", "create"),
    ("merge", "commit"),
    ("new", "create"),
    ("plan", "convert --plan"),
    ("repair", "check -r"),
    ("sha256", "checksum"),
    ("sha256sum", "checksum"),
    ("show", "info"),
    ("shrink", "resize --shrink"),
    ("size", "measure"),
    ("verify", "check"),
    ("version", "--version"),
];

/// Other words for long options, and what to type instead if a subcommand has the option of the third column.
const OPTIONS: &[(&str, &str, &str)] = &[
    ("encryption", "--encrypt", "encrypt"),
    ("explanation", "--explain", "explain"),
    ("json", "--output=json", "output"),
    ("picture", "--output=picture", "start_offset"),
    ("svg", "--output=svg", "start_offset"),
    ("dry-run", "--plan", "plan"),
    ("readonly", "--untrusted", "untrusted"),
    ("threads", "--parallel", "parallel"),
    ("jobs", "--parallel", "parallel"),
    ("blake3", "--algorithm blake3", "algorithm"),
    ("sha256", "--algorithm sha256", "algorithm"),
    ("delete", "--remove", "remove"),
    ("list", "'info', which lists bitmaps", "granularity"),
    ("fix", "--repair", "repair"),
    ("e", "--encrypt", "encrypt"),
    ("j", "--output=json", "output"),
    ("v", "--verify", "verify"),
];

/// Returns the definition of all options, to look for those that stand in another place.
pub(super) fn all_options() -> clap::Command {
    Cli::definition()
}

/// Returns a suggestion for an unknown subcommand, as a line of help.
pub(super) fn of_subcommand<'a>(
    word: &str,
    known: impl Iterator<Item = &'a str>,
) -> Option<String> {
    let word = word.to_lowercase();
    let other = SUBCOMMANDS.iter().find(|(other, _)| *other == word);
    match other {
        Some((_, instead)) => Some(format!("Did you mean '{instead}'?")),
        None => similar::question(&word, known),
    }
}

/// Returns a suggestion for an unknown option of a subcommand, without its dashes, as a line of help. `has` says if
/// the subcommand has an option.
pub(super) fn of_option(word: &str, has: impl Fn(&str) -> bool) -> Option<String> {
    let fits = |(other, _, option): &&(&str, &str, &str)| *other == word && has(option);
    let (_, instead, _) = OPTIONS.iter().find(fits)?;
    Some(match instead.starts_with('-') {
        true => format!("Did you mean '{instead}'?"),
        false => format!("See {instead}"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_suggested_exists_and_what_is_not_known_does_not() {
        let definition = Cli::definition();
        for (other, instead) in SUBCOMMANDS {
            assert!(definition.find_subcommand(other).is_none(), "{other}");
            let mut words = instead.split(' ');
            let command = words.next().unwrap();
            assert!(
                command.starts_with("--") || definition.find_subcommand(command).is_some(),
                "{instead}"
            );
        }
        for (other, _, option) in OPTIONS {
            let mut commands = definition.get_subcommands();
            let has = |command: &clap::Command| {
                let mut all = command.get_arguments();
                all.any(|argument| argument.get_id() == option)
            };
            assert!(commands.any(has), "{other}: {option}");
        }
    }
}
