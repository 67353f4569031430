//! The place of a new file: an open folder and a name in it.
//!
//! The folder is kept open because its own name may refer to another folder by the time the file is complete.
//! Symbolic links are followed here only if they are dangling: the system follows all others, but doesn't say whether
//! it created a file. Links in `/proc` are never read, since their text isn't where they lead.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, PROC_SUPER_MAGIC};
use rustix::io::Errno;

use crate::storage::identity::FileIdentity;

/// The most symbolic links that Linux follows in a path.
const MOST_LINKS: usize = 40;

/// The permissions of a new file, before the umask.
const PERMISSIONS: Mode = Mode::RUSR
    .union(Mode::WUSR)
    .union(Mode::RGRP)
    .union(Mode::ROTH);

/// A name in a folder; see the module's documentation.
#[derive(Debug)]
pub(super) struct FolderEntry {
    folder: OwnedFd,
    /// The last component of the path.
    name: OsString,
}

impl FolderEntry {
    /// Finds the place where a new file at `path` would be created, at the end of its symbolic links.
    ///
    /// # Errors
    /// Returns the system's error if there is no such folder, if there are too many links, or if a file is at the
    /// place already.
    pub(super) fn of_new(path: &Path) -> io::Result<Self> {
        let mut place = Self::at(None, path)?;
        for _ in 0..=MOST_LINKS {
            let found = rustix::fs::statat(&place.folder, &place.name, AtFlags::SYMLINK_NOFOLLOW);
            match found {
                Err(Errno::NOENT) => return Ok(place),
                Err(error) => return Err(error.into()),
                Ok(stat) if FileType::from_raw_mode(stat.st_mode) != FileType::Symlink => {
                    return Err(Errno::EXIST.into());
                }
                Ok(_) => {}
            }
            if rustix::fs::fstatfs(&place.folder)?.f_type == PROC_SUPER_MAGIC {
                return Err(Errno::NOENT.into());
            }
            let target = rustix::fs::readlinkat(&place.folder, &place.name, Vec::new())?;
            let target = PathBuf::from(OsStr::from_bytes(target.to_bytes()));
            place = Self::at(Some(&place.folder), &target)?;
        }
        Err(Errno::LOOP.into())
    }

    /// Returns the place of `path`, relative to a folder or else to the current folder.
    fn at(folder: Option<&OwnedFd>, path: &Path) -> io::Result<Self> {
        let bytes = path.as_os_str().as_bytes();
        let start = bytes.iter().rposition(|byte| *byte == b'/');
        let (parent, name) = bytes.split_at(start.map_or(0, |slash| slash + 1));
        if matches!(name, b"" | b"." | b"..") {
            // The path names a folder.
            return Err(if bytes.is_empty() {
                Errno::NOENT.into()
            } else {
                Errno::ISDIR.into()
            });
        }
        let parent = if parent.is_empty() { b"." } else { parent };
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let folder = match folder {
            Some(folder) => rustix::fs::openat(folder, parent, flags, Mode::empty()),
            None => rustix::fs::openat(CWD, parent, flags, Mode::empty()),
        };
        Ok(Self {
            folder: folder?,
            name: OsStr::from_bytes(name).to_owned(),
        })
    }

    /// Returns true if both are the same name in the same folder.
    pub(super) fn is(&self, other: &Self) -> bool {
        let folder = |place: &Self| {
            let stat = rustix::fs::fstat(&place.folder);
            stat.map(|stat| FileIdentity::of_file(&stat))
        };
        self.name == other.name
            && matches!((folder(self), folder(other)), (Ok(one), Ok(other)) if one == other)
    }

    /// Creates an empty file in the folder that has no name yet. The system removes it if it is closed without one.
    ///
    /// # Errors
    /// Returns the system's error, such as that the file system has no such files.
    pub(super) fn make_unnamed(&self, flags: OFlags) -> io::Result<File> {
        let flags = flags | OFlags::TMPFILE;
        Ok(rustix::fs::openat(&self.folder, ".", flags, PERMISSIONS)?.into())
    }

    /// Creates an empty file with the name.
    ///
    /// # Errors
    /// Returns the system's error, such as that the name exists.
    pub(super) fn make(&self, flags: OFlags) -> io::Result<File> {
        let flags = flags | OFlags::CREATE | OFlags::EXCL;
        Ok(rustix::fs::openat(&self.folder, &self.name, flags, PERMISSIONS)?.into())
    }

    /// Names a file that [`make_unnamed`](Self::make_unnamed) made.
    ///
    /// # Errors
    /// Returns the system's error, such as that the name exists.
    pub(super) fn link(&self, file: &File) -> io::Result<()> {
        let unnamed = format!("/proc/self/fd/{}", file.as_raw_fd());
        let follow = AtFlags::SYMLINK_FOLLOW;
        Ok(rustix::fs::linkat(
            CWD,
            unnamed,
            &self.folder,
            &self.name,
            follow,
        )?)
    }

    /// Removes the name of a file that was created just now.
    ///
    /// # Errors
    /// Returns the system's error.
    pub(super) fn unmake(&self) -> io::Result<()> {
        Ok(rustix::fs::unlinkat(
            &self.folder,
            &self.name,
            AtFlags::empty(),
        )?)
    }

    /// Removes the name if it still refers to this file.
    ///
    /// # Errors
    /// Returns the system's error.
    pub(super) fn remove(&self, identity: FileIdentity) -> io::Result<()> {
        let found = rustix::fs::statat(&self.folder, &self.name, AtFlags::SYMLINK_NOFOLLOW);
        match found {
            Ok(stat) if FileIdentity::of_file(&stat) == identity => self.unmake(),
            Ok(_) | Err(Errno::NOENT) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Puts the name on stable storage by a flush of the folder. Does nothing if that isn't permitted, or if the file
    /// system doesn't have it.
    ///
    /// # Errors
    /// Returns the system's error if the medium failed.
    pub(super) fn flush(&self) -> io::Result<()> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let flushed = rustix::fs::openat(&self.folder, ".", flags, Mode::empty())
            .and_then(|folder| rustix::fs::fsync(&folder));
        match flushed {
            Err(
                Errno::ACCESS
                | Errno::PERM
                | Errno::INVAL
                | Errno::BADF
                | Errno::NOSYS
                | Errno::NOTTY
                | Errno::OPNOTSUPP,
            ) => Ok(()),
            other => Ok(other?),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    fn kind(path: &Path) -> io::ErrorKind {
        FolderEntry::of_new(path).unwrap_err().kind()
    }

    #[test]
    fn links_to_nothing_are_followed_to_their_end() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        fs::create_dir(path("far")).unwrap();
        symlink("far/second", path("first")).unwrap();
        symlink(path("third"), path("far/second")).unwrap();
        symlink("target", path("third")).unwrap();
        let place = FolderEntry::of_new(&path("first")).unwrap();
        drop(place.make(OFlags::RDWR).unwrap());
        assert!(path("target").is_file() && path("third").is_symlink());
        assert_eq!(kind(&path("first")), io::ErrorKind::AlreadyExists);
        symlink("b", path("a")).unwrap();
        symlink("a", path("b")).unwrap();
        let circle = FolderEntry::of_new(&path("a")).unwrap_err();
        assert_eq!(circle.raw_os_error(), Some(Errno::LOOP.raw_os_error()));
    }

    #[test]
    fn links_of_proc_are_not_read() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("gone");
        let file = File::create_new(&path).unwrap();
        fs::remove_file(&path).unwrap();
        let magic = format!("/proc/self/fd/{}", file.as_raw_fd());
        assert!(fs::read_link(&magic).unwrap().starts_with(dir.path()));
        assert_eq!(kind(Path::new(&magic)), io::ErrorKind::NotFound);
        let link = dir.path().join("link");
        symlink(&magic, &link).unwrap();
        assert_eq!(kind(&link), io::ErrorKind::NotFound);
    }

    #[test]
    fn names_of_folders_are_no_places() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["new/", "new/.", "..", "."] {
            let error = FolderEntry::of_new(&dir.path().join(name)).unwrap_err();
            assert_ne!(error.kind(), io::ErrorKind::NotFound, "{name}");
        }
        assert_eq!(kind(Path::new("")), io::ErrorKind::NotFound);
        assert_eq!(kind(&dir.path().join("no/x")), io::ErrorKind::NotFound);
    }

    #[test]
    fn the_folder_is_the_same_whatever_it_is_called_later() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        fs::create_dir(path("before")).unwrap();
        let place = FolderEntry::of_new(&path("before/x")).unwrap();
        let file = place.make_unnamed(OFlags::RDWR).unwrap();
        assert_eq!(fs::read_dir(path("before")).unwrap().count(), 0);
        fs::rename(path("before"), path("after")).unwrap();
        fs::create_dir(path("before")).unwrap();
        place.link(&file).unwrap();
        assert!(path("after/x").is_file() && !path("before/x").exists());
        let identity = FileIdentity::of(&file.metadata().unwrap());
        let taken = place.link(&file).unwrap_err();
        assert_eq!(taken.kind(), io::ErrorKind::AlreadyExists);
        place.flush().unwrap();
        place.remove(identity).unwrap();
        assert!(!path("after/x").exists());
    }
}
