//! A file that is being made and must not be mistaken for a finished one.
//!
//! [`UnfinishedFile`] opens the target of a create or convert. Every way out undoes it until it is
//! [kept](UnfinishedFile::keep): an error drops it, and [`interrupt`](super::interrupt) undoes it for
//! signals.
//!
//! A new file has no name before it is kept (`O_TMPFILE`, then `linkat`). So no name ever stands for an
//! unfinished image, and nothing at all is left after SIGKILL or a power cut. A name of its own for the time
//! being would stay behind then. Some file systems have no such files (NFS, older FUSE and overlayfs), and
//! `/proc` may not be there to name one later. The file has its name from the beginning then, and is removed.
//!
//! A file that was there before is written where it is, since others may know it by a lock, a mount or a
//! descriptor. Undone it is empty (its old contents were given up when the command started writing) but never
//! removed. A block device is left as it is.
//!
//! All that is done with the file later goes by a descriptor. Its name may be none, such as that of
//! `/dev/fd/3`, or another file's by then.

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

/// The number of bytes of a file that are copied at once where the system doesn't copy them itself.
const COPIED_AT_ONCE: usize = 1 << 20;

/// A file to be undone, and how.
#[derive(Debug)]
pub(super) struct UndoEntry {
    file: Arc<Handle>,
    undo: Undo,
}

#[derive(Debug)]
enum Undo {
    /// Leaves it to the system: the file has no name, and never had one.
    Unnamed(FolderEntry),
    /// Removes the file, which is ours.
    Remove(FolderEntry),
    /// Empties the file, which was there before.
    Empty,
    /// Leaves it as it is: it is a device.
    Leave,
}

/// A file that is open, whatever its name leads to by now. It holds none of QEMU's locks.
#[derive(Debug)]
pub(super) struct Handle {
    /// A descriptor to open the file again by, and to empty one that was there.
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
    /// Undoes the file, and says in words what became of it, to be followed by its name.
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

    /// The name of the file in messages.
    pub(super) fn shown(&self) -> String {
        printable(&self.file.path.to_string_lossy())
    }
}

/// A file that is being made; see the module's text.
#[derive(Debug)]
pub struct UnfinishedFile {
    storage: Option<FileStorage>,
    entry: Arc<UndoEntry>,
    is_kept: bool,
}

impl UnfinishedFile {
    /// Opens `path` for writing from scratch: makes a new file, or empties an existing regular file, or takes
    /// the block device as it is. `refuse` is asked before anything is changed and can reject an existing
    /// file, for example one that is also a source.
    ///
    /// # Errors
    /// Returns the system's error as `Could not create 'path': …`, the error of `refuse`, or one that another
    /// process uses the file.
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

    /// Takes a file that was there.
    fn over(storage: FileStorage, refuse: impl FnOnce(&dyn Storage) -> Result<()>) -> Result<Self> {
        refuse(&storage)?;
        // QEMU would let others write a raw file meanwhile, and empties it before it looks for them.
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

    /// Makes a new file; `nothing` is what is said if there is nowhere to make it.
    fn new(path: &Path, cache: CacheMode, nothing: Error) -> Result<Self> {
        let place = match FolderEntry::of_new(path) {
            Ok(place) => place,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(nothing),
            Err(error) => return Err(could_not(path, error)),
        };
        // It isn't locked: until it has a name nobody sees it.
        let flags = opening_flags(Access::ReadWrite, cache);
        let made = place
            .make_unnamed(flags)
            .and_then(|file| Self::taken(file, path, flags, cache));
        match made {
            Ok((storage, handle)) => Ok(Self::registered(storage, handle, Undo::Unnamed(place))),
            // Whatever the reason was: if it isn't only that, making the name fails too and says so.
            Err(_) => Self::named(path, cache, place),
        }
    }

    /// Makes a new file that has its name from the beginning.
    fn named(path: &Path, cache: CacheMode, place: FolderEntry) -> Result<Self> {
        // From the making of the file to its entry in the list no signal may come in between.
        let mut list = registry();
        let flags = opening_flags(Access::ReadWrite, cache);
        let file = place.make(flags).map_err(|error| could_not(path, error))?;
        let (storage, handle) = match Self::taken(file, path, flags, cache) {
            Ok(taken) => taken,
            Err(error) => {
                // It is ours and empty; the caller is told of the error and not of the file.
                drop(place.unmake());
                return Err(could_not(path, error));
            }
        };
        // If this fails, whoever was faster has the file now: it stays.
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

    /// A new file as what is written to, and what it is known by.
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

    /// Asks the file system to write blocks where they are instead of copying them.
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

    /// Keeps the files that make up an image, which is complete: from here on nothing undoes them. New ones
    /// get their names, and if `flush` is set these are put on stable storage. A signal finds all of the
    /// files finished or none.
    ///
    /// # Errors
    /// Returns the system's error if the medium fails, or if a new file can't have its name. Another file may
    /// have it by now. All files are undone then.
    pub fn keep(mut files: Vec<Self>, flush: bool) -> Result<()> {
        let mut list = loop {
            let list = registry();
            let Some((index, error)) = Self::link_all(&files) else {
                break list;
            };
            drop(list);
            // A name that is taken is the caller's to know of. But some security modules let nobody name a
            // file later, and that shouldn't cost all the work.
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

    /// Names all new files without names, those that belong to the first one before it. Returns which one
    /// can't have its name, and why; then none has it.
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

    /// Copies a file without a name into a new one that has it from the beginning.
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

    /// Returns the place where the file is made, if it is new.
    fn place(&self) -> Option<&FolderEntry> {
        match &self.entry.undo {
            Undo::Unnamed(place) | Undo::Remove(place) => Some(place),
            Undo::Empty | Undo::Leave => None,
        }
    }

    /// Takes from a new file the name that it got.
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
        // The caller reports what went wrong in the first place.
        self.entry.undo();
        registry().retain(|entry| !Arc::ptr_eq(entry, &self.entry));
    }
}

fn could_not(path: &Path, error: io::Error) -> Error {
    Error::io(format!("Could not create '{}'", path.display()), error)
}

#[cfg(test)]
mod tests;
