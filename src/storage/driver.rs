//! The interface of a protocol: one driver for each kind of storage.
//!
//! A driver lists its options, opens storages and creates them. No other code depends on a particular protocol.
//! Options are checked before anything is opened, so that a mistake in them changes nothing.

use std::fmt::Debug;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::{Access, CacheMode, Storage};
use crate::error::{Error, Result};
use crate::options::{OptionSpec, Values};

/// The driver of a protocol, which opens and creates storages.
pub trait StorageDriver: Debug + Sync {
    /// Returns the name for `driver=`.
    fn name(&self) -> &'static str;

    /// Returns the schemes of this protocol in names, without the colon. Files have none.
    fn schemes(&self) -> &'static [&'static str] {
        &[]
    }

    /// Returns the options for opening a storage, besides those of every node.
    fn open_options(&self) -> &'static [OptionSpec];

    /// Returns the options that reports include in an image's name.
    fn shown_options(&self) -> &'static [&'static str];

    /// Returns the options for creating a storage.
    fn create_options(&self) -> &'static [OptionSpec] {
        &[]
    }

    /// Returns true if storages can be created, or overwritten as new ones.
    fn creates(&self) -> bool {
        false
    }

    /// Returns the `type` of the protocol's specific information in reports, if it has any.
    fn specific(&self) -> Option<&'static str> {
        None
    }

    /// Checks the options, and returns those that concern the caller who opens the storage.
    ///
    /// # Errors
    /// Returns an error if an option is missing or its value is invalid.
    fn check(&self, options: &Values) -> Result<Stipulations>;

    /// Opens an existing storage.
    ///
    /// # Errors
    /// Returns an error if nothing has that name, or if it isn't a storage of this protocol.
    fn open(&self, path: &Path, options: &Values, opening: Opening) -> Result<Arc<dyn Storage>>;

    /// Creates a storage, or opens an existing one to overwrite it from scratch.
    ///
    /// # Errors
    /// Returns an error if the protocol can't create storages or there is no space, or the error of
    /// [`NewStorage::refuse`].
    fn create(&self, new: NewStorage<'_>) -> Result<Box<dyn Unfinished>> {
        let _ = new;
        Err(Error::unsupported(format!(
            "Protocol driver '{}' does not support image creation",
            self.name()
        )))
    }
}

/// The parameters for opening a storage that all protocols have.
#[derive(Debug, Clone, Copy)]
pub struct Opening {
    /// Its access.
    pub access: Access,
    /// Its cache mode.
    pub cache: CacheMode,
    /// True if holes are treated as data; see [`Storage::ignore_holes`].
    pub ignores_holes: bool,
}

impl Opening {
    /// Returns parameters with which the file system's report on holes is trusted.
    pub fn new(access: Access, cache: CacheMode) -> Self {
        Self {
            access,
            cache,
            ignores_holes: false,
        }
    }
}

/// The options of a storage that concern the caller who opens it.
#[derive(Debug, Clone, Default)]
pub struct Stipulations {
    /// The path by which the storage is opened, or `None` if options replace it.
    pub path: Option<PathBuf>,
    /// True if no locks are used; see [`Sharing::Unlocked`](super::Sharing::Unlocked).
    pub is_unlocked: bool,
    /// True for `aio=native`, which QEMU has only with `cache.direct=on`.
    pub is_native: bool,
}

/// A check of an existing storage before it is overwritten. It can refuse the storage with an error.
pub type Refuse<'a> = dyn Fn(&dyn Storage) -> Result<()> + 'a;

/// A storage that is to be created.
pub struct NewStorage<'a> {
    /// Its path.
    pub path: &'a Path,
    /// Its options.
    pub options: &'a Values,
    /// Its cache mode.
    pub cache: CacheMode,
    /// The check of a storage that exists at the path, before anything is changed. It refuses one that is also a
    /// source, for example.
    pub refuse: &'a Refuse<'a>,
}

/// A storage that is being created. It is undone when it is dropped, so that nobody mistakes it for a finished one.
pub trait Unfinished: Debug + Send {
    /// Takes the storage to write to, and leaves the guard that undoes it.
    ///
    /// # Errors
    /// Returns an error if it is called twice.
    fn take_storage(&mut self) -> Result<Arc<dyn Storage>>;

    /// Returns a handle that opens the storage again, whether it has a name or not.
    fn handle(&self) -> Arc<dyn Reopen>;

    /// Returns true if both are new and will get the same name.
    fn will_be_at(&self, other: &dyn Unfinished) -> bool;

    /// Returns the file that is being created, if it is a file. All files of an image get their names at once.
    fn as_file(&self) -> Option<&super::UnfinishedFile>;

    /// Does the same as [`as_file`](Self::as_file), by value.
    fn into_file(self: Box<Self>) -> Option<super::UnfinishedFile>;
}

/// An open storage that can be opened again, whatever its name refers to by now.
pub trait Reopen: Debug + Send + Sync {
    /// Opens it again.
    ///
    /// # Errors
    /// Returns the system's error as `Could not open 'name': …`.
    fn reopen(&self, opening: Opening) -> Result<Arc<dyn Storage>>;
}

/// Keeps the storages of an image that is complete, so that nothing undoes them any more. New ones get their names.
/// With `durable` the names are put on stable storage. All of them are kept or none, also if a signal arrives.
///
/// # Errors
/// Returns the system's error if a new one can't get its name, or if the medium fails. All are undone then.
pub fn keep(made: Vec<Box<dyn Unfinished>>, durable: bool) -> Result<()> {
    let files = made.into_iter().filter_map(Unfinished::into_file);
    super::UnfinishedFile::keep(files.collect(), durable)
}
