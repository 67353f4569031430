//! The files of a new image. They are removed unless they are kept, so that no failure leaves an unfinished image.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::write::{refuse_same, same_file};
use crate::crypto::Secret;
use crate::error::Result;
use crate::formats::NewImage;
use crate::formats::driver::{NewParts, Plan};
use crate::options::Values;
use crate::storage::{CacheMode, NewStorage, Protocol, Reopen, Storage, Unfinished, driver, list};

/// A file that will hold a new image.
pub struct NewFile<'a> {
    /// Its path.
    pub path: &'a Path,
    /// The protocol, if it was given; else the path decides it.
    pub protocol: Option<Protocol>,
    /// The options of the image and of its file.
    pub options: &'a Values,
    /// The cache mode for writing it.
    pub cache: CacheMode,
}

/// The files of an image that is being created: the image file, and then its other files.
pub struct NewImageFiles(Vec<Box<dyn Unfinished>>);

impl NewFile<'_> {
    /// Creates the files of a new image, and writes nothing to them yet. None of them may be one of `sources`.
    ///
    /// # Errors
    /// Returns an error if a file is one of the sources, or if two are the same. Returns the system's error,
    /// and the errors of [`Plan::create`].
    pub fn make(
        &self,
        plan: &dyn Plan,
        sources: &[&dyn Storage],
        secret: Option<&Secret>,
    ) -> Result<(Box<dyn NewImage>, NewImageFiles)> {
        let refuse = |target: &dyn Storage| refuse_same(self.path, target, sources);
        let mut file = list::create(self.protocol, self.at(self.path, &refuse))?;
        let storage = file.take_storage()?;
        let mut files = vec![file];
        let mut others: Vec<Arc<dyn Storage>> = Vec::new();
        for name in plan.other_files() {
            let path = PathBuf::from(OsStr::from_bytes(name));
            let refuse = |file: &dyn Storage| {
                refuse_same(self.path, file, &[&[storage.as_ref()], sources].concat())
            };
            let mut file = list::create_path(self.at(&path, &refuse))?;
            if files.iter().any(|image| image.will_be_at(file.as_ref())) {
                return Err(same_file(self.path, &path));
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
        Ok((image, NewImageFiles(files)))
    }

    /// Checks that the files of a new image can be created, and changes nothing. Returns true if the image's file
    /// exists, and would be overwritten.
    ///
    /// # Errors
    /// Returns the errors of [`make`](Self::make), as far as they can be foreseen.
    pub fn check(&self, plan: &dyn Plan, sources: &[&dyn Storage]) -> Result<bool> {
        let refuse = |target: &dyn Storage| refuse_same(self.path, target, sources);
        let is_there = list::check_path(&self.at(self.path, &refuse))?;
        for name in plan.other_files() {
            let path = PathBuf::from(OsStr::from_bytes(name));
            list::check_path(&self.at(&path, &refuse))?;
        }
        Ok(is_there)
    }

    fn at<'s>(
        &'s self,
        path: &'s Path,
        refuse: &'s dyn Fn(&dyn Storage) -> Result<()>,
    ) -> NewStorage<'s> {
        NewStorage {
            path,
            options: self.options,
            cache: self.cache,
            refuse,
        }
    }
}

impl NewImageFiles {
    /// Returns an empty list of files, for an image that exists.
    pub fn none() -> Self {
        Self(Vec::new())
    }

    /// Keeps the files. With `durable`, their names are on stable storage afterwards.
    ///
    /// # Errors
    /// Returns the errors of [`driver::keep`].
    pub fn keep(self, durable: bool) -> Result<()> {
        driver::keep(self.0, durable)
    }

    /// Returns the image's file, which may have no name yet.
    pub fn handle(&self) -> Option<Arc<dyn Reopen>> {
        self.0.first().map(|file| file.handle())
    }

    /// Returns the other files, which may have no names yet.
    pub fn other_handles(&self) -> Vec<Arc<dyn Reopen>> {
        let others = self.0.iter().skip(1);
        others.map(|file| file.handle()).collect()
    }
}
