//! Names found inside images, and the policy for them.
//!
//! The author of an image chose the names in it. Following them opens files of this machine with this user's
//! privileges. So the caller decides on it, in one place: [`Names`].
//!
//! A backing file's name is parsed as a user's would be, including `json:{…}`. But it may name no secret, and the
//! file is always opened read-only. An external data file's name is a plain path. It is relative to the current
//! folder, while that of a backing file is relative to the image's folder. QEMU opens both in this way, and has to
//! find our files. The name of an extent file is relative to the image's folder and must stay inside of it. Otherwise
//! an untrusted descriptor could have any file of the host read as a disk.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Component, Path, PathBuf};

use super::file_name;
use crate::error::{Error, Result, printable};
use crate::formats::driver::{FileRef, NameRule};

/// A receiver of warnings: the line of a warning, and lines of help.
pub type Warn = fn(&str, &str);

/// The policy for files whose names are found inside an image.
#[derive(Debug, Clone, Copy)]
pub enum Names {
    /// Backing files and external data files are opened. Warns of harmless mistakes in trees of options.
    Follow(Warn),
    /// No such file is opened. An image that needs one can't be read.
    Refuse,
}

impl Names {
    /// Returns the path of another file that the image at `image` names.
    ///
    /// # Errors
    /// Returns an error if names aren't followed, or if the image has no name for the file. Returns an error if the
    /// name is that of a descriptor that the caller didn't leave open. Returns an error if the name of an extent file
    /// leads out of the image's folder.
    pub fn other_file(self, image: &Path, file: &FileRef<'_>) -> Result<PathBuf> {
        let required = || Error::invalid(format!("'{}' is required for this image", file.role));
        let name = file.name.ok_or_else(required)?;
        let path = Path::new(OsStr::from_bytes(name));
        let path = match file.rule {
            NameRule::AsItStands => {
                self.check(name, "data file")?;
                path.to_owned()
            }
            NameRule::Beside => {
                self.check(name, "file")?;
                let mut parts = path.components();
                let is_inside = parts.all(|part| matches!(part, Component::Normal(_)));
                if !is_inside {
                    return Err(Error::invalid(format!(
                        "the image names '{}', which is not in its own folder (the option {}.filename can name it)",
                        printable(&path.to_string_lossy()),
                        file.role
                    )));
                }
                image.parent().unwrap_or(Path::new("")).join(path)
            }
        };
        file_name::inherited(&path)?;
        Ok(path)
    }

    /// Refuses a name unless names are followed. `what` is the image's use of it, for messages.
    pub(super) fn check(self, name: &[u8], what: &str) -> Result<()> {
        match self {
            Self::Follow(_) => Ok(()),
            Self::Refuse => Err(Error::invalid(format!(
                "the image names a {what} ('{}'), and with --untrusted no file is opened that an \
                 image names",
                printable(&String::from_utf8_lossy(name))
            ))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FOLLOW: Names = Names::Follow(|_, _| ());

    #[test]
    fn data_files_are_paths_as_they_stand() {
        for name in ["a/b", "file:c", "json:{}", "/a", "../a"] {
            let path = FOLLOW.other_file(Path::new("x/y"), &file(name, NameRule::AsItStands));
            assert_eq!(path.unwrap(), PathBuf::from(name));
        }
    }

    #[test]
    fn extents_are_in_the_folder_of_their_image() {
        let at =
            |image: &str, name| FOLLOW.other_file(Path::new(image), &file(name, NameRule::Beside));
        assert_eq!(at("x/y", "a").unwrap(), PathBuf::from("x/a"));
        assert_eq!(at("/x/y", "a/b").unwrap(), PathBuf::from("/x/a/b"));
        assert_eq!(at("y", "json:{}").unwrap(), PathBuf::from("json:{}"));
        for name in ["/etc/passwd", "../a", "a/../../b"] {
            let message = at("x/y", name).unwrap_err().to_string();
            assert!(message.contains("not in its own folder"), "{message}");
        }
    }

    #[test]
    fn no_name_is_followed_where_none_is_to_be() {
        for rule in [NameRule::AsItStands, NameRule::Beside] {
            let refused = Names::Refuse.other_file(Path::new("x"), &file("a", rule));
            assert!(refused.unwrap_err().to_string().contains("--untrusted"));
        }
    }

    fn file(name: &str, rule: NameRule) -> FileRef<'_> {
        FileRef {
            role: "part".into(),
            name: Some(name.as_bytes()),
            rule,
        }
    }
}
