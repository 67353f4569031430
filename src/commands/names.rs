//! Names of files: those that a user gives, and those found inside an image.
//!
//! A name whose first `:` stands before its first `/` names a protocol. Only `file:` is built; any
//! other is refused by name, so that `nbd:host` never silently becomes a file. A file with such a
//! name is reached by `./name`.
//!
//! `json:{…}` is a tree of options, which the command line knows how to read and lends us the way to
//! ([`ReadTree`]). Found inside an image it may name no secret, and whatever it says the file is only
//! read. An external data file's name is no such name but a path as it stands, and unlike that of a
//! backing file it isn't relative to the image's folder: QEMU opens both so, and must find what we made.
//!
//! Whoever wrote an image chose the names in it. Following them opens files of this machine with this
//! user's rights, so whether that is done is the caller's decision, made in one place: [`Names`].

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::{Path, PathBuf};

use super::Source;
use crate::error::{Error, Result, printable};
use crate::storage::check_name;

/// What the name starts with that is a tree of options.
const JSON: &[u8] = b"json:";

/// Reads a `json:{…}` name; the second argument is the name of the format that is stated beside it. No
/// secret can be named.
pub type ReadTree = fn(&str, Option<&str>) -> Result<Source<'static>>;

/// Whether files are opened whose names are found inside an image.
#[derive(Debug, Clone, Copy, Default)]
pub enum Names {
    /// They are: backing files, external data files.
    #[default]
    Follow,
    /// They are, and trees of options are read.
    FollowTrees(ReadTree),
    /// They are not; an image that needs one can't be read.
    Refuse,
}

impl Names {
    /// The backing file that `name` and `format`, found in the image at `path`, stand for: a relative name
    /// is relative to the image's folder. Nothing else is said of it.
    ///
    /// # Errors
    /// Names aren't followed; the name is of a protocol that isn't built, or the format unknown; a
    /// malformed tree.
    pub fn backing_file(
        self,
        path: &Path,
        name: &[u8],
        format: Option<&str>,
    ) -> Result<Source<'static>> {
        self.check(name, "backing file")?;
        if let (Self::FollowTrees(read), true) = (self, name.starts_with(JSON)) {
            let text = std::str::from_utf8(name)
                .map_err(|_| Error::invalid("Could not parse the JSON options: not UTF-8"))?;
            return read(text, format);
        }
        let path = file(beside(path, name).as_os_str())?;
        let shown = path.to_string_lossy().into_owned();
        let mut source = Source::plain(path, shown, None);
        source.of_driver(format)?;
        if format.is_none() {
            source.stated.named_dmg = name.ends_with(b".dmg");
        }
        Ok(source)
    }

    /// The external data file that `name`, found in an image, stands for.
    ///
    /// # Errors
    /// Names aren't followed; it is a descriptor's that the caller didn't leave open.
    pub fn data_file(self, name: &[u8]) -> Result<PathBuf> {
        self.check(name, "data file")?;
        let path = PathBuf::from(OsStr::from_bytes(name));
        inherited(&path)?;
        Ok(path)
    }

    /// Refuses a name unless names are followed; `what` says what the image uses it for.
    fn check(self, name: &[u8], what: &str) -> Result<()> {
        match self {
            Self::Follow | Self::FollowTrees(_) => Ok(()),
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
/// The name is of a protocol that isn't built, or of a descriptor that the caller didn't leave open.
pub fn file(name: &OsStr) -> Result<PathBuf> {
    let path = path(name)?;
    inherited(&path)?;
    Ok(path)
}

/// As [`file()`], for a file that is made.
///
/// # Errors
/// Returns the errors of that, in the words for a file that can't be made.
pub fn new_file(name: &OsStr) -> Result<PathBuf> {
    let path = path(name)?;
    check_name(&path)
        .map_err(|error| Error::io(format!("Could not create '{}'", path.display()), error))?;
    Ok(path)
}

/// The path that a name means, open or not.
///
/// # Errors
/// Returns an error if it is of a protocol other than that of files.
pub fn path(name: &OsStr) -> Result<PathBuf> {
    match protocol(name.as_bytes()) {
        None => Ok(PathBuf::from(name)),
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

/// Refuses names of descriptors that the caller didn't leave open.
///
/// # Errors
/// Returns the system's "No such file or directory" for those, in the words for what can't be opened.
pub fn inherited(path: &Path) -> Result<()> {
    check_name(path)
        .map_err(|error| Error::io(format!("Could not open '{}'", path.display()), error))
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
            let source = Names::Follow.backing_file(Path::new(image), name, None);
            source.unwrap().path
        };
        assert_eq!(at("a/top", b"base"), PathBuf::from("a/base"));
        assert_eq!(at("a/top", b"/base"), PathBuf::from("/base"));
        assert_eq!(at("top", b"file:b"), PathBuf::from("b"));
        let tree = Names::Follow.backing_file(Path::new("top"), b"json:{}", None);
        let message = tree.err().unwrap().to_string();
        assert_eq!(message, "Unknown protocol 'json'");
        for name in [&b"base"[..], b"json:{}"] {
            let refused = Names::Refuse.backing_file(Path::new("top"), name, None);
            let message = refused.err().unwrap().to_string();
            assert!(message.contains("with --untrusted no file is opened"));
        }
    }

    #[test]
    fn data_files_are_paths_as_they_stand() {
        for name in ["a/b", "file:c", "json:{}"] {
            let path = Names::Follow.data_file(name.as_bytes()).unwrap();
            assert_eq!(path, PathBuf::from(name));
        }
        assert!(Names::Refuse.data_file(b"a").is_err());
    }
}
