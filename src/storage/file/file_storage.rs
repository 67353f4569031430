//! A file or block device as [`Storage`].
//!
//! Only regular files and block devices are accepted. Opening a FIFO would wait forever for a writer, and a directory
//! or a terminal has no positions. The file is opened without blocking, and its type is checked on the open
//! descriptor. So nobody can exchange it between the check and its use.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, ErrorKind};
use std::ops::Range;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::{Advice, FallocateFlags, IFlags, MemfdFlags, Mode, OFlags, SeekFrom};
use rustix::io::Errno;

use super::gate::GATE;
use super::interrupt::fail_beyond_the_limit;
use super::share::{NotShared, may_share, share};
use super::{Claim, beneath, optional};
use crate::error::{Error, Result};
use crate::storage::identity::{FileIdentity, Identity};
use crate::storage::{Access, CacheMode, Descriptor, Storage};
use crate::units::SECTOR_LEN;

/// The alignment in bytes of offsets, lengths and memory addresses that bypassing the page cache needs. It is the
/// largest logical block size and page size of common machines.
pub const DIRECT_ALIGNMENT: usize = 4096;

/// The most bytes that one system call copies, so that no call takes long.
const MOST_AT_ONCE: u64 = 64 << 20;

/// The largest logical block size of devices, in bytes. Every device can make holes in multiples of it.
const LARGEST_BLOCK: u64 = 4096;

/// A regular file or a block device.
///
/// A second descriptor bypasses the page cache, for aligned requests. The other requests, such as those for headers
/// and small tables, go through the cache and are flushed with everything else. Each block is written in only one of
/// the two ways, so the two never disagree.
#[derive(Debug)]
pub struct FileStorage {
    file: File,
    direct: Option<File>,
    path: PathBuf,
    is_device: bool,
    /// True if the file system's report on holes isn't trusted.
    ignores_holes: AtomicBool,
}

impl FileStorage {
    /// Opens an existing file or block device.
    ///
    /// # Errors
    /// Returns the system's error as `Could not open 'path': …`. Returns an error if it is neither a regular file nor
    /// a block device. Returns an error if the page cache is to be bypassed and the file system can't do that.
    pub fn open(path: &Path, access: Access, cache: CacheMode) -> Result<Self> {
        let mut opened = Self::open_with(path, opening_flags(access, cache), cache)
            .map_err(|error| Error::io(format!("Could not open '{}'", path.display()), error))?;
        if access == Access::Read && opened.is_character_device() {
            opened.is_device = true;
            return Ok(opened);
        }
        opened.checked()
    }

    /// Returns true for a device like `/dev/null`, which QEMU treats as an empty disk.
    fn is_character_device(&self) -> bool {
        let metadata = self.file.metadata();
        metadata.is_ok_and(|metadata| metadata.file_type().is_char_device())
    }

    /// Opens an existing file or device as the target of a new image.
    ///
    /// # Errors
    /// Returns the errors of [`FileStorage::open`], worded `Could not create 'path': …`. Returns an error for a
    /// character device or a pipe, whose length can't be set.
    pub(super) fn open_existing(path: &Path, cache: CacheMode) -> Result<Self> {
        let opened = Self::open_with(path, opening_flags(Access::ReadWrite, cache), cache)
            .map_err(|error| Error::io(format!("Could not create '{}'", path.display()), error))?;
        // QEMU fails with this message when it resizes them.
        if opened.is_character_device() {
            return Err(Error::invalid("Cannot grow device files"));
        }
        opened
            .checked()
            .map_err(|_| Error::invalid("Could not resize file: Invalid argument"))
    }

    /// Creates a file in `folder` that has no name, so that the system removes it when it is closed.
    ///
    /// # Errors
    /// Returns the system's error, with the purpose of the file.
    pub fn without_name(folder: &Path, cache: CacheMode) -> Result<Self> {
        let flags = OFlags::RDWR | OFlags::CLOEXEC;
        let mode = Mode::RUSR | Mode::WUSR;
        let unnamed = rustix::fs::open(folder, flags | OFlags::TMPFILE, mode).or_else(|_| {
            // Network file systems have no such files. There the file is removed from its folder at once.
            let path = folder.join(format!(".cowhide-{}", std::process::id()));
            let file = rustix::fs::open(&path, flags | OFlags::CREATE | OFlags::EXCL, mode)?;
            rustix::fs::unlink(&path).map(|()| file)
        });
        unnamed
            .map_err(io::Error::from)
            .and_then(|file| Self::from_file(File::from(file), folder, flags, cache))
            .map_err(|error| {
                let folder = folder.display();
                Error::io(format!("Could not create a file in '{folder}'"), error)
            })
    }

    /// Creates an empty file in memory, which the system removes when it is closed. It takes the same system calls as
    /// any other file, so that measurements differ only by the disk.
    ///
    /// # Errors
    /// Returns the system's error as `Could not create 'name': …`.
    pub fn in_memory(name: &str) -> Result<Self> {
        let file = rustix::fs::memfd_create(name, MemfdFlags::CLOEXEC)
            .map_err(|error| Error::io(format!("Could not create '{name}'"), error.into()))?;
        Ok(Self {
            file: File::from(file),
            direct: None,
            path: PathBuf::from(name),
            is_device: false,
            ignores_holes: AtomicBool::new(false),
        })
    }

    fn open_with(path: &Path, flags: OFlags, cache: CacheMode) -> io::Result<Self> {
        let file = File::from(rustix::fs::open(path, flags, Mode::empty())?);
        Self::from_file(file, path, flags, cache)
    }

    /// Makes a storage of a file that was opened at `path` with these flags and for that cache mode.
    ///
    /// # Errors
    /// Returns the system's error if the file can't be inspected or opened again. Returns an error if it is a
    /// read-only device that is opened for writing.
    pub(super) fn from_file(
        file: File,
        path: &Path,
        flags: OFlags,
        cache: CacheMode,
    ) -> io::Result<Self> {
        let metadata = file.metadata()?;
        let kind = metadata.file_type();
        // The system would only fail at the first write.
        if flags.contains(OFlags::RDWR) && beneath::is_read_only(&metadata) {
            let why = "The device is not writable: Permission denied";
            return Err(io::Error::other(why));
        }
        let open_direct = || open_again(&file, path, flags | OFlags::DIRECT);
        let direct = match kind.is_file() || kind.is_block_device() {
            true if cache.is_direct() => Some(open_direct().map_err(no_direct_access)?),
            true if cache == CacheMode::Auto => open_direct().ok(),
            _ => None,
        };
        Ok(Self {
            file,
            direct,
            path: path.to_owned(),
            is_device: kind.is_block_device(),
            ignores_holes: AtomicBool::new(false),
        })
    }

    /// Returns the path by which the file was opened.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Returns the descriptor.
    pub(super) fn file(&self) -> &File {
        &self.file
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

    /// Returns the descriptor that bypasses the cache, and the number of bytes that can go through it. A request is
    /// for `length` bytes between memory at `address` and the file at `offset`.
    fn direct_part(&self, offset: u64, address: usize, length: usize) -> Option<(&File, usize)> {
        let direct = self.direct.as_ref()?;
        let aligned = offset.is_multiple_of(DIRECT_ALIGNMENT as u64)
            && address.is_multiple_of(DIRECT_ALIGNMENT);
        let part = length / DIRECT_ALIGNMENT * DIRECT_ALIGNMENT;
        (aligned && part > 0).then_some((direct, part))
    }

    /// Asks the file system to overwrite blocks in place instead of copying them (`nocow`). Only btrfs has that, and
    /// only for an empty file. Other file systems ignore it.
    pub fn avoid_copies(&self) {
        if let Some(flags) = optional::attempt(|| rustix::fs::ioctl_getflags(&self.file)) {
            let flags = flags | IFlags::NOCOW;
            optional::attempt(|| rustix::fs::ioctl_setflags(&self.file, flags));
        }
    }

    /// Allocates the first block of a file of `length` bytes that has no data yet, as QEMU does. QEMU finds the
    /// alignment for direct access by reading the block, and a hole can be read at any alignment.
    fn allocate_first_block(&self, length: u64) {
        let block = match usize::try_from(length) {
            Ok(length) if length < DIRECT_ALIGNMENT => length.min(SECTOR_LEN),
            _ => DIRECT_ALIGNMENT,
        };
        let zeroes = vec![0; block];
        // A failure does no harm.
        optional::attempt(|| rustix::io::pwrite(&self.file, &zeroes, 0));
    }

    /// Makes a hole of exactly `range`. Returns false if the system can't or doesn't.
    fn punch_exactly(&self, range: &Range<u64>) -> bool {
        let _pass = GATE.pass();
        let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        let length = range.end.saturating_sub(range.start);
        optional::attempt(|| rustix::fs::fallocate(&self.file, flags, range.start, length))
            .is_some()
    }

    fn reading(&self, at: u64, error: io::Error) -> Error {
        self.error(&format!("reading at byte {at} of"), error)
    }

    fn error(&self, doing: &str, error: io::Error) -> Error {
        Error::io(format!("{doing} '{}'", self.path.display()), error)
    }
}

/// Returns the flags with which a file is opened.
pub(super) fn opening_flags(access: Access, cache: CacheMode) -> OFlags {
    let flags = match access {
        Access::Read => OFlags::RDONLY,
        Access::ReadWrite => {
            fail_beyond_the_limit();
            OFlags::RDWR
        }
    };
    let flags = flags | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
    match cache.is_synchronous() {
        true => flags | OFlags::DSYNC,
        false => flags,
    }
}

/// Opens an open file again, whatever its name refers to by now. Uses `path`, by which it was opened, only without
/// `/proc`, and only if that still refers to the same file.
///
/// # Errors
/// Returns the system's error.
pub(super) fn open_again(file: &File, path: &Path, flags: OFlags) -> io::Result<File> {
    let descriptor = format!("/proc/self/fd/{}", file.as_raw_fd());
    match rustix::fs::open(descriptor, flags, Mode::empty()) {
        Err(Errno::NOENT | Errno::NOTDIR | Errno::ACCESS) => {}
        other => return Ok(other?.into()),
    }
    let found = File::from(rustix::fs::open(path, flags, Mode::empty())?);
    match FileIdentity::of(&found.metadata()?) == FileIdentity::of(&file.metadata()?) {
        true => Ok(found),
        false => Err(Errno::NOENT.into()),
    }
}

/// Returns the error for a file that can't be opened with `O_DIRECT`, in QEMU's words.
fn no_direct_access(error: io::Error) -> io::Error {
    match Errno::from_io_error(&error) {
        Some(Errno::INVAL) => io::Error::other("filesystem does not support O_DIRECT"),
        _ => error,
    }
}

/// Reads until `buf` is full or the file ends. An error comes with its offset in the file.
fn read_full(file: &impl FileExt, offset: u64, buf: &mut [u8]) -> Result<usize, (u64, io::Error)> {
    let mut done = 0;
    while let Some(rest) = buf.get_mut(done..).filter(|rest| !rest.is_empty()) {
        let at = offset + done as u64;
        match file.read_at(rest, at) {
            Ok(0) => break,
            Ok(count) => done += count,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err((at, error)),
        }
    }
    Ok(done)
}

impl Storage for FileStorage {
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<usize> {
        let mut done = 0;
        if let Some((direct, part)) = self.direct_part(offset, buf.as_ptr().addr(), buf.len()) {
            let part = buf.get_mut(..part).unwrap_or_default();
            done =
                read_full(direct, offset, part).map_err(|(at, error)| self.reading(at, error))?;
        }
        let rest = buf.get_mut(done..).unwrap_or_default();
        let read = read_full(&self.file, offset + done as u64, rest)
            .map_err(|(at, error)| self.reading(at, error))?;
        Ok(done + read)
    }

    fn write_at(&self, offset: u64, data: &[u8]) -> Result<()> {
        let _pass = GATE.pass();
        let write = |file: &File, offset, data: &[u8]| {
            file.write_all_at(data, offset)
                .map_err(|error| self.error(&format!("writing at byte {offset} of"), error))
        };
        let Some((direct, part)) = self.direct_part(offset, data.as_ptr().addr(), data.len())
        else {
            return write(&self.file, offset, data);
        };
        let (aligned, rest) = data.split_at(part);
        write(direct, offset, aligned)?;
        if rest.is_empty() {
            return Ok(());
        }
        write(&self.file, offset + part as u64, rest)
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
        if self.is_device {
            return match self.len()? == len {
                true => Ok(()),
                false => Err(Error::invalid("Cannot resize device files")),
            };
        }
        let was_empty = self.len()? == 0;
        let _pass = GATE.pass();
        rustix::io::retry_on_intr(|| rustix::fs::ftruncate(&self.file, len))
            .map_err(|error| Error::io("Could not resize file", error.into()))?;
        if was_empty {
            self.allocate_first_block(len);
        }
        Ok(())
    }

    fn next_data(&self, offset: u64) -> Result<Option<Range<u64>>> {
        let len = self.len()?;
        if offset >= len {
            return Ok(None);
        }
        if self.ignores_holes.load(Ordering::Relaxed) {
            return Ok(Some(offset..len));
        }
        let start = match rustix::fs::seek(&self.file, SeekFrom::Data(offset)) {
            Ok(start) => start,
            Err(Errno::NXIO) => return Ok(None),
            // The file system or device can't report holes: everything may be data.
            Err(_) => return Ok(Some(offset..len)),
        };
        let end = optional::attempt(|| rustix::fs::seek(&self.file, SeekFrom::Hole(start)));
        Ok(Some(start..end.unwrap_or(len.max(start))))
    }

    fn punch(&self, range: Range<u64>) -> Result<bool> {
        if self.punch_exactly(&range) {
            return Ok(true);
        }
        if !self.is_device {
            return Ok(false);
        }
        // A device only makes holes of whole blocks: zeroes are written before and after these.
        let start = range.start.next_multiple_of(LARGEST_BLOCK);
        let end = range.end / LARGEST_BLOCK * LARGEST_BLOCK;
        let is_other = (start, end) != (range.start, range.end);
        if start >= end || !is_other || !self.punch_exactly(&(start..end)) {
            return Ok(false);
        }
        for rest in [range.start..start, end..range.end] {
            let length = usize::try_from(rest.end - rest.start).unwrap_or(0);
            self.write_at(rest.start, &vec![0; length])?;
        }
        Ok(true)
    }

    fn reserve(&self, range: Range<u64>) -> Result<bool> {
        let length = range.end.saturating_sub(range.start);
        if length == 0 {
            return Ok(true);
        }
        let _pass = GATE.pass();
        let flags = FallocateFlags::empty();
        let reserve = || rustix::fs::fallocate(&self.file, flags, range.start, length);
        optional::attempt_to_reserve(reserve)
            .map_err(|error| self.error("reserving space for", error.into()))
    }

    fn copy_from(
        &self,
        mut offset: u64,
        source: &dyn Storage,
        mut source_offset: u64,
        mut length: u64,
    ) -> Result<bool> {
        let Some(source) = source.descriptor() else {
            return Ok(false);
        };
        while length > 0 {
            let _pass = GATE.pass();
            let most = usize::try_from(length.min(MOST_AT_ONCE)).unwrap_or(usize::MAX);
            let copied = optional::attempt(|| {
                rustix::fs::copy_file_range(
                    source.file,
                    Some(&mut source_offset),
                    &self.file,
                    Some(&mut offset),
                    most,
                )
            });
            match copied {
                // The source has ended, or the system can't copy: reading and writing will show which.
                None | Some(0) => return Ok(false),
                Some(count) => length -= count as u64,
            }
        }
        Ok(true)
    }

    fn share_from(
        &self,
        offset: u64,
        source: &dyn Storage,
        source_offset: u64,
        length: u64,
    ) -> Result<(), NotShared> {
        let Some(source) = source.descriptor() else {
            return Err(NotShared::unsupported());
        };
        let _pass = GATE.pass();
        let shared = share(&self.file, offset, source.file, source_offset, length);
        shared.map_err(|(ever, error)| NotShared {
            ever,
            why: self.error(
                &format!(
                    "sharing blocks at byte {source_offset} of '{}' with",
                    source.path.display()
                ),
                error.into(),
            ),
        })
    }

    fn may_share_with(&self, source: &dyn Storage) -> bool {
        let source = source.descriptor().filter(|source| !source.is_device);
        source.is_some_and(|source| !self.is_device && may_share(&self.file, source.file))
    }

    fn writes_serially(&self) -> bool {
        // Writing through the page cache takes the inode's lock, whatever the file system.
        self.direct.is_none() && !self.is_device
    }

    fn descriptor(&self) -> Option<Descriptor<'_>> {
        Some(Descriptor {
            file: &self.file,
            path: &self.path,
            is_device: self.is_device,
        })
    }

    fn identity(&self) -> Result<Identity> {
        let meta = self
            .file
            .metadata()
            .map_err(|error| self.error("inspecting", error))?;
        Ok(Identity::of_file(
            FileIdentity::of(&meta),
            beneath::files(&meta),
        ))
    }

    fn location(&self) -> &OsStr {
        self.path.as_os_str()
    }

    fn driver(&self) -> &'static str {
        match self.is_device {
            true => "host_device",
            false => "file",
        }
    }

    fn claim(&self, claim: Claim) -> Result<()> {
        claim.take(&self.file, &self.path.to_string_lossy())
    }

    fn leave_cache(&self) -> Result<()> {
        self.flush()?;
        // This is advice, so a failure does no harm.
        optional::attempt(|| rustix::fs::fadvise(&self.file, 0, None, Advice::DontNeed));
        Ok(())
    }

    fn has_fixed_length(&self) -> bool {
        self.is_device
    }

    fn bypasses_cache(&self) -> bool {
        self.direct.is_some()
    }

    fn ignore_holes(&self) {
        self.ignores_holes.store(true, Ordering::Relaxed);
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
mod tests;
