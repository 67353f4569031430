//! The subcommands: from typed options to what was done or found.
//!
//! One file each. Nothing here prints, reads the command line or parses text: the options come
//! typed, the result is a report that [`crate::cli`] renders, and passwords come from whoever
//! implements [`Passwords`].

pub mod check;
pub mod convert;
pub mod create;
pub mod info;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::crypto::Secret;
use crate::error::{Error, ErrorKind, Result};
use crate::formats::qcow2::{self, EncryptionMethod};
use crate::formats::{self, Format, Image};
use crate::storage::{Access, FileStorage, Storage, UnfinishedFile};

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
            let file = FileStorage::open(&self.path, Access::Read)?;
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

/// A new image's file, format and options.
pub struct Target<'a> {
    /// The file.
    pub path: PathBuf,
    /// What messages call it.
    pub name: String,
    /// The format with its options.
    pub options: TargetOptions<'a>,
    /// Whether the image is to be on stable storage when the command succeeds.
    pub flush: bool,
}

/// A new image's format and options. The size is the caller's to fill in.
pub enum TargetOptions<'a> {
    /// A raw image.
    Raw,
    /// A qcow2 image; the password where an option named one.
    Qcow2(qcow2::CreateOptions, Option<&'a Secret>),
}

impl Target<'_> {
    /// Creates the file and what is to be written to it, with nothing in it yet. What can be
    /// refused is refused before the file is touched. `sources` are files that it must not be.
    ///
    /// # Errors
    /// Options that can't be; a password that can't be had; the system's error.
    fn create(
        &self,
        size: u64,
        sources: &[&FileStorage],
        passwords: &dyn Passwords,
    ) -> Result<(UnfinishedFile, Box<dyn formats::NewImage>)> {
        let prepared = self.prepare(size, passwords)?;
        let mut file = UnfinishedFile::create(&self.path, |target| {
            let identity = target.identity()?;
            for source in sources {
                if source.identity()? == identity {
                    return Err(Error::invalid(format!(
                        "'{}' and '{}' are the same file",
                        source.path().display(),
                        self.path.display()
                    )));
                }
            }
            Ok(())
        })?;
        let storage: Arc<dyn Storage> = Arc::new(file.take_storage()?);
        let image: Box<dyn formats::NewImage> = match prepared {
            None => Box::new(formats::raw::NewRaw::create(storage, size, self.flush)?),
            Some((options, cipher)) => Box::new(qcow2::NewQcow2::create(
                storage, options, cipher, self.flush,
            )?),
        };
        Ok((file, image))
    }

    fn prepare(
        &self,
        size: u64,
        passwords: &dyn Passwords,
    ) -> Result<Option<(qcow2::CreateOptions, Option<crate::crypto::AesCbc>)>> {
        let TargetOptions::Qcow2(options, secret) = &self.options else {
            return Ok(None);
        };
        let mut options = options.clone();
        options.size = size;
        options.check()?;
        let cipher = match (options.encryption, secret) {
            (EncryptionMethod::None, _) => None,
            (EncryptionMethod::Aes, Some(secret)) => Some(crate::crypto::legacy_aes(secret)?),
            (EncryptionMethod::Aes, None) => {
                let secret = passwords.for_writing(&self.name)?;
                Some(crate::crypto::legacy_aes(secret)?)
            }
            (EncryptionMethod::Luks, _) => {
                return Err(Error::unsupported(
                    "encrypt.format=luks is not supported by this version",
                ));
            }
        };
        Ok(Some((options, cipher)))
    }

    /// The format's name.
    fn format(&self) -> Format {
        match self.options {
            TargetOptions::Raw => Format::Raw,
            TargetOptions::Qcow2(..) => Format::Qcow2,
        }
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

/// Whether an error says that a password is missing.
pub fn is_missing_secret(error: &Error) -> bool {
    error.kind() == ErrorKind::MissingSecret
}
