//! The names of files, which may begin with a protocol.
//!
//! A name whose first `:` stands before its first `/` names a protocol. A protocol that this version doesn't have is
//! refused by its name, so that `nbd:host` never silently becomes a file. A file with such a name can be named
//! `./name`.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};
use crate::storage::{PROTOCOLS, Protocol, check_name};

/// Splits a name into the protocol that it starts with, and the rest. Returns `None` for a plain file's name.
fn protocol(name: &[u8]) -> Option<(&[u8], &[u8])> {
    let separator = name.iter().position(|byte| matches!(byte, b':' | b'/'))?;
    match name.split_at_checked(separator)? {
        (protocol, [b':', rest @ ..]) => Some((protocol, rest)),
        _ => None,
    }
}

/// Returns the path of the file with a name.
///
/// # Errors
/// Returns an error if the name is of a protocol that this version doesn't have, or of a descriptor that the caller
/// didn't leave open.
pub fn file(name: &OsStr) -> Result<PathBuf> {
    let path = path(name)?;
    inherited(&path)?;
    Ok(path)
}

/// Does the same as [`file()`] for a file that is to be created.
///
/// # Errors
/// Returns the errors of [`file()`], worded `Could not create …`.
pub fn new_file(name: &OsStr) -> Result<PathBuf> {
    let path = path(name)?;
    check_name(&path)
        .map_err(|error| Error::io(format!("Could not create '{}'", path.display()), error))?;
    Ok(path)
}

/// Returns the path that a name means, whether it can be opened or not. The name of a storage without files is
/// returned unchanged.
///
/// # Errors
/// Returns an error if it is of a protocol that this version doesn't have.
pub fn path(name: &OsStr) -> Result<PathBuf> {
    match protocol(name.as_bytes()) {
        None => Ok(PathBuf::from(name)),
        Some((b"file", rest)) if protocol(rest).is_some() => {
            // The path begins with `./`, so that it is a file's name wherever it is parsed again.
            Ok(OsString::from_vec([b"./", rest].concat()).into())
        }
        Some((b"file", rest)) => Ok(OsString::from_vec(rest.to_vec()).into()),
        Some((scheme, _)) if Protocol::of_scheme(scheme).is_some() => Ok(PathBuf::from(name)),
        Some((protocol, _)) => {
            let unknown = format!("Unknown protocol '{}'", protocol.escape_ascii());
            let known: Vec<&str> = PROTOCOLS.iter().map(|protocol| protocol.name()).collect();
            Err(Error::unsupported(unknown).with_hint(format!(
                "The protocols are {}. A file with a colon in its name is './NAME'",
                known.join(", ")
            )))
        }
    }
}

/// Refuses names of descriptors that the caller didn't leave open.
///
/// # Errors
/// Returns the system's "No such file or directory" for those, as `Could not open 'path': …`.
pub fn inherited(path: &Path) -> Result<()> {
    check_name(path)
        .map_err(|error| Error::io(format!("Could not open '{}'", path.display()), error))
}

/// Returns the path of a name found inside `image`. It is relative to the image's folder, unless it is
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
}
