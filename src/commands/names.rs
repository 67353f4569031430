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
use std::path::{Path, PathBuf};

use super::file_name::{self, beside};
use super::{Source, image_name};
use crate::error::{Error, Result, printable};
use crate::formats::foreign;
use crate::options::json;

/// Is told what is to be known although nothing is wrong: a line, and lines that help with it.
pub type Warn = fn(&str, &str);

/// Whether files are opened whose names are found inside an image.
#[derive(Debug, Clone, Copy)]
pub enum Names {
    /// They are: backing files, external data files. Mistakes of no matter in trees of options are told.
    Follow(Warn),
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
        if let (Self::Follow(warn), true) = (self, name.starts_with(json::PREFIX.as_bytes())) {
            let text = std::str::from_utf8(name)
                .map_err(|_| Error::invalid("Could not parse the JSON options: not UTF-8"))?;
            return image_name::found_inside(text, format, warn);
        }
        let path = file_name::file(beside(path, name).as_os_str())?;
        let shown = path.to_string_lossy().into_owned();
        let mut source = Source::plain(path, shown, None);
        source.of_driver(format)?;
        if format.is_none() {
            source.is_named_foreign = foreign::is_named(name);
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
        file_name::inherited(&path)?;
        Ok(path)
    }

    /// Refuses a name unless names are followed; `what` says what the image uses it for.
    fn check(self, name: &[u8], what: &str) -> Result<()> {
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
    fn names_in_images_are_relative_to_them() {
        let at = |image: &str, name: &[u8]| {
            let source = FOLLOW.backing_file(Path::new(image), name, None);
            source.unwrap().path
        };
        assert_eq!(at("a/top", b"base"), PathBuf::from("a/base"));
        assert_eq!(at("a/top", b"/base"), PathBuf::from("/base"));
        assert_eq!(at("top", b"file:b"), PathBuf::from("b"));
        let tree = br#"json:{"driver":"raw","file.filename":"base"}"#;
        assert_eq!(at("a/top", tree), PathBuf::from("base"));
        for name in [&b"base"[..], b"json:{}"] {
            let refused = Names::Refuse.backing_file(Path::new("top"), name, None);
            let message = refused.err().unwrap().to_string();
            assert!(message.contains("with --untrusted no file is opened"));
        }
    }

    #[test]
    fn data_files_are_paths_as_they_stand() {
        for name in ["a/b", "file:c", "json:{}"] {
            let path = FOLLOW.data_file(name.as_bytes()).unwrap();
            assert_eq!(path, PathBuf::from(name));
        }
        assert!(Names::Refuse.data_file(b"a").is_err());
    }
}
