//! The subcommands: from typed options to what was done or found.
//!
//! One file each. Nothing here prints, reads the command line or parses text: the options come
//! typed, the result is a report that [`crate::cli`] renders, and passwords come from whoever
//! implements [`Passwords`].

pub mod check;
pub mod convert;
pub mod create;
pub mod info;
pub mod speed;
mod target;

use std::path::{Path, PathBuf};
use std::sync::Arc;

pub use target::{Existing, Target, TargetOptions};

use crate::crypto::Secret;
use crate::error::{Error, Result};
use crate::formats::qcow2::{self, EncryptionMethod};
use crate::formats::{self, Format, Image};
use crate::storage::{Access, CacheMode, FileStorage, Storage};

/// Where passwords come from that no option named: a file, a descriptor, or a person.
pub trait Passwords {
    /// The password of an encrypted image that is to be read.
    ///
    /// # Errors
    /// There is none to be had; the error says how one is given.
    fn for_reading(&self, image: &str) -> Result<&Secret>;

    /// The password of an encrypted image that is to be made.
    ///
    /// # Errors
    /// There is none to be had; the error says how one is given.
    fn for_writing(&self, image: &str) -> Result<&Secret>;

    /// Told whenever legacy AES is used, wherever the password came from: a person should know what
    /// it can't do.
    fn legacy_aes_is_used(&self);
}

/// An image that exists, as the user named it.
#[derive(Clone)]
pub struct Source<'a> {
    /// The file.
    pub path: PathBuf,
    /// What messages call it.
    pub name: String,
    /// The format, where it was stated; else it is probed.
    pub format: Option<Format>,
    /// The password, where an option named one.
    pub secret: Option<&'a Secret>,
    /// The encryption format that an option named; it must be the image's.
    pub encryption: Option<EncryptionMethod>,
    /// How the file is read.
    pub cache: CacheMode,
}

/// A file opened for reading, and its format.
#[derive(Debug)]
pub struct Opened {
    /// The file.
    pub file: Arc<FileStorage>,
    /// The format that was stated or found.
    pub format: Format,
}

impl Source<'_> {
    /// Opens the file and settles its format.
    ///
    /// # Errors
    /// As `Could not open 'name': …`.
    pub fn open_file(&self) -> Result<Opened> {
        let open = || {
            if self.path.as_os_str().is_empty() {
                return Err(Error::invalid(
                    "The 'file' block driver requires a file name",
                ));
            }
            let file = FileStorage::open(&self.path, Access::Read, self.cache)?;
            let format = match self.format {
                Some(format) => format,
                None => formats::probe(&file)?,
            };
            Ok(Opened {
                file: Arc::new(file),
                format,
            })
        };
        open().map_err(|error| self.could_not_open(error))
    }

    /// Opens the image for reading its data, asking for its password where it needs one.
    ///
    /// # Errors
    /// As `Could not open 'name': …`.
    pub fn open_image(&self, opened: &Opened, passwords: &dyn Passwords) -> Result<Box<dyn Image>> {
        let open = || {
            let storage: Arc<dyn Storage> = Arc::<FileStorage>::clone(&opened.file);
            let secret = self.secret_for(opened, passwords)?;
            formats::open(storage, opened.format, secret)
        };
        open().map_err(|error| self.could_not_open(error))
    }

    fn secret_for<'s>(
        &'s self,
        opened: &Opened,
        passwords: &'s dyn Passwords,
    ) -> Result<Option<&'s Secret>> {
        if opened.format != Format::Qcow2 {
            return Ok(None);
        }
        let method = qcow2::Header::read(opened.file.as_ref())?.encryption();
        if let Some(stated) = self.encryption
            && stated != method
            && method != EncryptionMethod::None
        {
            return Err(Error::invalid(format!(
                "Header reported '{}' encryption format but options specify '{}'",
                method.name(),
                stated.name()
            )));
        }
        if method == EncryptionMethod::Aes {
            passwords.legacy_aes_is_used();
        }
        match (method, self.secret) {
            (EncryptionMethod::None | EncryptionMethod::Luks, _) => Ok(None),
            (EncryptionMethod::Aes, Some(secret)) => Ok(Some(secret)),
            (EncryptionMethod::Aes, None) => passwords.for_reading(&self.name).map(Some),
        }
    }

    fn could_not_open(&self, error: Error) -> Error {
        let prefix = format!("Could not open '{}'", self.name);
        // The file's own name is in the message already where both are the same, but qemu-img
        // repeats it, and its callers look for the whole.
        error.context(prefix)
    }
}

/// Makes a new file's name durable: what is in a directory is on stable storage only when the
/// directory is.
fn flush_directory_of(path: &Path) -> Result<()> {
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    std::fs::File::open(folder)
        .and_then(|folder| folder.sync_all())
        .map_err(|error| Error::io(format!("flushing '{}'", folder.display()), error))
}
