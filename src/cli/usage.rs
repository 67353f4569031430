//! Mistakes on the command line, in the words of `qemu-img` (which are getopt's).

use clap::error::{ContextKind, ContextValue, ErrorKind};

/// What clap found wrong, as lines for standard error without the program's name in front:
/// the message and the hint.
pub fn describe(error: &clap::Error, program: &str, subcommand: Option<&str>) -> (String, String) {
    let text = |kind| match error.get(kind) {
        Some(ContextValue::String(text)) => text.clone(),
        Some(ContextValue::Strings(texts)) => texts.join(", "),
        _ => String::new(),
    };
    let argument = text(ContextKind::InvalidArg);
    // clap shows an option as `--format <FMT>`, and all of its names together.
    let option = argument.split([' ', '=']).next().unwrap_or_default();
    let message = match error.kind() {
        ErrorKind::UnknownArgument => match option.strip_prefix("--") {
            Some(_) => format!("unrecognized option '{option}'"),
            None => format!("invalid option -- '{}'", option.trim_start_matches('-')),
        },
        ErrorKind::InvalidSubcommand => {
            format!(
                "Command not found: {}",
                text(ContextKind::InvalidSubcommand)
            )
        }
        ErrorKind::InvalidValue if text(ContextKind::InvalidValue).is_empty() => {
            format!("option '{option}' requires an argument")
        }
        ErrorKind::InvalidValue | ErrorKind::ValueValidation => format!(
            "invalid value '{}' for option '{option}'",
            text(ContextKind::InvalidValue)
        ),
        ErrorKind::ArgumentConflict => format!(
            "option '{option}' can't be used with '{}'",
            text(ContextKind::PriorArg)
        ),
        ErrorKind::TooManyValues => format!("option '{option}' takes no argument"),
        ErrorKind::InvalidUtf8 => "an option's value is not UTF-8".to_owned(),
        _ => first_line(&error.to_string()),
    };
    (message, hint(program, subcommand))
}

/// The line that says where help is.
pub fn hint(program: &str, subcommand: Option<&str>) -> String {
    match subcommand {
        Some(subcommand) => format!("Try '{program} {subcommand} --help' for more info"),
        None => format!("Try '{program} --help' for more info"),
    }
}

fn first_line(text: &str) -> String {
    let line = text.lines().next().unwrap_or_default();
    line.strip_prefix("error: ").unwrap_or(line).to_owned()
}
