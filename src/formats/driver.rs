//! The interface of an image format, and of a file that is of one.
//!
//! A [`FormatDriver`] stands for a format, an [`ImageFile`] for a file that is of it and whose header has
//! been read. All that isn't the format's to decide happens between the two steps, [`FormatDriver::load`] and
//! [`ImageFile::open`]. That is which names may be followed, which password, which lock, and when privileges
//! are given up. Reports, checks and lists of snapshots end with the first step. They never open the disk.

use std::borrow::Cow;
use std::ffi::OsStr;
use std::num::NonZeroU64;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::Serialize;

use super::amend::Amend;
use super::bitmaps::Bitmaps;
use super::check::Check;
use super::encryption::EncryptionFormat;
use super::explanation::Statement;
use super::image::{Image, WritableImage};
use super::info::ImageInfo;
use super::new_image::NewImage;
use super::over::{OverImage, OverOptions};
use super::refusals::{no_creation, no_measure};
use super::resize::{Resize, no_resize};
use super::snapshots::{SnapshotName, Snapshots};
use crate::crypto::Secret;
use crate::error::{Error, Result};
use crate::options::{OptionSpec, Values};
use crate::storage::{Storage, WindowRange};

/// An image format: all that the rest of the program knows of it.
pub trait FormatDriver: Sync {
    /// The name by which users and `qemu-img` know the format.
    fn name(&self) -> &'static str;

    /// Returns the features that the format has at all.
    fn capabilities(&self) -> Capabilities;

    /// Returns the certainty, from its first bytes, that a file is of this format. It is scored as by QEMU's
    /// drivers: 0 for not at all, 1 for anything, 100 for a mark. `start` has 512 bytes, or all of a file
    /// that is shorter.
    fn probe(&self, start: &[u8]) -> u8;

    /// Returns true if a file's name, as it was given, makes the file one of this format as far as its contents tell
    /// no other.
    fn is_named(&self, name: &[u8]) -> bool {
        let _ = name;
        false
    }

    /// Returns the options that a node of this format may be given.
    fn open_options(&self) -> &'static [OptionSpec] {
        &[]
    }

    /// Returns those of them that reports repeat in an image's name.
    fn shown_options(&self) -> &'static [&'static str] {
        &[]
    }

    /// Checks those of [the options](Self::open_options) that need no image for it.
    ///
    /// # Errors
    /// Returns an error if values are out of range or exclude each other.
    fn check_options(&self, options: &Values) -> Result<()> {
        let _ = options;
        Ok(())
    }

    /// Returns the names by which options call other files that hold parts of an image.
    fn roles(&self) -> &'static [&'static str] {
        &[]
    }

    /// Returns the names by which options call lists of such files: `NAME.0`, `NAME.1` and so on.
    fn list_roles(&self) -> &'static [&'static str] {
        &[]
    }

    /// Returns true if options may call another file so.
    fn has_role(&self, role: &str) -> bool {
        let is_in = |list: &&str| {
            role.strip_prefix(list)
                .is_some_and(|rest| rest.starts_with('.'))
        };
        self.roles().contains(&role) || self.list_roles().iter().any(is_in)
    }

    /// Returns the part of its file that the disk is in, where options name one.
    fn window(&self, options: &Values) -> Option<WindowRange> {
        let _ = options;
        None
    }

    /// Returns the options that a new image may be given, in the order in which `Formatting '…'` prints them.
    fn create_options(&self) -> &'static [OptionSpec] {
        &[]
    }

    /// Returns the options of an image that exists which can be changed, in the order in which they are looked at.
    fn amend_options(&self) -> &'static [OptionSpec] {
        &[]
    }

    /// Checks the description of a new image. Nothing is written, and no file is made.
    ///
    /// # Errors
    /// Returns an error if the options are out of range or exclude each other, or if the format can't have
    /// such a disk. The wording is `qemu-img`'s.
    fn plan(&self, new: &NewDisk<'_>) -> Result<Box<dyn Plan>> {
        let _ = new;
        Err(no_creation(self.name()))
    }

    /// Returns the size that the file of a new image will have.
    ///
    /// # Errors
    /// Returns an error as [`plan`](Self::plan) does, or if the source's metadata can't be read.
    fn measure(&self, options: &Values, contents: &Contents<'_>) -> Result<Measured> {
        let _ = (options, contents);
        Err(no_measure(self.name()))
    }

    /// Reads the header and checks it. Opens no other file, asks for no key and reads no table.
    ///
    /// # Errors
    /// Returns an error if the file isn't of this format, is damaged, or uses what this version doesn't have.
    fn load(&self, file: Arc<dyn Storage>, how: Load) -> Result<Box<dyn ImageFile>>;
}

/// The features that a format has at all, so that the rest is refused before a file is touched.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Capabilities {
    /// True if the file is the disk itself: what may be done with the one may be done with the other.
    pub transparent: bool,
    /// True if new images, and images that exist, take compressed data.
    pub compresses: bool,
    /// True if an image can have a backing file.
    pub backing: bool,
    /// True if an image with a backing file keeps [the id of that one's contents](ImageFile::content_id), so that it
    /// has to be looked at when the image is made.
    pub keeps_backing_id: bool,
    /// The [role](FormatDriver::roles) of a file that has the header, where options name one.
    pub header_role: Option<&'static str>,
}

/// The purpose for which a file is loaded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Load {
    /// To read or report its contents.
    Use,
    /// To check it: damage that a check reports is no error.
    Check,
    /// To use it, with a header that is [in another file](Capabilities::header_role).
    Headless,
}

/// A file that is of a format, with its header read.
pub trait ImageFile: Send + Sync {
    /// Returns the size of the disk in bytes, a multiple of 512.
    fn size(&self) -> u64;

    /// Returns the backing file that the header names.
    fn backing(&self) -> Option<BackingRef<'_>> {
        None
    }

    /// Returns the other files that hold parts of the image.
    ///
    /// # Errors
    /// Returns an error if the header contradicts itself about them.
    fn other_files(&self) -> Result<Vec<FileRef<'_>>> {
        Ok(Vec::new())
    }

    /// Returns true if the [other files](Self::other_files) have headers too. Then reports and checks take them
    /// as well.
    fn has_headers_elsewhere(&self) -> bool {
        false
    }

    /// Reads the headers of the [other files](Self::other_files), which are given in that order. It is called
    /// once, before anything else is asked of the image that its own header doesn't say.
    ///
    /// # Errors
    /// Returns the system's error, or an error if a header is wrong or contradicts the image's own.
    fn attach(&mut self, files: &[Arc<dyn Storage>]) -> Result<()> {
        let _ = files;
        Ok(())
    }

    /// Returns the id that the disk's contents have, which every change gives another one; `None` in formats
    /// without such ids.
    fn content_id(&self) -> Option<u64> {
        None
    }

    /// Returns the [id](Self::content_id) that the backing file's contents must have, where the header says so.
    fn backing_content_id(&self) -> Option<u64> {
        None
    }

    /// Makes the header of an image that is open for writing by nobody say that the backing file's contents have this
    /// [id](Self::content_id). It is for contents that have changed and still fit. `flush` says if flushes reach the
    /// storage.
    ///
    /// # Errors
    /// Returns the system's error, or an error if the header has no room for the id.
    fn set_backing_content_id(&self, id: u64, flush: bool) -> Result<()> {
        let _ = (id, flush);
        Ok(())
    }

    /// Returns the format by which the disk is encrypted, `None` where it isn't.
    fn encryption(&self) -> Option<EncryptionFormat> {
        None
    }

    /// Checks the options of the image's node against its header, and follows those that say how the header is
    /// read.
    ///
    /// # Errors
    /// Returns an error if they contradict each other.
    fn accept(&mut self, options: &Values) -> Result<()> {
        let _ = options;
        Ok(())
    }

    /// Returns what a user should know of the image although it can be used.
    fn warnings(&self) -> Vec<Warning> {
        Vec::new()
    }

    /// Refuses an image whose tables lead beyond the end of its file, where `qemu-img` does that whenever it opens one.
    /// [`open`](Self::open) does it as well, unless what is left is salvaged.
    ///
    /// # Errors
    /// Returns an error if they do, or the system's error.
    fn refuse_truncated(&self) -> Result<()> {
        Ok(())
    }

    /// Adds to a report all that doesn't follow from [`size`](Self::size), [`backing`](Self::backing) and the
    /// other methods.
    ///
    /// # Errors
    /// Returns an error if tables that the report lists can't be read.
    fn describe(&self, info: &mut ImageInfo) -> Result<()> {
        let _ = info;
        Ok(())
    }

    /// Puts the header into words, as far as that says more than a report.
    fn explain(&self) -> Vec<Statement> {
        Vec::new()
    }

    /// Returns the number of bytes of memory that tables take while the image is open.
    fn table_memory(&self) -> u64 {
        0
    }

    /// Makes the disk be what it was when an internal snapshot was taken.
    ///
    /// # Errors
    /// Returns an error if there is no such snapshot.
    fn at_snapshot(&mut self, name: &SnapshotName) -> Result<()> {
        let _ = name;
        Err(super::snapshots::not_found())
    }

    /// Makes sure that the image's metadata can be changed where it is. An image that was left dirty is
    /// repaired. Another one is checked if `looks_for_damage`, which takes a walk through all of it.
    ///
    /// # Errors
    /// Returns an error if the image is damaged, or marked as such.
    fn prepare_to_change(&mut self, looks_for_damage: bool) -> Result<()> {
        let _ = looks_for_damage;
        Ok(())
    }

    /// Opens the disk for reading, without its backing file.
    ///
    /// # Errors
    /// Returns an error if tables can't be read or make no sense, or if the password is missing.
    fn open(&self, parts: Parts<'_>) -> Result<Arc<dyn Image>>;

    /// Refuses an image whose header says that nobody may write to it.
    ///
    /// # Errors
    /// Returns an error if it does, or if this version can't write such an image.
    fn check_writable(&self) -> Result<()> {
        Ok(())
    }

    /// Opens the disk for reading and writing. An image that was left dirty is repaired first.
    ///
    /// # Errors
    /// Returns an error as [`open`](Self::open) does, or if the image is damaged: data that is written into
    /// it might never be found again.
    fn open_writable(&self, parts: WriteParts<'_>) -> Result<Box<dyn WritableImage>> {
        let _ = parts;
        Err(Error::unsupported(
            "this version doesn't write into images of this format that exist",
        ))
    }

    /// Opens the disk for a conversion that writes `size` bytes over its start.
    ///
    /// # Errors
    /// Returns an error as [`open_writable`](Self::open_writable) does, or if the image is smaller.
    fn write_over(
        &self,
        parts: WriteParts<'_>,
        size: u64,
        options: OverOptions,
    ) -> Result<Box<dyn NewImage>> {
        let image = self.open_writable(parts)?;
        Ok(Box::new(OverImage::new(image, size, options)?))
    }

    /// Checks if [`set_backing`](Self::set_backing) can do what it is asked for. Nothing is written.
    ///
    /// # Errors
    /// Returns an error as `set_backing` does, unless it is the system's.
    fn check_backing(&self, backing: Option<&Backing>) -> Result<()> {
        let _ = backing;
        Err(Error::unsupported("Operation not supported"))
    }

    /// Makes the header of an image that is open for writing by nobody name another backing file, or none. A
    /// power cut leaves the old one or the new one. `flush` says if flushes reach the storage.
    ///
    /// # Errors
    /// Returns an error if the format has no backing files, if names are too long, if the header has no room, or
    /// if a feature of the image doesn't go together with a backing file. Returns the system's error.
    fn set_backing(&self, backing: Option<&Backing>, flush: bool) -> Result<()> {
        let _ = flush;
        self.check_backing(backing)
    }

    /// Gives the image other options than it was made with.
    ///
    /// # Errors
    /// Returns an error if they can't be changed, or if they are out of range or exclude each other: nothing was
    /// written then. Returns the system's error.
    fn amend(&self, parts: &WriteParts<'_>, amend: &Amend<'_>) -> Result<()> {
        let _ = (parts, amend);
        Err(Error::unsupported("Operation not supported"))
    }

    /// Gives the disk another size. What it loses is gone. What is added reads as zeroes, or is data that isn't written.
    ///
    /// # Errors
    /// Returns an error if the format, or the image, can't have that size: then nothing was changed. Returns an
    /// error if the image is damaged, or the system's error: then the disk has the old size or the new one.
    fn resize(&self, parts: WriteParts<'_>, resize: Resize) -> Result<()> {
        let _ = (parts, resize);
        Err(no_resize())
    }

    /// Makes the image store nothing of its disk, so that all of it is read from the backing file. The disk of the
    /// backing file must hold the same; it isn't read.
    ///
    /// # Errors
    /// Returns an error if the format has no backing files, or if the image is damaged. Returns the system's error:
    /// then parts of the disk are still stored.
    fn make_empty(&self, parts: WriteParts<'_>) -> Result<()> {
        let _ = parts;
        Err(Error::unsupported("Operation not supported"))
    }

    /// Returns the check of the image's metadata; `None` for formats that have nothing to check.
    fn check(&self) -> Option<&dyn Check> {
        None
    }

    /// Returns the internal snapshots; `None` for formats that have none.
    fn snapshots(&self) -> Option<&dyn Snapshots> {
        None
    }

    /// Returns the persistent bitmaps; `None` for formats, or versions of them, that have none.
    fn bitmaps(&self) -> Option<&dyn Bitmaps> {
        None
    }

    /// Returns the reason why the image can't have persistent bitmaps although its format has them.
    fn lacks_bitmaps(&self) -> Option<Error> {
        None
    }
}

/// A backing file as a header names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BackingRef<'a> {
    /// Its name.
    pub name: &'a [u8],
    /// The name of its format, where that is stored.
    pub format: Option<&'a [u8]>,
}

/// Another file that holds a part of an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileRef<'a> {
    /// The name by which options and reports call it, such as `data-file`.
    pub role: Cow<'static, str>,
    /// Its name, where the header has it.
    pub name: Option<&'a [u8]>,
    /// The way in which that is read.
    pub rule: NameRule,
}

/// The way in which the name of another file is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NameRule {
    /// As a path as it stands, relative to the current folder.
    AsItStands,
    /// As the name of a file in the image's folder or in one below that. No other file is opened.
    Beside,
}

/// Something to be known of an image: a line, and lines that help with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Warning {
    /// The fact.
    pub text: &'static str,
    /// The lines that help.
    pub hint: &'static str,
}

/// The parts that an image is opened with.
#[derive(Clone, Default)]
pub struct Parts<'a> {
    /// The [other files](ImageFile::other_files), in that order.
    pub files: Vec<Arc<dyn Storage>>,
    /// The password.
    pub secret: Option<&'a Secret>,
    /// True if damage is passed over where that is possible, and the rest is read all the same.
    pub salvage: bool,
    /// The number of images of a chain that stand above this one.
    pub depth: usize,
}

/// The parts that an image is opened with for writing.
#[derive(Clone, Default)]
pub struct WriteParts<'a> {
    /// The [other files](ImageFile::other_files), in that order.
    pub files: Vec<Arc<dyn Storage>>,
    /// The backing file, from which parts of clusters are copied.
    pub backing: Option<Arc<dyn Image>>,
    /// The password.
    pub secret: Option<&'a Secret>,
    /// True if flushes reach the storage.
    pub flush: bool,
}

/// A new image as it is wished for.
pub struct NewDisk<'a> {
    /// The size of the disk in bytes, which need not be whole sectors.
    pub size: u64,
    /// The options that were given.
    pub options: &'a Values,
    /// The size of the backing file's disk in bytes, where it was looked at.
    pub backing_size: Option<u64>,
    /// The other facts of the backing file, where it was looked at.
    pub base: Option<BaseFacts>,
    /// The path at which the image will be. Names of other files are made of it.
    pub path: &'a Path,
    /// True if data will be compressed.
    pub compressed: bool,
    /// The number of bytes of which the length of a transparent image's file has to be a multiple.
    pub align: Option<NonZeroU64>,
    /// Makes a path of the name of another file.
    pub path_of: fn(&OsStr) -> Result<PathBuf>,
}

/// The facts of a backing file that some formats keep in the image above it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BaseFacts {
    /// The name of its format.
    pub format: &'static str,
    /// The id of its contents.
    pub content_id: Option<u64>,
}

/// The backing file of a new image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Backing {
    /// Its name as it is stored: not empty, at most 1023 bytes.
    pub name: Vec<u8>,
    /// The name of its format, if that is stored too.
    pub format: Option<String>,
    /// The size of its disk in bytes, beyond which zeroes need not be stored; `u64::MAX` where it
    /// isn't known.
    pub size: u64,
}

impl Backing {
    /// Returns the backing file that options name. They don't say its size, which is left unknown.
    ///
    /// # Errors
    /// Returns an error if they give a format without a file, or an empty name.
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

/// A new image that can be made: everything that could be refused has been.
pub trait Plan: Send + Sync {
    /// Returns the names of files that are made beside the image's, in the order of [`NewParts::files`].
    fn other_files(&self) -> Vec<&[u8]> {
        Vec::new()
    }

    /// Returns the format by which the disk will be encrypted.
    fn encryption(&self) -> Option<EncryptionFormat> {
        None
    }

    /// Returns true if the image can have persistent bitmaps.
    fn has_bitmaps(&self) -> bool {
        false
    }

    /// Returns true if a disk of zeroes is there once the file is, without anything that is written to it.
    fn is_made_empty(&self) -> bool {
        false
    }

    /// Starts the image: its file is empty, or a device. Nothing takes it for an image before it is finished.
    ///
    /// # Errors
    /// Returns the system's error, or an error if a device is too small or the password isn't one.
    fn create(&self, parts: NewParts<'_>) -> Result<Box<dyn NewImage>>;
}

/// The parts that a new image is made with.
#[derive(Clone)]
pub struct NewParts<'a> {
    /// Its file.
    pub file: Arc<dyn Storage>,
    /// Its [other files](Plan::other_files), in that order.
    pub files: Vec<Arc<dyn Storage>>,
    /// The password.
    pub secret: Option<&'a Secret>,
    /// True if [`NewImage::finish`] waits for stable storage.
    pub flush: bool,
}

/// The contents that a new image that is measured will have.
pub struct Contents<'a> {
    /// The size of the disk in bytes, which need not be whole sectors.
    pub size: u64,
    /// The disk, where there is more to it than zeroes.
    pub image: Option<&'a dyn Image>,
    /// The bitmaps that it has.
    pub bitmaps: Option<&'a dyn Bitmaps>,
}

/// The size of the file of a new image, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Measured {
    /// The size with the data that there is.
    pub required: u64,
    /// The size with data everywhere.
    pub fully_allocated: u64,
    /// The number of bytes that the source's bitmaps take beside, where they can be kept.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bitmaps: Option<u64>,
}
