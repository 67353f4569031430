//! A file or block device as [`Storage`].
//!
//! Only regular files and block devices are accepted. Opening a FIFO would wait for ever for a writer, and a
//! directory or a terminal has no positions. The file is opened without blocking, and its type is looked at
//! before anything else is done with it. So nobody can exchange it between the check and its use.

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

/// The number of bytes of which offsets, lengths and memory addresses must be multiples to bypass the page
/// cache. It is the largest logical block and page size of existing machines.
pub const DIRECT_ALIGNMENT: usize = 4096;

/// The most bytes that the system is asked to copy in one call, so that a call ends soon.
const MOST_AT_ONCE: u64 = 64 << 20;

/// The largest logical block that devices have, in bytes: in multiples of it every device can make holes.
const LARGEST_BLOCK: u64 = 4096;

/// A regular file or a block device.
///
/// To bypass the page cache a second descriptor is kept, for requests that are aligned. The rest, such as the
/// header and tables of small clusters, goes through the cache and is flushed with everything else. A block is written by one of the two ways only, so they never disagree.
#[derive(Debug)]
pub struct FileStorage {
    file: File,
    direct: Option<File>,
    path: PathBuf,
    is_device: bool,
    /// The file system's map of holes isn't to be trusted.
    ignores_holes: AtomicBool,
}

impl FileStorage {
    /// Opens an existing file or block device.
    ///
    /// # Errors
    /// Returns the system's error as `Could not open 'path': …`. Returns an error if it is neither a regular
    /// file nor a block device. Returns an error if the cache is to be bypassed and its file system can't do
    /// that.
    pub fn open(path: &Path, access: Access, cache: CacheMode) -> Result<Self> {
        let mut opened = Self::open_with(path, opening_flags(access, cache), cache)
            .map_err(|error| Error::io(format!("Could not open '{}'", path.display()), error))?;
        if access == Access::Read && opened.is_character_device() {
            opened.is_device = true;
            return Ok(opened);
        }
        opened.checked()
    }

    /// Returns true if it is a device like `/dev/null`, which to QEMU is a disk of no size.
    fn is_character_device(&self) -> bool {
        let metadata = self.file.metadata();
        metadata.is_ok_and(|metadata| metadata.file_type().is_char_device())
    }

    /// Opens an existing file or device for writing, as the target of something new.
    ///
    /// # Errors
    /// Returns the errors of [`FileStorage::open`], worded `Could not create 'path': …`. Returns an error if
    /// it is a pipe, which can't be given a length.
    pub(super) fn open_existing(path: &Path, cache: CacheMode) -> Result<Self> {
        let opened = Self::open_with(path, opening_flags(Access::ReadWrite, cache), cache)
            .map_err(|error| Error::io(format!("Could not create '{}'", path.display()), error))?;
        // QEMU notices what these are when it gives them their size.
        if opened.is_character_device() {
            return Err(Error::invalid("Cannot grow device files"));
        }
        opened
            .checked()
            .map_err(|_| Error::invalid("Could not resize file: Invalid argument"))
    }

    /// A new file in `folder` that has no name, and is gone when it is closed.
    ///
    /// # Errors
    /// Returns the system's error if there can be none, with what it was for.
    pub fn without_name(folder: &Path, cache: CacheMode) -> Result<Self> {
        let flags = OFlags::RDWR | OFlags::CLOEXEC;
        let mode = Mode::RUSR | Mode::WUSR;
        let unnamed = rustix::fs::open(folder, flags | OFlags::TMPFILE, mode).or_else(|_| {
            // Network file systems have no such files; there it loses its name at once.
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

    /// An empty file in memory, which is gone when it is closed. To the system it is a file like any
    /// other, so that what is measured on it is the real thing but for the disk.
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

    /// A file that was opened by that name with these flags and for that cache mode.
    ///
    /// # Errors
    /// Returns the system's error if the file can't be inspected, or not opened once more. Returns an error if
    /// it is a device that is to be written and can't be.
    pub(super) fn from_file(
        file: File,
        path: &Path,
        flags: OFlags,
        cache: CacheMode,
    ) -> io::Result<Self> {
        let metadata = file.metadata()?;
        let kind = metadata.file_type();
        // The system would only say so when something is written.
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

    /// The name that the file was opened by.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// The descriptor.
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

    /// The descriptor that bypasses the cache, and how many of `length` bytes from `address` on can
    /// go through it to or from `offset`.
    fn direct_part(&self, offset: u64, address: usize, length: usize) -> Option<(&File, usize)> {
        let direct = self.direct.as_ref()?;
        let aligned = offset.is_multiple_of(DIRECT_ALIGNMENT as u64)
            && address.is_multiple_of(DIRECT_ALIGNMENT);
        let part = length / DIRECT_ALIGNMENT * DIRECT_ALIGNMENT;
        (aligned && part > 0).then_some((direct, part))
    }

    /// Asks the file system to write blocks where they are instead of copying them, which only btrfs does
    /// and only while the file is empty. It is a wish: no other file system takes notice.
    pub fn avoid_copies(&self) {
        if let Some(flags) = optional::attempt(|| rustix::fs::ioctl_getflags(&self.file)) {
            let flags = flags | IFlags::NOCOW;
            optional::attempt(|| rustix::fs::ioctl_setflags(&self.file, flags));
        }
    }

    /// Takes the space of the first block of a file of `length` bytes that holds nothing yet. QEMU does so, and
    /// finds by reading it which alignment direct access takes: a hole would be read at any.
    fn allocate_first_block(&self, length: u64) {
        let block = match usize::try_from(length) {
            Ok(length) if length < DIRECT_ALIGNMENT => length.min(SECTOR_LEN),
            _ => DIRECT_ALIGNMENT,
        };
        let zeroes = vec![0; block];
        // Where that fails, the file is as good without.
        optional::attempt(|| rustix::io::pwrite(&self.file, &zeroes, 0));
    }

    /// Makes a hole; `false` where the system can't or won't.
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

/// The flags that a file is opened with.
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

/// Opens a file once more, whatever its name leads to by now. `path`, the name that it was opened by, is only
/// used if there is no `/proc`, and if it still leads there.
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

/// Says what it means that a file can't be opened to bypass the page cache.
fn no_direct_access(error: io::Error) -> io::Error {
    match Errno::from_io_error(&error) {
        Some(Errno::INVAL) => io::Error::other("filesystem does not support O_DIRECT"),
        _ => error,
    }
}

/// Reads until `buf` is full or the file ends; the error says where it happened.
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
            // A file system or device that can't tell: everything may be data.
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
        // A device only takes whole blocks: what is before and behind them is written.
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
        optional::attempt_for_room(reserve)
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
                // The source has ended, or the system can't: reading and writing tell which.
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
        // Advice, which nobody needs to follow.
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
