//! The error type of the library: a kind, and a message that says what failed and where.
//!
//! The kind is for callers that decide on an exit status, a retry or a hint. The message is for people, and for
//! scripts that search it. So it has the words of `qemu-img` for the same failure. Messages never contain a secret.
//! Callers put the place in front with [`Error::context`], outermost first: `Could not open 'x': Image is not in
//! qcow2 format`.

use std::fmt;
use std::io;

/// The kind of a failure, for code that decides what to do about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The operating system refused or failed (no such file, permission, disk full, I/O error).
    Io,
    /// The image breaks the rules of its format, or is truncated.
    Corrupt,
    /// The image or request is valid but needs something this version doesn't have.
    Unsupported,
    /// The request itself is invalid (bad option, bad value, source = target).
    Invalid,
    /// An encrypted image needs a key that was not given.
    MissingSecret,
    /// Another process uses the image; it may be free later.
    Locked,
    /// The caller has cancelled the work.
    Cancelled,
}

impl ErrorKind {
    /// Returns the name of the kind in machine-readable reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::Io => "io",
            Self::Corrupt => "corrupt",
            Self::Unsupported => "unsupported",
            Self::Invalid => "invalid",
            Self::MissingSecret => "missing-secret",
            Self::Locked => "locked",
            Self::Cancelled => "cancelled",
        }
    }
}

/// A failure: its [`ErrorKind`], a message of one line, and sometimes the lines of a hint.
#[derive(Debug)]
pub struct Error {
    kind: ErrorKind,
    message: String,
    hint: Option<String>,
    source: Option<io::Error>,
}

/// The library's result type.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// Returns the lines of the hint, if there is one.
    pub fn hint(&self) -> Option<&str> {
        self.hint.as_deref()
    }

    /// Returns the kind of the failure.
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }

    /// Returns the kind of the system call's error, if a system call failed.
    pub fn io_kind(&self) -> Option<io::ErrorKind> {
        self.source.as_ref().map(io::Error::kind)
    }
}

// Errors are made by the library itself. These methods may change in any release, as its modules may.
#[cfg_attr(not(any(clippy, internals)), doc(hidden))]
impl Error {
    /// Makes an error of the given kind.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self {
            kind,
            message: message.into(),
            hint: None,
            source: None,
        }
    }

    /// Makes the error of an image that breaks its format's rules.
    pub fn corrupt(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Corrupt, message)
    }

    /// Makes the error of a valid image or request that needs something this version doesn't have.
    pub fn unsupported(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Unsupported, message)
    }

    /// Makes the error of a request that can't be carried out.
    pub fn invalid(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Invalid, message)
    }

    /// Makes the error of a failed system call. `what` names the operation in the message, and may be empty.
    pub fn io(what: impl Into<String>, source: io::Error) -> Self {
        let reason = os_reason(&source);
        let what = what.into();
        let message = if what.is_empty() {
            reason
        } else {
            format!("{what}: {reason}")
        };
        Self {
            kind: ErrorKind::Io,
            message,
            hint: None,
            source: Some(source),
        }
    }

    /// Returns the error with the place in front of its message: `place: message`.
    #[must_use]
    pub fn context(mut self, place: impl fmt::Display) -> Self {
        self.message = format!("{place}: {}", self.message);
        self
    }

    /// Returns the error with a hint, which is printed on separate lines below the message.
    #[must_use]
    pub fn with_hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Returns the error with a hint, if there is one.
    #[must_use]
    pub fn with_hints(self, hint: Option<String>) -> Self {
        match hint {
            Some(hint) => self.with_hint(hint),
            None => self,
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        // The message ends with the system's reason already. Named as a source as well, it would be printed
        // twice in every chain.
        None
    }
}

/// Returns the system's reason alone, as `strerror` words it. Rust appends ` (os error 2)`, which the scripts
/// that compare messages don't expect.
pub fn os_reason(error: &io::Error) -> String {
    let text = error.to_string();
    match text.rfind(" (os error ") {
        Some(end) if error.raw_os_error().is_some() => text.get(..end).unwrap_or(&text).to_owned(),
        _ => text,
    }
}

/// Returns untrusted text in a form that is safe to print on a terminal. Control characters are escaped, so that the
/// text can neither forge lines of a report nor send escape sequences. Characters that change the direction of text
/// are escaped as well.
pub fn printable(name: &str) -> String {
    let mut text = String::with_capacity(name.len());
    for c in name.chars() {
        if c.is_control() || is_direction(c) {
            text.extend(c.escape_default());
        } else {
            text.push(c);
        }
    }
    text
}

/// Does the same as [`printable`] for bytes that need not be UTF-8. Bytes that are no UTF-8 stay as they are.
pub fn printable_bytes(name: &[u8]) -> Vec<u8> {
    let mut shown = Vec::with_capacity(name.len());
    for chunk in name.utf8_chunks() {
        shown.extend(printable(chunk.valid()).into_bytes());
        shown.extend(chunk.invalid());
    }
    shown
}

/// Returns true if a character only sets the direction of text, or ends a line.
fn is_direction(c: char) -> bool {
    matches!(c, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn io_errors_read_like_strerror() {
        let error = Error::io("Could not open 'x'", io::Error::from_raw_os_error(2));
        assert_eq!(
            error.to_string(),
            "Could not open 'x': No such file or directory"
        );
        assert_eq!(error.kind(), ErrorKind::Io);
        assert_eq!(error.io_kind(), Some(io::ErrorKind::NotFound));
    }

    #[test]
    fn context_goes_in_front() {
        let error = Error::corrupt("L1 table is too small").context("Could not open 'x'");
        assert_eq!(
            error.to_string(),
            "Could not open 'x': L1 table is too small"
        );
        assert_eq!(error.kind(), ErrorKind::Corrupt);
    }

    #[test]
    fn nothing_printable_moves_the_cursor_or_turns_text_around() {
        assert_eq!(printable("plain é 漢 name"), "plain é 漢 name");
        assert_eq!(
            printable("a\x1b[2Jb\nc\td\u{9b}\u{7f}\u{202e}"),
            "a\\u{1b}[2Jb\\nc\\td\\u{9b}\\u{7f}\\u{202e}"
        );
    }
}
