//! Names found inside images, and whether they are followed.
//!
//! Whoever wrote an image chose the names in it. Following them opens files of this machine with this
//! user's rights, so whether that is done is the caller's decision, made in one place: [`Names`].
//!
//! A backing file's name is read as a user's would be, `json:{…}` included, but may name no secret, and
//! whatever it says the file is only read. An external data file's name is no such name but a path as it
//! stands, and unlike that of a backing file it isn't relative to the image's folder: QEMU opens both so, and
//! must find what we made.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::path::PathBuf;

use super::file_name;
use crate::error::{Error, Result, printable};

/// Is told what is to be known although nothing is wrong: a line, and lines that help with it.
pub type Warn = fn(&str, &str);

/// The policy for files whose names are found inside an image.
#[derive(Debug, Clone, Copy)]
pub enum Names {
    /// They are: backing files, external data files. Mistakes of no matter in trees of options are told.
    Follow(Warn),
    /// They are not; an image that needs one can't be read.
    Refuse,
}

impl Names {
    /// The external data file that `name`, found in an image, stands for.
    ///
    /// # Errors
    /// Names aren't followed; it is a descriptor's that the caller didn't leave open.
    pub fn data_file(self, name: &[u8]) -> Result<PathBuf> {
        self.check(name, "data file")?;
        let path = PathBuf::from(OsStr::from_bytes(name));
        file_name::inherited(&path)?;
        Ok(path)
    }

    /// Refuses a name unless names are followed; `what` says what the image uses it for.
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
