//! An image that exists: from what the user named to something that can be read.
//!
//! [`Source::open_file`] opens the file that was named and no other, which is all that looking at
//! metadata takes. [`Source::open`] opens what reading data takes: the external data file and the
//! chain of backing files too, as far as the policy for names found inside an image allows.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::opened::{Layer, OpenSource, Opened};
use super::{Names, Passwords, Purpose, Sharing, Stated, sandbox};
use crate::crypto::Secret;
use crate::error::{Error, ErrorKind, Result, printable};
use crate::formats::driver::{Load, Parts, StatedOptions};
use crate::formats::snapshots::SnapshotName;
use crate::formats::{self, Chain, Format, Image, ImageFile};
use crate::options::Values;
use crate::storage::{
    Access, CacheMode, Opening, Protocol, Reopen, Storage, Window, WindowRange, list,
};

/// How many bytes the tables of a chain that are kept may take in memory. How many images there are doesn't matter:
/// each costs a descriptor, of which the system has only so many, and its table.
const MOST_TABLE_BYTES: u64 = 1 << 30;

/// How many of the images that lead to one that can't be opened are named, at either end of the chain.
pub(super) const NAMED_IMAGES: usize = 4;

/// An image that exists, as the user named it.
#[derive(Clone)]
pub struct Source<'a> {
    /// The file.
    pub path: PathBuf,
    /// The file itself, where it is open already and may have no name.
    pub handle: Option<Arc<dyn Reopen>>,
    /// What messages call it.
    pub name: String,
    /// The format, where it was stated; else it is probed.
    pub format: Option<Format>,
    /// The password, where an option named one.
    pub secret: Option<&'a Secret>,
    /// Why there is no password although an option named one; of no matter where none is needed.
    pub no_secret: Option<String>,
    /// The name of the encryption format that an option gave; it must be the image's.
    pub encryption: Option<&'static str>,
    /// How the file is read.
    pub cache: CacheMode,
    /// Whether others may write the image while it is read.
    pub sharing: Sharing,
    /// Whether what can't be read is given up, and the rest is read all the same.
    pub salvage: bool,
    /// All of its files is read, also the parts that the file system calls holes.
    pub ignores_holes: bool,
    /// Whether an option said that it is only read.
    pub is_read_only: bool,
    /// Whether the program gives up, for good, what a command that only looks at the image doesn't
    /// need once all files are open. For programs that do nothing else.
    pub sandbox: bool,
    /// Whether files are opened that the image names.
    pub names: Names,
    /// The internal snapshot that is read instead of what the image holds now.
    pub snapshot: Option<SnapshotName>,
    /// The protocol of the file, where it was stated; else it is what its name means.
    pub protocol: Option<Protocol>,
    /// The options of that protocol.
    pub protocol_options: Values,
    /// What part of the file the image is in: a window, and maybe a window of that.
    pub windows: Vec<WindowRange>,
    /// The raw nodes that options put between the file and the image, from the file on. Only reports show
    /// them: their windows are among [`windows`](Self::windows).
    pub between: Vec<RawNode>,
    /// Whether options named the file's own node, without any format.
    pub is_bare: bool,
    /// The external data file, where an option named one; else it is the one that the image names.
    pub data_file: Option<PathBuf>,
    /// The external data file itself, where it is open already and may have no name.
    pub data_handle: Option<Arc<dyn Reopen>>,
    /// What is below the image.
    pub below: Below<'a>,
    /// What else options say, to be held against the image.
    pub stated: Stated,
    /// Told what is to be known of the image although it can be used; a line, and lines that help with it.
    pub warn: fn(&str, &str),
}

/// A raw node that holds an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RawNode {
    /// What reports call it.
    pub name: String,
    /// What part of the node below it is in it; nothing for all of that.
    pub window: Option<WindowRange>,
}

/// What is below an image.
#[derive(Clone, Default)]
pub enum Below<'a> {
    /// The backing file that the image names, if any.
    #[default]
    Stored,
    /// The backing file that the image names, opened with this one's password and format.
    StoredWith(Box<Source<'a>>),
    /// This image.
    Given(Box<Source<'a>>),
    /// Nothing, whatever the image names.
    Nothing,
}

impl<'a> Source<'a> {
    /// A file with nothing else said about it.
    pub fn plain(path: PathBuf, name: String, format: Option<Format>) -> Self {
        Self {
            path,
            handle: None,
            name,
            format,
            secret: None,
            no_secret: None,
            encryption: None,
            cache: CacheMode::Writeback,
            sharing: Sharing::Agreed,
            salvage: false,
            ignores_holes: false,
            is_read_only: false,
            sandbox: false,
            names: Names::Follow(|_, _| ()),
            snapshot: None,
            protocol: None,
            protocol_options: Values::default(),
            windows: Vec::new(),
            between: Vec::new(),
            is_bare: false,
            data_file: None,
            data_handle: None,
            below: Below::Stored,
            stated: Stated::default(),
            warn: |_, _| (),
        }
    }

    /// Opens the file, settles its format, and locks it for that purpose.
    ///
    /// # Errors
    /// As `Could not open 'name': …`.
    pub fn open_file(&self, purpose: Purpose) -> Result<Opened> {
        self.open_below(purpose)
            .map_err(|error| self.could_not_open(error))
    }

    /// As [`Source::open_file`], with nothing in front of the message.
    pub(super) fn open_below(&self, purpose: Purpose) -> Result<Opened> {
        if self.path.as_os_str().is_empty() {
            return Err(Error::invalid(
                "The 'file' block driver requires a file name",
            ));
        }
        self.stated.check_cache(self.cache)?;
        let opening = self.opening(purpose);
        let file = match &self.handle {
            Some(handle) => handle.reopen(opening)?,
            None => list::open(self.protocol, &self.path, &self.protocol_options, opening)?,
        };
        let mut storage = inside(Arc::clone(&file), &self.windows)?;
        let mut start = self.windows.iter().map(|window| window.offset).sum();
        let format = match self.format {
            Some(format) => format,
            None => {
                let format = formats::probe(storage.as_ref())?;
                let window = self.stated.check_found(format, storage.as_ref())?;
                start += window.map_or(0, |window| window.offset);
                storage = inside(storage, window.as_slice())?;
                format
            }
        };
        if format.capabilities().transparent {
            self.refuse_encryption()?;
        }
        if self.is_read_only && purpose.access() != Access::Read {
            return Err(Error::invalid("Block node is read-only"));
        }
        let claim = match format.capabilities().transparent {
            true => purpose.claim_of_plain(self.sharing)?,
            false => purpose.claim(self.sharing)?,
        };
        if let Some(claim) = claim {
            file.claim(claim)?;
        }
        Ok(Opened {
            file,
            storage,
            start,
            format,
        })
    }

    /// How its files are opened.
    fn opening(&self, purpose: Purpose) -> Opening {
        Opening {
            access: purpose.access(),
            cache: self.cache,
            ignores_holes: self.ignores_holes,
        }
    }

    /// A raw image isn't encrypted; who says that it is would get ciphertext for data.
    fn refuse_encryption(&self) -> Result<()> {
        let option = if self.encryption.is_some() {
            "encrypt.format"
        } else if self.secret.is_some() || self.no_secret.is_some() {
            "encrypt.key-secret"
        } else {
            return Ok(());
        };
        Err(Error::invalid(format!(
            "Block format 'raw' does not support the option '{option}'"
        )))
    }

    /// To be called when all files are open and what is in them is only looked at from here on: the
    /// program gives up what that doesn't need, where [`Source::sandbox`] says so.
    pub(super) fn all_is_open(&self) {
        if self.sandbox {
            sandbox::enter();
        }
    }

    /// Opens the image and everything below it for reading, asking for passwords where they are
    /// needed, and locks all of it for that purpose.
    ///
    /// # Errors
    /// As `Could not open 'name': …`.
    pub fn open(&self, purpose: Purpose, passwords: &dyn Passwords) -> Result<OpenSource> {
        let mut layers: Vec<Layer> = Vec::new();
        let mut images = Vec::new();
        let mut next = Some(self.clone());
        while let Some(source) = next {
            let opened = source.open_layer(purpose, passwords, &layers);
            let (image, layer, below) = match opened {
                Ok(opened) => opened,
                Err(error) => return Err(below_these(&layers, error)),
            };
            images.push(image);
            layers.push(layer);
            next = below;
        }
        let mut images = images.into_iter();
        let top = images
            .next()
            .ok_or_else(|| Error::invalid("an image of no images"))?;
        let mut opened = OpenSource {
            image: Arc::new(Chain::new(top, images.collect())),
            layers,
            lengths: Vec::new(),
        };
        // What others may write may grow.
        if self.sharing < Sharing::Forced {
            let lengths: Result<_> = opened.files().into_iter().map(Storage::len).collect();
            opened.lengths = lengths?;
        }
        Ok(opened)
    }

    /// Opens one image of a chain; `above` are those that led to it.
    fn open_layer(
        &self,
        purpose: Purpose,
        passwords: &dyn Passwords,
        above: &[Layer],
    ) -> Result<(Arc<dyn Image>, Layer, Option<Self>)> {
        // That an image below could not be opened is said already; the system, or a hint, says which file
        // it was.
        let failed = |error: Error| match above {
            [] => self.could_not_open(error),
            _ if error.io_kind().is_some() || error.kind() == ErrorKind::Locked => error,
            _ => self.could_not_open(error),
        };
        let opened = self.open_below(purpose).map_err(failed)?;
        let files = above.iter().filter_map(|layer| layer.files.first());
        refuse_loop(&self.name, opened.file.as_ref(), files)?;
        let tables_above = above.iter().map(|layer| layer.image.table_memory());
        let tables_above = tables_above.sum::<u64>();
        let parts = || {
            let image = opened.load(Load::Use)?;
            let secret = self.secret_for(image.as_ref(), passwords)?;
            let data = self.data_file(image.as_ref(), purpose)?;
            let below = self.below(image.as_ref())?;
            Ok((image, secret, data, below))
        };
        let (mut image, secret, data, below) = parts().map_err(failed)?;
        self.go_to_snapshot(opened.format, image.as_mut())?;
        let tables = tables_above.saturating_add(image.table_memory());
        if tables > MOST_TABLE_BYTES {
            return Err(Error::invalid(format!(
                "the L1 tables of the chain of backing files are larger than {} MiB",
                MOST_TABLE_BYTES >> 20
            )));
        }
        let files = data.iter().map(Arc::clone);
        let disk = image.open(Parts {
            files: files.collect(),
            secret,
            salvage: self.salvage,
            depth: above.len(),
        });
        let disk = disk.map_err(failed)?;
        let layer = Layer {
            name: self.name.clone(),
            format: opened.format,
            image,
            start: match opened.format.capabilities().transparent {
                true => opened.start,
                false => 0,
            },
            storage: opened.storage,
            files: [opened.file].into_iter().chain(data).collect(),
        };
        Ok((disk, layer, below))
    }

    /// Goes back to the snapshot that is to be read.
    fn go_to_snapshot(&self, format: Format, image: &mut dyn ImageFile) -> Result<()> {
        let Some(name) = &self.snapshot else {
            return Ok(());
        };
        if image.snapshots().is_none() {
            return Err(Error::invalid(format!(
                "Failed to load snapshot: Block format '{format}' used by device '' does not support \
                 temporarily loading internal snapshots"
            )));
        }
        image.at_snapshot(name)
    }

    /// The external data file, opened, where the image has one.
    ///
    /// # Errors
    /// Names aren't followed; the system's error; others use the file.
    pub(super) fn data_file(
        &self,
        image: &dyn ImageFile,
        purpose: Purpose,
    ) -> Result<Option<Arc<dyn Storage>>> {
        let files = image.other_files()?;
        let Some(stored) = files.first() else {
            return match self.data_file {
                None => Ok(None),
                Some(_) => Err(Error::invalid(
                    "'data-file' can only be set for images with an external data file",
                )),
            };
        };
        let opening = self.opening(purpose);
        let open = |path: &Path| list::open_path(path, opening);
        let file = match (&self.data_handle, &self.data_file) {
            (Some(handle), _) => handle.reopen(opening)?,
            (None, Some(path)) => open(path)?,
            (None, None) => {
                let required = || {
                    let role = stored.role;
                    Error::invalid(format!("'{role}' is required for this image"))
                };
                open(&self.names.data_file(stored.name.ok_or_else(required)?)?)?
            }
        };
        if let Some(claim) = purpose.claim_of_data_file(self.sharing)? {
            file.claim(claim)?;
        }
        Ok(Some(file))
    }

    /// The image below: what the options say, or the backing file that the header names.
    ///
    /// # Errors
    /// As [`Source::backing`].
    pub(super) fn below(&self, image: &dyn ImageFile) -> Result<Option<Self>> {
        let given = match &self.below {
            Below::Stored => return self.backing(image),
            Below::Nothing => return Ok(None),
            Below::Given(given) => Self {
                cache: self.cache,
                sharing: self.sharing.below().max(given.sharing),
                salvage: self.salvage,
                ignores_holes: self.ignores_holes,
                names: self.names,
                warn: self.warn,
                ..given.as_ref().clone()
            },
            Below::StoredWith(given) => {
                let stored = self.backing(image)?.ok_or_else(|| {
                    Error::invalid(
                        "Could not open backing file: Must specify either driver or file",
                    )
                })?;
                Self {
                    path: stored.path,
                    name: stored.name,
                    format: given.format.or(stored.format),
                    cache: stored.cache,
                    sharing: stored.sharing.max(given.sharing),
                    salvage: stored.salvage,
                    ignores_holes: stored.ignores_holes,
                    names: stored.names,
                    warn: self.warn,
                    ..given.as_ref().clone()
                }
            }
        };
        Ok(Some(given))
    }

    /// The backing file, where the image has one.
    ///
    /// # Errors
    /// Names aren't followed; a protocol or format that this version doesn't have.
    pub fn backing(&self, image: &dyn ImageFile) -> Result<Option<Self>> {
        let below = self.named_below(image);
        below.map_err(|error| error.context("Could not open backing file"))
    }

    /// As [`Source::backing`], with nothing in front of the message.
    ///
    /// # Errors
    /// As there.
    pub(super) fn named_below(&self, image: &dyn ImageFile) -> Result<Option<Self>> {
        let Some(stored) = image.backing() else {
            return Ok(None);
        };
        let format = stored.format.map(String::from_utf8_lossy);
        let below = self
            .names
            .backing_file(&self.path, stored.name, format.as_deref())?;
        Ok(Some(Self {
            cache: self.cache,
            sharing: self.sharing.below(),
            salvage: self.salvage,
            ignores_holes: self.ignores_holes,
            sandbox: self.sandbox,
            names: self.names,
            warn: self.warn,
            ..below
        }))
    }

    /// The password of the image, where it takes one.
    ///
    /// # Errors
    /// There is none to be had; the image is encrypted in another way than an option said.
    pub(super) fn secret_for<'s>(
        &'s self,
        image: &dyn ImageFile,
        passwords: &'s dyn Passwords,
    ) -> Result<Option<&'s Secret>> {
        self.accept(image)?;
        let Some(encryption) = image.encryption() else {
            return Ok(None);
        };
        if encryption.accepts_any_password {
            passwords.legacy_aes_is_used();
        }
        match self.secret {
            _ if !encryption.takes_password => Ok(None),
            Some(secret) => Ok(Some(secret)),
            None => match &self.no_secret {
                Some(reason) => Err(Error::invalid(reason)),
                None => passwords.for_reading(&self.name).map(Some),
            },
        }
    }

    /// Holds what options said against the image's header, and passes on its warnings.
    ///
    /// # Errors
    /// Returns an error as [`ImageFile::accept`] does.
    pub(super) fn accept(&self, image: &dyn ImageFile) -> Result<()> {
        image.accept(&StatedOptions {
            encryption: self.encryption,
            l2_entry: self.stated.l2_entry,
        })?;
        for warning in image.warnings() {
            (self.warn)(warning.text, warning.hint);
        }
        Ok(())
    }

    fn could_not_open(&self, error: Error) -> Error {
        could_not_open(&self.name, error)
    }
}

/// Puts the image's name in front of why it could not be opened.
pub(super) fn could_not_open(name: &str, error: Error) -> Error {
    // The file's own name is in the message already where both are the same, but qemu-img repeats
    // it, and its callers look for the whole.
    error.context(format!("Could not open '{}'", printable(name)))
}

/// A part of a file: a window, and windows of that.
///
/// # Errors
/// The file has no such part.
pub(super) fn inside(file: Arc<dyn Storage>, windows: &[WindowRange]) -> Result<Arc<dyn Storage>> {
    windows.iter().try_fold(file, |storage, range| {
        Ok(Arc::new(Window::open(storage, *range)?) as Arc<dyn Storage>)
    })
}

/// The error for an image below `layers`: each of them says that it was its backing file that could not be
/// opened, but of a long chain only the first and the last of them.
fn below_these(layers: &[Layer], error: Error) -> Error {
    let more = layers.len().saturating_sub(2 * NAMED_IMAGES);
    let last = layers.len() - NAMED_IMAGES.min(layers.len());
    let named = |index: usize| more == 0 || index < NAMED_IMAGES || index >= last;
    let above = layers.iter().enumerate().rev();
    above.fold(error, |error, (index, layer)| match named(index) {
        true => error.context(format!(
            "Could not open '{}': Could not open backing file",
            printable(&layer.name)
        )),
        false if index == NAMED_IMAGES => error.context(format!("({more} more backing files)")),
        false => error,
    })
}

/// Refuses the file called `name` below those `above`, if it is one of them.
pub(super) fn refuse_loop<'f>(
    name: &str,
    file: &dyn Storage,
    above: impl IntoIterator<Item = &'f Arc<dyn Storage>>,
) -> Result<()> {
    let identity = file.identity()?;
    for file in above {
        if file.identity()?.is(&identity) {
            return Err(infinite_loop(name));
        }
    }
    Ok(())
}

/// What is said of a chain that leads back into itself.
pub fn infinite_loop(name: &str) -> Error {
    Error::invalid(format!(
        "Backing file '{}' creates an infinite loop.",
        printable(name)
    ))
}
