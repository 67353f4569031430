//! Passwords that no `--object` gave: from a file, from an open descriptor, or typed by a person.
//!
//! A person is asked only where both standard input and standard error are a terminal; a script
//! gets an error at once that says which options give a password. A new password is asked for
//! twice, since nothing in a legacy AES image could ever tell that it was mistyped.

use std::cell::{Cell, OnceCell};
use std::fs::File;
use std::io::{self, IsTerminal as _, Read};
use std::os::fd::AsFd as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

use super::args::{PasswordArgs, PlausibleArgs};
use crate::commands::Passwords;
use crate::crypto::Secret;
use crate::error::{Error, ErrorKind, Result, printable};

/// The most that is read of a password file, in bytes. A key is 16; this is for passphrases.
const MOST: u64 = 64 << 10;

/// Where passwords come from, as the options say.
pub struct PasswordSource {
    origin: Origin,
    quiet: bool,
    plausible: bool,
    warned: Cell<bool>,
    given: OnceCell<Secret>,
    typed_for_reading: OnceCell<Secret>,
    typed_for_writing: OnceCell<Secret>,
}

enum Origin {
    File(PathBuf),
    Descriptor(i32),
    Terminal,
}

impl PasswordSource {
    /// As [`new`](Self::new), where `args` say what follows from a password that is probably wrong.
    pub fn with_help(args: &PasswordArgs, quiet: bool, help: &PlausibleArgs) -> Self {
        Self {
            plausible: help.require_plausible,
            ..Self::new(args, quiet)
        }
    }

    /// The source that the options name; the terminal without any.
    pub fn new(args: &PasswordArgs, quiet: bool) -> Self {
        let origin = match (&args.password_file, args.password_fd) {
            (Some(path), _) => Origin::File(path.clone()),
            (None, Some(descriptor)) => Origin::Descriptor(descriptor),
            (None, None) => Origin::Terminal,
        };
        Self {
            origin,
            quiet,
            plausible: false,
            warned: Cell::new(false),
            given: OnceCell::new(),
            typed_for_reading: OnceCell::new(),
            typed_for_writing: OnceCell::new(),
        }
    }

    fn get<'a>(
        &'a self,
        typed: &'a OnceCell<Secret>,
        ask: impl FnOnce() -> Result<Secret>,
    ) -> Result<&'a Secret> {
        match &self.origin {
            Origin::File(path) => kept(&self.given, || from_file(path, self.quiet)),
            Origin::Descriptor(number) => kept(&self.given, || from_descriptor(*number)),
            Origin::Terminal => kept(typed, ask),
        }
    }

    fn at_terminal(&self) -> Result<()> {
        if !io::stdin().is_terminal() || !io::stderr().is_terminal() {
            return Err(missing());
        }
        Ok(())
    }
}

impl Passwords for PasswordSource {
    fn for_reading(&self, image: &str) -> Result<&Secret> {
        self.get(&self.typed_for_reading, || {
            self.at_terminal()?;
            prompt(&format!("Password for '{}': ", printable(image)))
        })
    }

    fn for_writing(&self, image: &str) -> Result<&Secret> {
        self.get(&self.typed_for_writing, || {
            self.at_terminal()?;
            let first = prompt(&format!("New password for '{}': ", printable(image)))?;
            let second = prompt("The same again: ")?;
            if first.bytes() != second.bytes() {
                return Err(Error::invalid("the passwords differ"));
            }
            Ok(first)
        })
    }

    fn legacy_aes_is_used(&self) {
        if self.quiet || self.warned.replace(true) || !io::stderr().is_terminal() {
            return;
        }
        super::warn(
            "legacy AES has no key derivation (only the password's first 16 bytes count) and \
             can't detect a wrong password",
        );
    }

    fn implausible(&self, image: &str) -> Result<()> {
        let doubt = "the password is probably wrong: with it, the start of the disk is noise";
        if self.plausible {
            return Err(Error::invalid(format!("{}: {doubt}", printable(image))));
        }
        if !self.quiet && io::stderr().is_terminal() {
            super::warn(&format!("{}: {doubt}", printable(image)));
        }
        Ok(())
    }
}

/// What is in the cell, put there by `get` when it is empty.
fn kept(cell: &OnceCell<Secret>, get: impl FnOnce() -> Result<Secret>) -> Result<&Secret> {
    if let Some(secret) = cell.get() {
        return Ok(secret);
    }
    let secret = get()?;
    Ok(cell.get_or_init(|| secret))
}

fn missing() -> Error {
    Error::new(
        ErrorKind::MissingSecret,
        "Parameter 'encrypt.key-secret' is required for cipher (give the password with \
         --password-file FILE, --password-fd N, or --object secret,id=ID,file=FILE and \
         encrypt.key-secret=ID)",
    )
}

fn prompt(text: &str) -> Result<Secret> {
    let typed = rpassword::prompt_password(text)
        .map_err(|error| Error::io("reading the password", error))?;
    not_empty(Secret::new(typed.into_bytes()))
}

fn from_file(path: &Path, quiet: bool) -> Result<Secret> {
    let place = format!("reading the password from '{}'", path.display());
    let read = if path == Path::new("-") {
        // Not through the standard library's buffer, which nobody would wipe.
        let stdin = io::stdin().as_fd().try_clone_to_owned();
        stdin.map(File::from).and_then(read_line)
    } else {
        let file = File::open(path);
        if let (Ok(file), false) = (&file, quiet) {
            warn_of_readers(path, file);
        }
        file.and_then(read_line)
    };
    read.map_err(|error| Error::io(place, error))
        .and_then(not_empty)
}

/// Warns, at a terminal, of a file with a password that others may read. What comes through a pipe or an
/// open descriptor is of the moment, and its permissions say nothing.
pub(super) fn warn_of_readers(path: &Path, file: &File) {
    const OTHERS: u32 = 0o044;
    let is_readable = file
        .metadata()
        .is_ok_and(|metadata| metadata.is_file() && metadata.mode() & OTHERS != 0);
    let is_open = ["/dev/fd", "/proc/self/fd"]
        .iter()
        .any(|at| path.starts_with(at));
    if is_readable && !is_open && io::stderr().is_terminal() {
        super::warn(&format!(
            "other users may read the password in '{}' (chmod 600)",
            path.display()
        ));
    }
}

/// Descriptors are opened by their name: that needs no trust that the number is really open, and
/// closes nothing that somebody else uses.
fn from_descriptor(number: i32) -> Result<Secret> {
    File::open(format!("/dev/fd/{number}"))
        .and_then(read_line)
        .map_err(|error| {
            Error::io(
                format!("reading the password from descriptor {number}"),
                error,
            )
        })
        .and_then(not_empty)
}

/// All that there is, less one newline at the end.
fn read_line(from: impl Read) -> io::Result<Secret> {
    // Room for all of it from the start: a buffer that grew would leave copies behind.
    let room = usize::try_from(MOST).unwrap_or(0) + 64;
    let mut bytes = Zeroizing::new(Vec::with_capacity(room));
    from.take(MOST + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > MOST {
        return Err(io::Error::other("longer than 64 KiB"));
    }
    if bytes.last() == Some(&b'\n') {
        bytes.pop();
    }
    Ok(Secret::new(std::mem::take(&mut *bytes)))
}

fn not_empty(secret: Secret) -> Result<Secret> {
    if secret.bytes().is_empty() {
        return Err(Error::invalid("the password is empty"));
    }
    Ok(secret)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_newline_at_the_end_is_dropped() {
        for (text, password) in [
            ("pw\n", "pw"),
            ("pw", "pw"),
            ("pw\n\n", "pw\n"),
            (" p\r\n", " p\r"),
        ] {
            let read = read_line(text.as_bytes()).unwrap();
            assert_eq!(read.bytes(), password.as_bytes());
        }
    }

    #[test]
    fn endless_files_are_refused() {
        assert!(read_line(io::repeat(b'x')).is_err());
    }
}
