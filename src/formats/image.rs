//! A disk that can be read, and one that can be written.
//!
//! Both traits work on `&self` from many threads, since the engine keeps many requests in flight. They say
//! nothing of files: a chain of images, several in a row and a disk of zeroes are images as well.

use super::extent::{Extent, ExtentKind, Plain, PlainPlace};
use super::status::Status;
use crate::error::{Error, Result};
use crate::storage::Storage;
use crate::units::GuestOffset;

/// A disk image open for reading.
pub trait Image: Send + Sync {
    /// Returns the size of the virtual disk in bytes, a multiple of 512.
    fn size(&self) -> u64;

    /// Returns the extent that holds `offset`, starting there and at most `limit` bytes long.
    ///
    /// # Errors
    /// Returns an error if metadata can't be read or makes no sense, or if `offset` is beyond the disk's end.
    fn extent_at(&self, offset: GuestOffset, limit: u64) -> Result<Extent>;

    /// Returns the status of the disk from `offset` on, for at most `limit` bytes, as far as this image says.
    ///
    /// # Errors
    /// Returns an error as [`extent_at`](Self::extent_at) does.
    fn status_at(&self, offset: GuestOffset, limit: u64) -> Result<Status> {
        let extent = self.extent_at(offset, limit)?;
        Ok(Status::of(&extent, self.plain_storage().is_some()))
    }

    /// Returns the [status](Self::status_at) for no more than `qemu-img` looks up together.
    ///
    /// # Errors
    /// Returns an error as [`extent_at`](Self::extent_at) does.
    fn status_in_step(&self, offset: GuestOffset, limit: u64) -> Result<Status> {
        let limit = match self.status_step() {
            u64::MAX => limit,
            // QEMU's formats that look things up do so with a C int.
            step => limit
                .min(step - offset.0 % step.max(1))
                .min(i32::MAX.unsigned_abs().into()),
        };
        self.status_at(offset, limit)
    }

    /// Returns the length in bytes of the pieces in which `qemu-img` asks how this image is stored. It
    /// matters only to callers that have to come to the same conclusions.
    fn status_step(&self) -> u64 {
        u64::MAX
    }

    /// Returns the storage in which [`ExtentKind::Data`] is found as the guest sees it, byte by byte. Returns
    /// `None` when it is encrypted or there is no such storage.
    fn plain_storage(&self) -> Option<&dyn Storage> {
        None
    }

    /// Returns the place where the disk's bytes from `offset` on lie as the guest sees them, in one piece of
    /// at most `limit` bytes.
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

    /// Returns the number of bytes of memory that a thread takes beside its buffer, at the most, while it
    /// reads the disk.
    fn memory_to_read(&self) -> usize {
        0
    }

    /// Reads from the virtual disk, decrypted. `offset` and the length of `buf` are multiples of
    /// 512, and the range lies inside the disk.
    ///
    /// # Errors
    /// Returns the system's error. Returns an error if metadata or data is missing from the file, or if there
    /// is no key.
    fn read_at(&self, offset: GuestOffset, buf: &mut [u8]) -> Result<()>;
}

/// A disk image in use, open for reading and writing.
///
/// All methods work from several threads at once. But two calls that write, zero or discard must not overlap
/// on the disk, nor may a read overlap with one of those. The result of such a read, and the winner of two
/// such writes, are undefined.
///
/// Data may be read back as soon as it is written. It is on stable storage after [`flush`](Self::flush); a
/// power cut before leaves of each sector the old contents or the new, and the image consistent.
pub trait WritableImage: Image {
    /// Writes to the virtual disk. `offset` and the length of `data` are multiples of 512, and the
    /// range lies inside the disk.
    ///
    /// # Errors
    /// Returns the system's error. Returns an error if a limit of the format is reached, or if metadata is
    /// damaged, after which nothing more is written.
    fn write_at(&self, offset: GuestOffset, data: &[u8]) -> Result<()>;

    /// Makes a range, in multiples of 512, read as zeroes, whatever a backing file holds. `may_unmap` says
    /// that the space that it takes may be given back.
    ///
    /// # Errors
    /// Returns an error as [`write_at`](Self::write_at) does.
    fn write_zeroes(&self, offset: GuestOffset, length: u64, may_unmap: bool) -> Result<()>;

    /// Declares the contents of a range, in multiples of 512, to be of no use any more. Space that is given
    /// back reads as zeroes; all else keeps its contents.
    ///
    /// # Errors
    /// Returns an error as [`write_at`](Self::write_at) does.
    fn discard(&self, offset: GuestOffset, length: u64) -> Result<()>;

    /// Puts everything written so far on stable storage.
    ///
    /// # Errors
    /// Returns the system's error. It is final: nothing can be written afterwards.
    fn flush(&self) -> Result<()>;

    /// Returns the unit in which space is handed out, in bytes: a power of two.
    fn allocation_unit(&self) -> usize;

    /// Returns the unit that the tables can mark as zero, in bytes: a power of two, at most the [allocation
    /// unit](Self::allocation_unit).
    fn zero_unit(&self) -> usize {
        self.allocation_unit()
    }

    /// Returns true if the tables can mark a unit as zero whatever a backing file holds.
    fn stores_zeroes(&self) -> bool;

    /// Returns the size of the backing file's disk in bytes, where there is one.
    fn backing_size(&self) -> Option<u64> {
        None
    }

    /// Returns true if only one thread at a time gets anything written, with nothing else to do meanwhile; see
    /// [`Storage::writes_serially`].
    fn writes_serially(&self) -> bool;

    /// Refuses an image that can't have compressed data.
    ///
    /// # Errors
    /// Returns an error if compression doesn't go together with another feature of the image, which it names.
    fn check_compression(&self) -> Result<()> {
        Err(Error::unsupported(
            "Compression not supported for this file format",
        ))
    }

    /// Writes as [`write_at`](Self::write_at) does, with compression where a whole unit is written and gets
    /// smaller by that.
    ///
    /// # Errors
    /// Returns an error as [`write_at`](Self::write_at) and [`check_compression`](Self::check_compression) do.
    fn write_compressed(&self, offset: GuestOffset, data: &[u8]) -> Result<()> {
        let _ = (offset, data);
        self.check_compression()
    }

    /// Flushes and closes the image: nothing can be written afterwards. An image that isn't closed
    /// is as after a power cut.
    ///
    /// # Errors
    /// Returns an error as [`flush`](Self::flush) does.
    fn close(&self) -> Result<()>;
}

/// Refuses offsets that a caller must not pass; see [`Image::read_at`].
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
