//! The image that a command writes: made anew, or an existing one that is written over.
//!
//! What can be refused (options, a missing password, a target that is also a source) is refused
//! before any file is touched.

use std::ffi::OsStr;
use std::num::NonZeroU64;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::source::{could_not_open, inside};
use super::{
    Below, Names, Passwords, Protocol, Purpose, Sharing, Source, backing, backing::Base, names,
};
use crate::crypto::{AesCbc, Secret, legacy_aes};
use crate::error::{Error, Result, printable};
use crate::formats::driver::{Load, WriteParts};
use crate::formats::qcow2::{self, EncryptionMethod, NewPreallocated, NewQcow2};
use crate::formats::raw::{self, NewRaw};
use crate::formats::{
    Format, GuardedStart, Image, ImageFile, NewImage, OverOptions, Preallocation,
    smaller_than_input,
};
use crate::storage::{
    Access, CacheMode, Claim, FileStorage, Handle, Storage, UnfinishedFile, WindowRange,
};

/// A new image's file, format and options.
pub struct Target<'a> {
    /// The file.
    pub path: PathBuf,
    /// What messages call it.
    pub name: String,
    /// The format with its options.
    pub options: TargetOptions<'a>,
    /// The driver that was named in place of a format; the image is raw then.
    pub protocol: Option<Protocol>,
    /// How much of its space is taken beforehand.
    pub preallocation: Preallocation,
    /// Of what a raw file's length is to be a multiple, in bytes.
    pub align: Option<NonZeroU64>,
    /// Whether its data is compressed (qcow2 only, without encryption and preallocation).
    pub compressed: bool,
    /// Whether a file system that would copy blocks when they are written is asked not to, for new files.
    pub avoids_copies: bool,
    /// What the backing file that the options name is opened for; where for nothing, nothing is known of it.
    pub backing_purpose: Option<Purpose>,
    /// How the file is written, and whether it is on stable storage when the command succeeds.
    pub cache: CacheMode,
    /// Whether the file exists and is written over; `None` makes a new one.
    pub existing: Option<Existing<'a>>,
    /// What part of an existing file the image is in; see [`Source::windows`](super::Source::windows).
    pub windows: Vec<WindowRange>,
    /// Whether files are opened that an existing image names, and how the name of a new one's backing file
    /// is read.
    pub names: Names,
    /// Whether files are opened that a new image's backing file names.
    pub names_below: Names,
}

/// The next multiple of `align`, at least `size`.
fn aligned(size: u64, align: NonZeroU64) -> Result<u64> {
    let length = size.checked_next_multiple_of(align.get());
    length
        .filter(|length| i64::try_from(*length).is_ok())
        .ok_or_else(|| Error::invalid("the next multiple of --align is no length of a file"))
}

/// An existing image that is written over.
#[derive(Clone)]
pub struct Existing<'a> {
    /// The caller's word that it reads as zeroes.
    pub is_zero: bool,
    /// Whether what the source doesn't store itself is left as it is.
    pub leaves_parts: bool,
    /// Whether its format was found and not stated, so that its start must stay raw.
    pub guarded: bool,
    /// The encryption format that an option named; it must be the image's.
    pub encryption: Option<&'static str>,
    /// Whether others are kept from it meanwhile.
    pub sharing: Sharing,
    /// The external data file, where an option named one.
    pub data_file: Option<PathBuf>,
    /// What is below the image.
    pub below: Below<'a>,
}

/// A new image's format and options. The size is the caller's to fill in.
pub enum TargetOptions<'a> {
    /// A raw image.
    Raw,
    /// A qcow2 image; the password where an option named one.
    Qcow2(qcow2::CreateOptions, Option<&'a Secret>),
}

/// What [`Target::open`] gives: the image to write, and the file that is undone unless kept.
pub(super) struct OpenTarget {
    pub(super) image: Box<dyn NewImage>,
    /// The size in bytes of what the image is over; 0 where that is nothing.
    pub(super) below: u64,
    /// The files that are made: the image's, and then its external data file.
    files: Vec<UnfinishedFile>,
}

impl OpenTarget {
    /// Everything is written: closes the image, so that it can be opened to be read.
    pub(super) fn written(self) -> Written {
        Written { files: self.files }
    }

    /// As [`Written::keep`].
    ///
    /// # Errors
    /// As there.
    pub(super) fn keep(self, target: &Target<'_>) -> Result<()> {
        self.written().keep(target)
    }
}

/// A target that is whole, and still undone unless kept.
pub(super) struct Written {
    /// The files that are made: the image's, and then its external data file.
    files: Vec<UnfinishedFile>,
}

impl Written {
    /// The image is finished: its files stay, and with a cache mode that flushes so do their names.
    ///
    /// # Errors
    /// As [`UnfinishedFile::keep`].
    pub(super) fn keep(self, target: &Target<'_>) -> Result<()> {
        UnfinishedFile::keep(self.files, target.cache.flushes())
    }

    /// The image's file, where it is made and may have no name yet.
    pub(super) fn handle(&self) -> Option<Arc<Handle>> {
        self.files.first().map(UnfinishedFile::handle)
    }

    /// The external data file, where it is made and may have no name yet.
    fn data_handle(&self) -> Option<Arc<Handle>> {
        self.files.get(1).map(UnfinishedFile::handle)
    }
}

impl Target<'_> {
    /// The image as one to be read, once it is written.
    ///
    /// # Errors
    /// Its password can't be had.
    pub(super) fn as_source<'s>(
        &'s self,
        written: &Written,
        passwords: &'s dyn Passwords,
    ) -> Result<Source<'s>> {
        let format = Some(self.format());
        let mut source = Source::plain(self.path.clone(), self.name.clone(), format);
        source.handle = written.handle();
        source.data_handle = written.data_handle();
        if let TargetOptions::Qcow2(options, secret) = &self.options {
            source.secret = *secret;
            // An image that was there had its password asked for already, as one that is read.
            if self.existing.is_none() && options.encryption != EncryptionMethod::None {
                source.secret = Some(self.secret(*secret, passwords)?);
            }
        }
        source.cache = self.cache;
        source.windows.clone_from(&self.windows);
        source.names = self.names;
        if let Some(existing) = &self.existing {
            source.sharing = existing.sharing;
            source.data_file.clone_from(&existing.data_file);
            source.below = existing.below.clone();
        }
        Ok(source)
    }

    /// The password that an option named, or else the one that `passwords` has.
    fn secret<'s>(
        &self,
        named: Option<&'s Secret>,
        passwords: &'s dyn Passwords,
    ) -> Result<&'s Secret> {
        match named {
            Some(secret) => Ok(secret),
            None => passwords.for_writing(&self.name),
        }
    }

    /// Opens what a new image is to be over, where its options name a backing file and that is looked at.
    ///
    /// # Errors
    /// As [`backing::find`].
    pub(super) fn base(&self) -> Result<Option<Base>> {
        let (None, TargetOptions::Qcow2(options, _)) = (&self.existing, &self.options) else {
            return Ok(None);
        };
        let (Some(backing), Some(purpose)) = (&options.backing, self.backing_purpose) else {
            return Ok(None);
        };
        backing::find(&self.path, backing, self.names, self.names_below, purpose).map(Some)
    }

    /// Opens the file for an image of `size` bytes, with nothing written to it yet. `sources` are
    /// files that it must not be; `base` is what [`Target::base`] gave.
    ///
    /// # Errors
    /// Options that can't be; a password that can't be had; the system's error.
    pub(super) fn open(
        &self,
        size: u64,
        sources: &[&FileStorage],
        base: Option<&Base>,
        passwords: &dyn Passwords,
    ) -> Result<OpenTarget> {
        let refuse = |target: &FileStorage| self.refuse_sources(target, sources);
        let flush = self.cache.flushes();
        if let Some(existing) = &self.existing {
            let file = FileStorage::open(&self.path, Access::ReadWrite, self.cache)
                .map_err(|error| could_not_open(&self.name, error))?;
            let protocol = self.protocol;
            let check = |protocol: Protocol| protocol.check_existing(&self.path, file.is_device());
            protocol
                .map_or(Ok(()), check)
                .and_then(|()| refuse(&file))
                .and_then(|()| self.lock(&file))
                .map_err(|error| could_not_open(&self.name, error))?;
            let file = Arc::new(file);
            let mut storage = inside(Arc::<FileStorage>::clone(&file), &self.windows)
                .map_err(|error| could_not_open(&self.name, error))?;
            if existing.guarded {
                storage = Arc::new(GuardedStart(storage));
            }
            let secret = match &self.options {
                TargetOptions::Raw => None,
                TargetOptions::Qcow2(_, secret) => *secret,
            };
            let source = self.existing_source(existing, secret);
            let image = self
                .format()
                .load(storage, Load::Use)
                .map_err(|error| could_not_open(&self.name, error))?;
            let parts = self
                .existing_parts(&file, image.as_ref(), &source, sources, passwords)
                .map_err(|error| could_not_open(&self.name, error))?;
            let below = parts.backing.as_ref().map_or(0, |backing| backing.size());
            let options = OverOptions {
                is_zero: existing.is_zero,
                compressed: self.compressed,
                leaves_parts: existing.leaves_parts,
            };
            if image.size() < size {
                return Err(smaller_than_input());
            }
            let image = image
                .write_over(parts, size, options)
                .map_err(|error| could_not_open(&self.name, error))?;
            let files = Vec::new();
            return Ok(OpenTarget {
                image,
                below,
                files,
            });
        }
        let below = base.into_iter().flat_map(Base::files);
        let sources: Vec<&FileStorage> = sources.iter().copied().chain(below).collect();
        let refuse = |target: &FileStorage| self.refuse_sources(target, &sources);
        let prepared = self.prepare(size, base.map(|base| base.size), passwords)?;
        if let Some(protocol) = self.protocol {
            protocol.check_new(&self.path)?;
        }
        let mut file = UnfinishedFile::create(&self.path, self.cache, refuse)?;
        let storage = Arc::new(self.take(&mut file)?);
        let mut files = vec![file];
        let image = match prepared {
            None => {
                // A device is as long as it is.
                let length = match self.align {
                    Some(align) if storage.starts_as_zeroes() => aligned(size, align)?,
                    _ => size,
                };
                if storage.is_device() && storage.len()? < size {
                    return Err(Error::invalid("Cannot grow device files"));
                }
                let image = NewRaw::create(storage, length, self.preallocation, flush);
                Box::new(image?)
            }
            Some((options, cipher)) => {
                let mut data = None;
                if let Some(name) = &options.data_file {
                    let path = PathBuf::from(OsStr::from_bytes(name));
                    let refuse = |file: &FileStorage| {
                        self.refuse_sources(file, &[&[storage.as_ref()], &sources[..]].concat())
                    };
                    let mut file = UnfinishedFile::create(&path, self.cache, refuse)?;
                    if files.iter().any(|image| image.will_be_at(&file)) {
                        return Err(self.same_file(&path));
                    }
                    data = Some(Arc::new(self.take(&mut file)?) as Arc<dyn Storage>);
                    files.push(file);
                }
                self.new_qcow2(storage, data, options, cipher)?
            }
        };
        let below = base.map_or(0, |base| base.size);
        Ok(OpenTarget {
            image,
            below,
            files,
        })
    }

    /// The storage of a file that is made, which is still empty.
    fn take(&self, file: &mut UnfinishedFile) -> Result<FileStorage> {
        let storage = file.take_storage()?;
        if self.avoids_copies {
            storage.avoid_copies();
        }
        Ok(storage)
    }

    /// A new qcow2 image in these files.
    fn new_qcow2(
        &self,
        storage: Arc<dyn Storage>,
        data: Option<Arc<dyn Storage>>,
        options: qcow2::CreateOptions,
        cipher: Option<AesCbc>,
    ) -> Result<Box<dyn NewImage>> {
        let flush = self.cache.flushes();
        let preallocation = match self.preallocation {
            // What a raw image holds has its place beforehand.
            Preallocation::Off if options.data_file_raw => Preallocation::Metadata,
            other => other,
        };
        if self.compressed {
            let image = qcow2::NewCompressed::create(storage, options, flush)?;
            return Ok(Box::new(image));
        }
        Ok(match (preallocation, data) {
            (Preallocation::Off, None) => {
                Box::new(NewQcow2::create(storage, options, cipher, flush)?)
            }
            (Preallocation::Off, Some(data)) => Box::new(NewQcow2::create_with_data(
                storage, data, options, cipher, flush,
            )?),
            (mode, None) => Box::new(NewPreallocated::create(
                storage, options, cipher, mode, flush,
            )?),
            (mode, Some(data)) => Box::new(NewPreallocated::create_with_data(
                storage, data, options, cipher, mode, flush,
            )?),
        })
    }

    /// Keeps others from a file that exists and is written over, unless an option says that nobody is.
    ///
    /// # Errors
    /// Others use it.
    pub(super) fn lock(&self, file: &FileStorage) -> Result<()> {
        if self.existing.as_ref().map(|existing| existing.sharing) == Some(Sharing::Unlocked) {
            return Ok(());
        }
        file.lock(match self.format().capabilities().transparent {
            true => Claim::WRITE_SHARED,
            false => Claim::WRITE,
        })
    }

    /// The image that exists, as what is opened beside it depends on.
    fn existing_source<'s>(
        &'s self,
        existing: &'s Existing<'s>,
        secret: Option<&'s Secret>,
    ) -> Source<'s> {
        let format = Some(self.format());
        Source {
            secret,
            encryption: existing.encryption,
            cache: self.cache,
            names: self.names,
            data_file: existing.data_file.clone(),
            below: existing.below.clone(),
            ..Source::plain(self.path.clone(), self.name.clone(), format)
        }
    }

    /// Opens what writing into an image that exists takes beside its file.
    fn existing_parts<'s>(
        &self,
        file: &FileStorage,
        image: &dyn ImageFile,
        source: &'s Source<'s>,
        sources: &[&FileStorage],
        passwords: &'s dyn Passwords,
    ) -> Result<WriteParts<'s>> {
        if self.compressed && image.encryption().is_some() {
            return Err(Error::unsupported(
                "Compression and encryption not supported at the same time",
            ));
        }
        let secret = source.secret_for(image, passwords)?;
        let data = source.data_file(image, Purpose::Change)?;
        if let Some(data) = &data {
            self.refuse_sources(data, sources)?;
        }
        let backing = source.below(image)?;
        if backing.is_some() != image.backing().is_some() {
            return Err(Error::unsupported(
                "giving an image that is written a backing file, or taking it away, is not supported \
                 by this version",
            ));
        }
        let backing = backing
            .map(|below| below.open(Purpose::Read, passwords))
            .transpose()
            .map_err(|error| error.context("Could not open backing file"))?;
        if let Some(backing) = &backing {
            self.refuse_sources(file, &backing.files())?;
        }
        Ok(WriteParts {
            files: data
                .into_iter()
                .map(|data| data as Arc<dyn Storage>)
                .collect(),
            backing: backing.map(|backing| backing.image as Arc<dyn Image>),
            secret,
            flush: self.cache.flushes(),
        })
    }

    fn refuse_sources(&self, target: &FileStorage, sources: &[&FileStorage]) -> Result<()> {
        let identity = target.identity()?;
        let beneath = target.beneath()?;
        for source in sources {
            let source_identity = source.identity()?;
            if source_identity == identity
                || beneath.contains(&source_identity)
                || source.beneath()?.contains(&identity)
            {
                return Err(self.same_file(source.path()));
            }
        }
        Ok(())
    }

    /// Says that the image would be written over a file that is used for something else.
    fn same_file(&self, other: &Path) -> Error {
        // QEMU takes a lock that it holds itself for another's. Its words are what clients know.
        Error::invalid(format!(
            "Failed to get \"write\" lock: '{}' and '{}' are the same file",
            printable(&other.to_string_lossy()),
            printable(&self.path.to_string_lossy())
        ))
    }

    /// The checked options and the cipher of a qcow2 image; `None` for a raw one.
    fn prepare(
        &self,
        size: u64,
        backing_size: Option<u64>,
        passwords: &dyn Passwords,
    ) -> Result<Option<(qcow2::CreateOptions, Option<AesCbc>)>> {
        let TargetOptions::Qcow2(options, secret) = &self.options else {
            if self.preallocation == Preallocation::Metadata {
                return Err(raw::unsupported_preallocation());
            }
            return Ok(None);
        };
        let mut options = options.clone();
        options.size = size;
        if let Some(name) = &options.data_file {
            // Without the protocol, which no reader would understand.
            let path = names::file(OsStr::from_bytes(name))?;
            options.data_file = Some(path.into_os_string().into_vec());
        }
        if let (Some(backing), Some(size)) = (&mut options.backing, backing_size) {
            backing.size = size;
        }
        options.check()?;
        options.check_preallocation(self.preallocation)?;
        if self.compressed {
            qcow2::NewCompressed::check(&options)?;
        }
        if options.encryption == EncryptionMethod::Aes {
            passwords.legacy_aes_is_used();
        }
        let cipher = match (options.encryption, secret) {
            (EncryptionMethod::None, _) => None,
            (EncryptionMethod::Aes, secret) => Some(legacy_aes(self.secret(*secret, passwords)?)?),
            (EncryptionMethod::Luks, _) => {
                return Err(Error::unsupported(
                    "encrypt.format=luks is not supported by this version",
                ));
            }
        };
        Ok(Some((options, cipher)))
    }

    /// The format.
    pub(super) fn format(&self) -> Format {
        match self.options {
            TargetOptions::Raw => Format::RAW,
            TargetOptions::Qcow2(..) => Format::QCOW2,
        }
    }
}
