//! Opening of an existing image to be changed.
//!
//! The file is opened and locked, and its header is read. So are the external data file, the password, and the
//! backing file, which is opened read-only: the format may need them for writing. No table is read yet, and nothing
//! is written.

use std::path::Path;
use std::sync::Arc;

use super::disk::Disk;
use super::node::Node;
use super::open::could_not_open;
use crate::crypto::Passwords;
use crate::error::{Error, Result, printable};
use crate::formats::driver::{Load, WriteParts};
use crate::formats::{Format, GuardedStart, Image, ImageFile};
use crate::storage::{Purpose, Refuse, Storage};

/// The parameters for opening an image to be changed.
pub struct WriteAccess<'r> {
    /// The purpose, which is a change or an overwrite: [`Purpose::Change`] or [`Purpose::Overwrite`].
    pub purpose: Purpose,
    /// True if flushes reach the storage.
    pub flush: bool,
    /// True if nobody may write the magic number of another format to the start of a raw image. It is always so if
    /// the format was probed.
    pub guarded: bool,
    /// True if data will be compressed, for which an encrypted image is refused.
    pub compressed: bool,
    /// True if the backing file is opened, so that partial writes of clusters can be completed from it.
    pub opens_backing: bool,
    /// The check of each file before it is locked. It can refuse a file with another use.
    pub refuse: &'r Refuse<'r>,
}

impl WriteAccess<'_> {
    /// Returns the parameters for changing the disk or the metadata of an image that may have a backing file. With
    /// `flush`, flushes reach the storage.
    pub fn to_change(flush: bool) -> Self {
        Self {
            purpose: Purpose::Change,
            flush,
            guarded: false,
            compressed: false,
            opens_backing: true,
            refuse: &|_| Ok(()),
        }
    }
}

/// An image that may be changed.
pub struct WritableFile<'a> {
    /// The file that was named.
    pub file: Arc<dyn Storage>,
    /// The format that was given or probed.
    pub format: Format,
    /// The image file, with its header read.
    pub image: Box<dyn ImageFile>,
    /// The parts that opening the disk for writing takes.
    pub parts: WriteParts<'a>,
    /// The backing file, if it was opened; the parts have it as well.
    pub below: Option<Disk>,
    /// The part of the file that the image is in.
    storage: Arc<dyn Storage>,
    /// True if the header is in the first of the other files.
    is_headless: bool,
}

impl WritableFile<'_> {
    /// Reads the header again, after it was changed.
    ///
    /// # Errors
    /// Returns an error as [`FormatDriver::load`](crate::formats::FormatDriver::load) does.
    pub fn reload(&mut self) -> Result<()> {
        let how = match self.is_headless {
            true => Load::Headless,
            false => Load::Use,
        };
        self.image = self.format.load(Arc::clone(&self.storage), how)?;
        if self.is_headless {
            self.image.attach(&self.parts.files)?;
        }
        Ok(())
    }
}

impl Node<'_> {
    /// Opens the image to be changed, and the other files that writing needs.
    ///
    /// # Errors
    /// Returns an error, as `Could not open 'name': …`, if a file can't be opened, is refused or is locked.
    /// It does so, too, if the header is invalid, or if there is no password.
    pub fn open_to_write<'s>(
        &'s self,
        access: &WriteAccess<'_>,
        passwords: &'s dyn Passwords,
    ) -> Result<WritableFile<'s>> {
        self.open_parts(access, passwords)
            .map_err(|error| could_not_open(&self.name, error))
    }

    /// Opens the image to see that it can be written, without the other files that writing needs, and without a
    /// password. `refuse` is called with its file before that is locked.
    ///
    /// # Errors
    /// Returns the errors of [`open_to_write`](Self::open_to_write), as far as the header shows them.
    pub fn check_writable(
        &self,
        purpose: Purpose,
        refuse: &Refuse<'_>,
    ) -> Result<Box<dyn ImageFile>> {
        let check = || {
            let opened = self.open_unless(purpose, refuse)?;
            let mut image = opened.load(Load::Use)?;
            self.accept(image.as_mut(), &opened.options)?;
            self.attach(image.as_mut(), purpose)?;
            image.check_writable()?;
            Ok(image)
        };
        check().map_err(|error| could_not_open(&self.name, error))
    }

    fn open_parts<'s>(
        &'s self,
        access: &WriteAccess<'_>,
        passwords: &'s dyn Passwords,
    ) -> Result<WritableFile<'s>> {
        let mut opened = self.open_unless(access.purpose, access.refuse)?;
        let is_probed = self.format.is_none() && opened.format.capabilities().transparent;
        if access.guarded || is_probed {
            opened.storage = Arc::new(GuardedStart(opened.storage));
        }
        let mut image = opened.load(Load::Use)?;
        if access.compressed && image.encryption().is_some() {
            return Err(Error::unsupported(
                "Compression and encryption not supported at the same time",
            ));
        }
        image.check_writable()?;
        let secret = self.secret_for(image.as_mut(), &opened.options, passwords)?;
        let files = self.other_files(image.as_ref(), access.purpose)?;
        for file in &files {
            (access.refuse)(file.as_ref())?;
        }
        image.attach(&files)?;
        if image.has_headers_elsewhere() {
            // The headers in the other files may refuse it, too.
            image.check_writable()?;
        }
        let below = match access.opens_backing {
            true => self.read_below(image.as_ref(), opened.file.as_ref(), passwords)?,
            false => None,
        };
        Ok(WritableFile {
            file: opened.file,
            format: opened.format,
            image,
            parts: WriteParts {
                files,
                backing: below
                    .as_ref()
                    .map(|below| Arc::clone(&below.image) as Arc<dyn Image>),
                secret,
                flush: access.flush,
            },
            below,
            is_headless: opened.is_headless,
            storage: opened.storage,
        })
    }

    /// Opens the backing file for reading. None of its files may be the one that is written.
    fn read_below(
        &self,
        image: &dyn ImageFile,
        file: &dyn Storage,
        passwords: &dyn Passwords,
    ) -> Result<Option<Disk>> {
        let below = self.backing_node(image)?;
        if below.is_some() != image.backing().is_some() {
            return Err(Error::unsupported(
                "giving an image that is written a backing file, or taking it away, is not supported \
                 by this version",
            ));
        }
        let Some(below) = below else {
            return Ok(None);
        };
        let below = below
            .open_chain(Purpose::Read, passwords, true)
            .map_err(|error| error.context("Could not open backing file"))?;
        refuse_same(&self.path, file, &below.files())?;
        Ok(Some(below))
    }
}

/// Refuses to write the file at `path` if it is one of `others`.
///
/// # Errors
/// Returns an error, in QEMU's words, if it is, or the system's error.
pub(crate) fn refuse_same(path: &Path, file: &dyn Storage, others: &[&dyn Storage]) -> Result<()> {
    let identity = file.identity()?;
    for other in others {
        if other.identity()?.overlaps(&identity) {
            return Err(same_file(path, Path::new(other.location())));
        }
    }
    Ok(())
}

/// Returns the error for an image that would overwrite a file which the same command uses.
pub(crate) fn same_file(path: &Path, other: &Path) -> Error {
    // QEMU conflicts with its own lock there. Its words are kept, since callers look for them.
    Error::invalid(format!(
        "Failed to get \"write\" lock: '{}' and '{}' are the same file",
        printable(&other.to_string_lossy()),
        printable(&path.to_string_lossy())
    ))
}
