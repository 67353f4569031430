//! The interface of an image format, and of a file of that format.
//!
//! A [`FormatDriver`] represents a format. An [`ImageFile`] represents a file of that format whose header has been
//! read. Opening a disk takes two steps, [`FormatDriver::load`] and [`ImageFile::open`]. Everything that doesn't
//! depend on the format happens between them, such as following file names, asking for a password, locking, and
//! dropping privileges. Reports, checks and lists of snapshots end with the first step and never open the disk.

use std::borrow::Cow;
use std::ffi::OsStr;
use std::num::NonZeroU64;
use std::ops::Range;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::Serialize;

use super::amend::Amend;
use super::bitmaps::Bitmaps;
use super::check::Check;
use super::encryption::EncryptionFormat;
use super::explanation::Statement;
use super::file_use::FileUse;
use super::image::{Image, WritableImage};
use super::info::ImageInfo;
use super::new_image::NewImage;
use super::overwrite::{OverwriteOptions, OverwrittenImage};
use super::refusals::{no_creation, no_measure};
use super::resize::{Resize, no_resize};
use super::snapshots::{SnapshotName, Snapshots};
use crate::crypto::Secret;
use crate::error::{Error, Result};
use crate::options::{OptionSpec, Values};
use crate::storage::{Storage, WindowRange};

/// An image format, as the rest of the program sees it.
pub trait FormatDriver: Sync {
    /// Returns the name by which users and `qemu-img` know the format.
    fn name(&self) -> &'static str;

    /// Returns the features that the format supports.
    fn capabilities(&self) -> Capabilities;

    /// Returns the certainty that a file with these first bytes is of this format. The scores are those of QEMU's
    /// drivers: 0 for impossible, 1 for any file, 100 for a magic number. `start` has 512 bytes, or the whole file if
    /// that is shorter.
    fn probe(&self, start: &[u8]) -> u8;

    /// Returns true if a file with this name, as the user gave it, is of this format unless its contents match
    /// another format.
    fn is_named(&self, name: &[u8]) -> bool {
        let _ = name;
        false
    }

    /// Returns the options that a node of this format accepts.
    fn open_options(&self) -> &'static [OptionSpec] {
        &[]
    }

    /// Returns the options that reports repeat in an image's name.
    fn shown_options(&self) -> &'static [&'static str] {
        &[]
    }

    /// Checks [the options](Self::open_options) as far as that is possible without an image.
    ///
    /// # Errors
    /// Returns an error if a value is out of range, or if options exclude each other.
    fn check_options(&self, options: &Values) -> Result<()> {
        let _ = options;
        Ok(())
    }

    /// Returns the names of the options that refer to other files of an image.
    fn roles(&self) -> &'static [&'static str] {
        &[]
    }

    /// Returns the names of the options that refer to lists of such files: `NAME.0`, `NAME.1` and so on.
    fn list_roles(&self) -> &'static [&'static str] {
        &[]
    }

    /// Returns true if an option called `role` refers to another file.
    fn has_role(&self, role: &str) -> bool {
        let is_in = |list: &&str| {
            role.strip_prefix(list)
                .is_some_and(|rest| rest.starts_with('.'))
        };
        self.roles().contains(&role) || self.list_roles().iter().any(is_in)
    }

    /// Returns the part of its file that holds the disk, if options limit it.
    fn window(&self, options: &Values) -> Option<WindowRange> {
        let _ = options;
        None
    }

    /// Returns the options for a new image, in the order in which `Formatting '…'` prints them.
    fn create_options(&self) -> &'static [OptionSpec] {
        &[]
    }

    /// Returns the options of an existing image that can be changed, in the order in which they are checked.
    fn amend_options(&self) -> &'static [OptionSpec] {
        &[]
    }

    /// Checks the description of a new image. Writes nothing and makes no file.
    ///
    /// # Errors
    /// Returns an error if an option is out of range, if options exclude each other, or if the format can't have such
    /// a disk. The wording is `qemu-img`'s.
    fn plan(&self, new: &NewDisk<'_>) -> Result<Box<dyn Plan>> {
        let _ = new;
        Err(no_creation(self.name()))
    }

    /// Returns the size of the file of a new image.
    ///
    /// # Errors
    /// Returns an error as [`plan`](Self::plan) does, or if the source's metadata can't be read.
    fn measure(&self, options: &Values, contents: &Contents<'_>) -> Result<Measured> {
        let _ = (options, contents);
        Err(no_measure(self.name()))
    }

    /// Reads and checks the header. Opens no other file, asks for no key and reads no table.
    ///
    /// # Errors
    /// Returns an error if the file isn't of this format, is damaged, or uses a feature that isn't supported.
    fn load(&self, file: Arc<dyn Storage>, how: Load) -> Result<Box<dyn ImageFile>>;
}

/// The features that a format supports, so that a command can refuse the others before it touches a file.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Capabilities {
    /// True if the file is the disk itself, so that an operation on the file is one on the disk.
    pub transparent: bool,
    /// True if new and existing images accept compressed data.
    pub compresses: bool,
    /// True if an image can have a backing file.
    pub backing: bool,
    /// True if an image with a backing file stores [the id of that file's contents](ImageFile::content_id). The
    /// backing file must then be opened when the image is made.
    pub keeps_backing_id: bool,
    /// The [role](FormatDriver::roles) of the file with the header, for formats whose options can name one.
    pub header_role: Option<&'static str>,
}

/// The purpose for which a file is loaded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Load {
    /// To read or report the contents.
    Use,
    /// To check the image: damage that a check reports is no error.
    Check,
    /// To use a file whose header is [in another file](Capabilities::header_role).
    Headless,
}

/// A file of a known format, with its header read.
pub trait ImageFile: Send + Sync {
    /// Returns the size of the disk in bytes, a multiple of 512.
    fn size(&self) -> u64;

    /// Returns the backing file named in the header.
    fn backing(&self) -> Option<BackingRef<'_>> {
        None
    }

    /// Returns the other files that hold parts of the image.
    ///
    /// # Errors
    /// Returns an error if the header contradicts itself about these files.
    fn other_files(&self) -> Result<Vec<FileRef<'_>>> {
        Ok(Vec::new())
    }

    /// Returns true if the [other files](Self::other_files) have headers too. Reports and checks then open these
    /// files as well.
    fn has_headers_elsewhere(&self) -> bool {
        false
    }

    /// Reads the headers of the [other files](Self::other_files), which are given in that order. It is called once,
    /// before any method whose result depends on them.
    ///
    /// # Errors
    /// Returns the system's error. Returns an error if a header is invalid or contradicts the image's own.
    fn attach(&mut self, files: &[Arc<dyn Storage>]) -> Result<()> {
        let _ = files;
        Ok(())
    }

    /// Returns the id of the disk's contents, which changes with every change of them, or `None` if the format has no
    /// such id.
    fn content_id(&self) -> Option<u64> {
        None
    }

    /// Returns the [id](Self::content_id) that the header requires of the backing file's contents, if any.
    fn backing_content_id(&self) -> Option<u64> {
        None
    }

    /// Stores the backing file's [id](Self::content_id) in the header, for a backing file whose contents have changed
    /// and still fit. The image must not be open for writing. With `flush`, the header is flushed to stable storage.
    ///
    /// # Errors
    /// Returns the system's error, or an error if the header has no space for the id.
    fn set_backing_content_id(&self, id: u64, flush: bool) -> Result<()> {
        let _ = (id, flush);
        Ok(())
    }

    /// Returns the encryption format of the disk, or `None` if it isn't encrypted.
    fn encryption(&self) -> Option<EncryptionFormat> {
        None
    }

    /// Checks the options of the image's node against its header, and applies those that change how the header is
    /// interpreted.
    ///
    /// # Errors
    /// Returns an error if they contradict each other.
    fn accept(&mut self, options: &Values) -> Result<()> {
        let _ = options;
        Ok(())
    }

    /// Returns facts of which a user should be warned although the image is usable.
    fn warnings(&self) -> Vec<Warning> {
        Vec::new()
    }

    /// Refuses an image whose tables refer to clusters beyond the end of its file, for formats of which `qemu-img`
    /// does so on every open. [`open`](Self::open) does the same, unless [`Parts::salvage`] is set.
    ///
    /// # Errors
    /// Returns an error if there is such a reference, or the system's error.
    fn refuse_truncated(&self) -> Result<()> {
        Ok(())
    }

    /// Adds to a report the facts that don't follow from [`size`](Self::size), [`backing`](Self::backing) and the
    /// other methods.
    ///
    /// # Errors
    /// Returns an error if a table that the report lists can't be read.
    fn describe(&self, info: &mut ImageInfo) -> Result<()> {
        let _ = info;
        Ok(())
    }

    /// Explains the header in sentences, if that says more than a report.
    fn explain(&self) -> Vec<Statement> {
        Vec::new()
    }

    /// Passes the byte ranges with this use to `each`. They are in the file with the disk's data, the last of several.
    /// Those of a damaged image may overlap. Returns false if the format doesn't tell.
    ///
    /// # Errors
    /// Returns an error if a table that leads to them is invalid or can't be read.
    fn parts_of(&self, used_for: FileUse, each: &mut dyn FnMut(Range<u64>)) -> Result<bool> {
        let _ = (used_for, each);
        Ok(false)
    }

    /// Returns the number of bytes of memory that the tables of the open image take.
    fn table_memory(&self) -> u64 {
        0
    }

    /// Selects the disk of an internal snapshot for [`open`](Self::open).
    ///
    /// # Errors
    /// Returns an error if there is no such snapshot.
    fn at_snapshot(&mut self, name: &SnapshotName) -> Result<()> {
        let _ = name;
        Err(super::snapshots::not_found())
    }

    /// Prepares a change of the image's metadata in place. Repairs an image that was left dirty. Checks any other if
    /// `looks_for_damage`, which reads all of its metadata.
    ///
    /// # Errors
    /// Returns an error if the image is damaged or marked as corrupt.
    fn prepare_to_change(&mut self, looks_for_damage: bool) -> Result<()> {
        let _ = looks_for_damage;
        Ok(())
    }

    /// Opens the disk for reading, without its backing file.
    ///
    /// # Errors
    /// Returns an error if a table can't be read or is invalid, or if the password is missing.
    fn open(&self, parts: Parts<'_>) -> Result<Arc<dyn Image>>;

    /// Refuses an image whose header forbids writing.
    ///
    /// # Errors
    /// Returns an error if it does, or if this version can't write to such an image.
    fn check_writable(&self) -> Result<()> {
        Ok(())
    }

    /// Opens the disk for reading and writing. Repairs an image that was left dirty first.
    ///
    /// # Errors
    /// Returns an error as [`open`](Self::open) does, or if the image is damaged: data written to it could get lost.
    fn open_writable(&self, parts: WriteParts<'_>) -> Result<Box<dyn WritableImage>> {
        let _ = parts;
        Err(Error::unsupported(
            "this version doesn't write into images of this format that exist",
        ))
    }

    /// Opens the disk for a conversion that overwrites its first `size` bytes.
    ///
    /// # Errors
    /// Returns an error as [`open_writable`](Self::open_writable) does, or if the image is smaller.
    fn write_over(
        &self,
        parts: WriteParts<'_>,
        size: u64,
        options: OverwriteOptions,
    ) -> Result<Box<dyn NewImage>> {
        let image = self.open_writable(parts)?;
        Ok(Box::new(OverwrittenImage::new(image, size, options)?))
    }

    /// Checks that [`set_backing`](Self::set_backing) accepts its argument. Writes nothing.
    ///
    /// # Errors
    /// Returns an error as `set_backing` does, except for the system's.
    fn check_backing(&self, backing: Option<&Backing>) -> Result<()> {
        let _ = backing;
        Err(Error::unsupported("Operation not supported"))
    }

    /// Stores another backing file, or none, in the header. The image must not be open for writing. After a power cut
    /// the header names the old backing file or the new one. With `flush`, the header is flushed to stable storage.
    ///
    /// # Errors
    /// Returns an error if the format has no backing files, if a name is too long, or if the header has no space.
    /// Returns an error if a feature of the image excludes a backing file, or the system's error.
    fn set_backing(&self, backing: Option<&Backing>, flush: bool) -> Result<()> {
        let _ = flush;
        self.check_backing(backing)
    }

    /// Changes options of the image.
    ///
    /// # Errors
    /// Returns an error if an option can't be changed or is out of range, or if options exclude each other; nothing
    /// was written then. Returns the system's error.
    fn amend(&self, parts: &WriteParts<'_>, amend: &Amend<'_>) -> Result<()> {
        let _ = (parts, amend);
        Err(Error::unsupported("Operation not supported"))
    }

    /// Changes the size of the disk. Data beyond the new end is lost. Added space reads as zeroes, or is undefined
    /// where the format can't make it zero.
    ///
    /// # Errors
    /// Returns an error if the format or the image can't have that size; nothing was changed then. Returns an error
    /// if the image is damaged, or the system's error; the disk has the old size or the new one then.
    fn resize(&self, parts: WriteParts<'_>, resize: Resize) -> Result<()> {
        let _ = (parts, resize);
        Err(no_resize())
    }

    /// Removes all data of the disk from the image, so that all of it is read from the backing file. The caller
    /// ensures that the backing file's disk has the same contents.
    ///
    /// # Errors
    /// Returns an error if the format has no backing files, or if the image is damaged. Returns the system's error;
    /// some data may still be stored then.
    fn make_empty(&self, parts: WriteParts<'_>) -> Result<()> {
        let _ = parts;
        Err(Error::unsupported("Operation not supported"))
    }

    /// Returns the check of the image's metadata, or `None` if the format has none.
    fn check(&self) -> Option<&dyn Check> {
        None
    }

    /// Returns the internal snapshots, or `None` if the format has none.
    fn snapshots(&self) -> Option<&dyn Snapshots> {
        None
    }

    /// Returns the persistent bitmaps, or `None` if the format or its version has none.
    fn bitmaps(&self) -> Option<&dyn Bitmaps> {
        None
    }

    /// Returns the reason why this image can't have persistent bitmaps although its format has them.
    fn lacks_bitmaps(&self) -> Option<Error> {
        None
    }
}

/// A reference to a backing file in a header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BackingRef<'a> {
    /// Its name.
    pub name: &'a [u8],
    /// The name of its format, if the header has it.
    pub format: Option<&'a [u8]>,
}

/// A reference to another file that holds a part of an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileRef<'a> {
    /// The name of the file in options and reports, such as `data-file`.
    pub role: Cow<'static, str>,
    /// The file's name, if the header has it.
    pub name: Option<&'a [u8]>,
    /// The rule for interpreting the name.
    pub rule: NameRule,
}

/// The rule for interpreting the name of another file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NameRule {
    /// As a path, relative to the current folder.
    AsItStands,
    /// As the name of a file in the image's folder or in a folder below it. Any other name is refused.
    Beside,
}

/// A warning about an image, with a hint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Warning {
    /// The fact.
    pub text: &'static str,
    /// The lines of the hint.
    pub hint: &'static str,
}

/// The inputs with which an image is opened for reading.
#[derive(Clone, Default)]
pub struct Parts<'a> {
    /// The [other files](ImageFile::other_files), in that order.
    pub files: Vec<Arc<dyn Storage>>,
    /// The password.
    pub secret: Option<&'a Secret>,
    /// True if damaged parts are skipped where that is possible, and the rest is read.
    pub salvage: bool,
    /// The number of images above this one in a backing chain.
    pub depth: usize,
}

/// The inputs with which an image is opened for writing.
#[derive(Clone, Default)]
pub struct WriteParts<'a> {
    /// The [other files](ImageFile::other_files), in that order.
    pub files: Vec<Arc<dyn Storage>>,
    /// The backing file, from which the rest of a partly written cluster is copied.
    pub backing: Option<Arc<dyn Image>>,
    /// The password.
    pub secret: Option<&'a Secret>,
    /// True if flushes reach stable storage.
    pub flush: bool,
}

/// The description of a new image.
pub struct NewDisk<'a> {
    /// The size of the disk in bytes; not necessarily a multiple of 512.
    pub size: u64,
    /// The values of the options.
    pub options: &'a Values,
    /// The size of the backing file's disk in bytes, if it was opened.
    pub backing_size: Option<u64>,
    /// Other facts about the backing file, if it was opened.
    pub base: Option<BaseFacts>,
    /// The path of the new image, from which names of other files are derived.
    pub path: &'a Path,
    /// True if data will be compressed.
    pub compressed: bool,
    /// The alignment of the file's length in bytes, for a transparent format.
    pub align: Option<NonZeroU64>,
    /// Returns the path for the name of another file.
    pub path_of: fn(&OsStr) -> Result<PathBuf>,
}

/// The facts about a backing file that some formats store in the image above it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BaseFacts {
    /// The name of the backing file's format.
    pub format: &'static str,
    /// The id of its contents, if the format has one.
    pub content_id: Option<u64>,
}

/// The backing file of a new image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Backing {
    /// Its name as the header stores it: 1 to 1023 bytes.
    pub name: Vec<u8>,
    /// The name of its format, if the header stores it.
    pub format: Option<String>,
    /// The size of its disk in bytes, or `u64::MAX` if unknown. Zeroes beyond it need not be stored.
    pub size: u64,
}

impl Backing {
    /// Returns the backing file named by options. Its size is unknown.
    ///
    /// # Errors
    /// Returns an error if there is a format without a file, or if the name is empty.
    pub fn of(options: &Values) -> Result<Option<Self>> {
        let format = options.text("backing_fmt").map(str::to_owned);
        match (options.name("backing_file"), &format) {
            (None, None) => Ok(None),
            (None, Some(_)) => Err(Error::invalid(
                "Backing format cannot be used without backing file",
            )),
            (Some(name), _) if name.is_empty() => Err(Error::invalid(
                "Expected backing file name, got empty string",
            )),
            (Some(name), _) => Ok(Some(Self {
                name: name.as_bytes().to_vec(),
                format,
                size: u64::MAX,
            })),
        }
    }
}

/// The plan of a new image, made after all checks that need no file.
pub trait Plan: Send + Sync {
    /// Returns the names of the files that are made beside the image's own, in the order of [`NewParts::files`].
    fn other_files(&self) -> Vec<&[u8]> {
        Vec::new()
    }

    /// Returns the encryption format of the new disk.
    fn encryption(&self) -> Option<EncryptionFormat> {
        None
    }

    /// Returns true if the image supports persistent bitmaps.
    fn has_bitmaps(&self) -> bool {
        false
    }

    /// Returns true if an empty new file already represents a disk of zeroes.
    fn is_made_empty(&self) -> bool {
        false
    }

    /// Starts the image in an empty file or on a device. It has no valid header before it is finished.
    ///
    /// # Errors
    /// Returns the system's error. Returns an error if a device is too small or the password is invalid.
    fn create(&self, parts: NewParts<'_>) -> Result<Box<dyn NewImage>>;
}

/// The inputs with which a new image is made.
#[derive(Clone)]
pub struct NewParts<'a> {
    /// Its file.
    pub file: Arc<dyn Storage>,
    /// Its [other files](Plan::other_files), in that order.
    pub files: Vec<Arc<dyn Storage>>,
    /// The password.
    pub secret: Option<&'a Secret>,
    /// True if [`NewImage::finish`] flushes to stable storage.
    pub flush: bool,
}

/// The contents of a new image that is measured.
pub struct Contents<'a> {
    /// The size of the disk in bytes; not necessarily a multiple of 512.
    pub size: u64,
    /// The disk, unless it is all zeroes.
    pub image: Option<&'a dyn Image>,
    /// The bitmaps to be copied.
    pub bitmaps: Option<&'a dyn Bitmaps>,
}

/// The size of the file of a new image, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Measured {
    /// The size of the file with the given data.
    pub required: u64,
    /// The size of the file with data in every cluster.
    pub fully_allocated: u64,
    /// The number of bytes that the source's bitmaps take in addition, if the format can store them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bitmaps: Option<u64>,
}
