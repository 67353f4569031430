//! The subcommand `completions`: it prints a script for a shell. The completion itself is here as well.
//!
//! The script runs this program with the environment variable [`VARIABLE`] for each completion. That for bash is in
//! this file: bash splits words at `=`, so it joins them first. So formats and their
//! options are those of this program, and aren't written anywhere else. The completions of a value follow from its
//! name in the definition ([`with_completers`]).

use std::ffi::{OsStr, OsString};
use std::process::ExitCode;

use clap::builder::ValueHint;
use clap::{Arg, Command, CommandFactory as _};
use clap_complete::engine::{
    ArgValueCompleter, CompletionCandidate, PathCompleter, ValueCompleter as _,
};
use clap_complete::env::{CompleteEnv, Shells};

use super::args::{Cli, CompletionsArgs};
use super::failure::FAILED;
use super::getopt::{self, Mistake, short_names};
use super::{Done, Failure, complain, print_bytes, program};
use crate::commands::Driver;
use crate::convert::Algorithm;
use crate::crypto::Secrets;
use crate::formats::Format;
use crate::formats::encryption::EncryptionFormat;
use crate::options::OptionSpec;
use crate::options::spec::united;
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
    match shell.name() {
        "bash" => script.extend(script_for_bash(name).into_bytes()),
        _ => shell.write_registration(VARIABLE, name, name, name, &mut script)?,
    }
    print_bytes(&script)?;
    Ok(ExitCode::SUCCESS)
}

/// Returns the script for bash. Readline replaces only what follows the last `=` or `:`, so what is before it is taken
/// off each completion.
fn script_for_bash(name: &str) -> String {
    const SCRIPT: &str = r#"_clap_complete_NAME() {
    local IFS=$'\013' rest=$COMP_LINE words=() word i current before
    for (( i = 0; i <= COMP_CWORD; i++ )); do
        word=${COMP_WORDS[i]}
        if [[ $i -eq 0 || $rest == [[:blank:]]* ]]; then
            words+=("$word")
            rest=${rest#"${rest%%[![:blank:]]*}"}
        else
            words[${#words[@]}-1]+=$word
        fi
        rest=${rest#"$word"}
    done
    current=${words[${#words[@]}-1]}
    # The second argument has no quotes and ends at the cursor.
    if [[ $current == "${COMP_WORDS[COMP_CWORD]}" ]]; then
        current=$2
    fi
    before=${current%"$2"}
    words[${#words[@]}-1]=$current
    COMPREPLY=( $( \
        _CLAP_IFS="$IFS" \
        _CLAP_COMPLETE_INDEX="$(( ${#words[@]} - 1 ))" \
        _CLAP_COMPLETE_COMP_TYPE="$COMP_TYPE" \
        _CLAP_COMPLETE_SPACE=false \
        VARIABLE="bash" \
        "NAME" -- "${words[@]}" \
    ) )
    if [[ $? != 0 ]]; then
        unset COMPREPLY
        return
    fi
    COMPREPLY=("${COMPREPLY[@]#"$before"}")
    if [[ "${COMPREPLY-}" == *[=/:] ]]; then
        compopt -o nospace 2> /dev/null
    fi
}
complete -o bashdefault -o nosort -F _clap_complete_NAME NAME 2> /dev/null ||
    complete -o bashdefault -F _clap_complete_NAME NAME
"#;
    let script = SCRIPT.replace("VARIABLE", VARIABLE);
    script.replace("NAME", name)
}

/// Prints completions if a shell asks for them. Returns `None` otherwise.
pub(super) fn answer(arguments: &[OsString]) -> Option<ExitCode> {
    std::env::var_os(VARIABLE)?;
    // The command line follows the script's own arguments.
    let words = arguments.iter().skip_while(|word| *word != "--");
    let mut words: Vec<OsString> = words.skip(1).cloned().collect();
    // zsh also gives the words after the cursor.
    let index = std::env::var("_CLAP_COMPLETE_INDEX").ok();
    if let Some(index) = index.and_then(|index| index.parse::<usize>().ok()) {
        words.truncate(index.saturating_add(1));
    }
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

/// Adds the completions of each value to a definition. `words` are those of the command line, which ends with the one
/// to complete.
fn with_completers(definition: Command, words: &[OsString]) -> Command {
    let format = format_of_options(words);
    let last = words.last().map(|word| word.to_string_lossy());
    let last = last.unwrap_or_default().into_owned();
    definition.mut_subcommands(|command: Command| {
        let name = command.get_name().to_owned();
        let command = command.disable_help_flag(!last.starts_with('-'));
        command.mut_args(|arg| {
            let arg = completed(arg, &name, &format);
            match arg.is_positional() {
                true => arg,
                false => offered(arg, &last),
            }
        })
    })
}

/// Offers an option only where it can be: its name after a dash, since it would be among the names of files, and the
/// value of `--progress` after `=`.
fn offered(option: Arg, last: &str) -> Arg {
    let option = match option.get_id().as_str() {
        "progress" if !last.starts_with("--progress=") => {
            option.num_args(0..=0).require_equals(false)
        }
        _ => option,
    };
    option.hide(!last.starts_with('-'))
}

/// Adds the completions of its value to an option or operand of a subcommand.
fn completed(arg: Arg, subcommand: &str, format: &str) -> Arg {
    let name = arg.get_value_names().and_then(|names| names.first());
    let name = name.map(|name| name.as_str().to_owned());
    match name.as_deref() {
        Some("FMT" | "SRC_FMT") => arg.add(one_of(Driver::names().collect::<Vec<_>>())),
        Some("OPTS") => {
            let specs = match subcommand {
                "amend" => {
                    Format::from_name(format).map(|format| united(&[format.amend_options()]))
                }
                _ => Driver::from_name(format).map(|driver| united(&driver.create_options())),
            };
            let specs = specs.unwrap_or_default();
            arg.add(ArgValueCompleter::new(move |current: &OsStr| {
                options(&specs, current)
            }))
        }
        Some("CACHE") => arg.add(one_of(CacheMode::NAMES)),
        Some("AIO") => arg.add(one_of(["threads", "native", "io_uring"])),
        Some("FORM") if arg.get_id() == "output" => arg.add(one_of(match subcommand {
            "map" => &["human", "json", "picture", "svg"][..],
            _ => &["human", "json"],
        })),
        Some("FORM") => arg.add(one_of(["json"])),
        Some("FORMAT") => arg.add(one_of(EncryptionFormat::ALL.map(EncryptionFormat::name))),
        Some("NAME") => arg.add(one_of(Algorithm::ALL.map(Algorithm::name))),
        Some("MODE") => arg.add(one_of(["off", "metadata", "falloc", "full"])),
        Some("WHEN") => arg.add(one_of(["auto", "always", "never"])),
        Some("WHAT") => arg.add(one_of(["leaks", "all"])),
        Some("SHELL") => arg.add(one_of(SHELLS)),
        Some("DIRECTORY") => arg.value_hint(ValueHint::DirPath),
        Some("OBJDEF") => arg.add(ArgValueCompleter::new(object)),
        _ if arg.is_positional() && subcommand == "dd" => {
            arg.add(ArgValueCompleter::new(operand_of_dd))
        }
        Some("FILE" | "PATH" | "SRC_FILENAME") => arg.add(ArgValueCompleter::new(paths)),
        _ if arg.is_positional() => arg.add(ArgValueCompleter::new(paths)),
        _ => arg,
    }
}

/// Returns a completer for the names of a list.
fn one_of(names: impl Into<Vec<&'static str>>) -> ArgValueCompleter {
    let names = names.into();
    ArgValueCompleter::new(move |current: &OsStr| starting(&names, "", current))
}

/// Returns those names that start with `current`, each after `before`.
fn starting(names: &[&str], before: &str, current: &OsStr) -> Vec<CompletionCandidate> {
    let current = current.to_string_lossy();
    let names = names.iter().filter(|name| name.starts_with(&*current));
    let full = names.map(|name| CompletionCandidate::new(format!("{before}{name}")));
    full.collect()
}

/// Returns the files, devices and folders whose path starts with `current`.
fn paths(current: &OsStr) -> Vec<CompletionCandidate> {
    let mut found = PathCompleter::any().complete(current);
    // The folder itself is no image.
    found.retain(|path| path.get_value() != ".");
    found
}

/// Returns [`paths`], each after `before`.
fn paths_after(before: &str, current: &str) -> Vec<CompletionCandidate> {
    let found = paths(OsStr::new(current)).into_iter();
    found.map(|path| path.add_prefix(before)).collect()
}

/// Completes an operand of `dd`: its name, or the image after it.
fn operand_of_dd(current: &OsStr) -> Vec<CompletionCandidate> {
    let text = current.to_string_lossy();
    for name in ["if=", "of="] {
        if let Some(path) = text.strip_prefix(name) {
            return paths_after(name, path);
        }
    }
    starting(&["if=", "of=", "bs=", "count=", "skip="], "", current)
}

/// Completes the last part of an object's definition: its type, a key, or a file or a format after it.
fn object(current: &OsStr) -> Vec<CompletionCandidate> {
    let text = current.to_string_lossy();
    let Some((before, last)) = text.rfind(',').map(|comma| text.split_at(comma + 1)) else {
        return starting(&["secret,id=", "secret_keyring,id="], "", current);
    };
    if let Some(path) = last.strip_prefix("file=") {
        return paths_after(&format!("{before}file="), path);
    }
    let keys = [
        "id=",
        "file=",
        "data=",
        "format=raw",
        "format=base64",
        "keyid=",
        "iv=",
        "serial=",
    ];
    starting(&keys, before, OsStr::new(last))
}

/// Completes the last option of a list: its name, or its value if help lists the values.
fn options(specs: &[&OptionSpec], current: &OsStr) -> Vec<CompletionCandidate> {
    let current = current.to_string_lossy();
    let (before, last) = match current.rfind(',') {
        Some(comma) => current.split_at(comma + 1),
        None => ("", &*current),
    };
    if let Some((key, value)) = last.split_once('=') {
        let spec = specs.iter().find(|spec| spec.name == key);
        let values = spec.map(|spec| spec.values()).unwrap_or_default();
        return starting(&values, &format!("{before}{key}="), OsStr::new(value));
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
    let definition = Cli::definition();
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
        assert_eq!(
            completed("cowhide amend -f qcow2 -o lazy"),
            ["lazy_refcounts="]
        );
        assert!(completed("cowhide amend -f qcow2 -o cluster").is_empty());
    }

    #[test]
    fn values_that_help_lists_are_completed() {
        let line = "cowhide create -f qcow2 -o preallocation=";
        assert_eq!(
            completed(line),
            ["falloc", "full", "metadata", "off"].map(|mode| format!("preallocation={mode}"))
        );
        assert_eq!(
            completed("cowhide convert -O qcow2 -o encrypt.format=l"),
            ["encrypt.format=luks"]
        );
        assert_eq!(completed("cowhide map --output p"), ["picture"]);
        assert!(completed("cowhide info --output p").is_empty());
        assert_eq!(completed("cowhide bench -i na"), ["native"]);
    }

    #[test]
    fn operands_of_dd_and_objects_are_completed_part_by_part() {
        assert_eq!(completed("cowhide dd i"), ["if="]);
        assert_eq!(completed("cowhide dd if=Cargo.l"), ["if=Cargo.lock"]);
        let before = "secret,id=s,";
        assert_eq!(
            completed(&format!("cowhide info --object {before}file=Cargo.l")),
            [format!("{before}file=Cargo.lock")]
        );
        assert_eq!(
            completed(&format!("cowhide info --object {before}fi")),
            [format!("{before}file=")]
        );
    }

    #[test]
    fn names_of_options_are_offered_after_a_dash_only() {
        let all = completed("cowhide convert ");
        assert!(all.contains(&"Cargo.toml".to_owned()), "{all:?}");
        assert!(!all.iter().any(|name| name.starts_with('-') || name == "."));
        // This option has a value only after `=`.
        let all = completed("cowhide convert --progress ");
        assert!(!all.contains(&"json".to_owned()), "{all:?}");
        assert_eq!(
            completed("cowhide convert --progress="),
            ["--progress=json"]
        );
        assert!(completed("cowhide convert -").contains(&"-O".to_owned()));
    }
}
