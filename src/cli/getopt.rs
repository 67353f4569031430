//! The syntax of `getopt_long`, in front of clap.
//!
//! Scripts depend on the syntax of GNU's parser: options after operands, and grouped short options with attached
//! values (`-pfqcow2`). It also has unique prefixes of long names, and values that start with `-`. clap accepts only
//! some of that, and differently.
//!
//! So [`normalise`] brings every command line into a normal form that is unambiguous for clap. All options come
//! first, each with its full name and with its value attached, then `--`, and then the operands. The options are
//! those of clap's own definition, so nothing is written twice. Mistakes are reported in the words of getopt.
//!
//! Options that only this program has (those under [`OWN`]) never make a prefix ambiguous: a prefix that is unique in
//! `qemu-img` stays so.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::slice::Iter;

use clap::{Arg, Command};

use super::other_words;
use crate::options::similar;

/// The heading in the help text of options that `qemu-img` doesn't have.
pub(super) const OWN: &str = "Only in cowhide";

/// The message for an unknown subcommand.
pub(super) const NOT_FOUND: &str = "Command not found";

/// The action that a command line asks for.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Call {
    /// Help on the program, or on a subcommand.
    Help(Option<String>),
    /// Help on a subcommand, with examples.
    LongHelp(String),
    /// The version.
    Version,
    /// A run with these arguments, in normal form, of that subcommand (or without one).
    Run(Vec<OsString>, Option<String>),
}

/// A command line with a syntax error.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Mistake {
    /// The subcommand, if there was one before the mistake.
    pub(super) subcommand: Option<String>,
    /// The message.
    pub(super) message: String,
    /// A line of help.
    pub(super) help: Option<String>,
}

/// A mistake in one word.
struct Wrong {
    message: String,
    /// A line of help.
    help: Option<String>,
}

impl From<String> for Wrong {
    fn from(message: String) -> Self {
        let help = None;
        Self { message, help }
    }
}

impl Wrong {
    fn in_subcommand(self, name: Option<&str>) -> Mistake {
        let Self { message, help } = self;
        Mistake {
            subcommand: name.map(str::to_owned),
            message,
            help,
        }
    }
}

/// Brings a command line (the first argument is the program's name) into normal form. `program` must be built, so
/// that it has clap's own options too ([`Command::build`]). `seen` is called with each value in order, and with the
/// names of its subcommand and option in the definition.
///
/// # Errors
/// Returns a [`Mistake`] if the subcommand or an option is unknown. Returns one, too, if an option is ambiguous,
/// lacks a value, or has one that it doesn't take. Returns the error of `seen` if it refuses a value.
pub(super) fn normalise<E: From<Mistake>>(
    program: &Command,
    arguments: &[OsString],
    mut seen: impl FnMut(&str, &str, &OsStr) -> Result<(), E>,
) -> Result<Call, E> {
    let mut words = arguments.iter();
    let mut run: Vec<OsString> = words.next().into_iter().cloned().collect();
    let globally = |wrong: Wrong| wrong.in_subcommand(None);
    let name = match subcommand_word(program, &mut words, &mut run).map_err(globally)? {
        Start::Subcommand(name) => name,
        Start::Nothing => return Ok(Call::Run(run, None)),
        Start::Other(call) => return Ok(call),
    };
    let Some(command) = name.to_str().and_then(|name| program.find_subcommand(name)) else {
        let name = name.to_string_lossy();
        let known = program.get_subcommands().map(Command::get_name);
        let help = other_words::of_subcommand(&name, known);
        let message = format!("{NOT_FOUND}: {name}");
        return Err(globally(Wrong { message, help }).into());
    };
    let name = command.get_name();
    run.push(name.into());
    let grammar = Grammar::of(command);
    let mut operands = Vec::new();
    let mut follows_first = false;
    while let Some(word) = words.next() {
        let may_be_negative = std::mem::take(&mut follows_first);
        if word == "--" {
            operands.extend(words.by_ref().cloned());
        } else if !is_option(word) || (may_be_negative && grammar.is_negative_number(word)) {
            operands.push(word.clone());
            follows_first = operands.len() == 1;
        } else {
            let mut found = Vec::new();
            let outcome = grammar.read(word, &mut words, &mut found);
            // Options before a mistake in the same word count: `-hz` asks for help.
            if found.iter().any(|option| option.id() == "help") {
                let is_long = word.as_bytes().starts_with(b"--");
                return Ok(match is_long {
                    true => Call::LongHelp(name.to_owned()),
                    false => Call::Help(Some(name.to_owned())),
                });
            }
            for option in &found {
                if let Some(value) = &option.value {
                    seen(name, option.id(), value)?;
                }
            }
            outcome.map_err(|wrong| wrong.in_subcommand(Some(name)))?;
            run.extend(found.iter().map(GivenOption::canonical));
        }
    }
    run.push("--".into());
    run.append(&mut operands);
    Ok(Call::Run(run, Some(name.to_owned())))
}

/// The words after the options before the subcommand.
enum Start<'a> {
    /// The word in the place of a subcommand.
    Subcommand(&'a OsString),
    /// The end of the command line.
    Nothing,
    /// An option that asks for something else.
    Other(Call),
}

/// Adds the options before the subcommand to `run`, in normal form. They end at the first word that isn't an option.
fn subcommand_word<'a>(
    program: &Command,
    words: &mut Iter<'a, OsString>,
    run: &mut Vec<OsString>,
) -> Result<Start<'a>, Wrong> {
    let globals = Grammar::of(program);
    let start = |word: Option<&'a OsString>| word.map_or(Start::Nothing, Start::Subcommand);
    loop {
        let word = match words.next() {
            Some(word) if word == "--" => return Ok(start(words.next())),
            Some(word) if is_option(word) => word,
            other => return Ok(start(other)),
        };
        let mut found = Vec::new();
        let outcome = globals.read(word, words, &mut found);
        for option in found {
            match option.id() {
                "help" => return Ok(Start::Other(Call::Help(None))),
                "version" => return Ok(Start::Other(Call::Version)),
                _ => run.push(option.canonical()),
            }
        }
        outcome?;
    }
}

/// Returns true if a word is one or several options: it starts with `-` and isn't only that.
fn is_option(word: &OsStr) -> bool {
    word.as_bytes().starts_with(b"-") && word.len() > 1
}

/// An option that was given, and its value.
struct GivenOption<'a> {
    option: &'a Arg,
    value: Option<OsString>,
}

impl GivenOption<'_> {
    fn id(&self) -> &str {
        self.option.get_id().as_str()
    }

    /// Formats the option as a single, unambiguous word.
    fn canonical(&self) -> OsString {
        let mut word = match (self.option.get_long(), self.option.get_short()) {
            (Some(long), _) => OsString::from(format!("--{long}")),
            (None, Some(short)) => OsString::from(format!("-{short}")),
            (None, None) => OsString::new(),
        };
        if let Some(value) = &self.value {
            word.push("=");
            word.push(value);
        }
        word
    }
}

/// The options of the program or of one of its subcommands.
struct Grammar<'a> {
    options: Vec<&'a Arg>,
    negative_numbers: bool,
    /// True if these are the options before the subcommand.
    is_global: bool,
}

impl<'a> Grammar<'a> {
    fn of(command: &'a Command) -> Self {
        Self {
            options: command
                .get_arguments()
                .filter(|option| !option.is_positional())
                .collect(),
            negative_numbers: command
                .get_positionals()
                .any(Arg::is_allow_negative_numbers_set),
            is_global: command.has_subcommands(),
        }
    }

    /// Returns true if a word after the first operand is an operand although it starts with `-`. The definition says
    /// if operands may be negative numbers (`resize x -10M`).
    fn is_negative_number(&self, word: &OsStr) -> bool {
        self.negative_numbers && word.as_bytes().get(1).is_some_and(u8::is_ascii_digit)
    }

    /// Parses a word, and the next word if that is its value. Adds the options to `found`.
    fn read<'w>(
        &self,
        word: &OsStr,
        rest: &mut impl Iterator<Item = &'w OsString>,
        found: &mut Vec<GivenOption<'a>>,
    ) -> Result<(), Wrong> {
        match word.as_bytes().strip_prefix(b"--") {
            Some(long) => {
                found.push(self.read_long(long, rest)?);
                Ok(())
            }
            None => self.read_short(word.as_bytes().get(1..).unwrap_or_default(), rest, found),
        }
    }

    fn read_long<'w>(
        &self,
        word: &[u8],
        rest: &mut impl Iterator<Item = &'w OsString>,
    ) -> Result<GivenOption<'a>, Wrong> {
        let (name, attached) = match word.iter().position(|byte| *byte == b'=') {
            Some(at) => (
                word.get(..at).unwrap_or_default(),
                Some(OsStr::from_bytes(word.get(at + 1..).unwrap_or_default()).to_owned()),
            ),
            None => (word, None),
        };
        let (option, full) = self.find_long(name, &String::from_utf8_lossy(word))?;
        let value = match (takes_value(option), attached) {
            (false, Some(value)) if may_take_value(option) => Some(value),
            (false, Some(_)) => {
                return Err(format!("option '--{full}' doesn't allow an argument").into());
            }
            (false, None) => None,
            (true, Some(value)) => Some(value),
            (true, None) => Some(
                rest.next()
                    .ok_or_else(|| format!("option '--{full}' requires an argument"))?
                    .clone(),
            ),
        };
        Ok(GivenOption { option, value })
    }

    /// Finds the option with the name `name`, or with a name of which that is a unique prefix.
    fn find_long(&self, name: &[u8], word: &str) -> Result<(&'a Arg, &'a str), Wrong> {
        let mut fitting: Vec<(&Arg, &str)> = Vec::new();
        for option in &self.options {
            for full in long_names(option) {
                if full.as_bytes() == name {
                    return Ok((option, full));
                }
                // Several names of one option aren't ambiguous.
                let listed = fitting.last().is_some_and(|(last, _)| last == option);
                if full.as_bytes().starts_with(name) && !listed {
                    fitting.push((option, full));
                }
            }
        }
        if fitting.iter().any(|(option, _)| !is_own(option)) {
            fitting.retain(|(option, _)| !is_own(option));
        }
        match fitting.as_slice() {
            [] => Err(self.unknown(&String::from_utf8_lossy(name), word)),
            [only] => Ok(*only),
            several => {
                let names: Vec<String> = several
                    .iter()
                    .map(|(_, full)| format!("'--{full}'"))
                    .collect();
                Err(format!(
                    "option '--{word}' is ambiguous; possibilities: {}",
                    names.join(" ")
                )
                .into())
            }
        }
    }

    /// Returns the mistake of an unknown option.
    fn unknown(&self, name: &str, word: &str) -> Wrong {
        let known = self.options.iter().flat_map(|option| long_names(option));
        let other = || self.other_place(|option| long_names(option).any(|full| full == name));
        Wrong {
            message: format!("unrecognized option '--{word}'"),
            help: other_words::of_option(name, |id| self.has(id))
                .or_else(other)
                .or_else(|| similar::question(name, known).map(with_dashes)),
        }
    }

    /// Returns a line of help for an option that the program has in another place than this one.
    fn other_place(&self, is_meant: impl Fn(&Arg) -> bool) -> Option<String> {
        let is_in = |command: &Command| command.get_arguments().any(&is_meant);
        let all = other_words::all_options();
        if self.is_global {
            let mut commands = all.get_subcommands();
            return commands
                .any(is_in)
                .then(|| "Options of a subcommand stand after its name".to_owned());
        }
        is_in(&all).then(|| "This option stands before the subcommand".to_owned())
    }

    /// Returns true if there is an option with that name in the definition.
    fn has(&self, id: &str) -> bool {
        self.options.iter().any(|option| option.get_id() == id)
    }

    /// Returns a line of help for an unknown letter in a word of short options, of which it is the one at `position`.
    fn help_on_letter(&self, letter: char, position: usize, letters: &str) -> Option<String> {
        if position == 0 && letter.is_ascii_digit() {
            return Some(match self.negative_numbers {
                true => format!("'-{letters}' is read as a size only after the image's name"),
                false => format!(
                    "'-{letters}' was read as options; write '-- -{letters}' for an operand"
                ),
            });
        }
        if position > 0 && letter == '=' {
            return Some("Only long options have a value after '='".to_owned());
        }
        let letter_of = |option: &Arg| short_names(option).any(|name| name == letter);
        other_words::of_option(&letter.to_string(), |id| self.has(id))
            .or_else(|| self.other_place(letter_of))
    }

    fn read_short<'w>(
        &self,
        letters: &[u8],
        rest: &mut impl Iterator<Item = &'w OsString>,
        found: &mut Vec<GivenOption<'a>>,
    ) -> Result<(), Wrong> {
        for (position, letter) in letters.iter().enumerate() {
            let Some(option) = self
                .options
                .iter()
                .find(|option| short_names(option).any(|name| name == char::from(*letter)))
            else {
                let word = String::from_utf8_lossy(letters);
                return Err(Wrong {
                    message: format!("invalid option -- '{}'", letter.escape_ascii()),
                    help: self.help_on_letter(char::from(*letter), position, &word),
                });
            };
            if !takes_value(option) {
                found.push(GivenOption {
                    option,
                    value: None,
                });
                continue;
            }
            let attached = letters.get(position + 1..).unwrap_or_default();
            let value = if attached.is_empty() {
                let letter = char::from(*letter);
                rest.next()
                    .ok_or_else(|| format!("option requires an argument -- '{letter}'"))?
                    .clone()
            } else {
                OsString::from_vec(attached.to_vec())
            };
            found.push(GivenOption {
                option,
                value: Some(value),
            });
            break;
        }
        Ok(())
    }
}

/// Returns a question about a long option with its dashes.
fn with_dashes(question: String) -> String {
    question.replacen('\'', "'--", 1)
}

/// Returns true if an option always has a value.
pub(super) fn takes_value(option: &Arg) -> bool {
    let takes_some = |count: clap::builder::ValueRange| count.min_values() > 0;
    option.get_action().takes_values() && option.get_num_args().is_none_or(takes_some)
}

/// Returns true if the long name of an option may have a value attached.
fn may_take_value(option: &Arg) -> bool {
    let takes_any = |count: clap::builder::ValueRange| count.takes_values();
    option.get_action().takes_values() && option.get_num_args().is_none_or(takes_any)
}

pub(super) fn is_own(option: &Arg) -> bool {
    option.get_help_heading() == Some(OWN)
}

fn long_names(option: &Arg) -> impl Iterator<Item = &str> {
    let aliases = option.get_all_aliases().unwrap_or_default();
    option.get_long().into_iter().chain(aliases)
}

pub(super) fn short_names(option: &Arg) -> impl Iterator<Item = char> {
    let aliases = option.get_all_short_aliases().unwrap_or_default();
    option.get_short().into_iter().chain(aliases)
}

#[cfg(test)]
mod tests;
