//! Tests of long work at a terminal: a progress bar meanwhile, and a line at the end.

use std::fs;
use std::path::Path;
use std::process::Command;

use rexpect::session::{PtySession, spawn_command};
use tempfile::TempDir;

use crate::common::{COWHIDE, cowhide, type_at, write_disk};

/// A conversion that takes a second: half of it without a bar.
const SLOW: &str = "convert -f raw -O qcow2 -S 0 -r 2M disk.img x.qcow2";

/// The escape sequence that clears a line of a terminal.
const CLEARED: &str = "\r\u{1b}[2K";

fn folder() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    write_disk(&folder.path().join("disk.img"), 4 << 20, 3);
    folder
}

/// Runs a command at a terminal with other variables in the environment.
fn type_with(folder: &Path, args: &str, variables: &[(&str, &str)]) -> PtySession {
    let mut command = Command::new(COWHIDE);
    command.args(args.split_whitespace()).current_dir(folder);
    command.env("TERM", "xterm").envs(variables.iter().copied());
    spawn_command(command, Some(20_000)).unwrap()
}

#[test]
fn long_work_shows_a_bar_and_ends_with_a_summary() {
    let folder = folder();
    let folder = folder.path();
    let mut terminal = type_with(folder, SLOW, &[]);
    terminal.exp_string("% [").unwrap();
    terminal.exp_string("of 4.00 MiB").unwrap();
    let rest = terminal.exp_eof().unwrap();
    let last = rest.trim_end().rsplit(CLEARED).next().unwrap();
    for words in ["4 MiB in ", " read, 4 MiB written", "0 B zeroes"] {
        assert!(last.contains(words), "no {words:?} in {last:?}");
    }
    assert!(!last.contains('['), "the bar is still there: {last:?}");
}

#[test]
fn short_work_shows_the_summary_alone() {
    let folder = folder();
    let folder = folder.path();
    fs::write(folder.join("pw"), "secret").unwrap();
    let fast = "convert --encrypt aes --password-file pw -O qcow2 disk.img y.qcow2";
    let shown = type_with(folder, fast, &[("COWHIDE_CIPHER", "soft")])
        .exp_eof()
        .unwrap();
    assert!(!shown.contains("% ["), "{shown}");
    assert!(shown.contains("; encrypted (aes) by soft"), "{shown}");
}

#[test]
fn nothing_is_shown_to_those_who_want_or_see_nothing() {
    let folder = folder();
    let folder = folder.path();
    for (args, variables) in [
        (format!("{SLOW} -q"), &[][..]),
        (SLOW.to_owned(), &[("TERM", "dumb")][..]),
    ] {
        let shown = type_with(folder, &args, variables).exp_eof().unwrap();
        assert_eq!(shown.trim(), "", "{args}");
        fs::remove_file(folder.join("x.qcow2")).unwrap();
    }
    let shown = type_at(folder, &format!("{SLOW} -p")).exp_eof().unwrap();
    assert!(shown.trim_end().ends_with("(100.00/100%)"), "{shown}");
    assert!(!shown.contains("% ["), "{shown}");
}

#[test]
fn an_interrupt_takes_the_bar_away() {
    let folder = folder();
    let folder = folder.path();
    for (args, left) in [
        (SLOW.to_owned(), false),
        (SLOW.replace("convert", "convert --progress=json"), false),
    ] {
        let mut terminal = type_with(folder, &args, &[]);
        let shown = if args.contains("json") {
            "\"done\""
        } else {
            "% ["
        };
        terminal.exp_string(shown).unwrap();
        terminal.send_control('c').unwrap();
        let rest = terminal.exp_eof().unwrap();
        assert!(
            rest.contains("interrupted: ") && rest.contains("x.qcow2"),
            "{rest}"
        );
        let after = rest.rsplit(CLEARED).next().unwrap();
        assert!(!after.contains("% ["), "{rest:?}");
        assert_eq!(folder.join("x.qcow2").exists(), left);
    }
}

#[test]
fn a_narrow_terminal_gets_one_line_too() {
    let folder = folder();
    let command = format!("stty rows 24 cols 40; exec {COWHIDE} {SLOW}");
    let mut shell = Command::new("sh");
    shell
        .args(["-c", &command])
        .current_dir(folder.path())
        .env("TERM", "xterm");
    let mut terminal = spawn_command(shell, Some(20_000)).unwrap();
    let shown = terminal.exp_eof().unwrap();
    let bars = shown.split('\r').filter(|line| line.contains("% ["));
    let widths: Vec<usize> = bars.map(|line| line.trim_end().chars().count()).collect();
    assert!(!widths.is_empty(), "{shown}");
    // The width includes the sequence that clears the line.
    assert!(
        widths.iter().all(|width| *width <= 40 + 8),
        "{widths:?} {shown:?}"
    );
}

#[test]
fn a_person_is_told_of_a_name_that_is_another_formats() {
    let folder = folder();
    let folder = folder.path();
    let words = "warning: 'new.qcow2' becomes a raw image, since no format was given";
    let shown = type_at(folder, "create new.qcow2 1M").exp_eof().unwrap();
    assert!(shown.contains(words), "{shown}");
    for quiet in [
        "create -f raw new.qcow2 1M",
        "create -q new.qcow2 1M",
        "create new.img 1M",
    ] {
        let shown = type_at(folder, quiet).exp_eof().unwrap();
        assert!(!shown.contains("warning"), "{quiet}: {shown}");
    }
    cowhide(folder, "create new.qcow2 1M").ok();
    for (args, name, instead) in [
        (
            "convert disk.img x.vhd",
            "x.vhd",
            "'-O vpc' makes a vpc image",
        ),
        (
            "dd if=disk.img of=x.VDI",
            "x.VDI",
            "'-O vdi' makes a vdi image",
        ),
    ] {
        let words = format!("warning: '{name}' becomes a raw image, since no format was given");
        let shown = type_at(folder, args).exp_eof().unwrap();
        assert!(shown.contains(&words) && shown.contains(instead), "{shown}");
        let given = args.replacen(' ', " -O raw ", 1);
        let shown = type_at(folder, &given).exp_eof().unwrap();
        assert!(!shown.contains("warning"), "{shown}");
        cowhide(folder, args).ok();
    }
}

#[test]
fn help_fits_the_terminal_and_is_whole_elsewhere() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let at_terminal = |width: u16, args: &str| {
        let command = format!("stty rows 24 cols {width}; exec {COWHIDE} {args}");
        let mut shell = Command::new("sh");
        shell.args(["-c", &command]).current_dir(folder);
        let mut terminal = spawn_command(shell, Some(20_000)).unwrap();
        terminal.exp_eof().unwrap().replace('\r', "")
    };
    for (args, width) in [
        ("convert --help", 80),
        ("convert --help", 50),
        ("--help", 60),
    ] {
        let shown = at_terminal(width, args);
        let program = Path::new(COWHIDE).file_name().unwrap().to_str().unwrap();
        let broken = shown
            .lines()
            .filter(|line| !line.starts_with(&format!("  {program} ")));
        // The session reads the bytes of other characters as one each.
        let widest = broken
            .map(|line| line.chars().filter(char::is_ascii).count())
            .max();
        assert!(widest <= Some(usize::from(width)), "{args}: {shown}");
        let whole = cowhide(folder, args).ok();
        assert!(
            whole
                .lines()
                .any(|line| line.contains("] source... target"))
        );
        let words = |text: &str| {
            let text = text.replace(|character: char| !character.is_ascii(), "");
            let words = text.split_whitespace().map(str::to_owned);
            words.collect::<Vec<_>>()
        };
        assert_eq!(words(&shown) == words(&whole), args != "--help");
    }
    // People get a list of subcommands without their options.
    let shown = at_terminal(80, "--help");
    assert!(
        shown.contains("\n  convert      Copy a disk image"),
        "{shown}"
    );
    assert!(!shown.contains("--target-is-zero"), "{shown}");
}
