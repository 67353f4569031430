//! The interfaces of a disk that can be read, and of one that can be written in place.
//!
//! All methods of both traits take `&self` and work from several threads at once, since the engine has many requests
//! in flight. The traits don't assume a file: a backing chain, a concatenation of disks and a disk of zeroes
//! implement them as well.

use super::extent::{Extent, ExtentKind, Plain, PlainPlace};
use super::status::Status;
use crate::error::{Error, Result};
use crate::storage::Storage;
use crate::units::GuestOffset;

/// A disk image open for reading.
pub trait Image: Send + Sync {
    /// Returns the size of the virtual disk in bytes, a multiple of 512.
    fn size(&self) -> u64;

    /// Returns the extent that starts at `offset`, with a length of at most `limit` bytes.
    ///
    /// # Errors
    /// Returns an error if metadata can't be read or is invalid, or if `offset` is beyond the disk's end.
    fn extent_at(&self, offset: GuestOffset, limit: u64) -> Result<Extent>;

    /// Returns the status of at most `limit` bytes of the disk from `offset` on, in this image alone.
    ///
    /// # Errors
    /// Returns an error as [`extent_at`](Self::extent_at) does.
    fn status_at(&self, offset: GuestOffset, limit: u64) -> Result<Status> {
        let extent = self.extent_at(offset, limit)?;
        Ok(Status::of(&extent, self.plain_storage().is_some()))
    }

    /// Returns the [status](Self::status_at) of no more bytes than `qemu-img` looks up at once.
    ///
    /// # Errors
    /// Returns an error as [`extent_at`](Self::extent_at) does.
    fn status_in_step(&self, offset: GuestOffset, limit: u64) -> Result<Status> {
        let limit = match self.status_step() {
            u64::MAX => limit,
            // QEMU's formats with tables look up at most as many bytes as fit into a C int.
            step => limit
                .min(step - offset.0 % step.max(1))
                .min(i32::MAX.unsigned_abs().into()),
        };
        self.status_at(offset, limit)
    }

    /// Returns the length in bytes of the pieces for which `qemu-img` queries this image's status. It matters only to
    /// callers that have to produce the same output.
    fn status_step(&self) -> u64 {
        u64::MAX
    }

    /// Returns the storage that holds the bytes of [`ExtentKind::Data`] as the guest sees them. Returns `None` if
    /// they are encrypted, or if there isn't one such storage.
    fn plain_storage(&self) -> Option<&dyn Storage> {
        None
    }

    /// Returns the place of the disk's bytes from `offset` on as the guest sees them. It is contiguous, and at most
    /// `limit` bytes long.
    ///
    /// # Errors
    /// Returns an error as [`extent_at`](Self::extent_at) does.
    fn plain_at(&self, offset: GuestOffset, limit: u64) -> Result<Plain<'_>> {
        let extent = self.extent_at(offset, limit)?;
        let place = match (extent.kind, self.plain_storage()) {
            (ExtentKind::Data(host), Some(storage)) => PlainPlace::At(storage, host),
            (kind, _) if kind.is_data() => PlainPlace::Nowhere,
            _ => PlainPlace::Zeroes,
        };
        Ok(Plain {
            length: extent.length,
            place,
        })
    }

    /// Returns the largest number of bytes of memory that a thread needs to read the disk, in addition to its buffer.
    fn memory_to_read(&self) -> usize {
        0
    }

    /// Reads from the virtual disk, decrypted. `offset` and the length of `buf` are multiples of 512, and the range
    /// is within the disk.
    ///
    /// # Errors
    /// Returns the system's error. Returns an error if the file lacks metadata or data, or if the key is missing.
    fn read_at(&self, offset: GuestOffset, buf: &mut [u8]) -> Result<()>;
}

/// The space of an image in use that may share its blocks with another file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SharedSpace {
    /// Space that is handed out for the data. Other space may have been reserved for the image, and a shared block
    /// takes more when it is written to.
    New,
    /// All of it; for a source that goes, and leaves the blocks to the image.
    All,
}

/// A disk image in use, open for reading and writing.
///
/// All methods work from several threads at once. But a call that writes, zeroes or discards must not overlap with
/// another such call or with a read on the disk. The result of such a read, and the order of such writes, are
/// undefined.
///
/// Written data can be read at once. It is on stable storage after [`flush`](Self::flush). After a power cut before
/// that, each sector has its old or its new contents, and the image is consistent.
pub trait WritableImage: Image {
    /// Writes to the virtual disk. `offset` and the length of `data` are multiples of 512, and the range is within
    /// the disk.
    ///
    /// # Errors
    /// Returns the system's error. Returns an error if a limit of the format is reached. Returns an error if metadata
    /// is damaged; nothing more is written then.
    fn write_at(&self, offset: GuestOffset, data: &[u8]) -> Result<()>;

    /// Makes a range read as zeroes, whatever a backing file holds. `offset` and `length` are multiples of 512. If
    /// `may_unmap`, the space of the range may be freed.
    ///
    /// # Errors
    /// Returns an error as [`write_at`](Self::write_at) does.
    fn write_zeroes(&self, offset: GuestOffset, length: u64, may_unmap: bool) -> Result<()>;

    /// Discards the contents of a range. `offset` and `length` are multiples of 512. Freed space reads as zeroes; the
    /// rest keeps its contents.
    ///
    /// # Errors
    /// Returns an error as [`write_at`](Self::write_at) does.
    fn discard(&self, offset: GuestOffset, length: u64) -> Result<()>;

    /// Flushes everything written so far to stable storage.
    ///
    /// # Errors
    /// Returns the system's error. It is final: nothing can be written afterwards.
    fn flush(&self) -> Result<()>;

    /// Returns the unit of allocation in bytes, a power of two.
    fn allocation_unit(&self) -> usize;

    /// Returns the smallest unit that a table entry can mark as zero, in bytes. It is a power of two, at most the
    /// [allocation unit](Self::allocation_unit).
    fn zero_unit(&self) -> usize {
        self.allocation_unit()
    }

    /// Returns true if a table entry can mark a unit as zero whatever a backing file holds.
    fn stores_zeroes(&self) -> bool;

    /// Returns the size of the backing file's disk in bytes, if there is one.
    fn backing_size(&self) -> Option<u64> {
        None
    }

    /// Returns true if writes by several threads aren't faster than by one; see [`Storage::writes_serially`].
    fn writes_serially(&self) -> bool;

    /// Returns true if [`write_from`](Self::write_from) may share blocks with `source` instead of copying them.
    fn may_share_with(&self, source: &dyn Storage) -> bool {
        let _ = source;
        false
    }

    /// Writes `length` bytes of `source`, from `source_offset` on, as [`write_at`](Self::write_at) does. In the `space`
    /// that may, blocks are shared with `source` instead. Returns the number of bytes that are. It is for images and
    /// sources for which [`may_share_with`](Self::may_share_with) returns true.
    ///
    /// # Errors
    /// Returns an error as [`write_at`](Self::write_at) does, if `source` can't be read, or if the image never shares.
    fn write_from(
        &self,
        offset: GuestOffset,
        source: &dyn Storage,
        source_offset: u64,
        length: u64,
        space: SharedSpace,
    ) -> Result<u64> {
        let _ = (offset, source, source_offset, length, space);
        Err(Error::unsupported("this image shares no blocks"))
    }

    /// Refuses an image that doesn't support compressed data.
    ///
    /// # Errors
    /// Returns an error if another feature of the image, which it names, excludes compression.
    fn check_compression(&self) -> Result<()> {
        Err(Error::unsupported(
            "Compression not supported for this file format",
        ))
    }

    /// Writes as [`write_at`](Self::write_at) does, and compresses each unit that is written as a whole and gets
    /// smaller.
    ///
    /// # Errors
    /// Returns an error as [`write_at`](Self::write_at) and [`check_compression`](Self::check_compression) do.
    fn write_compressed(&self, offset: GuestOffset, data: &[u8]) -> Result<()> {
        let _ = (offset, data);
        self.check_compression()
    }

    /// Flushes and closes the image. Nothing can be written afterwards. An image that isn't closed is in the state
    /// after a power cut.
    ///
    /// # Errors
    /// Returns an error as [`flush`](Self::flush) does.
    fn close(&self) -> Result<()>;
}

/// Refuses a range that goes beyond the disk's end; see [`Image::read_at`].
///
/// # Errors
/// Returns an error if a part of the range is beyond the end of the disk.
pub(super) fn check_range(size: u64, offset: GuestOffset, length: usize) -> Result<()> {
    let end = offset.0.checked_add(length as u64);
    if end.is_none_or(|end| end > size) {
        return Err(beyond_end(size, offset, length));
    }
    Ok(())
}

pub(super) fn beyond_end(size: u64, offset: GuestOffset, length: usize) -> Error {
    Error::invalid(format!(
        "guest range {offset} + {length:#x} is beyond the disk's end {size:#x}"
    ))
}
