//! A protocol as the rest of the program knows it: one driver for each way in which bytes are kept.
//!
//! A driver lists its options, opens what exists, and makes what doesn't. Nobody else asks which protocol it is.
//! Options are read before anything is opened, so that a mistake in them touches nothing.

use std::fmt::Debug;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::{Access, CacheMode, Storage};
use crate::error::{Error, Result};
use crate::options::{OptionSpec, Values};

/// A protocol: where bytes are kept and how they are had.
pub trait StorageDriver: Debug + Sync {
    /// The name, as `driver=` has it.
    fn name(&self) -> &'static str;

    /// The schemes of names that mean this protocol, without the colon. Files have none.
    fn schemes(&self) -> &'static [&'static str] {
        &[]
    }

    /// The options of what exists, besides those of every node.
    fn open_options(&self) -> &'static [OptionSpec];

    /// The options that reports repeat in an image's name.
    fn shown_options(&self) -> &'static [&'static str];

    /// The options of what is made anew.
    fn create_options(&self) -> &'static [OptionSpec] {
        &[]
    }

    /// Returns true if something new can be made, or written as if it were.
    fn creates(&self) -> bool {
        false
    }

    /// The type that reports give to what only this protocol has to say of a storage, if it says anything.
    fn specific(&self) -> Option<&'static str> {
        None
    }

    /// Checks the options, and says what they mean to whoever opens the storage.
    ///
    /// # Errors
    /// Returns an error if one is missing or can't have its value.
    fn check(&self, options: &Values) -> Result<Stipulations>;

    /// Opens what exists.
    ///
    /// # Errors
    /// Returns an error if there is nothing of that name, or if it is no storage of this protocol.
    fn open(&self, path: &Path, options: &Values, opening: Opening) -> Result<Arc<dyn Storage>>;

    /// Makes something new, or takes what is there to be written from scratch.
    ///
    /// # Errors
    /// Returns an error if the protocol can't, if there is no room for it, or as [`NewStorage::refuse`] does.
    fn create(&self, new: NewStorage<'_>) -> Result<Box<dyn Unfinished>> {
        let _ = new;
        Err(Error::unsupported(format!(
            "Protocol driver '{}' does not support image creation",
            self.name()
        )))
    }
}

/// The way in which a storage is opened, whatever its protocol.
#[derive(Debug, Clone, Copy)]
pub struct Opening {
    /// Reading only, or writing too.
    pub access: Access,
    /// The way in which it is cached.
    pub cache: CacheMode,
    /// Everything is taken for data; see [`Storage::ignore_holes`].
    pub ignores_holes: bool,
}

impl Opening {
    /// Opens in one of these ways, and trusts what the file system says of holes.
    pub fn new(access: Access, cache: CacheMode) -> Self {
        Self {
            access,
            cache,
            ignores_holes: false,
        }
    }
}

/// The part of a storage's options that concerns whoever opens it.
#[derive(Debug, Clone, Default)]
pub struct Stipulations {
    /// The name by which the storage is opened; `None` where options stand for it.
    pub path: Option<PathBuf>,
    /// Nobody is asked or told anything; see [`Sharing::Unlocked`](super::Sharing::Unlocked).
    pub is_unlocked: bool,
    /// A way of reading is asked for that QEMU has only past the system's cache.
    pub is_native: bool,
}

/// Asks about a storage that is there and would be written from scratch.
pub type Refuse<'a> = dyn Fn(&dyn Storage) -> Result<()> + 'a;

/// A storage to be made.
pub struct NewStorage<'a> {
    /// Its name.
    pub path: &'a Path,
    /// The options of what is made.
    pub options: &'a Values,
    /// The way in which it is cached.
    pub cache: CacheMode,
    /// Asked before anything is changed, it can refuse what is there (because it is also a source, say).
    pub refuse: &'a Refuse<'a>,
}

/// A storage that is being made and must not be mistaken for a finished one: it is undone when it is dropped.
pub trait Unfinished: Debug + Send {
    /// Splits off what is written to from the guard that undoes it.
    ///
    /// # Errors
    /// Returns an error if called twice.
    fn take_storage(&mut self) -> Result<Arc<dyn Storage>>;

    /// The storage, to be opened again whether it has a name or not.
    fn handle(&self) -> Arc<dyn Reopen>;

    /// Returns true if both are new and are to have the same name.
    fn will_be_at(&self, other: &dyn Unfinished) -> bool;

    /// The file that is being made, where it is one: all files of an image get their names at once.
    fn as_file(&self) -> Option<&super::UnfinishedFile>;

    /// Does the same as [`as_file`](Self::as_file), by value.
    fn into_file(self: Box<Self>) -> Option<super::UnfinishedFile>;
}

/// A storage that is open and can be opened once more, whatever its name leads to by now.
pub trait Reopen: Debug + Send + Sync {
    /// Opens it once more.
    ///
    /// # Errors
    /// Returns the system's error as `Could not open 'name': …`.
    fn reopen(&self, opening: Opening) -> Result<Arc<dyn Storage>>;
}

/// Keeps the storages that make up an image, which is complete: from here on nothing undoes them. New ones
/// get their names, and if `durable` is set these are put on stable storage. A signal finds all of them
/// finished or none.
///
/// # Errors
/// Returns the system's error if a new one can't have its name, or if the medium fails. All are undone then.
pub fn keep(made: Vec<Box<dyn Unfinished>>, durable: bool) -> Result<()> {
    let files = made.into_iter().filter_map(Unfinished::into_file);
    super::UnfinishedFile::keep(files.collect(), durable)
}
