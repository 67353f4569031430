//! The interface of a new disk image that is written from front to back.
//!
//! Space is reserved in guest order. Encoding and writing follow in any order and on any number of threads. So the
//! file's bytes depend only on the disk's contents.

use super::image::{SharedSpace, WritableImage};
use super::reservation::{CompressedChunk, Reservation, compression_mismatch};
use super::zeroes::make_zero;
use crate::error::{Error, Result};
use crate::storage::Storage;
use crate::units::GuestOffset;

/// The preallocation of a new image's space, as QEMU's option `preallocation` has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Preallocation {
    /// No preallocation: clusters are allocated as data comes.
    Off,
    /// Every cluster is allocated in the tables; the file has a hole there.
    Metadata,
    /// The file system has allocated the space as well.
    Falloc,
    /// Every byte is written.
    Full,
}

impl Preallocation {
    /// Returns the mode with this name.
    pub fn from_name(name: &str) -> Option<Self> {
        Some(match name {
            "off" => Self::Off,
            "metadata" => Self::Metadata,
            "falloc" => Self::Falloc,
            "full" => Self::Full,
            _ => return None,
        })
    }
}

/// Returns the error for [`Preallocation::Metadata`] in a format that has no metadata.
pub fn unsupported_preallocation() -> Error {
    Error::invalid("Unsupported preallocation mode: metadata")
}

/// The backing file of a new image, from which unallocated parts are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Backed {
    /// The size of the backing file's disk in bytes. Zeroes are read beyond it.
    pub size: u64,
    /// The unit in which parts of the disk can be left unallocated, in bytes. It is a power of two, at least the
    /// image's [`zero_unit`](NewImage::zero_unit), and at most its [`allocation_unit`](NewImage::allocation_unit).
    pub unit: usize,
    /// True if the unit in which the disk or the backing file ends is always copied.
    pub copies_ends: bool,
}

/// A part of a chunk of guest data, in bytes from the chunk's start.
pub type Run = std::ops::Range<usize>;

/// A disk image that is written for the first time, from front to back.
///
/// [`reserve`](Self::reserve) is called once for every chunk, in guest order and one call at a time. Then
/// [`encode`](Self::encode) and [`write`](Self::write) are called with the reservation, in any order and from any
/// thread. [`finish`](Self::finish) comes last. An image that compresses has to know the stored size of a chunk
/// before it can reserve space. So [`compress`](Self::compress) compresses the chunk first, in any order and from any
/// thread, and [`reserve_compressed`](Self::reserve_compressed) replaces `reserve`. The layout of the file depends
/// only on the order of the reservations, so that the result is the same for any number of threads.
pub trait NewImage: Sync {
    /// Returns the unit of allocation in bytes, a power of two. The start and the length of a chunk are multiples of
    /// it, except for the length of the disk's last chunk.
    fn allocation_unit(&self) -> usize;

    /// Returns the unit in which zeroes may be left out, in bytes. It is a power of two, at most the allocation unit
    /// or 4096.
    fn zero_unit(&self) -> usize;

    /// Returns the unit for which the image's tables record if it is allocated, in bytes, a power of two. Zeroes of
    /// smaller size that are left out are holes in its storage.
    fn table_unit(&self) -> usize {
        self.zero_unit()
    }

    /// Returns true if unwritten parts read as zeroes. Otherwise the whole disk must be written, including zeroes,
    /// unless the image is [`backed`](Self::backed).
    fn starts_as_zeroes(&self) -> bool;

    /// Makes the whole disk read as zeroes if that takes no writing, so that zeroes can be left out.
    /// [`starts_as_zeroes`](Self::starts_as_zeroes) returns true afterwards. Must be called before anything is
    /// written, and must not be called if zeroes are to be written.
    ///
    /// # Errors
    /// Returns the system's error if the ends of the disk can't be written.
    fn clear(&self) -> Result<()> {
        Ok(())
    }

    /// Returns the backing file, from which unwritten parts are read.
    fn backed(&self) -> Option<Backed> {
        None
    }

    /// Returns the largest number of bytes of memory that a thread needs to store a chunk, in addition to its buffer.
    fn memory_to_write(&self) -> usize {
        0
    }

    /// Returns true if data is compressed before space is reserved for it; see [`compress`](Self::compress).
    fn compresses(&self) -> bool {
        false
    }

    /// Compresses the `runs` of a chunk, which hold data, in place. The buffer holds the stored bytes afterwards.
    /// `runs` and `zeroes` are as for [`reserve`](Self::reserve).
    ///
    /// # Errors
    /// Returns an error if the codec fails, or if the image doesn't compress.
    fn compress(&self, chunk: &mut [u8], runs: &[Run], zeroes: &[Run]) -> Result<CompressedChunk> {
        let _ = (chunk, runs, zeroes);
        Err(compression_mismatch())
    }

    /// Reserves space as [`reserve`](Self::reserve) does, for a chunk that [`compress`](Self::compress) has compressed.
    ///
    /// # Errors
    /// Returns an error if a limit of the format is reached, or if the image doesn't compress.
    fn reserve_compressed(
        &self,
        guest: GuestOffset,
        compressed: &CompressedChunk,
    ) -> Result<Reservation> {
        let _ = (guest, compressed);
        Err(compression_mismatch())
    }

    /// Reserves space for the `runs` of a chunk, which hold data. The runs are sorted and disjoint, and multiples of
    /// [`zero_unit`](Self::zero_unit). Without a backing file, all other parts read as zeroes. With one, the parts in
    /// `zeroes` do, and parts in neither list are read from the backing file. If any part of a unit is left to the
    /// backing file, the whole unit is.
    ///
    /// # Errors
    /// Returns an error if a limit of the format is reached.
    fn reserve(
        &self,
        guest: GuestOffset,
        chunk: usize,
        runs: &[Run],
        zeroes: &[Run],
    ) -> Result<Reservation>;

    /// Stores `zeroes` of many chunks at once, in place of a call of [`reserve`](Self::reserve) for each. They are
    /// whole chunks, except for the disk's end. Returns `false` if the image doesn't support that; nothing has
    /// changed then.
    ///
    /// # Errors
    /// Returns the system's error if the zeroes can't be stored. Returns an error if a limit of the format is
    /// reached.
    fn reserve_zeroes(&self, guest: GuestOffset, zeroes: &[Run]) -> Result<bool> {
        let _ = (guest, zeroes);
        Ok(false)
    }

    /// Encrypts a chunk's data in place, so that the chunk holds the stored bytes.
    ///
    /// # Errors
    /// Returns an error if the reservation is for another chunk.
    fn encode(&self, reservation: &Reservation, chunk: &mut [u8]) -> Result<()>;

    /// Writes an encoded chunk to the space reserved for it.
    ///
    /// # Errors
    /// Returns the system's error.
    fn write(&self, reservation: &Reservation, chunk: &[u8]) -> Result<()>;

    /// Returns true if stored data may share blocks of the file system with other files. Preallocated space may not.
    fn may_share(&self) -> bool {
        true
    }

    /// Returns true if writes by several threads aren't faster than by one; see [`Storage::writes_serially`].
    fn writes_serially(&self) -> bool;

    /// Returns the storage that holds the data as the guest sees it, or `None` if it is encrypted. The data of a
    /// reservation may be copied there, followed by [`write_metadata`](Self::write_metadata).
    fn plain_storage(&self) -> Option<&dyn Storage>;

    /// Returns the image that exists and is written over, and the space of it that may share blocks with the source.
    /// Data is written where the guest has it, instead of to a reservation.
    fn image_in_use(&self) -> Option<(&dyn WritableImage, SharedSpace)> {
        None
    }

    /// Writes the metadata of a reservation whose data wasn't written with [`write`](Self::write).
    ///
    /// # Errors
    /// Returns the system's error.
    fn write_metadata(&self, reservation: &Reservation) -> Result<()>;

    /// Writes the remaining tables and, last, the header, which completes the image.
    ///
    /// # Errors
    /// Returns the system's error, including that of a flush. Returns an error if a limit of the format is reached.
    fn finish(&self) -> Result<()>;
}

/// Zeroes the first `length` bytes of a device, which may have the header of an older image. That must not be used with
/// the new data.
///
/// # Errors
/// Returns the system's error.
pub(super) fn wipe_old_header(file: &dyn Storage, length: usize) -> Result<()> {
    match file.starts_as_zeroes() {
        true => Ok(()),
        false => file.write_at(0, &vec![0; length]),
    }
}

/// Makes the first `end` bytes of a new image's file read as zeroes. On a device, the header of an older image goes
/// first, as [`wipe_old_header`] describes.
///
/// # Errors
/// Returns the system's error.
pub(super) fn start_with_zeroes(file: &dyn Storage, header: usize, end: u64) -> Result<()> {
    if !file.starts_as_zeroes() {
        wipe_old_header(file, header)?;
        make_zero(file, 0..end)
    } else if file.len()? < end {
        file.set_len(end)
    } else {
        Ok(())
    }
}

/// Writes the header of an image, at the start of its file, once everything else is written. With `flush`, everything
/// else is flushed to stable storage before the header, and then the header is. So a power cut can't leave a header
/// without the tables that it refers to.
///
/// # Errors
/// Returns the system's error.
pub(super) fn write_header_last(file: &dyn Storage, header: &[u8], flush: bool) -> Result<()> {
    file.flush_if(flush)?;
    file.write_at(0, header)?;
    file.flush_if(flush)
}

/// Returns the error for an existing image that is smaller than the disk that would overwrite it.
pub fn smaller_than_input() -> Error {
    Error::invalid("output file is smaller than input file")
}
