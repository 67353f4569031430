//! The subcommand `man`: the pages of the manual, one for the program and one for each subcommand.
//!
//! They are generated from the definition of the options, as the help text is. Added here are examples, exit
//! statuses, and the differences from `qemu-img`.

use std::fs;
use std::path::Path;
use std::process::ExitCode;

use clap::Command;
use clap_mangen::Man;
use clap_mangen::roff::{Roff, bold, roman};

use super::args::{Cli, ManArgs};
use super::getopt::is_own;
use super::{Done, Failure, examples, help};
use crate::crypto::Secrets;
use crate::error::{Error, printable};

/// The name of the program in its manual pages.
const PROGRAM: &str = "cowhide";

/// The exit statuses of most subcommands.
const STATUSES: &[(&str, &str)] = &[
    ("0", "The work is done."),
    (
        "1",
        "It isn't. A line on standard error says why; no unfinished file is left.",
    ),
];

/// The exit statuses of `check`.
const CHECK_STATUSES: &[(&str, &str)] = &[
    ("0", "The image is consistent, or was repaired."),
    ("1", "It couldn't be checked."),
    ("2", "It is damaged."),
    ("3", "It has leaked clusters, and no other damage."),
    ("63", "Its format has no check, or no repair."),
];

/// The exit statuses of `compare`.
const COMPARE_STATUSES: &[(&str, &str)] = &[
    ("0", "The disks are the same."),
    ("1", "They differ."),
    (
        "2",
        "An image couldn't be opened, or the result couldn't be printed.",
    ),
    (
        "3",
        "The allocation status of a part couldn't be determined.",
    ),
    ("4", "Data couldn't be read."),
];

/// Runs the subcommand.
pub(super) fn run(args: &ManArgs, _secrets: &Secrets) -> Done {
    let [folder] = args.operands.as_slice() else {
        return Err(Failure::Usage("Expecting one folder".into()));
    };
    let folder = Path::new(folder);
    for (name, page) in pages()? {
        let path = folder.join(&name);
        let written = fs::write(&path, page);
        let shown = printable(&path.to_string_lossy());
        written.map_err(|error| Error::io(format!("Could not write '{shown}'"), error))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Returns the pages: the name of each file, and its text.
fn pages() -> Result<Vec<(String, Vec<u8>)>, Failure> {
    let definition = Cli::definition();
    let commands: Vec<&Command> = definition.get_subcommands().collect();
    let names = commands.iter().map(|command| command.get_name());
    let mut pages = vec![(
        format!("{PROGRAM}.1"),
        program_page(&definition, names.collect())?,
    )];
    for command in commands {
        let name = format!("{PROGRAM}-{}.1", command.get_name());
        pages.push((name, subcommand_page(command)?));
    }
    Ok(pages)
}

fn program_page(definition: &Command, mut names: Vec<&str>) -> Result<Vec<u8>, Failure> {
    names.sort_unstable();
    let mut page = Vec::new();
    let man = Man::new(definition.clone())
        .title("COWHIDE")
        .source(source());
    man.render_title(&mut page)?;
    man.render_name_section(&mut page)?;
    man.render_synopsis_section(&mut page)?;
    man.render_options_section(&mut page)?;
    man.render_subcommands_section(&mut page)?;
    statuses(STATUSES).to_writer(&mut page)?;
    let mut also = Roff::new();
    also.control("SH", ["SEE ALSO"]);
    let pages = names.iter().map(|name| format!("{PROGRAM}-{name}(1)"));
    also.text([roman(
        pages.collect::<Vec<_>>().join(", ") + ", qemu-img(1)",
    )]);
    also.to_writer(&mut page)?;
    Ok(page)
}

fn subcommand_page(command: &Command) -> Result<Vec<u8>, Failure> {
    let name = command.get_name().to_owned();
    let title = format!("{PROGRAM}-{name}");
    let usage = format!("{PROGRAM} {}", help::syntax(command));
    let shown = command
        .clone()
        .display_name(title.clone())
        .override_usage(usage.clone());
    let man = Man::new(shown).title(title.to_uppercase()).source(source());
    let mut page = Vec::new();
    man.render_title(&mut page)?;
    // Names of options with hyphens in other places would mislead.
    let mut unhyphenated = Roff::new();
    unhyphenated.control("nh", []);
    unhyphenated.to_writer(&mut page)?;
    man.render_name_section(&mut page)?;
    let mut synopsis = Roff::new();
    synopsis.control("SH", ["SYNOPSIS"]);
    synopsis.text([bold(usage)]);
    synopsis.to_writer(&mut page)?;
    man.render_options_section(&mut page)?;
    let mut text = Roff::new();
    text.control("SH", ["EXAMPLES"]);
    for example in examples::of(&name) {
        text.control("TP", []);
        text.text([roman(format!("{}:", example.purpose))]);
        // A command is one line, so that it can be copied.
        text.control("nf", []);
        text.text([bold(format!("{PROGRAM} {}", example.arguments))]);
        text.control("fi", []);
    }
    text.to_writer(&mut page)?;
    let its = match name.as_str() {
        "check" => CHECK_STATUSES,
        "compare" => COMPARE_STATUSES,
        _ => STATUSES,
    };
    statuses(its).to_writer(&mut page)?;
    differences(command).to_writer(&mut page)?;
    let mut also = Roff::new();
    also.control("SH", ["SEE ALSO"]);
    also.text([roman(format!("{PROGRAM}(1), qemu-img(1)"))]);
    also.to_writer(&mut page)?;
    Ok(page)
}

fn source() -> String {
    format!("{PROGRAM} {}", env!("CARGO_PKG_VERSION"))
}

fn statuses(statuses: &[(&str, &str)]) -> Roff {
    let mut section = Roff::new();
    section.control("SH", ["EXIT STATUS"]);
    for (status, meaning) in statuses {
        section.control("TP", []);
        section.text([bold(*status)]);
        section.text([roman(*meaning)]);
    }
    section
}

/// Returns the section on the differences from `qemu-img`.
fn differences(command: &Command) -> Roff {
    let mut section = Roff::new();
    section.control("SH", ["DIFFERENCES FROM QEMU-IMG"]);
    let name = command.get_name();
    if ["checksum", "speed", "completions", "man"].contains(&name) {
        section.text([roman("qemu-img has no such subcommand.")]);
        return section;
    }
    let own = command.get_arguments().filter(|option| is_own(option));
    let own = own.filter_map(|option| option.get_long());
    let own: Vec<String> = own.map(|name| format!("--{name}")).collect();
    if own.is_empty() {
        section.text([roman("There are none in the options.")]);
    } else {
        section.text([roman(format!("qemu-img doesn't have {}.", own.join(", ")))]);
    }
    section
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn there_is_a_page_for_the_program_and_one_for_each_subcommand() {
        let Ok(pages) = pages() else {
            panic!("no pages");
        };
        assert_eq!(pages.len(), 1 + Cli::command().get_subcommands().count());
        for (name, page) in &pages {
            let page = String::from_utf8(page.clone()).unwrap();
            assert!(page.contains(".TH"), "{name}");
            assert!(page.contains("EXIT STATUS"), "{name}");
            assert_eq!(page.contains(".SH EXAMPLES"), name != "cowhide.1", "{name}");
        }
        let (_, convert) = pages
            .iter()
            .find(|(name, _)| name == "cowhide-convert.1")
            .unwrap();
        let convert = String::from_utf8_lossy(convert);
        assert!(
            convert.contains("qemu\\-img doesn\\*(Aqt have") || convert.contains("have \\-\\-")
        );
    }
}
