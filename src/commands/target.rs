//! The image that a command writes: made anew, or an existing one that is written over.
//!
//! Options, a missing password, and a target that is also a source are refused before any file is touched.

use std::num::NonZeroU64;
use std::path::PathBuf;

use super::{Driver, Passwords, Purpose, backing, backing::Base};
use crate::crypto::{Secret, Secrets};
use crate::error::{Error, Result};
use crate::formats::driver::{Backing, NewDisk, Plan};
use crate::formats::encryption::{EncryptionFormat, key_secret, key_secret_option};
use crate::formats::{Format, NewImage, OverwriteOptions, smaller_than_input};
use crate::nodes::{
    Names, NewFile, NewImageFiles, Node, Policy, WritableFile, WriteAccess, could_not_open,
    file_name, refuse_same,
};
use crate::options::Values;
use crate::storage::{CacheMode, Storage, check_preallocation};

/// A new image's file, format and options.
pub struct Target<'a> {
    /// The file.
    pub path: PathBuf,
    /// Its name in messages.
    pub name: String,
    /// The format, or the protocol that holds a raw image.
    pub driver: Driver,
    /// The options of a new image.
    pub options: Values,
    /// The secrets that the options may name.
    pub secrets: &'a Secrets,
    /// The number of bytes of which a raw file's length is to be a multiple.
    pub align: Option<NonZeroU64>,
    /// True if its data is compressed.
    pub compressed: bool,
    /// The purpose for which the backing file that the options name is opened; without one it isn't looked
    /// at.
    pub backing_purpose: Option<Purpose>,
    /// The way in which the file is written. It says if the file is on stable storage when the command succeeds.
    pub cache: CacheMode,
    /// The image that exists and is written over; `None` makes a new one.
    pub existing: Option<Existing<'a>>,
    /// Says if files are opened that an existing image names, and how the name of a new one's backing file is
    /// read.
    pub names: Names,
    /// Says if files are opened that a new image's backing file names.
    pub names_below: Names,
}

/// An existing image that is written over.
#[derive(Clone)]
pub struct Existing<'a> {
    /// The image, with a format that was stated or found.
    pub source: Node<'a>,
    /// True if the caller says that it reads as zeroes.
    pub is_zero: bool,
    /// True if parts that the source doesn't store itself are left as they are.
    pub leaves_parts: bool,
    /// True if its format was found and not stated, so that its start must stay raw.
    pub guarded: bool,
}

/// The result of [`Target::make`] and [`Target::open_over`]: the image to write, and its new files, which are
/// removed unless kept.
pub(super) struct OpenTarget {
    pub(super) image: Box<dyn NewImage>,
    /// The size in bytes of the disk below the image; 0 without one.
    pub(super) below: u64,
    /// The format by which it is encrypted.
    pub(super) encryption: Option<EncryptionFormat>,
    files: NewImageFiles,
}

impl OpenTarget {
    /// Closes the image, once everything is written, so that it can be opened to be read.
    pub(super) fn written(self) -> Written {
        Written {
            is_encrypted: self.encryption.is_some(),
            files: self.files,
        }
    }

    /// Does the same as [`Written::keep`].
    ///
    /// # Errors
    /// Returns the errors of [`Written::keep`].
    pub(super) fn keep(self, target: &Target<'_>) -> Result<()> {
        self.written().keep(target)
    }
}

/// A target that is whole; its new files are still removed unless kept.
pub(super) struct Written {
    is_encrypted: bool,
    files: NewImageFiles,
}

impl Written {
    /// Keeps the files of the finished image. With a cache mode that flushes, their names are flushed too.
    ///
    /// # Errors
    /// Returns the errors of [`NewImageFiles::keep`].
    pub(super) fn keep(self, target: &Target<'_>) -> Result<()> {
        self.files.keep(target.cache.flushes())
    }
}

impl Target<'_> {
    /// Returns the image as one to be read, once it is written.
    ///
    /// # Errors
    /// Returns an error if its password can't be had.
    pub(super) fn as_source<'s>(
        &'s self,
        written: &Written,
        passwords: &'s dyn Passwords,
    ) -> Result<Node<'s>> {
        let mut source = self.node(written);
        if self.existing.is_none() && written.is_encrypted {
            source.secret = Some(self.secret(passwords)?);
        }
        Ok(source)
    }

    /// Returns the node of the image, once it is written, without a password.
    pub(super) fn node(&self, written: &Written) -> Node<'_> {
        if let Some(node) = self.existing_node() {
            return node;
        }
        let format = Some(self.format());
        let mut source = Node::plain(self.path.clone(), self.name.clone(), format);
        source.handle = written.files.handle();
        source.other_handles = written.files.other_handles();
        source.policy.cache = self.cache;
        source.policy.names = self.names;
        source
    }

    /// Returns the node of the image that exists, if it does.
    pub(super) fn existing_node(&self) -> Option<Node<'_>> {
        let existing = self.existing.as_ref()?;
        Some(self.existing_source(existing))
    }

    /// Returns the password that an option named, or else the one that `passwords` has.
    fn secret<'s>(&'s self, passwords: &'s dyn Passwords) -> Result<&'s Secret> {
        match key_secret(&self.options) {
            Some(id) => self.secrets.get(id),
            None => passwords.for_writing(&self.name, key_secret_option(&self.options)),
        }
    }

    /// Opens the backing file of a new image, where its options name one and it is looked at.
    ///
    /// # Errors
    /// Returns the errors of [`backing::find`].
    pub(super) fn base(&self) -> Result<Option<Base>> {
        if self.existing.is_some() {
            return Ok(None);
        }
        let backing = Backing::of(&self.options)?;
        // Some formats can't do without a look at it.
        let keeps_id = self.format().capabilities().keeps_backing_id;
        let purpose = self.backing_purpose.or(keeps_id.then_some(Purpose::Probe));
        let (Some(backing), Some(purpose)) = (backing, purpose) else {
            return Ok(None);
        };
        backing::find(&self.path, &backing, self.names, self.names_below, purpose).map(Some)
    }

    /// Plans a new image of `size` bytes; `base` is the result of [`base`](Self::base). Returns `None` for
    /// one that exists.
    ///
    /// # Errors
    /// Returns the errors of [`FormatDriver::plan`](crate::formats::FormatDriver::plan).
    pub(super) fn plan(&self, size: u64, base: Option<&Base>) -> Result<Option<Box<dyn Plan>>> {
        if self.existing.is_some() {
            return Ok(None);
        }
        let format = self.format();
        let mut own = format.create_options().iter();
        if !format.capabilities().transparent && !own.any(|spec| spec.name == "preallocation") {
            check_preallocation(&self.options)?;
        }
        let plan = format.plan(&NewDisk {
            size,
            options: &self.options,
            backing_size: base.map(|base| base.size),
            base: base.map(Base::facts),
            path: &self.path,
            compressed: self.compressed,
            align: self.align,
            path_of: file_name::file,
        });
        plan.map(Some)
    }

    /// Makes the files of a new image, with nothing written to them yet. `sources` are files that they must
    /// not be; `base` is the result of [`base`](Self::base).
    ///
    /// # Errors
    /// Returns an error if a password can't be had. Returns the system's error if a file can't be made.
    pub(super) fn make(
        &self,
        plan: &dyn Plan,
        sources: &[&dyn Storage],
        base: Option<&Base>,
        passwords: &dyn Passwords,
    ) -> Result<OpenTarget> {
        let below = base.into_iter().flat_map(Base::files);
        let sources: Vec<&dyn Storage> = sources.iter().copied().chain(below).collect();
        let encryption = plan.encryption();
        if encryption.is_some_and(EncryptionFormat::accepts_any_password) {
            passwords.legacy_aes_is_used(true);
        }
        let secret = encryption.map(|_| self.secret(passwords)).transpose()?;
        let file = NewFile {
            path: &self.path,
            protocol: self.driver.protocol(),
            options: &self.options,
            cache: self.cache,
        };
        let (image, files) = file.make(plan, &sources, secret)?;
        Ok(OpenTarget {
            image,
            below: base.map_or(0, |base| base.size),
            encryption,
            files,
        })
    }

    /// Opens an image that exists, whose first `size` bytes are to be written over. `sources` are files that it must
    /// not be.
    ///
    /// # Errors
    /// Returns an error if it can't be opened, is smaller, or is damaged.
    pub(super) fn open_over(
        &self,
        size: u64,
        sources: &[&dyn Storage],
        passwords: &dyn Passwords,
    ) -> Result<OpenTarget> {
        let Some(existing) = &self.existing else {
            return Err(Error::invalid("an image that exists and doesn't"));
        };
        let source = self.existing_source(existing);
        let access = WriteAccess {
            purpose: Purpose::Overwrite,
            flush: self.cache.flushes(),
            guarded: existing.guarded,
            compressed: self.compressed,
            opens_backing: true,
            refuse: &|target| refuse_same(&self.path, target, sources),
        };
        let WritableFile { image, parts, .. } = source.open_to_write(&access, passwords)?;
        let failed = |error| could_not_open(&self.name, error);
        let below = parts.backing.as_ref().map_or(0, |backing| backing.size());
        if image.size() < size {
            return Err(smaller_than_input());
        }
        let options = OverwriteOptions {
            is_zero: existing.is_zero,
            compressed: self.compressed,
            leaves_parts: existing.leaves_parts,
            ..OverwriteOptions::default()
        };
        Ok(OpenTarget {
            image: image.write_over(parts, size, options).map_err(failed)?,
            below,
            encryption: image.encryption(),
            files: NewImageFiles::none(),
        })
    }

    /// Returns the existing image's node, opened as a target is. The warnings were given when its format was
    /// found.
    fn existing_source<'s>(&'s self, existing: &'s Existing<'s>) -> Node<'s> {
        Node {
            format: Some(self.format()),
            protocol: existing.source.protocol.or(self.driver.protocol()),
            policy: Policy {
                cache: self.cache,
                names: self.names,
                warn: |_, _| (),
                ..existing.source.policy
            },
            ..existing.source.clone()
        }
    }

    /// Returns the format.
    pub(super) fn format(&self) -> Format {
        self.driver.format()
    }
}
