//! A file or block device as [`Storage`].
//!
//! Only regular files and block devices are accepted: opening a FIFO would wait for ever for a
//! writer, and a directory or a terminal has no positions. The file is opened without blocking and
//! its type looked at before anything else is done with it, so the check can't be raced.

use std::fs::File;
use std::io::{self, ErrorKind};
use std::ops::Range;
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags, SeekFrom};

use super::Storage;
use crate::error::{Error, Result};

/// What a file is opened for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Reading only; nothing is ever changed.
    Read,
    /// Reading and writing of what is there.
    ReadWrite,
}

/// A regular file or a block device.
#[derive(Debug)]
pub struct FileStorage {
    file: File,
    path: PathBuf,
    is_device: bool,
}

impl FileStorage {
    /// Opens an existing file or block device.
    ///
    /// # Errors
    /// The system's error as `Could not open 'path': …`; that it is neither a regular file nor a
    /// block device.
    pub fn open(path: &Path, access: Access) -> Result<Self> {
        let flags = match access {
            Access::Read => OFlags::RDONLY,
            Access::ReadWrite => OFlags::RDWR,
        };
        Self::open_with(path, flags, Mode::empty())
            .map_err(|error| Error::io(format!("Could not open '{}'", path.display()), error))?
            .checked()
    }

    /// Opens what is there for writing, as the target of something new.
    ///
    /// # Errors
    /// As [`FileStorage::open`], worded `Could not create 'path': …`.
    pub(super) fn open_existing(path: &Path) -> Result<Self> {
        Self::open_with(path, OFlags::RDWR, Mode::empty())
            .map_err(|error| Error::io(format!("Could not create '{}'", path.display()), error))?
            .checked()
    }

    /// Creates a file that must not exist yet, with the permissions that the umask leaves of 0644.
    ///
    /// # Errors
    /// The system's error, bare: callers tell "exists already" from the rest.
    pub(super) fn create_new(path: &Path) -> io::Result<Self> {
        Self::open_with(
            path,
            OFlags::RDWR | OFlags::CREATE | OFlags::EXCL,
            Mode::RUSR | Mode::WUSR | Mode::RGRP | Mode::ROTH,
        )
    }

    fn open_with(path: &Path, flags: OFlags, mode: Mode) -> io::Result<Self> {
        let flags = flags | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
        let file = File::from(rustix::fs::open(path, flags, mode)?);
        let is_device = file.metadata()?.file_type().is_block_device();
        Ok(Self {
            file,
            path: path.to_owned(),
            is_device,
        })
    }

    fn checked(self) -> Result<Self> {
        let kind = self
            .file
            .metadata()
            .map_err(|error| self.error("inspecting", error))?
            .file_type();
        if kind.is_file() || kind.is_block_device() {
            return Ok(self);
        }
        Err(Error::invalid(format!(
            "'file' driver requires '{}' to be a regular file",
            self.path.display()
        )))
    }

    /// The name that the file was opened by.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether this is a block device.
    pub fn is_device(&self) -> bool {
        self.is_device
    }

    /// What identifies the file whatever name it goes by: device and inode number, or the number of
    /// the block device itself.
    ///
    /// # Errors
    /// The system's error.
    pub fn identity(&self) -> Result<FileIdentity> {
        let meta = self
            .file
            .metadata()
            .map_err(|error| self.error("inspecting", error))?;
        Ok(if self.is_device {
            FileIdentity {
                device: meta.rdev(),
                inode: None,
            }
        } else {
            FileIdentity {
                device: meta.dev(),
                inode: Some(meta.ino()),
            }
        })
    }

    fn error(&self, doing: &str, error: io::Error) -> Error {
        Error::io(format!("{doing} '{}'", self.path.display()), error)
    }
}

/// Identifies a file across names and links; see [`FileStorage::identity`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FileIdentity {
    device: u64,
    inode: Option<u64>,
}

impl Storage for FileStorage {
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<usize> {
        let mut done = 0;
        while let Some(rest) = buf.get_mut(done..).filter(|rest| !rest.is_empty()) {
            match self.file.read_at(rest, offset + done as u64) {
                Ok(0) => break,
                Ok(count) => done += count,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => {
                    let at = offset + done as u64;
                    return Err(self.error(&format!("reading at byte {at} of"), error));
                }
            }
        }
        Ok(done)
    }

    fn write_at(&self, offset: u64, data: &[u8]) -> Result<()> {
        self.file
            .write_all_at(data, offset)
            .map_err(|error| self.error(&format!("writing at byte {offset} of"), error))
    }

    fn len(&self) -> Result<u64> {
        if self.is_device {
            return rustix::fs::seek(&self.file, SeekFrom::End(0))
                .map_err(|error| self.error("finding the size of", error.into()));
        }
        self.file
            .metadata()
            .map(|meta| meta.len())
            .map_err(|error| self.error("inspecting", error))
    }

    fn set_len(&self, len: u64) -> Result<()> {
        self.file
            .set_len(len)
            .map_err(|error| self.error("resizing", error))
    }

    fn next_data(&self, offset: u64) -> Result<Option<Range<u64>>> {
        let len = self.len()?;
        if offset >= len {
            return Ok(None);
        }
        let start = match rustix::fs::seek(&self.file, SeekFrom::Data(offset)) {
            Ok(start) => start,
            Err(rustix::io::Errno::NXIO) => return Ok(None),
            // A file system or device that can't tell: everything may be data.
            Err(rustix::io::Errno::INVAL) => return Ok(Some(offset..len)),
            Err(error) => return Err(self.error("finding data in", error.into())),
        };
        let end = rustix::fs::seek(&self.file, SeekFrom::Hole(start))
            .map_err(|error| self.error("finding holes in", error.into()))?;
        Ok(Some(start..end))
    }

    fn allocated(&self) -> Result<Option<u64>> {
        self.file
            .metadata()
            .map(|meta| Some(meta.blocks() * 512))
            .map_err(|error| self.error("inspecting", error))
    }

    fn flush(&self) -> Result<()> {
        self.file
            .sync_data()
            .map_err(|error| self.error("flushing", error))
    }

    fn starts_as_zeroes(&self) -> bool {
        !self.is_device
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::{Duration, Instant};

    #[test]
    fn holes_are_told_from_data() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x");
        let file = FileStorage::create_new(&path).unwrap();
        file.set_len(1 << 20).unwrap();
        assert_eq!(file.next_data(0).unwrap(), None);
        file.write_at(512 << 10, &[1; 4096]).unwrap();
        let data = file.next_data(0).unwrap().unwrap();
        assert!(data.start <= 512 << 10 && data.end >= (512 << 10) + 4096);
        assert!(data.end - data.start < 1 << 20);
        assert_eq!(file.next_data(1 << 20).unwrap(), None);
    }

    #[test]
    fn reading_past_the_end_is_short_and_exact_reading_says_so() {
        let dir = tempfile::tempdir().unwrap();
        let file = FileStorage::create_new(&dir.path().join("x")).unwrap();
        file.write_at(0, &[7; 100]).unwrap();
        let mut buf = [0; 200];
        assert_eq!(file.read_at(50, &mut buf).unwrap(), 50);
        let error = file.read_exact_at(50, &mut buf, "table").unwrap_err();
        assert!(error.to_string().contains("table at offset 0x32"));
    }

    #[test]
    fn fifos_and_directories_are_refused_at_once() {
        let dir = tempfile::tempdir().unwrap();
        let fifo = dir.path().join("fifo");
        rustix::fs::mknodat(
            rustix::fs::CWD,
            &fifo,
            rustix::fs::FileType::Fifo,
            Mode::RUSR | Mode::WUSR,
            0,
        )
        .unwrap();
        let start = Instant::now();
        for path in [fifo.as_path(), dir.path()] {
            let error = FileStorage::open(path, Access::Read).unwrap_err();
            assert!(error.to_string().contains("regular file"), "{error}");
        }
        assert!(start.elapsed() < Duration::from_secs(5));
    }
}
