//! Mistakes on the command line that clap finds: invalid values, and options that exclude each other. Syntax errors
//! were found before by [`super::getopt`].

use clap::error::{ContextKind, ContextValue, ErrorKind};

/// Returns a line that describes a mistake that clap found, without the program's name in front.
pub fn describe(error: &clap::Error) -> String {
    let text = |kind| match error.get(kind) {
        Some(ContextValue::String(text)) => text.clone(),
        Some(ContextValue::Strings(texts)) => texts.join(", "),
        _ => String::new(),
    };
    let argument = text(ContextKind::InvalidArg);
    // clap shows an option as `--format <FMT>`, with all of its names together.
    let option = argument.split([' ', '=']).next().unwrap_or_default();
    match error.kind() {
        ErrorKind::InvalidValue | ErrorKind::ValueValidation => format!(
            "invalid value '{}' for option '{option}'",
            text(ContextKind::InvalidValue)
        ),
        ErrorKind::ArgumentConflict => format!(
            "option '{option}' can't be used with '{}'",
            text(ContextKind::PriorArg)
        ),
        ErrorKind::InvalidUtf8 => "an option's value is not UTF-8".to_owned(),
        _ => first_line(&error.to_string()),
    }
}

/// Returns the line that names the help option.
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
