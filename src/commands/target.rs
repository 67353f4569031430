//! The image that a command writes: made anew, or an existing one that is written over.
//!
//! Whatever can be refused (options, a missing password, a target that is also a source) is refused
//! before any file is touched.

use std::ffi::OsStr;
use std::num::NonZeroU64;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock};

use super::{Driver, Passwords, Purpose, Sharing, backing, backing::Base};
use crate::crypto::{Secret, Secrets};
use crate::error::{Error, Result, printable};
use crate::formats::driver::{Backing, Load, NewDisk, NewParts, Plan, WriteParts};
use crate::formats::encryption::EncryptionFormat;
use crate::formats::{
    Format, GuardedStart, Image, ImageFile, NewImage, OverOptions, smaller_than_input,
};
use crate::nodes::{Names, Node, could_not_open, file_name, inside, only_read};
use crate::options::Values;
use crate::storage::{
    Access, CacheMode, Claim, NewStorage, Opening, Protocol, Reopen, Storage, Unfinished,
    check_preallocation, driver, list,
};

/// A new image's file, format and options.
pub struct Target<'a> {
    /// The file.
    pub path: PathBuf,
    /// Its name in messages.
    pub name: String,
    /// The format, or the driver of what holds a raw image.
    pub driver: Driver,
    /// The options of a new image.
    pub options: Values,
    /// The secrets that the options may name.
    pub secrets: &'a Secrets,
    /// The number of bytes of which a raw file's length is to be a multiple.
    pub align: Option<NonZeroU64>,
    /// Its data is compressed.
    pub compressed: bool,
    /// The purpose for which the backing file is opened that the options name; without one nothing is known of it.
    pub backing_purpose: Option<Purpose>,
    /// The way in which the file is written. It says if the file is on stable storage when the command succeeds.
    pub cache: CacheMode,
    /// The image that exists and is written over; `None` makes a new one.
    pub existing: Option<Existing<'a>>,
    /// Says if files are opened that an existing image names, and how the name of a new one's backing file
    /// is read.
    pub names: Names,
    /// Says if files are opened that a new image's backing file names.
    pub names_below: Names,
}

/// An existing image that is written over.
#[derive(Clone)]
pub struct Existing<'a> {
    /// The image, with a format that was stated or found.
    pub source: Node<'a>,
    /// The caller's word that it reads as zeroes.
    pub is_zero: bool,
    /// Parts that the source doesn't store itself are left as they are.
    pub leaves_parts: bool,
    /// Its format was found and not stated, so that its start must stay raw.
    pub guarded: bool,
}

/// The result of [`Target::make`] and [`Target::open_over`]: the image to write, and the file that is undone unless kept.
pub(super) struct OpenTarget {
    pub(super) image: Box<dyn NewImage>,
    /// The size in bytes of what the image is over; 0 where that is nothing.
    pub(super) below: u64,
    is_encrypted: bool,
    /// The files that are made: the image's, and then its external data file.
    files: Vec<Box<dyn Unfinished>>,
}

impl OpenTarget {
    /// Everything is written: closes the image, so that it can be opened to be read.
    pub(super) fn written(self) -> Written {
        Written {
            is_encrypted: self.is_encrypted,
            files: self.files,
        }
    }

    /// As [`Written::keep`].
    ///
    /// # Errors
    /// Returns an error as [`Written::keep`] does.
    pub(super) fn keep(self, target: &Target<'_>) -> Result<()> {
        self.written().keep(target)
    }
}

/// A target that is whole, and still undone unless kept.
pub(super) struct Written {
    is_encrypted: bool,
    /// The files that are made: the image's, and then its external data file.
    files: Vec<Box<dyn Unfinished>>,
}

impl Written {
    /// The image is finished: its files stay, and with a cache mode that flushes so do their names.
    ///
    /// # Errors
    /// As [`driver::keep`].
    pub(super) fn keep(self, target: &Target<'_>) -> Result<()> {
        driver::keep(self.files, target.cache.flushes())
    }

    /// The image's file, where it is made and may have no name yet.
    pub(super) fn handle(&self) -> Option<Arc<dyn Reopen>> {
        self.files.first().map(|file| file.handle())
    }

    /// The other files, where they are made and may have no name yet.
    fn other_handles(&self) -> Vec<Arc<dyn Reopen>> {
        let others = self.files.iter().skip(1);
        others.map(|file| file.handle()).collect()
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
    ) -> Result<Node<'s>> {
        if let Some(existing) = &self.existing {
            return Ok(self.existing_source(existing));
        }
        let format = Some(self.format());
        let mut source = Node::plain(self.path.clone(), self.name.clone(), format);
        source.handle = written.handle();
        source.other_handles = written.other_handles();
        if written.is_encrypted {
            source.secret = Some(self.secret(passwords)?);
        }
        source.cache = self.cache;
        source.names = self.names;
        Ok(source)
    }

    /// The protocol of the file, where it was stated, and the options by which one that exists is opened.
    pub(super) fn protocol(&self) -> (Option<Protocol>, &Values) {
        static NONE: LazyLock<Values> = LazyLock::new(Values::default);
        let stated = self.driver.protocol();
        match &self.existing {
            Some(Existing { source, .. }) => (source.protocol.or(stated), &source.protocol_options),
            None => (stated, &NONE),
        }
    }

    /// The password that an option named, or else the one that `passwords` has.
    fn secret<'s>(&'s self, passwords: &'s dyn Passwords) -> Result<&'s Secret> {
        match self.options.text("encrypt.key-secret") {
            Some(id) => self.secrets.get(id),
            None => passwords.for_writing(&self.name),
        }
    }

    /// Opens what a new image is to be over, where its options name a backing file and that is looked at.
    ///
    /// # Errors
    /// As [`backing::find`].
    pub(super) fn base(&self) -> Result<Option<Base>> {
        if self.existing.is_some() {
            return Ok(None);
        }
        let backing = Backing::of(&self.options)?;
        let (Some(backing), Some(purpose)) = (backing, self.backing_purpose) else {
            return Ok(None);
        };
        backing::find(&self.path, &backing, self.names, self.names_below, purpose).map(Some)
    }

    /// Checks what a new image of `size` bytes is to be; `base` is what [`base`](Self::base) gave. `None` for one
    /// that exists.
    ///
    /// # Errors
    /// Returns an error as [`FormatDriver::plan`](crate::formats::FormatDriver::plan) does.
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
            compressed: self.compressed,
            align: self.align,
            path_of: file_name::file,
        });
        plan.map(Some)
    }

    /// Makes the files of a new image, with nothing written to them yet. `sources` are files that they must not be;
    /// `base` is what [`base`](Self::base) gave.
    ///
    /// # Errors
    /// Returns an error if a password can't be had, or the system's error.
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
            passwords.legacy_aes_is_used();
        }
        let secret = encryption.map(|_| self.secret(passwords)).transpose()?;
        let refuse = |target: &dyn Storage| self.refuse_sources(target, &sources);
        let mut file = list::create(
            self.driver.protocol(),
            NewStorage {
                path: &self.path,
                options: &self.options,
                cache: self.cache,
                refuse: &refuse,
            },
        )?;
        let storage = file.take_storage()?;
        let mut files = vec![file];
        let mut others: Vec<Arc<dyn Storage>> = Vec::new();
        for name in plan.other_files() {
            let path = PathBuf::from(OsStr::from_bytes(name));
            let refuse = |file: &dyn Storage| {
                self.refuse_sources(file, &[&[storage.as_ref()], &sources[..]].concat())
            };
            let mut file = list::create_path(NewStorage {
                path: &path,
                options: &self.options,
                cache: self.cache,
                refuse: &refuse,
            })?;
            if files.iter().any(|image| image.will_be_at(file.as_ref())) {
                return Err(self.same_file(&path));
            }
            others.push(file.take_storage()?);
            files.push(file);
        }
        let image = plan.create(NewParts {
            file: storage,
            files: others,
            secret,
            flush: self.cache.flushes(),
        })?;
        Ok(OpenTarget {
            image,
            below: base.map_or(0, |base| base.size),
            is_encrypted: encryption.is_some(),
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
        let failed = |error| could_not_open(&self.name, error);
        let (protocol, options) = self.protocol();
        let opening = Opening::new(Access::ReadWrite, self.cache);
        if existing.source.inside.is_some() {
            return Err(failed(only_read()));
        }
        let file = list::open(protocol, &self.path, options, opening).map_err(failed)?;
        self.refuse_sources(file.as_ref(), sources)
            .and_then(|()| self.lock(file.as_ref()))
            .map_err(failed)?;
        let source = self.existing_source(existing);
        let mut storage = self.part(&source, Arc::clone(&file)).map_err(failed)?;
        if existing.guarded {
            storage = Arc::new(GuardedStart(storage));
        }
        let image = self.format().load(storage, Load::Use).map_err(failed)?;
        let parts = self
            .existing_parts(file.as_ref(), image.as_ref(), &source, sources, passwords)
            .map_err(failed)?;
        let below = parts.backing.as_ref().map_or(0, |backing| backing.size());
        if image.size() < size {
            return Err(smaller_than_input());
        }
        let options = OverOptions {
            is_zero: existing.is_zero,
            compressed: self.compressed,
            leaves_parts: existing.leaves_parts,
        };
        Ok(OpenTarget {
            image: image.write_over(parts, size, options).map_err(failed)?,
            below,
            is_encrypted: image.encryption().is_some(),
            files: Vec::new(),
        })
    }

    /// Keeps others from a file that exists and is written over, unless an option says that nobody is.
    ///
    /// # Errors
    /// Others use it.
    pub(super) fn lock(&self, file: &dyn Storage) -> Result<()> {
        let existing = self.existing.as_ref();
        if existing.is_some_and(|existing| existing.source.sharing == Sharing::Unlocked) {
            return Ok(());
        }
        file.claim(match self.format().capabilities().transparent {
            true => Claim::WRITE_SHARED,
            false => Claim::WRITE,
        })
    }

    /// The image that exists, opened as a target is. What there is to warn of was told when its format was found.
    fn existing_source<'s>(&'s self, existing: &'s Existing<'s>) -> Node<'s> {
        Node {
            format: Some(self.format()),
            cache: self.cache,
            names: self.names,
            warn: |_, _| (),
            ..existing.source.clone()
        }
    }

    /// The part of its file that an image that exists is in.
    fn part(&self, source: &Node<'_>, file: Arc<dyn Storage>) -> Result<Arc<dyn Storage>> {
        let options = source.options.of(self.format())?;
        let window = self.format().window(&options);
        inside(inside(file, &source.windows)?, window.as_slice())
    }

    /// Reads the header of an image that exists, or that is written.
    ///
    /// # Errors
    /// Returns an error if it is invalid.
    pub(super) fn load(&self, file: Arc<dyn Storage>) -> Result<Box<dyn ImageFile>> {
        let existing = self.existing.as_ref();
        let part = match existing {
            Some(existing) => self.part(&existing.source, file)?,
            None => file,
        };
        self.format().load(part, Load::Use)
    }

    /// Opens what writing into an image that exists takes beside its file.
    fn existing_parts<'s>(
        &self,
        file: &dyn Storage,
        image: &dyn ImageFile,
        source: &'s Node<'s>,
        sources: &[&dyn Storage],
        passwords: &'s dyn Passwords,
    ) -> Result<WriteParts<'s>> {
        if self.compressed && image.encryption().is_some() {
            return Err(Error::unsupported(
                "Compression and encryption not supported at the same time",
            ));
        }
        let options = source.options.of(self.format())?;
        let secret = source.secret_for(image, &options, passwords)?;
        let data = source.data_file(image, Purpose::Change)?;
        if let Some(data) = &data {
            self.refuse_sources(data.as_ref(), sources)?;
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
            files: data.into_iter().collect(),
            backing: backing.map(|backing| backing.image as Arc<dyn Image>),
            secret,
            flush: self.cache.flushes(),
        })
    }

    fn refuse_sources(&self, target: &dyn Storage, sources: &[&dyn Storage]) -> Result<()> {
        let identity = target.identity()?;
        for source in sources {
            if source.identity()?.overlaps(&identity) {
                return Err(self.same_file(Path::new(source.location())));
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

    /// The format.
    pub(super) fn format(&self) -> Format {
        self.driver.format()
    }
}
