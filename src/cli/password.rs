//! Passwords that no `--object` defines: from a file, from an open descriptor, or typed at a terminal.
//!
//! The user is only asked if both standard input and standard error are a terminal. A script gets an error at once,
//! which names the options for a password. A new password is asked for twice, since a legacy AES image can't detect a
//! mistyped one.

use std::cell::{Cell, OnceCell};
use std::fs::File;
use std::io::{self, IsTerminal as _, Read};
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};

use rustix::event::{PollFd, PollFlags, poll};
use zeroize::Zeroizing;

use super::args::{PasswordArgs, PlausibleArgs};
use super::{descriptor, readable_file};
use crate::crypto::{Passwords, Secret};
use crate::error::{Error, ErrorKind, Result, printable};
use crate::formats::encryption::EncryptionFormat;

/// The most that is read of a password file, in bytes. A legacy AES key has 16 bytes, and passphrases can be longer.
const MOST: u64 = 64 << 10;

/// The source of passwords by the options.
pub struct PasswordSource {
    origin: Origin,
    quiet: bool,
    plausible: bool,
    warned: Cell<bool>,
    given: OnceCell<Secret>,
    ended_with_newline: Cell<bool>,
    typed_for_reading: OnceCell<Secret>,
    typed_for_writing: OnceCell<Secret>,
}

/// The origin of a password. Files are opened before any image, so that a name like `/dev/fd/3` can't mean an image's
/// file. They are only read when the password is needed.
enum Origin {
    File(PathBuf, File),
    Descriptor(i32, File),
    Terminal,
}

impl Origin {
    /// Returns its name for messages.
    fn name(&self) -> String {
        match self {
            Self::File(path, _) => format!("password file '{}'", path.display()),
            Self::Descriptor(number, _) => format!("descriptor {number}"),
            Self::Terminal => "the terminal".to_owned(),
        }
    }
}

impl PasswordSource {
    /// Does the same as [`new`](Self::new). `help` decides if a password that is probably wrong is an error.
    ///
    /// # Errors
    /// Returns the errors of [`new`](Self::new).
    pub fn with_help(args: &PasswordArgs, quiet: bool, help: &PlausibleArgs) -> Result<Self> {
        Ok(Self {
            plausible: help.require_plausible,
            ..Self::new(args, quiet)?
        })
    }

    /// Returns the source that the options name, or else the terminal. Callers do that before any image is opened.
    ///
    /// # Errors
    /// Returns the system's error if the file can't be opened, or the descriptor isn't open for reading.
    pub fn new(args: &PasswordArgs, quiet: bool) -> Result<Self> {
        let origin = match (&args.password_file, args.password_fd) {
            (Some(path), _) => {
                let file = open(path).map_err(|error| Error::io(reading_from(path), error))?;
                Origin::File(path.clone(), file)
            }
            (None, Some(number)) => {
                let file = descriptor::take(number)
                    .map_err(|error| Error::io(reading_descriptor(number), error))?;
                Origin::Descriptor(number, file)
            }
            (None, None) => Origin::Terminal,
        };
        Ok(Self {
            origin,
            quiet,
            plausible: false,
            warned: Cell::new(false),
            given: OnceCell::new(),
            ended_with_newline: Cell::new(false),
            typed_for_reading: OnceCell::new(),
            typed_for_writing: OnceCell::new(),
        })
    }

    fn get<'a>(
        &'a self,
        typed: &'a OnceCell<Secret>,
        ask: impl FnOnce() -> Result<Secret>,
    ) -> Result<&'a Secret> {
        match &self.origin {
            Origin::File(path, file) => kept(&self.given, || {
                if !self.quiet {
                    readable_file::warn(path, file);
                }
                self.read_file(file, || reading_from(path))
            }),
            Origin::Descriptor(number, file) => kept(&self.given, || {
                self.read_file(file, || reading_descriptor(*number))
            }),
            Origin::Terminal => kept(typed, ask),
        }
    }

    /// Reads the password from a file. `doing` names the operation in messages.
    fn read_file(&self, file: &File, doing: impl FnOnce() -> String) -> Result<Secret> {
        let read = read_line(BlockingFile(file));
        let (secret, newline) = read.map_err(|error| Error::io(doing(), error))?;
        self.ended_with_newline.set(newline);
        not_empty(secret)
    }

    fn at_terminal(&self, option: &str) -> Result<()> {
        if !io::stdin().is_terminal() || !io::stderr().is_terminal() {
            return Err(missing(option));
        }
        Ok(())
    }
}

impl Passwords for PasswordSource {
    fn for_reading(&self, image: &str, option: &str) -> Result<&Secret> {
        let secret = self.get(&self.typed_for_reading, || {
            self.at_terminal(option)?;
            prompt(&format!("Password for '{}': ", printable(image)))
        })?;
        if !secret.is_text() && !self.quiet && io::stderr().is_terminal() {
            let origin = self.origin.name();
            super::warn(&format!(
                "Data from {origin} is not valid UTF-8, which QEMU takes no key from"
            ));
        }
        Ok(secret)
    }

    fn for_writing(&self, image: &str, option: &str) -> Result<&Secret> {
        let secret = self.get(&self.typed_for_writing, || {
            self.at_terminal(option)?;
            let first = prompt(&format!("New password for '{}': ", printable(image)))?;
            let second = prompt("The same again: ")?;
            if first.bytes() != second.bytes() {
                return Err(Error::invalid("the passwords differ"));
            }
            Ok(first)
        })?;
        // QEMU doesn't accept it, so no other program could open the image.
        if !secret.is_text() {
            let origin = self.origin.name();
            return Err(Error::invalid(format!(
                "Data from {origin} is not valid UTF-8"
            )));
        }
        Ok(secret)
    }

    fn legacy_aes_is_used(&self, is_new: bool) {
        if self.quiet || self.warned.replace(true) || !io::stderr().is_terminal() {
            return;
        }
        let advice = match is_new {
            true => format!("; '{}' does both", EncryptionFormat::RECOMMENDED.name()),
            false => String::new(),
        };
        super::warn(&format!(
            "legacy AES has no key derivation (only the password's first 16 bytes count) and \
             can't detect a wrong password{advice}"
        ));
    }

    fn implausible(&self, image: &str, newline: bool) -> Result<()> {
        let mut doubt =
            "the password is probably wrong: with it, the start of the disk is noise".to_owned();
        if newline {
            doubt += "; with the newline at the end of its file it isn't (qemu-img, too, takes that newline for \
                      a part of the password: use --object secret,id=ID,file=FILE)";
        }
        if self.plausible {
            return Err(Error::invalid(format!("{}: {doubt}", printable(image))));
        }
        if !self.quiet && io::stderr().is_terminal() {
            super::warn(&format!("{}: {doubt}", printable(image)));
        }
        Ok(())
    }

    fn with_newline(&self) -> Option<Secret> {
        let given = self.given.get().filter(|_| self.ended_with_newline.get())?;
        // The buffer has its full capacity from the start: growing it would leave a copy of the password in memory.
        let mut bytes = Vec::with_capacity(given.bytes().len() + 1);
        bytes.extend_from_slice(given.bytes());
        bytes.push(b'\n');
        Some(Secret::new(bytes))
    }
}

/// Returns the contents of the cell. `get` provides them the first time.
fn kept(cell: &OnceCell<Secret>, get: impl FnOnce() -> Result<Secret>) -> Result<&Secret> {
    if let Some(secret) = cell.get() {
        return Ok(secret);
    }
    let secret = get()?;
    Ok(cell.get_or_init(|| secret))
}

fn missing(option: &str) -> Error {
    Error::new(
        ErrorKind::MissingSecret,
        format!("Parameter '{option}' is required for cipher"),
    )
    .with_hint(format!(
        "Give the password by --password-file FILE, --password-fd N, or --object secret,id=ID,file=FILE and \
         {option}=ID"
    ))
}

fn prompt(text: &str) -> Result<Secret> {
    let typed = rpassword::prompt_password(text)
        .map_err(|error| Error::io("reading the password", error))?;
    not_empty(Secret::new(typed.into_bytes()))
}

/// Opens a file with a password. `-` is standard input.
fn open(path: &Path) -> io::Result<File> {
    if path == Path::new("-") {
        // The standard library's buffer isn't used, since it would not be wiped.
        return io::stdin().as_fd().try_clone_to_owned().map(File::from);
    }
    File::open(path)
}

fn reading_from(path: &Path) -> String {
    format!("reading the password from '{}'", path.display())
}

fn reading_descriptor(number: i32) -> String {
    format!("reading the password from descriptor {number}")
}

/// A file whose reads wait for data even if the caller has made its descriptor non-blocking.
struct BlockingFile<'a>(&'a File);

impl Read for BlockingFile<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        loop {
            match self.0.read(buf) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    poll(&mut [PollFd::new(self.0, PollFlags::IN)], None)?;
                }
                read => return read,
            }
        }
    }
}

/// Reads all bytes without one newline at the end. Returns true with them if there was one.
fn read_line(from: impl Read) -> io::Result<(Secret, bool)> {
    // The buffer has its full capacity from the start: growing it would leave copies of the password in memory.
    let capacity = usize::try_from(MOST).unwrap_or(0) + 64;
    let mut bytes = Zeroizing::new(Vec::with_capacity(capacity));
    from.take(MOST + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > MOST {
        return Err(io::Error::other("longer than 64 KiB"));
    }
    let newline = bytes.last() == Some(&b'\n');
    if newline {
        bytes.pop();
    }
    Ok((Secret::new(std::mem::take(&mut *bytes)), newline))
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
            let (read, newline) = read_line(text.as_bytes()).unwrap();
            assert_eq!(read.bytes(), password.as_bytes());
            assert_eq!(newline, text.len() > password.len());
        }
    }

    #[test]
    fn endless_files_are_refused() {
        assert!(read_line(io::repeat(b'x')).is_err());
    }
}
