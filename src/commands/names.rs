//! Names of files: those that a user gives, and those found inside an image.
//!
//! A name whose first `:` stands before its first `/` names a protocol. Only `file:` is built; any
//! other is refused by name, so that `nbd:host` never silently becomes a file. A file with such a
//! name is reached by `./name`.
//!
//! Whoever wrote an image chose the names in it. Following them opens files of this machine with this
//! user's rights, so whether that is done is the caller's decision, made in one place: [`Names`].

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::{Path, PathBuf};

use crate::error::{Error, Result, printable};

/// Whether files are opened whose names are found inside an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Names {
    /// They are: backing files, external data files.
    #[default]
    Follow,
    /// They are not; an image that needs one can't be read.
    Refuse,
}

impl Names {
    /// The file that `name`, found in the image at `path`, stands for: a relative name is relative to
    /// the image's folder. `what` says what the image uses it for.
    ///
    /// # Errors
    /// Names aren't followed; the name is of a protocol that isn't built.
    pub fn resolve(self, path: &Path, name: &[u8], what: &str) -> Result<PathBuf> {
        match self {
            Self::Follow => file(beside(path, name).as_os_str()),
            Self::Refuse => Err(Error::invalid(format!(
                "the image names a {what} ('{}'), and with --untrusted no file is opened that an \
                 image names",
                printable(&String::from_utf8_lossy(name))
            ))),
        }
    }
}

/// The protocol that a name starts with, and the rest; `None` for a plain file's name.
fn protocol(name: &[u8]) -> Option<(&[u8], &[u8])> {
    let separator = name.iter().position(|byte| matches!(byte, b':' | b'/'))?;
    match name.split_at_checked(separator)? {
        (protocol, [b':', rest @ ..]) => Some((protocol, rest)),
        _ => None,
    }
}

/// The file that a name stands for.
///
/// # Errors
/// The name is of a protocol that isn't built.
pub fn file(name: &OsStr) -> Result<PathBuf> {
    match protocol(name.as_bytes()) {
        None => Ok(name.into()),
        Some((b"file", rest)) if protocol(rest).is_some() => {
            // Written so that it is still a file's name wherever it is read again.
            Ok(OsString::from_vec([b"./", rest].concat()).into())
        }
        Some((b"file", rest)) => Ok(OsString::from_vec(rest.to_vec()).into()),
        Some((protocol, _)) => Err(Error::unsupported(format!(
            "Unknown protocol '{}'",
            protocol.escape_ascii()
        ))),
    }
}

/// A name found inside `image` as seen from here: relative to the image's folder, unless it is
/// absolute or names a protocol.
pub fn beside(image: &Path, name: &[u8]) -> PathBuf {
    let name_here = OsStr::from_bytes(name);
    match image.parent() {
        Some(folder) if !folder.as_os_str().is_empty() && protocol(name).is_none() => {
            folder.join(name_here)
        }
        _ => name_here.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn protocols_are_told_from_files() {
        let at = |name: &str| file(OsStr::new(name));
        assert_eq!(at("a/b:c").unwrap(), PathBuf::from("a/b:c"));
        assert_eq!(at("./b:c").unwrap(), PathBuf::from("./b:c"));
        assert_eq!(at("file:x y").unwrap(), PathBuf::from("x y"));
        assert_eq!(at("file:a:b").unwrap(), PathBuf::from("./a:b"));
        for (name, protocol) in [("nbd:localhost:1", "nbd"), ("json:{}", "json"), (":x", "")] {
            let message = at(name).unwrap_err().to_string();
            assert_eq!(message, format!("Unknown protocol '{protocol}'"));
        }
    }

    #[test]
    fn names_in_images_are_relative_to_them() {
        let at = |image: &str, name: &[u8]| {
            let path = Names::Follow.resolve(Path::new(image), name, "backing file");
            path.unwrap()
        };
        assert_eq!(at("a/top", b"base"), PathBuf::from("a/base"));
        assert_eq!(at("a/top", b"/base"), PathBuf::from("/base"));
        assert_eq!(at("top", b"file:b"), PathBuf::from("b"));
        let refused = Names::Refuse.resolve(Path::new("top"), b"base", "backing file");
        assert!(refused.unwrap_err().to_string().contains("'base'"));
    }
}
