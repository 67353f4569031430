//! A disk image that is written for the first time.
//!
//! Space is reserved in guest order. Encoding and writing follow in any order, by any number of threads. So
//! the file's bytes depend on the disk's contents alone.

use super::reservation::{Packed, Reservation, not_packed};
use crate::error::{Error, Result};
use crate::storage::Storage;
use crate::units::GuestOffset;

/// The part of a new image's space that is taken before there is data for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Preallocation {
    /// None: clusters are handed out as data comes.
    Off,
    /// Every cluster has its place in the tables; the file has a hole there.
    Metadata,
    /// The file system has set the space aside as well.
    Falloc,
    /// Every byte has been written.
    Full,
}

impl Preallocation {
    /// Returns the mode of that name.
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

/// Returns the error for [`Preallocation::Metadata`] of a file that has no metadata.
pub fn unsupported_preallocation() -> Error {
    Error::invalid("Unsupported preallocation mode: metadata")
}

/// The backing file of a new image, which is read where the image stores nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Backed {
    /// The size of the backing file's disk in bytes; zeroes are read beyond it.
    pub size: u64,
    /// The unit in which the disk can be left to the backing file, in bytes. It is a power of two, at least
    /// the image's [`zero_unit`](NewImage::zero_unit), and at most its
    /// [`allocation_unit`](NewImage::allocation_unit).
    pub unit: usize,
    /// True if a unit is copied in which the disk or the backing file ends.
    pub copies_ends: bool,
}

/// Part of a chunk of guest data, in bytes from the chunk's start.
pub type Run = std::ops::Range<usize>;

/// A disk image being written, front to back, for the first time.
///
/// For every chunk in guest order, [`reserve`](Self::reserve) is called once, one call at a time. Then
/// [`encode`](Self::encode) and [`write`](Self::write) are called with the reservation, in any order and from
/// any thread; then [`finish`](Self::finish). An image that compresses needs to know a chunk's stored size
/// before it can find room. For that, [`pack`](Self::pack) goes before, in any order and from any thread, and
/// [`reserve_packed`](Self::reserve_packed) is called in the place of `reserve`. The layout of the file
/// depends on the order of the reservations alone, so the result is the same for any number of threads.
pub trait NewImage: Sync {
    /// Returns the unit in which space is handed out, in bytes: a power of two. Chunks start at multiples of
    /// it and are multiples of it long, but for the last one of the disk.
    fn allocation_unit(&self) -> usize;

    /// Returns the unit in which zeroes may be left out, in bytes: a power of two, at most the allocation
    /// unit or 4096.
    fn zero_unit(&self) -> usize;

    /// Returns the unit of which the image's tables say whether it is stored, in bytes: a power of two.
    /// Zeroes that are left out of one are a matter of its storage alone.
    fn table_unit(&self) -> usize {
        self.zero_unit()
    }

    /// Returns true if parts that are never written read as zeroes. Otherwise, unless the image is
    /// [`backed`](Self::backed), the whole disk must be written, zeroes too.
    fn starts_as_zeroes(&self) -> bool;

    /// Makes the whole disk read as zeroes where that takes no writing, so that zeroes can be left out;
    /// afterwards [`starts_as_zeroes`](Self::starts_as_zeroes) says so. To be called before anything is
    /// written, and not where zeroes are to be written all the same.
    ///
    /// # Errors
    /// Returns the system's error if the ends of the disk can't be written.
    fn clear(&self) -> Result<()> {
        Ok(())
    }

    /// Returns the backing file, which is read where nothing was written.
    fn backed(&self) -> Option<Backed> {
        None
    }

    /// Returns the number of bytes of memory that a thread takes beside its buffer, at the most, to store a
    /// chunk.
    fn memory_to_write(&self) -> usize {
        0
    }

    /// Returns true if data is packed before there is room for it; see [`pack`](Self::pack).
    fn packs(&self) -> bool {
        false
    }

    /// Makes the `runs` of a chunk that hold data smaller, in place: afterwards the buffer holds the bytes
    /// that are stored. `runs` and `zeroes` are as for [`reserve`](Self::reserve).
    ///
    /// # Errors
    /// Returns an error if the codec fails, or if the image doesn't pack.
    fn pack(&self, chunk: &mut [u8], runs: &[Run], zeroes: &[Run]) -> Result<Packed> {
        let _ = (chunk, runs, zeroes);
        Err(not_packed())
    }

    /// Finds room as [`reserve`](Self::reserve) does, for a chunk that [`pack`](Self::pack) has packed.
    ///
    /// # Errors
    /// Returns an error if a limit of the format is reached, or if the image doesn't pack.
    fn reserve_packed(&self, guest: GuestOffset, packed: &Packed) -> Result<Reservation> {
        let _ = (guest, packed);
        Err(not_packed())
    }

    /// Finds room for the `runs` of a chunk that hold data (sorted, disjoint, multiples of
    /// [`zero_unit`](Self::zero_unit)). All other parts read as zeroes without a backing file. With one,
    /// `zeroes` do, and parts in neither list are left to it. No part of a unit that is left in part is in
    /// either list.
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

    /// Makes many chunks' worth of `zeroes` at once (as for [`reserve`](Self::reserve), in whole chunks but
    /// for the disk's end). One call takes the place of a `reserve` for each chunk. Returns `false` if the
    /// image doesn't do that; then nothing has changed.
    ///
    /// # Errors
    /// Returns the system's error if the zeroes can't be stored, or an error if a limit of the format is
    /// reached.
    fn reserve_zeroes(&self, guest: GuestOffset, zeroes: &[Run]) -> Result<bool> {
        let _ = (guest, zeroes);
        Ok(false)
    }

    /// Encrypts a chunk's data in place, which makes it the bytes that are stored.
    ///
    /// # Errors
    /// Returns an error if the reservation is for another chunk.
    fn encode(&self, reservation: &Reservation, chunk: &mut [u8]) -> Result<()>;

    /// Writes an encoded chunk into the room reserved for it.
    ///
    /// # Errors
    /// Returns the system's error.
    fn write(&self, reservation: &Reservation, chunk: &[u8]) -> Result<()>;

    /// Returns true if stored data may share its blocks with other files. It may not where its space was to be
    /// taken beforehand.
    fn may_share(&self) -> bool {
        true
    }

    /// Returns true if only one thread at a time gets anything written; see [`Storage::writes_serially`].
    fn writes_serially(&self) -> bool;

    /// Returns the storage in which data is kept as the guest sees it, byte by byte; `None` when it is
    /// encrypted. Data for a reservation may be copied there, followed by
    /// [`write_metadata`](Self::write_metadata).
    fn plain_storage(&self) -> Option<&dyn Storage>;

    /// Writes the metadata of a reservation, where data wasn't written with [`write`](Self::write).
    ///
    /// # Errors
    /// Returns the system's error.
    fn write_metadata(&self, reservation: &Reservation) -> Result<()>;

    /// Writes what remains (tables, and last of all the header), after which the image is whole.
    ///
    /// # Errors
    /// Returns the system's error, also of flushing. Returns an error if a limit of the format is reached.
    fn finish(&self) -> Result<()>;
}

/// Writes the header of an image, at the start of its file, once everything else is written. With `flush`, all of that
/// is on stable storage before the header is, and the header is in the end. So a power cut can't leave a header without
/// what it leads to.
///
/// # Errors
/// Returns the system's error.
pub(super) fn write_header_last(file: &dyn Storage, header: &[u8], flush: bool) -> Result<()> {
    file.flush_if(flush)?;
    file.write_at(0, header)?;
    file.flush_if(flush)
}

/// Returns the error for an image that exists and is too small for the disk that is to be written over it.
pub fn smaller_than_input() -> Error {
    Error::invalid("output file is smaller than input file")
}
