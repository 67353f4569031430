//! The places where bytes are kept, which know nothing of image formats.
//!
//! A [`Storage`] is a flat run of bytes with positioned reads and writes on `&self`, so that many
//! threads can use one without a lock. [`driver`] says what a protocol is and [`list`] which there are.
//! [`MemoryStorage`] is for tests, and can be told to fail.
//!
//! Two rules hold for every implementation. A read or write that the system cuts short is continued until
//! done, so that a short count means the end and nothing else. Nothing is flushed or closed behind the caller's
//! back, so that no error is lost in a destructor.

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
mod window;

pub use access::{Access, Purpose, Sharing};
pub use cache::CacheMode;
pub use driver::{NewStorage, Opening, Refuse, Reopen, StorageDriver, Unfinished};
pub use file::{
    Claim, DEVICE_OPTIONS, DIRECT_ALIGNMENT, FILE_OPTIONS, FileStorage, NotShared, UnfinishedFile,
    avoids_copies, before_interrupt, check_name, check_preallocation, tell_by,
};
pub use filter::Filter;
pub use identity::Identity;
pub use list::{PROTOCOLS, Protocol};
pub use memory::{Change, Fault, MemoryStorage, Operation, ShortRead, Slowness};
pub use parallel::{Pace, Pieces};
pub use window::{Window, WindowRange};

use std::ffi::OsStr;
use std::fmt::Debug;
use std::fs::File;
use std::ops::Range;
use std::path::Path;

use crate::error::{Error, Result};

/// A flat run of bytes. All offsets and lengths are in bytes.
pub trait Storage: Debug + Send + Sync {
    /// Reads from `offset` until `buf` is full or the storage ends, and returns how much was read.
    ///
    /// # Errors
    /// Returns the system's error, with the offset.
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<usize>;

    /// Writes all of `data` at `offset`, growing the storage where it ends before.
    ///
    /// # Errors
    /// Returns the system's error, with the offset; part of the data may have been written.
    fn write_at(&self, offset: u64, data: &[u8]) -> Result<()>;

    /// The length now, in bytes.
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

    /// Makes the storage exactly `len` long: what is cut off is gone, what is added reads as zeroes.
    ///
    /// # Errors
    /// Returns the system's error, also if the length can't change, as that of a block device.
    fn set_len(&self, len: u64) -> Result<()>;

    /// Makes bytes read as zeroes, and gives back the space that they take, without writing them. Only on a
    /// device that has none but whole blocks, up to a block before and behind them is written. Returns `false`
    /// if the storage can't do that, for whatever reason; some bytes may be zero by then. A medium that has
    /// failed will fail again when the caller writes the zeroes instead.
    ///
    /// # Errors
    /// Returns the system's error if the bytes beside whole blocks can't be written.
    fn punch(&self, range: Range<u64>) -> Result<bool>;

    /// Makes sure that later writes to a range don't fail for lack of space, and makes the storage reach at
    /// least to the range's end. Bytes that are there keep their contents. Returns `false` if only writing
    /// everything can do that, or tell what is wrong.
    ///
    /// # Errors
    /// Returns the system's error if there isn't so much room.
    fn reserve(&self, range: Range<u64>) -> Result<bool>;

    /// Copies `length` bytes from `source` at `source_offset` to `offset` within the system, which
    /// may share the blocks instead of copying them. Returns `false` if that isn't possible, for whatever
    /// reason. Some of the bytes may have been copied then, and reading and writing will tell what is wrong.
    ///
    /// # Errors
    /// Returns an error if the target can't grow so far.
    fn copy_from(
        &self,
        offset: u64,
        source: &dyn Storage,
        source_offset: u64,
        length: u64,
    ) -> Result<bool>;

    /// Makes `length` bytes at `offset` share their blocks with those of `source` at `source_offset`. That
    /// takes no space and no copying until either is written to.
    ///
    /// # Errors
    /// Returns the reason for which they aren't shared; then nothing has changed.
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

    /// Returns false if it is known, without a try, that no blocks can be shared with `source`.
    fn may_share_with(&self, source: &dyn Storage) -> bool {
        let _ = source;
        false
    }

    /// Returns true if the system lets only one thread at a time write, and others spin meanwhile.
    fn writes_serially(&self) -> bool {
        false
    }

    /// The open file that these are the bytes of, from its first one on; `None` for any other storage.
    fn descriptor(&self) -> Option<Descriptor<'_>> {
        None
    }

    /// Returns the identity of the storage, whatever name it goes by. A chain that leads back into itself is
    /// found by it, and a target that is also a source.
    ///
    /// # Errors
    /// Returns the system's error if the storage can't be inspected.
    fn identity(&self) -> Result<Identity>;

    /// The name that messages and reports call the storage by.
    fn location(&self) -> &OsStr;

    /// The name of the driver that reports call the storage's kind by.
    fn driver(&self) -> &'static str;

    /// Says to every program that keeps QEMU's locks what is done with the storage and what others must not do
    /// meanwhile, until it is closed. Opening says nothing by itself, since what is to be said depends on the
    /// format, which only a look into the storage tells. Where there are no locks nothing is said.
    ///
    /// # Errors
    /// Returns an error of the kind [`ErrorKind::Locked`] if others do what doesn't go with that. Nothing must be
    /// done with the storage then.
    ///
    /// [`ErrorKind::Locked`]: crate::error::ErrorKind::Locked
    fn claim(&self, claim: Claim) -> Result<()> {
        let _ = claim;
        Ok(())
    }

    /// Puts all written bytes on stable storage and asks the system to forget its copies in memory. The next
    /// reader then gets the bytes of the medium. The system may not follow.
    ///
    /// # Errors
    /// Returns the errors of [`Storage::flush`].
    fn leave_cache(&self) -> Result<()> {
        self.flush()
    }

    /// Returns true if the length can't be changed, as that of a device can't.
    fn has_fixed_length(&self) -> bool {
        false
    }

    /// Returns true if requests bypass the page cache.
    fn bypasses_cache(&self) -> bool {
        false
    }

    /// Takes everything for data from now on, whatever the file system says. Some have told of holes where there
    /// was data that hadn't reached the disk yet.
    fn ignore_holes(&self) {}

    /// The first run of bytes at or after `offset` that may hold anything but zeroes; bytes before its start
    /// read as zeroes. Returns `None` if all up to the end do. Where the system can't tell, everything may be
    /// data.
    ///
    /// # Errors
    /// Returns the system's error if the length can't be had.
    fn next_data(&self, offset: u64) -> Result<Option<Range<u64>>>;

    /// Bytes that the storage occupies on its medium, where that is known.
    ///
    /// # Errors
    /// Returns the system's error if the storage can't be inspected.
    fn allocated(&self) -> Result<Option<u64>>;

    /// Puts everything written so far on stable storage.
    ///
    /// # Errors
    /// Returns the system's error. It is final: the data may be lost, and a second try would hide that.
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

    /// Returns true if bytes that were never written are known to read as zeroes after [`set_len`] from 0.
    /// They are in a regular file, and they aren't on a block device.
    ///
    /// [`set_len`]: Storage::set_len
    fn starts_as_zeroes(&self) -> bool {
        true
    }

    /// Reads exactly `buf.len()` bytes; `what` names them in the error.
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

    /// Reads out of a storage that was `length` bytes long when it was opened. Returns how many bytes it had
    /// for `buf`; the bytes beyond its end are zeroes. So zeroes never stand for bytes that a storage lost
    /// since, or that a short read left out.
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

/// An open file behind a storage. Only storages look into it, to have the system copy from one to another.
#[derive(Debug, Clone, Copy)]
pub struct Descriptor<'a> {
    file: &'a File,
    path: &'a Path,
    is_device: bool,
}
