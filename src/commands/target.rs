//! The target of a command: a new image, or an existing one that is overwritten.
//!
//! Invalid options, a missing password, and a target that is also a source are refused before any file is changed.

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

/// The target of a command.
pub struct Target<'a> {
    /// The file.
    pub path: PathBuf,
    /// Its name in messages.
    pub name: String,
    /// The format, or a protocol for a raw image.
    pub driver: Driver,
    /// The options of a new image.
    pub options: Values,
    /// The secrets that the options may name.
    pub secrets: &'a Secrets,
    /// The number of bytes of which a raw file's length will be a multiple.
    pub align: Option<NonZeroU64>,
    /// True if its data is compressed.
    pub compressed: bool,
    /// The purpose for which the backing file that the options name is opened. Without one it isn't opened.
    pub backing_purpose: Option<Purpose>,
    /// The cache mode for writing the file. It decides if the file is on stable storage when the command succeeds.
    pub cache: CacheMode,
    /// The existing image that is overwritten, or `None` to create a new one.
    pub existing: Option<Existing<'a>>,
    /// The policy for files that an existing image names, and for the name of a new image's backing file.
    pub names: Names,
    /// The policy for files that a new image's backing file names.
    pub names_below: Names,
}

/// An existing image that is overwritten.
#[derive(Clone)]
pub struct Existing<'a> {
    /// The image, with a format that was given or probed.
    pub source: Node<'a>,
    /// True if the user says that it reads as zeroes: `--target-is-zero`.
    pub is_zero: bool,
    /// True if unallocated parts of the source are left unchanged in the target.
    pub leaves_parts: bool,
    /// True if its format was probed and not given, so that a raw image must not get the header of another format.
    pub guarded: bool,
}

/// The result of [`Target::make`] and [`Target::open_over`]: the image to write, and its new files, which are removed
/// unless they are kept.
pub(super) struct OpenTarget {
    pub(super) image: Box<dyn NewImage>,
    /// The size of the backing file's disk in bytes, or 0 without one.
    pub(super) below: u64,
    /// Its encryption format.
    pub(super) encryption: Option<EncryptionFormat>,
    files: NewImageFiles,
}

impl OpenTarget {
    /// Closes the image after everything has been written, so that it can be opened for reading.
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

/// A complete target. Its new files are still removed unless they are kept.
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

/// The plan of a new image, or `None` for one that exists.
type PlanOfNew = Option<Box<dyn Plan>>;

impl Target<'_> {
    /// Returns the written image as a source.
    ///
    /// # Errors
    /// Returns an error if its password can't be obtained.
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

    /// Returns the node of the written image, without a password.
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

    /// Returns the node of the existing image, if there is one.
    pub(super) fn existing_node(&self) -> Option<Node<'_>> {
        let existing = self.existing.as_ref()?;
        Some(self.existing_source(existing))
    }

    /// Returns the password that an option names, or else the one from `passwords`.
    fn secret<'s>(&'s self, passwords: &'s dyn Passwords) -> Result<&'s Secret> {
        match key_secret(&self.options) {
            Some(id) => self.secrets.get(id),
            None => passwords.for_writing(&self.name, key_secret_option(&self.options)),
        }
    }

    /// Opens the backing file of a new image, if its options name one and it has to be opened.
    ///
    /// # Errors
    /// Returns the errors of [`backing::find`].
    pub(super) fn base(&self) -> Result<Option<Base>> {
        if self.existing.is_some() {
            return Ok(None);
        }
        let backing = Backing::of(&self.options)?;
        // Some formats store an id of the backing file, so they need it opened.
        let keeps_id = self.format().capabilities().keeps_backing_id;
        let purpose = self.backing_purpose.or(keeps_id.then_some(Purpose::Probe));
        let (Some(backing), Some(purpose)) = (backing, purpose) else {
            return Ok(None);
        };
        backing::find(&self.path, &backing, self.names, self.names_below, purpose).map(Some)
    }

    /// Plans a new image of `size` bytes. `base` is the result of [`base`](Self::base). Returns `None` for an
    /// existing image.
    ///
    /// # Errors
    /// Returns the errors of [`FormatDriver::plan`](crate::formats::FormatDriver::plan).
    pub(super) fn plan(&self, size: u64, base: Option<&Base>) -> Result<PlanOfNew> {
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

    /// Creates the files of a new image, and writes nothing to them yet. None of them may be one of `sources`. `base`
    /// is the result of [`base`](Self::base).
    ///
    /// # Errors
    /// Returns an error if a password can't be obtained, or the system's error if a file can't be created.
    pub(super) fn make(
        &self,
        plan: &dyn Plan,
        sources: &[&dyn Storage],
        base: Option<&Base>,
        passwords: &dyn Passwords,
    ) -> Result<OpenTarget> {
        let sources = with_base(sources, base);
        let encryption = plan.encryption();
        if encryption.is_some_and(EncryptionFormat::accepts_any_password) {
            passwords.legacy_aes_is_used(true);
        }
        let secret = encryption.map(|_| self.secret(passwords)).transpose()?;
        let (image, files) = self.new_file().make(plan, &sources, secret)?;
        Ok(OpenTarget {
            image,
            below: base.map_or(0, |base| base.size),
            encryption,
            files,
        })
    }

    /// Checks that [`make`](Self::make) can create the files of a new image, and changes nothing. Returns true if the
    /// image's file exists, and would be overwritten.
    ///
    /// # Errors
    /// Returns the errors of [`NewFile::check`].
    pub(super) fn check_new(
        &self,
        plan: &dyn Plan,
        sources: &[&dyn Storage],
        base: Option<&Base>,
    ) -> Result<bool> {
        self.new_file().check(plan, &with_base(sources, base))
    }

    /// Checks that the first `size` bytes of the existing image can be overwritten, and changes nothing. Asks for no
    /// password. Returns its encryption format.
    ///
    /// # Errors
    /// Returns the errors of [`open_over`](Self::open_over), as far as the header shows them.
    pub(super) fn check_existing(
        &self,
        size: u64,
        sources: &[&dyn Storage],
    ) -> Result<Option<EncryptionFormat>> {
        let Some(source) = self.existing_node() else {
            return Ok(None);
        };
        let refuse = |target: &dyn Storage| refuse_same(&self.path, target, sources);
        let image = source.check_writable(Purpose::Overwrite, &refuse)?;
        if image.size() < size {
            return Err(smaller_than_input());
        }
        Ok(image.encryption())
    }

    /// Returns the error of a conversion that can't write a new image, in the words of `qemu-img`.
    pub(super) fn failed(&self, error: Error) -> Error {
        if self.existing.is_some() {
            return error;
        }
        let driver = self.driver.name();
        error.context(format!("{}: error while converting {driver}", self.name))
    }

    /// Returns the backing file of a conversion's target and the plan of a new image, or `None` for one that exists.
    /// The options are checked before the files that they name.
    ///
    /// # Errors
    /// Returns the errors of [`plan`](Self::plan) and [`base`](Self::base), in the words of `qemu-img`.
    pub(super) fn plan_conversion(&self, size: u64) -> Result<(Option<Base>, PlanOfNew)> {
        let failed = |error| self.failed(error);
        self.plan(size, None).map_err(failed)?;
        let base = self.base().map_err(|error| {
            could_not_open(&self.name, error.context("Could not open backing file"))
        })?;
        let plan = self.plan(size, base.as_ref()).map_err(failed)?;
        Ok((base, plan))
    }

    fn new_file(&self) -> NewFile<'_> {
        NewFile {
            path: &self.path,
            protocol: self.driver.protocol(),
            options: &self.options,
            cache: self.cache,
        }
    }

    /// Opens an existing image to overwrite its first `size` bytes. None of its files may be one of `sources`.
    ///
    /// # Errors
    /// Returns an error if it can't be opened, if it is smaller, or if it is damaged.
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

    /// Returns the existing image's node with the target's settings. It gives no warnings, since they were given when
    /// the format was probed.
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

/// Returns the files of the sources, and those of a new image's backing chain.
fn with_base<'a>(sources: &[&'a dyn Storage], base: Option<&'a Base>) -> Vec<&'a dyn Storage> {
    let below = base.into_iter().flat_map(Base::files);
    sources.iter().copied().chain(below).collect()
}
