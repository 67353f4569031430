//! Names found inside images, and the policy for them.
//!
//! The author of an image chose the names in it. Following them opens files of this machine with this user's
//! rights. So it is for the caller to decide, and is decided in one place: [`Names`].
//!
//! A backing file's name is read as a user's would be, `json:{…}` included. But it may name no secret, and
//! whatever it says, the file is only read. An external data file's name is a path as it stands. It is
//! relative to the current folder, and not to the image's as that of a backing file is: QEMU opens both so,
//! and has to find our files.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::path::PathBuf;

use super::file_name;
use crate::error::{Error, Result, printable};

/// A receiver of warnings: a line, and lines of help.
pub type Warn = fn(&str, &str);

/// The policy for files whose names are found inside an image.
#[derive(Debug, Clone, Copy)]
pub enum Names {
    /// Backing files and external data files are opened. Harmless mistakes in trees of options are warned of.
    Follow(Warn),
    /// No such file is opened; an image that needs one can't be read.
    Refuse,
}

impl Names {
    /// Returns the path of the external data file that `name`, found in an image, stands for.
    ///
    /// # Errors
    /// Returns an error if names aren't followed, or if it is that of a descriptor that the caller didn't
    /// leave open.
    pub fn data_file(self, name: &[u8]) -> Result<PathBuf> {
        self.check(name, "data file")?;
        let path = PathBuf::from(OsStr::from_bytes(name));
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
        for name in ["a/b", "file:c", "json:{}"] {
            let path = FOLLOW.data_file(name.as_bytes()).unwrap();
            assert_eq!(path, PathBuf::from(name));
        }
        assert!(Names::Refuse.data_file(b"a").is_err());
    }
}
