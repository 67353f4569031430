//! Opening of an existing image: from its node to a disk that can be read.
//!
//! [`Node::open_file`] opens only the named file, which is enough for metadata. [`Node::open`] opens all that reading
//! data needs: also the external data file and the backing chain. The policy for names found inside an image applies
//! to both.

use std::sync::Arc;

use super::disk::{ChainImage, Disk, Loaded};
use super::image_name::no_name;
use super::node::{BackingNode, Node};
use super::options::unsupported_option;
use crate::crypto::{Passwords, Secret};
use crate::error::{Error, ErrorKind, Result, printable};
use crate::formats::driver::{Load, Parts};
use crate::formats::encryption::{key_secret, key_secret_option, missing_option};
use crate::formats::{self, Chain, Format, Image, ImageFile, ImageStorage};
use crate::options::Values;
use crate::storage::{
    Access, Opening, Purpose, Refuse, Sharing, Storage, Window, WindowRange, list,
};

/// The most memory that the tables of a chain may take, in bytes. The number of images needs no other limit: each
/// takes a table and a descriptor, and the system limits descriptors.
const MOST_TABLE_BYTES: u64 = 1 << 30;

/// The number of images that an error names at either end of a long backing chain.
pub(crate) const NAMED_IMAGES: usize = 4;

impl Node<'_> {
    /// Opens the file, determines its format, and locks it for `purpose`.
    ///
    /// # Errors
    /// Returns an error as `Could not open 'name': …`.
    pub fn open_file(&self, purpose: Purpose) -> Result<Loaded> {
        self.open_below(purpose)
            .map_err(|error| self.could_not_open(error))
    }

    /// Opens the file, and reads its header. Opens no other file, and asks for no password.
    ///
    /// # Errors
    /// Returns an error as [`open_file`](Self::open_file) does, or if the header is invalid or contradicts the
    /// options of the image's node.
    pub fn open_header(&self, purpose: Purpose) -> Result<(Loaded, Box<dyn ImageFile>)> {
        let opened = self.open_file(purpose)?;
        let load = || {
            let mut image = opened.load(Load::Use)?;
            self.accept(image.as_mut(), &opened.options)?;
            Ok(image)
        };
        let image = load().map_err(|error| self.could_not_open(error))?;
        Ok((opened, image))
    }

    /// Opens an image of which only metadata is read or changed, as [`open_header`](Self::open_header) does.
    ///
    /// # Errors
    /// Returns an error as [`open_header`](Self::open_header) does, or if the header contradicts itself about
    /// other files.
    pub fn open_metadata(&self, purpose: Purpose) -> Result<(Loaded, Box<dyn ImageFile>)> {
        let (opened, mut image) = self.open_header(purpose)?;
        let attached = self.attach(image.as_mut(), purpose);
        attached.map_err(|error| self.could_not_open(error))?;
        Ok((opened, image))
    }

    /// Opens the other files of an image if they have headers too, and has the image read these. Any other image only
    /// has its header checked for contradictions about other files.
    ///
    /// # Errors
    /// Returns the errors of [`other_files`](Self::other_files) and of [`ImageFile::attach`].
    pub(crate) fn attach(
        &self,
        image: &mut dyn ImageFile,
        purpose: Purpose,
    ) -> Result<Vec<Arc<dyn Storage>>> {
        if !image.has_headers_elsewhere() {
            return image.other_files().map(|_| Vec::new());
        }
        let files = self.other_files(image, purpose)?;
        image.attach(&files)?;
        Ok(files)
    }

    /// Returns the format that was given, or else the probed one.
    ///
    /// # Errors
    /// Returns the errors of [`open_file`](Self::open_file).
    pub fn find_format(&self) -> Result<Format> {
        match self.format {
            Some(format) => Ok(format),
            None => Ok(self.open_file(Purpose::Probe)?.format),
        }
    }

    /// Does the same as [`Node::open_file`], without a prefix of the error message.
    pub(crate) fn open_below(&self, purpose: Purpose) -> Result<Loaded> {
        self.open_unless(purpose, &|_| Ok(()))
    }

    /// Does the same as [`open_below`](Self::open_below), unless `refuse` refuses the file before it is
    /// locked.
    pub(super) fn open_unless(&self, purpose: Purpose, refuse: &Refuse<'_>) -> Result<Loaded> {
        if self.path.as_os_str().is_empty() {
            return Err(no_name());
        }
        if self.needs_direct && !self.policy.cache.is_direct() {
            return Err(Error::invalid(
                "aio=native was specified, but it requires cache.direct=on, which was not specified.",
            ));
        }
        let opening = self.opening(purpose);
        let file = match (&self.inside, &self.handle) {
            (Some(outer), _) => self.disk_of(outer, purpose)?,
            (None, Some(handle)) => handle.reopen(opening)?,
            (None, None) => list::open(self.protocol, &self.path, &self.protocol_options, opening)?,
        };
        let storage = inside(Arc::clone(&file), &self.windows)?;
        let format = match self.format {
            Some(format) => format,
            None => self.found(storage.as_ref())?,
        };
        let options = self.options.of(format)?;
        let window = format.window(&options);
        let storage = inside(storage, window.as_slice())?;
        let windows = self.windows.iter().chain(&window);
        let start = windows.map(|window| window.offset).sum();
        if self.is_read_only && purpose.access() != Access::Read {
            return Err(Error::invalid("Block node is read-only"));
        }
        refuse(file.as_ref())?;
        let claim = match format.capabilities().transparent {
            true => purpose.claim_of_plain(self.sharing)?,
            false => purpose.claim(self.sharing)?,
        };
        if let Some(claim) = claim {
            file.claim(claim)?;
        }
        let header = format.capabilities().header_role;
        let is_headless = self.others.iter().any(|(role, _)| Some(&**role) == header);
        Ok(Loaded {
            is_headless,
            file,
            storage,
            start,
            format,
            options,
        })
    }

    /// Opens the disk of the image that contains this one, without asking for its password.
    fn disk_of(&self, outer: &Self, purpose: Purpose) -> Result<Arc<dyn Storage>> {
        if purpose.access() != Access::Read {
            return Err(only_read());
        }
        let outer = Node {
            sharing: self.sharing.max(outer.sharing),
            // Messages name the outer image by the name of the inner one.
            name: String::new(),
            policy: self.policy,
            ..outer.clone()
        };
        let opened = outer.open(Purpose::Read, &NoPasswords)?;
        let format = opened
            .layers
            .first()
            .map_or("", |layer| layer.format.name());
        let files = opened.layers.iter().flat_map(|layer| layer.files.clone());
        Ok(Arc::new(ImageStorage::new(
            Arc::<Chain>::clone(&opened.image),
            files.collect(),
            outer.path.into_os_string(),
            format,
        )))
    }

    /// Probes the format, which must be one that has the given options.
    fn found(&self, storage: &dyn Storage) -> Result<Format> {
        let found = formats::probe(storage)?;
        let format = match self.named {
            // An empty file is always raw.
            Some(named) if found.capabilities().transparent && !storage.is_empty()? => named,
            _ => found,
        };
        let capabilities = format.capabilities();
        let mut others = self.others.iter();
        if let Some((role, _)) = others.find(|(role, _)| !format.has_role(role)) {
            return Err(unsupported_option(format, role));
        }
        if !capabilities.backing && !matches!(self.below, BackingNode::Stored) {
            return Err(unsupported_option(format, "backing"));
        }
        Ok(format)
    }

    /// Returns the access and the cache mode for its files.
    fn opening(&self, purpose: Purpose) -> Opening {
        Opening {
            access: purpose.access(),
            cache: self.policy.cache,
            ignores_holes: self.policy.ignores_holes,
        }
    }

    /// Opens the image and its backing chain for reading, and locks all files for `purpose`. Asks for passwords where
    /// they are needed.
    ///
    /// # Errors
    /// Returns an error as `Could not open 'name': …`.
    pub fn open(&self, purpose: Purpose, passwords: &dyn Passwords) -> Result<Disk> {
        self.open_chain(purpose, passwords, false)
    }

    /// Opens the image as [`open`](Self::open) does. With `is_below` it is a backing file, whose overlay's name is
    /// put in front of the error by the caller.
    pub(super) fn open_chain(
        &self,
        purpose: Purpose,
        passwords: &dyn Passwords,
        is_below: bool,
    ) -> Result<Disk> {
        let mut layers: Vec<ChainImage> = Vec::new();
        let mut images = Vec::new();
        let mut next = Some(self.clone());
        while let Some(source) = next {
            let opened = source.open_layer(purpose, passwords, &layers, is_below);
            let (image, layer, below) = match opened {
                Ok(opened) => opened,
                Err(error) => return Err(below_these(&layers, is_below, error)),
            };
            images.push(image);
            layers.push(layer);
            next = below;
        }
        let mut images = images.into_iter();
        let top = images
            .next()
            .ok_or_else(|| Error::invalid("an image of no images"))?;
        let mut opened = Disk {
            image: Arc::new(Chain::new(top, images.collect())),
            layers,
            lengths: Vec::new(),
        };
        // The length of files that others may write can change at any time.
        if self.sharing < Sharing::Forced {
            let lengths: Result<_> = opened.files().into_iter().map(Storage::len).collect();
            opened.lengths = lengths?;
        }
        Ok(opened)
    }

    /// Opens one image of a chain. `above` are its overlays, top first.
    fn open_layer(
        &self,
        purpose: Purpose,
        passwords: &dyn Passwords,
        above: &[ChainImage],
        is_below: bool,
    ) -> Result<(Arc<dyn Image>, ChainImage, Option<Self>)> {
        // For a backing file, a system error has the file's name in its message already, and a lock has it in its
        // hint.
        let failed = |error: Error| match above {
            [] if !is_below => self.could_not_open(error),
            _ if error.io_kind().is_some() || error.kind() == ErrorKind::Locked => error,
            _ => self.could_not_open(error),
        };
        let opened = self.open_below(purpose).map_err(failed)?;
        let files = above.iter().filter_map(|layer| layer.files.first());
        refuse_loop(&self.name, opened.file.as_ref(), files)?;
        let tables_above = above.iter().map(|layer| layer.image.table_memory());
        let tables_above = tables_above.sum::<u64>();
        let parts = || {
            let mut image = opened.load(Load::Use)?;
            let secret = self.secret_for(image.as_mut(), &opened.options, passwords)?;
            let others = self.other_files(image.as_ref(), purpose)?;
            image.attach(&others)?;
            let below = self.backing_node(image.as_ref())?;
            Ok((image, secret, others, below))
        };
        let (mut image, secret, others, below) = parts().map_err(failed)?;
        if !self.policy.takes_any_content {
            check_content(above, image.as_ref(), &self.name)?;
        }
        self.go_to_snapshot(opened.format, image.as_mut())?;
        let tables = tables_above.saturating_add(image.table_memory());
        if tables > MOST_TABLE_BYTES {
            return Err(Error::invalid(format!(
                "the L1 tables of the chain of backing files are larger than {} MiB",
                MOST_TABLE_BYTES >> 20
            )));
        }
        let disk = image.open(Parts {
            files: others.clone(),
            secret,
            salvage: self.policy.salvage,
            depth: above.len(),
        });
        let disk = disk.map_err(failed)?;
        let layer = ChainImage {
            name: self.name.clone(),
            format: opened.format,
            image,
            start: match opened.format.capabilities().transparent {
                true => opened.start,
                false => 0,
            },
            storage: opened.storage,
            files: [opened.file].into_iter().chain(others).collect(),
        };
        Ok((disk, layer, below))
    }

    /// Selects the internal snapshot that is to be read.
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

    /// Opens the other files with parts of the image, in the order of [`ImageFile::other_files`].
    ///
    /// # Errors
    /// Returns an error if names aren't followed, if another process has locked a file, or if options name a file
    /// that the image doesn't take. Returns the system's error if a file can't be opened.
    pub(crate) fn other_files(
        &self,
        image: &dyn ImageFile,
        purpose: Purpose,
    ) -> Result<Vec<Arc<dyn Storage>>> {
        let stored = image.other_files()?;
        let is_taken = |role: &str| stored.iter().any(|stored| stored.role == role);
        if let Some((role, _)) = self.others.iter().find(|(role, _)| !is_taken(role)) {
            return Err(Error::invalid(format!(
                "'{role}' can only be set for images with an external data file"
            )));
        }
        let opening = self.opening(purpose);
        let mut files: Vec<Arc<dyn Storage>> = Vec::with_capacity(stored.len());
        for (index, stored) in stored.iter().enumerate() {
            let mut others = self.others.iter();
            let named = others.find(|(role, _)| *role == stored.role);
            let file = match (self.other_handles.get(index), named) {
                (Some(handle), _) => handle.reopen(opening)?,
                (None, Some((_, path))) => list::open_path(path, opening)?,
                (None, None) => {
                    let path = self.policy.names.other_file(&self.path, stored)?;
                    list::open_path(&path, opening)?
                }
            };
            if let Some(claim) = purpose.claim_of_data_file(self.sharing)? {
                file.claim(claim)?;
            }
            files.push(file);
        }
        Ok(files)
    }

    /// Returns the password of the image, if it takes one.
    ///
    /// # Errors
    /// Returns an error if no password can be obtained, or if an option gives another kind of encryption than the
    /// image has.
    pub(crate) fn secret_for<'s>(
        &'s self,
        image: &mut dyn ImageFile,
        options: &Values,
        passwords: &'s dyn Passwords,
    ) -> Result<Option<&'s Secret>> {
        self.accept(image, options)?;
        let Some(encryption) = image.encryption() else {
            return Ok(None);
        };
        if encryption.accepts_any_password() {
            passwords.legacy_aes_is_used(false);
        }
        let named = key_secret(options);
        match (self.secret, named, self.secrets) {
            (Some(secret), ..) => Ok(Some(secret)),
            (None, Some(id), Some(secrets)) => secrets.get(id).map(Some),
            _ => passwords
                .for_reading(&self.name, key_secret_option(options))
                .map(Some),
        }
    }

    /// Checks the options of the image's node against its header, and passes on its warnings.
    ///
    /// # Errors
    /// Returns the errors of [`ImageFile::accept`].
    pub(crate) fn accept(&self, image: &mut dyn ImageFile, options: &Values) -> Result<()> {
        image.accept(options)?;
        for warning in image.warnings() {
            (self.policy.warn)(warning.text, warning.hint);
        }
        Ok(())
    }

    fn could_not_open(&self, error: Error) -> Error {
        could_not_open(&self.name, error)
    }
}

/// Refuses a backing file whose content id isn't the one that its overlay expects.
fn check_content(above: &[ChainImage], below: &dyn ImageFile, name: &str) -> Result<()> {
    let expected = above
        .last()
        .and_then(|layer| layer.image.backing_content_id());
    match (expected, below.content_id()) {
        (Some(expected), Some(found)) if expected != found => Err(Error::corrupt(format!(
            "the backing file '{}' has changed since the image above it was made: its content id is \
             {found:08x}, not {expected:08x}",
            printable(name)
        ))),
        _ => Ok(()),
    }
}

/// Returns the error for writing an image that is inside of another one.
fn only_read() -> Error {
    Error::unsupported("an image inside of an image is only read by this version")
}

/// A source without passwords, for images whose password isn't asked for.
struct NoPasswords;

impl Passwords for NoPasswords {
    fn for_reading(&self, _image: &str, option: &str) -> Result<&Secret> {
        Err(missing_option(option))
    }

    fn for_writing(&self, _image: &str, option: &str) -> Result<&Secret> {
        Err(missing_option(option))
    }

    fn legacy_aes_is_used(&self, _is_new: bool) {}

    fn implausible(&self, _image: &str, _newline: bool) -> Result<()> {
        Ok(())
    }
}

/// Puts the image's name in front of the reason why it could not be opened.
pub(crate) fn could_not_open(name: &str, error: Error) -> Error {
    if name.is_empty() {
        return error;
    }
    // The file's name may be in the message already. But qemu-img repeats it, and callers look for the whole line.
    error.context(format!("Could not open '{}'", printable(name)))
}

/// Opens a part of a file: a window, and windows of that.
///
/// # Errors
/// Returns an error if the file has no such part.
pub(crate) fn inside(file: Arc<dyn Storage>, windows: &[WindowRange]) -> Result<Arc<dyn Storage>> {
    windows.iter().try_fold(file, |storage, range| {
        Ok(Arc::new(Window::open(storage, *range)?) as Arc<dyn Storage>)
    })
}

/// Returns the error for an image below `layers`. As in QEMU, it names the first of them unless it is a backing file
/// itself. For each of the others it says that a backing file could not be opened, of a long chain only near both ends.
fn below_these(layers: &[ChainImage], is_below: bool, error: Error) -> Error {
    let more = layers.len().saturating_sub(2 * NAMED_IMAGES);
    let last = layers.len() - NAMED_IMAGES.min(layers.len());
    let named = |index: usize| more == 0 || index < NAMED_IMAGES || index >= last;
    let above = layers.iter().enumerate().rev();
    above.fold(error, |error, (index, layer)| match named(index) {
        true if index == 0 && !is_below => {
            could_not_open(&layer.name, error.context("Could not open backing file"))
        }
        true => error.context("Could not open backing file"),
        false if index == NAMED_IMAGES => error.context(format!("({more} more backing files)")),
        false => error,
    })
}

/// Refuses the backing file called `name` if it is one of the files `above` it.
pub(crate) fn refuse_loop<'f>(
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

/// Returns the error for a backing chain with a loop.
pub fn infinite_loop(name: &str) -> Error {
    Error::invalid(format!(
        "Backing file '{}' creates an infinite loop.",
        printable(name)
    ))
}
