//! Storages: files, devices and other protocols. They know nothing of image formats.
//!
//! A [`Storage`] is a flat sequence of bytes with positioned reads and writes on `&self`, so that many threads can
//! use one without a lock. [`driver`] defines a protocol, and [`list`] has all of them. [`MemoryStorage`] is for
//! tests, and can be made to fail.
//!
//! Two rules hold for every implementation. A short read or write of the system is continued, so that a short count
//! always means the end of the storage. Nothing is flushed or closed implicitly, so that no error is lost in a
//! destructor.

mod access;
mod cache;
pub mod driver;
mod file;
mod filter;
mod identity;
pub mod list;
mod memory;
mod null;
mod parallel;
mod recent;
mod window;

pub use access::{Access, Purpose, Sharing};
pub use cache::CacheMode;
pub use driver::{NewStorage, Opening, Refuse, Reopen, StorageDriver, Unfinished};
pub use file::{
    Claim, DEVICE_OPTIONS, DIRECT_ALIGNMENT, FILE_OPTIONS, FileStorage, NotShared, SHARED_UNIT,
    UnfinishedFile, avoids_copies, before_interrupt, check_name, check_preallocation,
    undo_when_interrupted,
};
pub use filter::Filter;
pub use identity::Identity;
pub use list::{PROTOCOLS, Protocol};
pub use memory::{Change, Fault, MemoryStorage, Operation, ShortRead, Slowness};
pub use parallel::{Pace, Pieces};
pub use recent::RecentReads;
pub use window::{Window, WindowRange};

use std::ffi::OsStr;
use std::fmt::Debug;
use std::fs::File;
use std::ops::Range;
use std::path::Path;

use crate::error::{Error, Result};

/// A flat sequence of bytes. All offsets and lengths are in bytes.
pub trait Storage: Debug + Send + Sync {
    /// Reads from `offset` until `buf` is full or the storage ends. Returns the number of bytes read.
    ///
    /// # Errors
    /// Returns the system's error, with the offset.
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<usize>;

    /// Writes all of `data` at `offset`. Extends the storage if it ends before.
    ///
    /// # Errors
    /// Returns the system's error, with the offset; part of the data may have been written.
    fn write_at(&self, offset: u64, data: &[u8]) -> Result<()>;

    /// Returns the current length, in bytes.
    ///
    /// # Errors
    /// Returns the system's error if the storage can't be inspected.
    fn len(&self) -> Result<u64>;

    /// Returns true if there are no bytes at all.
    ///
    /// # Errors
    /// Returns the errors of [`Storage::len`].
    fn is_empty(&self) -> Result<bool> {
        Ok(self.len()? == 0)
    }

    /// Sets the length, in bytes. Truncated bytes are lost, and added bytes read as zeroes.
    ///
    /// # Errors
    /// Returns the system's error, or an error if the length is fixed, as that of a block device.
    fn set_len(&self, len: u64) -> Result<()>;

    /// Makes bytes read as zeroes and frees their space, without writing them. A device, which can only do that for
    /// whole blocks, gets zeroes written to the partial blocks at both ends. Returns `false` if the storage can't do
    /// it, for any reason; some bytes may be zero by then. The caller then writes zeroes, and sees the error of a
    /// medium that has failed.
    ///
    /// # Errors
    /// Returns the system's error if the zeroes in partial blocks can't be written.
    fn punch(&self, range: Range<u64>) -> Result<bool>;

    /// Reserves space, so that later writes to a range don't fail for lack of it. Extends the storage at least to the
    /// end of the range. Existing bytes keep their contents. Returns `false` if it can't, so that the caller has to
    /// write the bytes.
    ///
    /// # Errors
    /// Returns the system's error if there isn't enough space.
    fn reserve(&self, range: Range<u64>) -> Result<bool>;

    /// Copies `length` bytes from `source` at `source_offset` to `offset` within the kernel, which may share the
    /// blocks instead. Returns `false` if that isn't possible, for any reason. Some bytes may have been copied then.
    /// The caller then reads and writes, and sees the error of a medium that has failed.
    ///
    /// # Errors
    /// Returns an error if the target can't be extended so far.
    fn copy_from(
        &self,
        offset: u64,
        source: &dyn Storage,
        source_offset: u64,
        length: u64,
    ) -> Result<bool>;

    /// Makes `length` bytes at `offset` share their blocks with those of `source` at `source_offset`. That takes no
    /// space until one of the two is written to.
    ///
    /// # Errors
    /// Returns the reason why they aren't shared. Nothing has changed then.
    fn share_from(
        &self,
        offset: u64,
        source: &dyn Storage,
        source_offset: u64,
        length: u64,
    ) -> Result<(), NotShared> {
        let _ = (offset, source, source_offset, length);
        Err(NotShared::unsupported())
    }

    /// Returns false if it is known without an attempt that no blocks can be shared with `source`.
    fn may_share_with(&self, source: &dyn Storage) -> bool {
        let _ = source;
        false
    }

    /// Returns true if the system lets only one thread write at a time, while the others spin.
    fn writes_serially(&self) -> bool {
        false
    }

    /// Returns the open file if the storage is exactly its bytes, or `None` for any other storage.
    fn descriptor(&self) -> Option<Descriptor<'_>> {
        None
    }

    /// Returns the identity of the storage under any name. It serves to find a loop in a backing chain, and a target
    /// that is also a source.
    ///
    /// # Errors
    /// Returns the system's error if the storage can't be inspected.
    fn identity(&self) -> Result<Identity>;

    /// Returns the name of the storage in messages and reports.
    fn location(&self) -> &OsStr;

    /// Returns the name of the storage's driver in reports.
    fn driver(&self) -> &'static str;

    /// Takes QEMU's locks for an operation and for what it denies to others, until the storage is closed. Opening
    /// takes no locks by itself, since the claim depends on the format, which is probed after opening. Does nothing
    /// if the storage has no locks.
    ///
    /// # Errors
    /// Returns an error of the kind [`ErrorKind::Locked`] if others have conflicting locks. The storage must not be
    /// used then.
    ///
    /// [`ErrorKind::Locked`]: crate::error::ErrorKind::Locked
    fn claim(&self, claim: Claim) -> Result<()> {
        let _ = claim;
        Ok(())
    }

    /// Puts all written bytes on stable storage, and asks the system to drop them from the page cache. The next
    /// reader then gets the bytes of the medium, unless the system ignores the request.
    ///
    /// # Errors
    /// Returns the errors of [`Storage::flush`].
    fn leave_cache(&self) -> Result<()> {
        self.flush()
    }

    /// Returns true if the length can't be changed, as that of a device.
    fn has_fixed_length(&self) -> bool {
        false
    }

    /// Returns true if requests bypass the page cache.
    fn bypasses_cache(&self) -> bool {
        false
    }

    /// Treats everything as data from now on, whatever the file system reports. Some file systems have reported holes
    /// where data had not reached the disk yet.
    fn ignore_holes(&self) {}

    /// Returns the first range of bytes at or after `offset` that may have anything but zeroes. Bytes before its
    /// start read as zeroes. Returns `None` if all up to the end do. Everything is data if the system can't report
    /// holes.
    ///
    /// # Errors
    /// Returns the system's error if the length can't be determined.
    fn next_data(&self, offset: u64) -> Result<Option<Range<u64>>>;

    /// Returns the number of bytes that the storage takes on its medium, if known.
    ///
    /// # Errors
    /// Returns the system's error if the storage can't be inspected.
    fn allocated(&self) -> Result<Option<u64>>;

    /// Puts everything written so far on stable storage.
    ///
    /// # Errors
    /// Returns the system's error. It is final: the data may be lost, and a second attempt would hide that.
    fn flush(&self) -> Result<()>;

    /// Does the same as [`flush`](Self::flush) if it `is_wanted`.
    ///
    /// # Errors
    /// Returns an error as [`flush`](Self::flush) does.
    fn flush_if(&self, is_wanted: bool) -> Result<()> {
        match is_wanted {
            true => self.flush(),
            false => Ok(()),
        }
    }

    /// Returns true if bytes that were never written read as zeroes after [`set_len`] from 0. That is so for a
    /// regular file, and not for a block device.
    ///
    /// [`set_len`]: Storage::set_len
    fn starts_as_zeroes(&self) -> bool {
        true
    }

    /// Reads exactly `buf.len()` bytes, which errors name `what`.
    ///
    /// # Errors
    /// Returns the system's error, or an error if the storage ends before.
    fn read_exact_at(&self, offset: u64, buf: &mut [u8], what: &str) -> Result<()> {
        let read = self.read_at(offset, buf)?;
        if read < buf.len() {
            return Err(Error::corrupt(format!(
                "{what} at offset {offset:#x} ({} bytes) is cut off by the end of the file",
                buf.len()
            )));
        }
        Ok(())
    }

    /// Reads from a storage that was `length` bytes long when it was opened. Returns the number of bytes from the
    /// storage, and fills the rest of `buf`, beyond its end, with zeroes. So bytes that were truncated since, or that
    /// a short read omitted, never become zeroes.
    ///
    /// # Errors
    /// Returns the system's error, or an error if the storage ends before `length`.
    fn read_padded_at(&self, offset: u64, buf: &mut [u8], length: u64) -> Result<usize> {
        let stored = usize::try_from(length.saturating_sub(offset))
            .unwrap_or(usize::MAX)
            .min(buf.len());
        let (data, beyond) = buf.split_at_mut(stored);
        beyond.fill(0);
        if data.is_empty() {
            return Ok(0);
        }
        let read = self.read_at(offset, data)?;
        if read < stored {
            return Err(Error::corrupt(format!(
                "the file ended at byte {} while it was read; it had {length} bytes when it was opened",
                offset + read as u64
            )));
        }
        Ok(stored)
    }
}

/// An open file behind a storage. Only storages use it, so that the system can copy from one to another.
#[derive(Debug, Clone, Copy)]
pub struct Descriptor<'a> {
    file: &'a File,
    path: &'a Path,
    is_device: bool,
}
