//! A file that is being created, and must not be mistaken for a finished one.
//!
//! [`UnfinishedFile`] opens the target of a `create` or `convert`. Until it is [kept](UnfinishedFile::keep), every
//! exit undoes it: an error drops it, and [`interrupt`](super::interrupt) undoes it for signals.
//!
//! A new file has no name before it is kept (`O_TMPFILE`, then `linkat`). So no unfinished image ever has a name, and
//! nothing is left after SIGKILL or a power cut, as a temporary name would be. Some file systems have no such files
//! (NFS, older FUSE and overlayfs), and `/proc` may be missing, which `linkat` needs. Then the file has its name from
//! the beginning, and undoing removes it.
//!
//! An existing file is overwritten in place, since others may refer to it by a lock, a mount or a descriptor. Undoing
//! truncates it to nothing (its old contents are lost anyway), but never removes it. A block device is left as it is.
//!
//! All later operations use the descriptor, since the name may be one like `/dev/fd/3`, or may refer to another file
//! by then.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::OFlags;

use super::driver::opened;
use super::file_storage::{open_again, opening_flags};
use super::folder_entry::FolderEntry;
use super::interrupt::{registry, undo_on_signals};
use super::{Claim, FileStorage};
use crate::error::{Error, Result, os_reason, printable};
use crate::storage::driver::{Opening, Reopen, Unfinished};
use crate::storage::identity::FileIdentity;
use crate::storage::{Access, CacheMode, Storage};

/// The number of bytes that are copied at once if the system can't copy them itself.
const COPIED_AT_ONCE: usize = 1 << 20;

/// A file to be undone, and the way to do it.
#[derive(Debug)]
pub(super) struct UndoEntry {
    file: Arc<Handle>,
    undo: Undo,
}

#[derive(Debug)]
enum Undo {
    /// Does nothing: the system removes the file, which never had a name.
    Unnamed(FolderEntry),
    /// Removes the file, which this program created.
    Remove(FolderEntry),
    /// Truncates the file, which existed before.
    Empty,
    /// Does nothing: it is a device.
    Leave,
}

/// An open file, whatever its name refers to by now. It has none of QEMU's locks.
#[derive(Debug)]
pub(super) struct Handle {
    /// A descriptor to open the file again, and to truncate an existing one.
    file: File,
    path: PathBuf,
    identity: FileIdentity,
}

impl Handle {
    fn of(storage: &FileStorage, flags: OFlags) -> io::Result<Self> {
        Ok(Self {
            file: open_again(storage.file(), storage.path(), flags)?,
            path: storage.path().to_owned(),
            identity: FileIdentity::of(&storage.file().metadata()?),
        })
    }

    fn open(&self, access: Access, cache: CacheMode) -> Result<FileStorage> {
        let open = || {
            let flags = opening_flags(access, cache);
            let file = open_again(&self.file, &self.path, flags)?;
            FileStorage::from_file(file, &self.path, flags, cache)
        };
        open()
            .map_err(|error| Error::io(format!("Could not open '{}'", self.path.display()), error))
    }
}

impl Reopen for Handle {
    fn reopen(&self, opening: Opening) -> Result<Arc<dyn Storage>> {
        let file = self.open(opening.access, opening.cache)?;
        Ok(opened(file, opening))
    }
}

impl UndoEntry {
    /// Undoes the file. Returns words for what was done, which the file's name follows in a message.
    pub(super) fn undo(&self) -> String {
        let (done, undone) = match &self.undo {
            Undo::Unnamed(_) => ("did not make", Ok(())),
            Undo::Remove(place) => ("removed", place.remove(self.file.identity)),
            Undo::Empty => {
                let empty = || rustix::fs::ftruncate(&self.file.file, 0);
                let emptied = rustix::io::retry_on_intr(empty);
                ("emptied", emptied.map_err(io::Error::from))
            }
            Undo::Leave => ("left unfinished", Ok(())),
        };
        match undone {
            Ok(()) => done.into(),
            Err(error) => format!("left unfinished ({})", os_reason(&error)),
        }
    }

    /// Returns the name of the file for messages.
    pub(super) fn shown(&self) -> String {
        printable(&self.file.path.to_string_lossy())
    }
}

/// A file that is being created; see the module's documentation.
#[derive(Debug)]
pub struct UnfinishedFile {
    storage: Option<FileStorage>,
    entry: Arc<UndoEntry>,
    is_kept: bool,
}

impl UnfinishedFile {
    /// Opens `path` for writing from scratch: creates a new file, truncates an existing regular file, or opens the
    /// block device as it is. `refuse` is called before anything is changed, and can reject an existing file, for
    /// example one that is also a source.
    ///
    /// # Errors
    /// Returns the system's error as `Could not create 'path': …`, the error of `refuse`, or
    /// [`ErrorKind::Locked`](crate::error::ErrorKind::Locked) if another process uses the file.
    pub fn create(
        path: &Path,
        cache: CacheMode,
        refuse: impl FnOnce(&dyn Storage) -> Result<()>,
    ) -> Result<Self> {
        undo_on_signals();
        match FileStorage::open_existing(path, cache) {
            Ok(storage) => Self::over(storage, refuse),
            Err(error) if error.io_kind() == Some(io::ErrorKind::NotFound) => {
                Self::new(path, cache, error)
            }
            Err(error) => Err(error),
        }
    }

    /// Does the checks of [`create`](Self::create), and changes nothing. Returns true if a file or device is there,
    /// which would be overwritten.
    ///
    /// # Errors
    /// Returns the errors of [`create`](Self::create), as far as they can be foreseen.
    pub fn check(
        path: &Path,
        cache: CacheMode,
        refuse: impl FnOnce(&dyn Storage) -> Result<()>,
    ) -> Result<bool> {
        let nothing = match FileStorage::open_existing(path, cache) {
            Ok(storage) => {
                refuse(&storage)?;
                storage.claim(Claim::WRITE)?;
                return Ok(true);
            }
            Err(error) if error.io_kind() == Some(io::ErrorKind::NotFound) => error,
            Err(error) => return Err(error),
        };
        let place = match FolderEntry::of_new(path) {
            Ok(place) => place,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(nothing),
            Err(error) => return Err(could_not(path, error)),
        };
        // A file without a name is gone at once. Some file systems have none, which says nothing about files with one.
        match place.make_unnamed(opening_flags(Access::ReadWrite, cache)) {
            Err(error) if is_final(&error) => Err(could_not(path, error)),
            _ => Ok(false),
        }
    }

    /// Opens an existing file to overwrite it.
    fn over(storage: FileStorage, refuse: impl FnOnce(&dyn Storage) -> Result<()>) -> Result<Self> {
        refuse(&storage)?;
        // QEMU lets others write a raw file meanwhile, and truncates it before it tests their locks. This is
        // stricter.
        storage.claim(Claim::WRITE)?;
        let (undo, access) = match storage.has_fixed_length() {
            true => (Undo::Leave, OFlags::PATH),
            false => (Undo::Empty, OFlags::RDWR | OFlags::NONBLOCK),
        };
        let handle = Handle::of(&storage, access | OFlags::CLOEXEC);
        let handle = handle.map_err(|error| could_not(storage.path(), error))?;
        let unfinished = Self::registered(storage, handle, undo);
        if let Undo::Empty = unfinished.entry.undo {
            unfinished.storage()?.set_len(0)?;
        }
        Ok(unfinished)
    }

    /// Creates a new file. Returns the error `nothing` if it has no place.
    fn new(path: &Path, cache: CacheMode, nothing: Error) -> Result<Self> {
        let place = match FolderEntry::of_new(path) {
            Ok(place) => place,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(nothing),
            Err(error) => return Err(could_not(path, error)),
        };
        // It needs no locks, since nobody can open it without a name.
        let flags = opening_flags(Access::ReadWrite, cache);
        let made = place
            .make_unnamed(flags)
            .and_then(|file| Self::taken(file, path, flags, cache));
        match made {
            Ok((storage, handle)) => Ok(Self::registered(storage, handle, Undo::Unnamed(place))),
            // If there is another reason than missing support, creating the file by its name fails too, and reports
            // it.
            Err(_) => Self::named(path, cache, place),
        }
    }

    /// Creates a new file that has its name from the beginning.
    fn named(path: &Path, cache: CacheMode, place: FolderEntry) -> Result<Self> {
        // No signal may be handled between the creation of the file and its entry in the list.
        let mut list = registry();
        let flags = opening_flags(Access::ReadWrite, cache);
        let file = place.make(flags).map_err(|error| could_not(path, error))?;
        let (storage, handle) = match Self::taken(file, path, flags, cache) {
            Ok(taken) => taken,
            Err(error) => {
                // The file is new and empty. Only the first error is reported.
                drop(place.unmake());
                return Err(could_not(path, error));
            }
        };
        // If this fails, another process has opened the file already, so it stays.
        storage.claim(Claim::WRITE)?;
        let entry = Arc::new(UndoEntry {
            file: Arc::new(handle),
            undo: Undo::Remove(place),
        });
        list.push(Arc::clone(&entry));
        Ok(Self {
            storage: Some(storage),
            entry,
            is_kept: false,
        })
    }

    /// Returns a new file as a storage to write to, and as a handle.
    fn taken(
        file: File,
        path: &Path,
        flags: OFlags,
        cache: CacheMode,
    ) -> io::Result<(FileStorage, Handle)> {
        let storage = FileStorage::from_file(file, path, flags, cache)?;
        let handle = Handle::of(&storage, OFlags::PATH | OFlags::CLOEXEC)?;
        Ok((storage, handle))
    }

    fn registered(storage: FileStorage, handle: Handle, undo: Undo) -> Self {
        let entry = Arc::new(UndoEntry {
            file: Arc::new(handle),
            undo,
        });
        registry().push(Arc::clone(&entry));
        Self {
            storage: Some(storage),
            entry,
            is_kept: false,
        }
    }

    fn storage(&self) -> Result<&FileStorage> {
        self.storage
            .as_ref()
            .ok_or_else(|| Error::invalid("the file is finished already"))
    }

    /// Asks the file system to overwrite blocks in place instead of copying them.
    pub(in crate::storage) fn avoid_copies(&self) {
        if let Some(storage) = &self.storage {
            storage.avoid_copies();
        }
    }

    /// Does the same as [`Unfinished::take_storage`].
    fn take_file(&mut self) -> Result<FileStorage> {
        self.storage
            .take()
            .ok_or_else(|| Error::invalid("the file is finished already"))
    }

    /// Keeps the files of an image that is complete, so that nothing undoes them any more. New ones get their names.
    /// With `flush` the names are put on stable storage. All files are kept or none, also if a signal arrives.
    ///
    /// # Errors
    /// Returns the system's error if the medium fails, or if a new file can't get its name, for example because
    /// another file has it by now. All files are undone then.
    pub fn keep(mut files: Vec<Self>, flush: bool) -> Result<()> {
        let mut list = loop {
            let list = registry();
            let Some((index, error)) = Self::link_all(&files) else {
                break list;
            };
            drop(list);
            // A name that exists is an error. But some security modules forbid `linkat` of an unnamed file, and the
            // work should not be lost for that.
            match files.get_mut(index) {
                Some(file) if error.io_kind() != Some(io::ErrorKind::AlreadyExists) => {
                    *file = file.named_copy(flush).map_err(|_| error)?;
                }
                _ => return Err(error),
            }
        };
        list.retain(|entry| !files.iter().any(|file| Arc::ptr_eq(entry, &file.entry)));
        drop(list);
        let flushed = files.iter().filter(|_| flush).try_for_each(|file| {
            file.place()
                .map_or(Ok(()), FolderEntry::flush)
                .map_err(|error| {
                    let path = file.entry.file.path.display();
                    Error::io(format!("flushing the directory of '{path}'"), error)
                })
        });
        if flushed.is_err() {
            files.iter().for_each(Self::take_back);
            return flushed;
        }
        files.iter_mut().for_each(|file| file.is_kept = true);
        Ok(())
    }

    /// Names all new files without names, the first file last, since it refers to the others. On failure no file has
    /// its name, and the index of the failed file is returned with the error.
    fn link_all(files: &[Self]) -> Option<(usize, Error)> {
        for (index, file) in files.iter().enumerate().rev() {
            let Undo::Unnamed(place) = &file.entry.undo else {
                continue;
            };
            if let Err(error) = place.link(&file.entry.file.file) {
                let named = files.iter().skip(index + 1);
                let unnamed = |file: &&Self| matches!(file.entry.undo, Undo::Unnamed(_));
                named.filter(unnamed).for_each(Self::take_back);
                return Some((index, could_not(&file.entry.file.path, error)));
            }
        }
        None
    }

    /// Copies a file without a name into a new one that has its name from the beginning.
    fn named_copy(&self, flush: bool) -> Result<Self> {
        let path = &self.entry.file.path;
        let place = FolderEntry::of_new(path).map_err(|error| could_not(path, error))?;
        let cache = CacheMode::Writeback;
        let from = self.entry.file.open(Access::Read, cache)?;
        let mut copy = Self::named(path, cache, place)?;
        let to = copy.take_file()?;
        to.set_len(from.len()?)?;
        let mut at = 0;
        let mut buf = Vec::new();
        while let Some(data) = from.next_data(at)? {
            at = data.end;
            if to.copy_from(data.start, &from, data.start, data.end - data.start)? {
                continue;
            }
            buf.resize(COPIED_AT_ONCE, 0);
            let mut offset = data.start;
            while offset < data.end {
                let rest = usize::try_from(data.end - offset).unwrap_or(usize::MAX);
                let part = buf.get_mut(..rest.min(COPIED_AT_ONCE)).unwrap_or_default();
                from.read_exact_at(offset, part, "data")?;
                to.write_at(offset, part)?;
                offset += part.len() as u64;
            }
        }
        if flush {
            to.flush()?;
        }
        Ok(copy)
    }

    /// Returns the place of the file, if it is new.
    fn place(&self) -> Option<&FolderEntry> {
        match &self.entry.undo {
            Undo::Unnamed(place) | Undo::Remove(place) => Some(place),
            Undo::Empty | Undo::Leave => None,
        }
    }

    /// Removes the name that a new file got.
    fn take_back(&self) {
        if let Some(place) = self.place() {
            drop(place.remove(self.entry.file.identity));
        }
    }
}

impl Unfinished for UnfinishedFile {
    fn take_storage(&mut self) -> Result<Arc<dyn Storage>> {
        Ok(Arc::new(self.take_file()?))
    }

    fn handle(&self) -> Arc<dyn Reopen> {
        Arc::<Handle>::clone(&self.entry.file)
    }

    fn will_be_at(&self, other: &dyn Unfinished) -> bool {
        let other = other.as_file().and_then(Self::place);
        matches!((self.place(), other), (Some(one), Some(other)) if one.is(other))
    }

    fn as_file(&self) -> Option<&UnfinishedFile> {
        Some(self)
    }

    fn into_file(self: Box<Self>) -> Option<UnfinishedFile> {
        Some(*self)
    }
}

impl Drop for UnfinishedFile {
    fn drop(&mut self) {
        if self.is_kept {
            return;
        }
        // The caller reports the original error.
        self.entry.undo();
        registry().retain(|entry| !Arc::ptr_eq(entry, &self.entry));
    }
}

/// Returns true for an error that a file with a name would cause, too.
fn is_final(error: &io::Error) -> bool {
    use io::ErrorKind::{PermissionDenied, ReadOnlyFilesystem, StorageFull};
    matches!(
        error.kind(),
        PermissionDenied | ReadOnlyFilesystem | StorageFull
    )
}

fn could_not(path: &Path, error: io::Error) -> Error {
    Error::io(format!("Could not create '{}'", path.display()), error)
}

#[cfg(test)]
mod tests;
