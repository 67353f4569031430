//! Entry points for the fuzz targets in `fuzz/`, which feed them untrusted bytes.
//!
//! They take images for `info`, command lines, option strings, and names of images. Each accepts any input, and
//! asserts invariants of the result. Only tests and builds for fuzzing (cargo-fuzz sets `fuzzing`) have them. They
//! open no file but the image.
#![expect(
    clippy::unwrap_used,
    reason = "a panic is how a fuzz target says what it found"
)]

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::sync::OnceLock;

use clap::FromArgMatches as _;

use super::args::Cli;
use super::getopt::{self, Call};
use super::{objects, operands, render, usage, warn_with_help};
use crate::commands;
use crate::crypto::Secrets;
use crate::formats::driver::{Contents, NewDisk};
use crate::formats::{FORMATS, Format};
use crate::nodes::{Node, image_name};
use crate::options::Values;
use crate::options::{list, qemu_json};
use crate::units::{human_size, parse_size};

/// Renders a file's report as `info` does, as text and as JSON.
pub fn info(path: &Path, format: Option<Format>) {
    let source = Node::plain(path.to_owned(), path.to_string_lossy().into_owned(), format);
    match commands::info::run(&source, source.name.clone(), &|| {}) {
        Ok(info) => {
            let text = render::info::human(&info).unwrap();
            assert!(!text.contains(|c: char| c.is_control() && c != '\n'));
            let json = qemu_json::render(&info).unwrap();
            assert!(json.is_ascii());
            serde_json::from_str::<serde_json::Value>(&json).unwrap();
        }
        Err(error) => assert!(!error.to_string().is_empty()),
    }
}

/// Parses a command line of words that are separated by spaces.
pub fn command_line(bytes: &[u8]) {
    static DEFINITION: OnceLock<clap::Command> = OnceLock::new();
    let definition = DEFINITION.get_or_init(Cli::definition);
    let words = bytes.split(|byte| *byte == b' ').map(OsStr::from_bytes);
    let words: Vec<OsString> = words.map(OsStr::to_owned).collect();
    let normalise = |words: &[OsString]| {
        getopt::normalise(definition, words, |_, _, _| Ok::<(), getopt::Mistake>(()))
    };
    match normalise(&words) {
        Ok(Call::Run(words, subcommand)) => {
            let again = normalise(&words);
            assert_eq!(again, Ok(Call::Run(words.clone(), subcommand)));
            let parsed = definition.clone().try_get_matches_from(words);
            match parsed.and_then(|matches| Cli::from_arg_matches(&matches)) {
                Ok(_) => {}
                Err(error) => assert!(!usage::describe(&error).is_empty()),
            }
        }
        Ok(Call::Help(_) | Call::LongHelp(_) | Call::Version) => {}
        Err(mistake) => assert!(!mistake.message.is_empty()),
    }
}

/// Parses a text as each kind of option string: `-o` of each format, `--object`, a size.
pub fn option_string(text: &str) {
    let list = [text.into()];
    for format in FORMATS.iter().copied() {
        let specs = commands::Driver::Format(format).create_options();
        if let Ok(options) = Values::of_lists(&specs, &list) {
            let line = options.formatting_line(OsStr::new(text), format.name());
            assert!(line.windows(4).any(|part| part == b"fmt="));
            let size = options.size().unwrap_or(1 << 30);
            let plan = format.plan(&NewDisk {
                size,
                options: &options,
                backing_size: None,
                base: None,
                path: Path::new("image"),
                compressed: false,
                align: None,
                path_of: crate::nodes::file_name::path,
            });
            if let Ok(plan) = plan {
                let _ = (plan.other_files(), plan.encryption());
            }
            let contents = Contents {
                size,
                image: None,
                bitmaps: None,
            };
            let _ = format.measure(&options, &contents);
        }
    }
    let _ = (list::asks_for_help(text), list::is_valid_list(text));
    // Elements `key=value` can be formatted and parsed again.
    for option in list::parse(text, Some("first")) {
        let (key, value) = (option.key.clone(), option.text());
        let written = format!("{key}={}", value.replace(',', ",,"));
        if !key.contains(',') {
            let again = list::parse(&written, None);
            let again = again.into_iter().map(|one| (one.key.clone(), one.text()));
            let again: Vec<_> = again.collect();
            assert_eq!(again, [(key, value)]);
        }
    }
    if let Some(number) = list::parse_integer(text) {
        assert_eq!(list::parse_integer(&number.to_string()), Some(number));
    }
    if let Ok(size) = parse_size(text) {
        assert_eq!(parse_size(&size.to_string()), Ok(size));
        assert!(!human_size(size).is_empty());
    }
    // Objects that would read files or the kernel's keys are skipped.
    if !text.contains("file") && !text.contains("keyring") {
        let _ = objects::add(&mut Secrets::default(), text.as_ref());
    }
}

/// Parses a text as the name of an image, plain and with `--image-opts`. Asserts that the name that `info` shows
/// names the same image.
pub fn image_name(text: &str) {
    let secrets = objects::parse(&["secret,id=s,data=abc".to_owned()]).unwrap();
    for format in [None, Some("raw"), Some("qcow2"), Some("x")] {
        if let Ok((source, shown)) =
            image_name::by_name(OsStr::new(text), format, &secrets, warn_with_help)
        {
            assert!(!source.path.as_os_str().is_empty() || text == "file:" || text.is_empty());
            names_the_same(&source, &shown, &secrets);
        }
    }
    if let Ok((source, shown)) = operands::by_options(OsStr::new(text), &secrets) {
        names_the_same(&source, &shown, &secrets);
    }
}

fn names_the_same(source: &Node<'_>, shown: &str, secrets: &Secrets) {
    // The name of a plain file can be any text.
    if !shown.starts_with("json:") || source.path == Path::new(shown) {
        return;
    }
    // Options that no format has are refused when the image is opened, or if a driver is given.
    let formats = source
        .format
        .map_or_else(|| FORMATS.to_vec(), |format| vec![format]);
    if formats
        .iter()
        .all(|format| source.options.of(*format).is_err())
    {
        return;
    }
    let (again, shown_again) =
        image_name::by_name(OsStr::new(shown), None, secrets, warn_with_help).unwrap();
    assert_eq!(again.path, source.path, "{shown}");
    // Without a driver, the window only has an effect if the probed format has windows.
    let windows = |source: &Node<'_>| {
        let formats = source
            .format
            .map_or_else(|| FORMATS.to_vec(), |format| vec![format]);
        let window = formats.iter().find_map(|format| {
            let options = source.options.of(*format).ok()?;
            format.window(&options)
        });
        source
            .windows
            .iter()
            .copied()
            .chain(window)
            .collect::<Vec<_>>()
    };
    assert_eq!(windows(&again), windows(source), "{shown}");
    assert_eq!(shown_again, shown);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::for_tests::RandomNumbers;

    /// Calls `look` with `rounds` texts, each a fuzz target's seed with a few changes.
    fn each_mutant(seeds: &[&str], rounds: usize, look: impl Fn(&str)) {
        const PIECES: [&str; 24] = [
            ",",
            "=",
            ",,",
            "-",
            "--",
            "\n",
            "{",
            "}",
            "[",
            "]",
            "\"",
            ":",
            ".",
            "\\u0000",
            "0x",
            "1e9",
            "-1",
            "9223372036854775808",
            "\u{e9}",
            " ",
            "json:",
            "file.",
            "on",
            "help",
        ];
        let mut random = RandomNumbers(1);
        for _ in 0..rounds {
            look(&random.changed(seeds, &PIECES, 5));
        }
    }

    const COMMAND_LINES: &str = include_str!("../../fuzz/seeds/command_line/lines");
    const OPTION_STRINGS: &str = include_str!("../../fuzz/seeds/option_string/lines");
    const NAMES: &str = include_str!("../../fuzz/seeds/image_name/lines");

    #[test]
    fn no_command_line_is_too_strange() {
        let lines: Vec<&str> = COMMAND_LINES.lines().collect();
        assert!(lines.len() > 5);
        each_mutant(&lines, 3000, |text| command_line(text.as_bytes()));
    }

    #[test]
    fn no_option_string_is_too_strange() {
        let lines: Vec<&str> = OPTION_STRINGS.lines().collect();
        assert!(lines.len() > 5);
        each_mutant(&lines, 20_000, option_string);
    }

    #[test]
    fn no_image_name_is_too_strange() {
        let lines: Vec<&str> = NAMES.lines().collect();
        assert!(lines.len() > 5);
        each_mutant(&lines, 20_000, image_name);
    }
}
