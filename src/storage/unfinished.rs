//! A file that is being made and must not be mistaken for a finished one.
//!
//! [`UnfinishedFile`] opens the target of a create or convert. Until [`keep`](UnfinishedFile::keep)
//! is called, every way out undoes it: an error drops it, SIGINT, SIGTERM and SIGHUP are caught by a
//! thread of their own, so that even a write that hangs doesn't delay them; SIGXFSZ, which tells of a
//! limit on the length of files, is caught so that the write fails instead. A file that we made is
//! removed; one that was there before is emptied (its old contents were given up when the command
//! started writing) but never removed; a block device is left as it is. SIGKILL can't be caught:
//! against it, formats with a header write that header last.
//!
//! Before a file is removed by its name, the name is checked to still lead to the same file.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, Once, PoisonError};

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGXFSZ};
use signal_hook::iterator::Signals;

use super::file::FileIdentity;
use super::{Access, CacheMode, Claim, FileStorage, Storage};
use crate::error::{Error, Result};

/// What is to be undone when the program is interrupted.
static UNFINISHED: Mutex<Vec<Unfinished>> = Mutex::new(Vec::new());

#[derive(Debug, Clone)]
struct Unfinished {
    path: PathBuf,
    identity: FileIdentity,
    undo: Undo,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Undo {
    Remove,
    Empty,
    Leave,
}

fn registry() -> MutexGuard<'static, Vec<Unfinished>> {
    // The list stays right whatever panicked while holding it: entries are pushed and removed whole.
    UNFINISHED.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Unfinished {
    /// Failures can't be helped here: the caller reports what went wrong in the first place.
    fn undo(&self) {
        match self.undo {
            Undo::Remove => {
                let found = fs::symlink_metadata(&self.path).map(|meta| FileIdentity::of(&meta));
                if found.ok() == Some(self.identity) {
                    drop(fs::remove_file(&self.path));
                }
            }
            Undo::Empty => {
                let found = FileStorage::open(&self.path, Access::ReadWrite, CacheMode::Unsafe);
                if let Ok(found) = found
                    && found.identity().ok() == Some(self.identity)
                {
                    drop(found.set_len(0));
                }
            }
            Undo::Leave => {}
        }
    }
}

/// A file that is being made; see the module's text.
#[derive(Debug)]
pub struct UnfinishedFile {
    storage: Option<FileStorage>,
    entry: Unfinished,
}

impl UnfinishedFile {
    /// Opens `path` for writing from scratch: creates it, or empties the regular file that is
    /// there, or takes the block device as it is. `refuse` is asked before anything is changed and
    /// can reject an existing file (because it is also a source, say).
    ///
    /// # Errors
    /// The system's error as `Could not create 'path': …`, or what `refuse` said, or that another
    /// process uses the file.
    pub fn create(
        path: &Path,
        cache: CacheMode,
        refuse: impl FnOnce(&FileStorage) -> Result<()>,
    ) -> Result<Self> {
        remove_unfinished_on_signals();
        let could_not =
            |error: io::Error| Error::io(format!("Could not create '{}'", path.display()), error);
        let (storage, path, undo) = match FileStorage::create_new(path, cache) {
            Ok(storage) => (storage, path.to_owned(), Undo::Remove),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                match link_target(path) {
                    // A link to nothing: make what it names, as opening through it would.
                    Some(target) => {
                        let storage = FileStorage::create_new(&target, cache).map_err(could_not)?;
                        (storage, target, Undo::Remove)
                    }
                    None => {
                        let storage = FileStorage::open_existing(path, cache)?;
                        let undo = if storage.is_device() {
                            Undo::Leave
                        } else {
                            Undo::Empty
                        };
                        (storage, path.to_owned(), undo)
                    }
                }
            }
            Err(error) => return Err(could_not(error)),
        };
        let identity = storage.identity().inspect_err(|_| {
            if undo == Undo::Remove {
                drop(fs::remove_file(&path));
            }
        });
        let entry = Unfinished {
            identity: identity?,
            path: fs::canonicalize(&path).unwrap_or(path),
            undo,
        };
        if undo != Undo::Remove {
            refuse(&storage)?;
        }
        // QEMU would let others write a raw file meanwhile, and empties it before it looks for them.
        // If this fails for a file that we made, whoever was faster has it now: it stays.
        storage.lock(Claim::WRITE)?;
        registry().push(entry.clone());
        let unfinished = Self {
            storage: Some(storage),
            entry,
        };
        if undo == Undo::Empty {
            unfinished.storage()?.set_len(0)?;
        }
        Ok(unfinished)
    }

    fn storage(&self) -> Result<&FileStorage> {
        self.storage
            .as_ref()
            .ok_or_else(|| Error::invalid("the file is finished already"))
    }

    /// Splits into what is written to and the guard that undoes it when dropped.
    ///
    /// # Errors
    /// When called twice.
    pub fn take_storage(&mut self) -> Result<FileStorage> {
        self.storage
            .take()
            .ok_or_else(|| Error::invalid("the file is finished already"))
    }

    /// The file is complete: from here on nothing undoes it.
    pub fn keep(self) {
        self.forget();
        std::mem::forget(self);
    }

    fn forget(&self) {
        registry().retain(|entry| entry.identity != self.entry.identity);
    }
}

impl Drop for UnfinishedFile {
    fn drop(&mut self) {
        self.entry.undo();
        self.forget();
    }
}

/// How many links the system follows at the most.
const MOST_LINKS: usize = 40;

/// Where `path` leads when it is a link, perhaps to further links, whose end doesn't exist. `None`
/// too when that can't be found out; opening it says why.
fn link_target(path: &Path) -> Option<PathBuf> {
    let mut path = path.to_owned();
    for _ in 0..MOST_LINKS {
        let target = match fs::symlink_metadata(&path) {
            Ok(meta) if meta.is_symlink() => fs::read_link(&path).ok()?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Some(path),
            _ => return None,
        };
        path = match path.parent() {
            Some(folder) => folder.join(target),
            None => target,
        };
    }
    None
}

/// From now on SIGINT, SIGTERM and SIGHUP first undo every unfinished file, then end the program as they
/// would have. Done once, by the first [`UnfinishedFile`]; before that the signals are untouched.
fn remove_unfinished_on_signals() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        // The system's answer to a file that grows beyond the limit is to end the program, unless
        // the signal is caught; then the write fails, and is reported like any other.
        drop(signal_hook::flag::register(SIGXFSZ, Arc::default()));
        let wanted = [SIGINT, SIGTERM, SIGHUP]
            .into_iter()
            .filter(|signal| !is_ignored(*signal));
        let Ok(mut signals) = Signals::new(wanted) else {
            return;
        };
        // Without the thread the signals would be swallowed, so they are given back.
        let handle = signals.handle();
        let spawned = std::thread::Builder::new()
            .name("signals".into())
            .stack_size(64 << 10)
            .spawn(move || {
                if let Some(signal) = signals.forever().next() {
                    // Held to the end, so that no file can be called finished any more.
                    let unfinished = registry();
                    for entry in unfinished.iter() {
                        entry.undo();
                    }
                    drop(signal_hook::low_level::emulate_default_handler(signal));
                }
            });
        if spawned.is_err() {
            handle.close();
        }
    });
}

/// Whether a signal was ignored when the program started, as the shell does with SIGINT for what runs
/// in the background: then it stays ignored.
fn is_ignored(signal: i32) -> bool {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status
        .lines()
        .find_map(|line| line.strip_prefix("SigIgn:"))
        .and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    mask.is_some_and(|mask| mask & (1 << (signal - 1)) != 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;

    fn accept(_: &FileStorage) -> Result<()> {
        Ok(())
    }

    #[test]
    fn a_file_that_we_made_is_removed_unless_kept() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("new");
        drop(UnfinishedFile::create(&path, CacheMode::Unsafe, accept).unwrap());
        assert!(!path.exists());
        UnfinishedFile::create(&path, CacheMode::Unsafe, accept)
            .unwrap()
            .keep();
        assert!(path.exists());
    }

    #[test]
    fn a_file_that_was_there_is_emptied_but_stays() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("old");
        fs::write(&path, b"old contents").unwrap();
        drop(UnfinishedFile::create(&path, CacheMode::Unsafe, accept).unwrap());
        assert_eq!(fs::read(&path).unwrap(), b"");
    }

    #[test]
    fn a_refused_file_is_untouched() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("old");
        fs::write(&path, b"old contents").unwrap();
        let refused =
            UnfinishedFile::create(&path, CacheMode::Unsafe, |_| Err(Error::invalid("no")));
        assert!(refused.is_err());
        assert_eq!(fs::read(&path).unwrap(), b"old contents");
    }

    #[test]
    fn a_file_in_use_is_untouched() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("old");
        fs::write(&path, b"old contents").unwrap();
        let user = FileStorage::open(&path, Access::ReadWrite, CacheMode::Writeback).unwrap();
        for claim in [Claim::READ, Claim::WRITE_SHARED, Claim::WRITE] {
            user.lock(claim).unwrap();
            let refused = UnfinishedFile::create(&path, CacheMode::Unsafe, accept).unwrap_err();
            assert_eq!(refused.kind(), ErrorKind::Locked);
            assert_eq!(fs::read(&path).unwrap(), b"old contents");
        }
    }

    #[test]
    fn two_cannot_make_the_same_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("new");
        let mut first = UnfinishedFile::create(&path, CacheMode::Unsafe, accept).unwrap();
        let storage = first.take_storage().unwrap();
        assert!(UnfinishedFile::create(&path, CacheMode::Unsafe, accept).is_err());
        storage.write_at(0, b"x").unwrap();
        first.keep();
        assert_eq!(fs::read(&path).unwrap(), b"x");
    }

    #[test]
    fn a_file_put_in_its_place_is_not_removed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("new");
        let unfinished = UnfinishedFile::create(&path, CacheMode::Unsafe, accept).unwrap();
        fs::rename(&path, dir.path().join("moved")).unwrap();
        fs::write(&path, b"somebody else's").unwrap();
        drop(unfinished);
        assert_eq!(fs::read(&path).unwrap(), b"somebody else's");
    }

    #[test]
    fn a_link_to_nothing_is_followed_and_survives() {
        let dir = tempfile::tempdir().unwrap();
        let link = dir.path().join("link");
        std::os::unix::fs::symlink("target", &link).unwrap();
        drop(UnfinishedFile::create(&link, CacheMode::Unsafe, accept).unwrap());
        assert!(link.is_symlink());
        assert!(!dir.path().join("target").exists());
    }

    #[test]
    fn links_to_links_are_followed_to_their_end_and_circles_are_not() {
        use std::os::unix::fs::symlink;
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        fs::create_dir(path("far")).unwrap();
        symlink("far/second", path("first")).unwrap();
        symlink("../third", path("far/second")).unwrap();
        symlink("target", path("third")).unwrap();
        let made = UnfinishedFile::create(&path("first"), CacheMode::Unsafe, accept).unwrap();
        assert!(path("target").exists());
        drop(made);
        assert!(path("third").is_symlink() && !path("target").exists());

        symlink("a", path("b")).unwrap();
        symlink("b", path("a")).unwrap();
        let circle = UnfinishedFile::create(&path("a"), CacheMode::Unsafe, accept);
        let message = circle.unwrap_err().to_string();
        assert!(message.ends_with("symbolic links"), "{message}");
        assert!(path("a").is_symlink() && path("b").is_symlink());
    }
}
