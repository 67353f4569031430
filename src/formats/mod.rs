//! Image formats: what a disk image is to the rest of the house.
//!
//! An [`Image`] is a disk that can be read; a [`NewImage`] is one being written front to back. Both
//! work on `&self` from many threads. Formats are siblings: each knows [`crate::storage`] and
//! [`crate::crypto`] and nothing of the others; what is common (probing, opening by format) is here.

pub mod plausible;
pub mod qcow2;
pub mod raw;

mod chain;
mod concat;
mod guard;
mod probe;
mod reservation;
mod status;

use std::fmt;
use std::sync::Arc;

pub use chain::{Chain, TopOnly};
pub use concat::Concatenation;
pub use guard::GuardedStart;
pub use probe::probe;
use reservation::not_packed;
pub use reservation::{Packed, PackedPart, Reservation};
pub use status::Status;

use crate::crypto::Secret;
use crate::error::{Error, Result};
use crate::storage::Storage;
use crate::units::{GuestOffset, HostOffset, SECTOR_SIZE};

/// The formats that this version reads and writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// The bytes of the disk, one after the other.
    Raw,
    /// QEMU's copy-on-write format, versions 2 and 3.
    Qcow2,
}

impl Format {
    /// All formats, in the order in which help lists them.
    pub const ALL: [Self; 2] = [Self::Qcow2, Self::Raw];

    /// The name by which users and `qemu-img` know the format.
    pub fn name(self) -> &'static str {
        match self {
            Self::Raw => "raw",
            Self::Qcow2 => "qcow2",
        }
    }

    /// The format of that name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|format| format.name() == name)
    }
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A run of the virtual disk that is stored in one way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Extent {
    /// Where it starts on the virtual disk.
    pub start: GuestOffset,
    /// Its length in bytes, above 0.
    pub length: u64,
    /// How it is stored.
    pub kind: ExtentKind,
    /// Which image of a backing chain says so: 0 for the image itself, 1 for its backing file, and so
    /// on.
    pub depth: usize,
}

/// How a run of the virtual disk is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExtentKind {
    /// Bytes in the file, in one piece from this offset on (possibly encrypted).
    Data(HostOffset),
    /// Bytes in the file that have to be decoded, such as a compressed cluster.
    Encoded,
    /// Reads as zeroes, and nothing needs to be read to know that.
    Zero {
        /// Where the file has room for it all the same.
        kept: Option<HostOffset>,
    },
    /// Not stored in this image at all; without a backing file it reads as zeroes.
    Unallocated {
        /// Where the file has room for it all the same.
        kept: Option<HostOffset>,
    },
}

impl ExtentKind {
    /// Whether something is stored that may be anything but zeroes.
    pub fn is_data(self) -> bool {
        matches!(self, Self::Data(_) | Self::Encoded)
    }

    /// Where the file has room for it, which for encoded data is not a matter of one offset.
    pub fn host(self) -> Option<HostOffset> {
        match self {
            Self::Data(host) => Some(host),
            Self::Encoded => None,
            Self::Zero { kept } | Self::Unallocated { kept } => kept,
        }
    }

    /// The same kind, so many bytes further on.
    #[must_use]
    pub fn after(self, bytes: u64) -> Self {
        let further = |host: HostOffset| HostOffset(host.0.saturating_add(bytes));
        match self {
            Self::Data(host) => Self::Data(further(host)),
            Self::Encoded => Self::Encoded,
            Self::Zero { kept } => Self::Zero {
                kept: kept.map(further),
            },
            Self::Unallocated { kept } => Self::Unallocated {
                kept: kept.map(further),
            },
        }
    }
}

/// A run of the virtual disk, and where it lies byte by byte as the guest sees it.
#[derive(Debug, Clone, Copy)]
pub struct Plain<'a> {
    /// Its length in bytes, above 0.
    pub length: u64,
    /// Where it lies.
    pub place: PlainPlace<'a>,
}

/// Where a run of the virtual disk lies.
#[derive(Debug, Clone, Copy)]
pub enum PlainPlace<'a> {
    /// In this storage from this offset on.
    At(&'a dyn Storage, HostOffset),
    /// Nowhere, as it is zeroes.
    Zeroes,
    /// Nowhere, as it is encoded or encrypted.
    Nowhere,
}

/// A disk image open for reading.
pub trait Image: Send + Sync {
    /// The size of the virtual disk in bytes, a multiple of 512.
    fn size(&self) -> u64;

    /// The extent that holds `offset`, starting there and at most `limit` bytes long.
    ///
    /// # Errors
    /// Metadata that can't be read or makes no sense; `offset` beyond the disk's end.
    fn extent_at(&self, offset: GuestOffset, limit: u64) -> Result<Extent>;

    /// How the disk is stored from `offset` on, for at most `limit` bytes, as far as this image says.
    ///
    /// # Errors
    /// As [`extent_at`](Self::extent_at).
    fn status_at(&self, offset: GuestOffset, limit: u64) -> Result<Status> {
        let extent = self.extent_at(offset, limit)?;
        Ok(Status::of(&extent, self.plain_storage().is_some()))
    }

    /// As [`status_at`](Self::status_at), but for no more than `qemu-img` looks up together.
    ///
    /// # Errors
    /// As [`extent_at`](Self::extent_at).
    fn status_in_step(&self, offset: GuestOffset, limit: u64) -> Result<Status> {
        let limit = match self.status_step() {
            u64::MAX => limit,
            // Formats that look things up do so with a C int.
            step => limit
                .min(step - offset.0 % step.max(1))
                .min(i32::MAX.unsigned_abs().into()),
        };
        self.status_at(offset, limit)
    }

    /// In pieces of what length, in bytes, `qemu-img` asks how this image is stored. It matters only to
    /// those who have to come to the same conclusions.
    fn status_step(&self) -> u64 {
        u64::MAX
    }

    /// The storage in which [`ExtentKind::Data`] is found as the guest sees it, byte by byte; `None`
    /// when it is encrypted or there is no such storage.
    fn plain_storage(&self) -> Option<&dyn Storage> {
        None
    }

    /// Where the disk's bytes from `offset` on lie as the guest sees them, in one piece of at most `limit`
    /// bytes.
    ///
    /// # Errors
    /// As [`extent_at`](Self::extent_at).
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

    /// How many bytes of memory a thread takes beside its buffer, at the most, while it reads the disk.
    fn memory_to_read(&self) -> usize {
        0
    }

    /// Reads from the virtual disk, decrypted. `offset` and the length of `buf` are multiples of
    /// 512, and the range lies inside the disk.
    ///
    /// # Errors
    /// The system's error; metadata or data that is missing from the file; a missing key.
    fn read_at(&self, offset: GuestOffset, buf: &mut [u8]) -> Result<()>;
}

/// A disk image in use, open for reading and writing.
///
/// All methods work from several threads at once, but two calls that write, zero or discard must not
/// overlap on the disk, nor may a read overlap with one of those: what such a read finds, and which
/// of two such writes wins, nobody could say.
///
/// What was written may be read back at once. It is on stable storage after [`flush`](Self::flush); a
/// power cut before leaves of each sector the old contents or the new, and the image consistent.
pub trait WritableImage: Image {
    /// Writes to the virtual disk. `offset` and the length of `data` are multiples of 512, and the
    /// range lies inside the disk.
    ///
    /// # Errors
    /// The system's error; the format's limits; metadata that is damaged, after which nothing more
    /// is written.
    fn write_at(&self, offset: GuestOffset, data: &[u8]) -> Result<()>;

    /// Makes a range, in multiples of 512, read as zeroes, whatever a backing file holds.
    /// `may_unmap` says that the space that it takes may be given back.
    ///
    /// # Errors
    /// As [`write_at`](Self::write_at).
    fn write_zeroes(&self, offset: GuestOffset, length: u64, may_unmap: bool) -> Result<()>;

    /// Says that the contents of a range, in multiples of 512, are of no use any more. What is given
    /// back reads as zeroes; what isn't keeps its contents.
    ///
    /// # Errors
    /// As [`write_at`](Self::write_at).
    fn discard(&self, offset: GuestOffset, length: u64) -> Result<()>;

    /// Puts everything written so far on stable storage.
    ///
    /// # Errors
    /// The system's error. It is final: nothing can be written afterwards.
    fn flush(&self) -> Result<()>;

    /// Flushes and closes the image: nothing can be written afterwards. An image that isn't closed
    /// is as after a power cut.
    ///
    /// # Errors
    /// As [`flush`](Self::flush).
    fn close(&self) -> Result<()>;
}

/// How much of a new image's space is taken before there is data for it.
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
    /// The mode of that name.
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

/// A disk that is all zeroes: what a new image is a copy of.
#[derive(Debug, Clone, Copy)]
pub struct ZeroImage {
    /// The size of the disk in bytes.
    pub size: u64,
}

impl Image for ZeroImage {
    fn size(&self) -> u64 {
        self.size.next_multiple_of(SECTOR_SIZE)
    }

    fn extent_at(&self, offset: GuestOffset, limit: u64) -> Result<Extent> {
        check_range(self.size(), offset, 1)?;
        Ok(Extent {
            start: offset,
            length: limit.min(self.size() - offset.0),
            kind: ExtentKind::Unallocated { kept: None },
            depth: 0,
        })
    }

    fn read_at(&self, offset: GuestOffset, buf: &mut [u8]) -> Result<()> {
        check_range(self.size(), offset, buf.len())?;
        buf.fill(0);
        Ok(())
    }
}

/// What a new image reads as where it stores nothing: its backing file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Backed {
    /// The size of the backing file's disk in bytes; zeroes are read beyond it.
    pub size: u64,
    /// The unit in which the disk can be left to the backing file, in bytes: a power of two, at least
    /// the image's [`zero_unit`](NewImage::zero_unit), at most its
    /// [`allocation_unit`](NewImage::allocation_unit).
    pub unit: usize,
    /// Whether a unit is copied in which the disk or the backing file ends.
    pub copies_ends: bool,
}

/// Part of a chunk of guest data, in bytes from the chunk's start.
pub type Run = std::ops::Range<usize>;

/// A disk image being written, front to back, for the first time.
///
/// For every chunk in guest order, [`reserve`](Self::reserve) is called once, one call at a time;
/// then [`encode`](Self::encode) and [`write`](Self::write) with what it returned, in any order and
/// from any thread; then [`finish`](Self::finish). An image that compresses needs to know a chunk's
/// stored size before it can find room: [`pack`](Self::pack) goes before, in any order and from any
/// thread, and [`reserve_packed`](Self::reserve_packed) is called in the place of `reserve`. Where the
/// image ends up in its file depends on the order of the reservations alone, so the result is the
/// same for any number of threads.
pub trait NewImage: Sync {
    /// The unit in which space is handed out, in bytes: a power of two. Chunks start at multiples
    /// of it and are multiples of it long, but for the last one of the disk.
    fn allocation_unit(&self) -> usize;

    /// The unit in which zeroes may be left out, in bytes: a power of two, at most the allocation
    /// unit or 4096.
    fn zero_unit(&self) -> usize;

    /// The unit of which the image's tables say whether it is stored, in bytes: a power of two. Zeroes that
    /// are left out of one are a matter of its storage alone.
    fn table_unit(&self) -> usize {
        self.zero_unit()
    }

    /// Whether what is never written reads as zeroes. Where it doesn't, and the image isn't
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

    /// What is read where nothing was written, for an image with a backing file.
    fn backed(&self) -> Option<Backed> {
        None
    }

    /// How many bytes of memory a thread takes beside its buffer, at the most, to store what is in that.
    fn memory_to_write(&self) -> usize {
        0
    }

    /// Whether data is packed before there is room for it; see [`pack`](Self::pack).
    fn packs(&self) -> bool {
        false
    }

    /// Makes the `runs` of a chunk that hold data smaller, in place: afterwards the buffer holds what
    /// is to be stored. `runs` and `zeroes` are as for [`reserve`](Self::reserve).
    ///
    /// # Errors
    /// The codec's; an image that doesn't pack.
    fn pack(&self, chunk: &mut [u8], runs: &[Run], zeroes: &[Run]) -> Result<Packed> {
        let _ = (chunk, runs, zeroes);
        Err(not_packed())
    }

    /// As [`reserve`](Self::reserve), for a chunk that [`pack`](Self::pack) has packed.
    ///
    /// # Errors
    /// The format's limits; an image that doesn't pack.
    fn reserve_packed(&self, guest: GuestOffset, packed: &Packed) -> Result<Reservation> {
        let _ = (guest, packed);
        Err(not_packed())
    }

    /// Finds room for the `runs` of a chunk that hold data (sorted, disjoint, multiples of
    /// [`zero_unit`](Self::zero_unit)). Without a backing file, what is left out reads as zeroes. With
    /// one, `zeroes` do, and what is in neither list is left to it; units that are left in part are
    /// in neither list with no part.
    ///
    /// # Errors
    /// The format's limits.
    fn reserve(
        &self,
        guest: GuestOffset,
        chunk: usize,
        runs: &[Run],
        zeroes: &[Run],
    ) -> Result<Reservation>;

    /// Makes many chunks' worth of `zeroes` at once (as for [`reserve`](Self::reserve), in whole chunks but
    /// for the disk's end), in the place of one `reserve` for each chunk. `false` where the image doesn't do
    /// that; then nothing has changed.
    ///
    /// # Errors
    /// Returns the system's error, or the format's limits, if the zeroes can't be stored.
    fn reserve_zeroes(&self, guest: GuestOffset, zeroes: &[Run]) -> Result<bool> {
        let _ = (guest, zeroes);
        Ok(false)
    }

    /// Makes of a chunk's data what is stored: encrypts it, in place.
    ///
    /// # Errors
    /// The reservation is for another chunk.
    fn encode(&self, reservation: &Reservation, chunk: &mut [u8]) -> Result<()>;

    /// Writes an encoded chunk into the room reserved for it.
    ///
    /// # Errors
    /// The system's error.
    fn write(&self, reservation: &Reservation, chunk: &[u8]) -> Result<()>;

    /// Returns true if stored data may share its blocks with other files. It may not where its space was to be
    /// taken beforehand.
    fn may_share(&self) -> bool {
        true
    }

    /// Whether only one thread at a time gets anything written; see [`Storage::writes_serially`].
    fn writes_serially(&self) -> bool;

    /// The storage in which data is kept as the guest sees it, byte by byte; `None` when it is
    /// encrypted. What a reservation has room for may be copied there, followed by
    /// [`write_metadata`](Self::write_metadata).
    fn plain_storage(&self) -> Option<&dyn Storage>;

    /// Writes the metadata of a reservation, where data wasn't written with [`write`](Self::write).
    ///
    /// # Errors
    /// The system's error.
    fn write_metadata(&self, reservation: &Reservation) -> Result<()>;

    /// Writes what remains (tables, and last of all the header), after which the image is whole.
    ///
    /// # Errors
    /// The system's error, also of flushing; the format's limits.
    fn finish(&self) -> Result<()>;
}

/// Opens an image for reading, without its backing file. `secret` is the password, for images that
/// are encrypted.
///
/// # Errors
/// Whatever keeps the image from being read correctly: not of that format, damaged, encrypted
/// without a password, or using something that this version doesn't have.
pub fn open(
    storage: Arc<dyn Storage>,
    format: Format,
    secret: Option<&Secret>,
) -> Result<Arc<dyn Image>> {
    match format {
        Format::Raw => Ok(Arc::new(raw::RawImage::open(storage)?)),
        Format::Qcow2 => {
            let header = qcow2::Header::read(storage.as_ref())?;
            let image = qcow2::Qcow2Image::open_with(storage, None, header, secret)?;
            Ok(Arc::new(image))
        }
    }
}

/// What is said of an image that exists and is too small for what is to be written over it.
pub fn smaller_than_input() -> Error {
    Error::invalid("output file is smaller than input file")
}

/// Refuses offsets that a caller must not pass; see [`Image::read_at`].
fn check_range(size: u64, offset: GuestOffset, length: usize) -> Result<()> {
    let end = offset.0.checked_add(length as u64);
    if end.is_none_or(|end| end > size) {
        return Err(beyond_end(size, offset, length));
    }
    Ok(())
}

fn beyond_end(size: u64, offset: GuestOffset, length: usize) -> Error {
    Error::invalid(format!(
        "guest range {offset} + {length:#x} is beyond the disk's end {size:#x}"
    ))
}
