//! The raw format: a file with only the bytes of the disk.
//!
//! The length of a raw file need not be a multiple of 512. The size of the disk is rounded up, and the missing part
//! of the last sector reads as zeroes. The length is determined once, when the image is opened. So a file that
//! shrinks while it is read is an error, and doesn't read as zeroes.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::error::{Error, Result};
use crate::formats::new_image::unsupported_preallocation;
use crate::formats::status::{Holes, Status};
use crate::formats::{
    Backed, Extent, ExtentKind, Image, NewImage, Preallocation, Reservation, Run, check_range,
    smaller_than_input,
};
use crate::storage::Storage;
use crate::units::{GuestOffset, HostOffset, SECTOR_LEN, SECTOR_SIZE};

/// A raw image open for reading.
#[derive(Debug)]
pub struct RawImage {
    storage: Arc<dyn Storage>,
    length: u64,
    holes: Holes,
}

impl RawImage {
    /// Opens a raw image. Every storage is one.
    ///
    /// # Errors
    /// Returns the system's error if its length can't be determined.
    pub fn open(storage: Arc<dyn Storage>) -> Result<Self> {
        let length = storage.len()?;
        Ok(Self {
            storage,
            length,
            holes: Holes::default(),
        })
    }

    /// Returns the range of data that holds `offset`, or else the next one, in whole sectors. Returns an empty range
    /// at the disk's end if there is none.
    fn data_from(&self, offset: u64) -> Result<Range<u64>> {
        let size = self.size();
        // The last sector may be partly beyond the end of the file.
        let data = self.holes.data_from(self.storage.as_ref(), offset)?;
        let start = data.start.min(size) / SECTOR_SIZE * SECTOR_SIZE;
        Ok(start..data.end.min(size).next_multiple_of(SECTOR_SIZE))
    }

    fn check_length(&self) -> Result<()> {
        let now = self.storage.len()?;
        if now < self.length {
            return Err(self.shrunk(now));
        }
        Ok(())
    }

    fn shrunk(&self, at: u64) -> Error {
        Error::corrupt(format!(
            "the file ended at byte {at} while it was read; it had {} bytes when it was opened",
            self.length
        ))
    }
}

impl Image for RawImage {
    fn size(&self) -> u64 {
        self.length.next_multiple_of(SECTOR_SIZE)
    }

    fn extent_at(&self, offset: GuestOffset, limit: u64) -> Result<Extent> {
        check_range(self.size(), offset, 1)?;
        let left = (self.size() - offset.0).min(limit);
        let extent = |length: u64, kind| Extent {
            start: offset,
            length: length.min(left),
            kind,
            depth: 0,
        };
        // Holes are reported in whole sectors.
        let data = self.data_from(offset.0)?;
        Ok(if data.start <= offset.0 && offset.0 < data.end {
            let kind = ExtentKind::Data(HostOffset(offset.0));
            extent(data.end - offset.0, kind)
        } else {
            // A hole is reported only if the file still extends beyond it.
            self.check_length()?;
            let kind = ExtentKind::Zero {
                kept: Some(HostOffset(offset.0)),
            };
            extent(data.start.max(offset.0 + 1) - offset.0, kind)
        })
    }

    fn status_at(&self, offset: GuestOffset, limit: u64) -> Result<Status> {
        check_range(self.size(), offset, 1)?;
        let (is_hole, length) = self.holes.at(self.storage.as_ref(), offset.0)?;
        if is_hole {
            self.check_length()?;
        }
        Ok(Status {
            length: length.min(limit).min(self.size() - offset.0),
            depth: 0,
            present: true,
            zero: is_hole,
            data: !is_hole,
            compressed: false,
            offset: Some(HostOffset(offset.0)),
        })
    }

    fn plain_storage(&self) -> Option<&dyn Storage> {
        Some(self.storage.as_ref())
    }

    fn read_at(&self, offset: GuestOffset, buf: &mut [u8]) -> Result<()> {
        check_range(self.size(), offset, buf.len())?;
        self.storage.read_padded_at(offset.0, buf, self.length)?;
        Ok(())
    }
}

/// The unit in which zeroes are left out of a raw image, in bytes: the block size of most file systems.
const RAW_UNIT: usize = 4096;
/// A raw image being written.
#[derive(Debug)]
pub struct NewRaw {
    storage: Arc<dyn Storage>,
    size: u64,
    /// Set once: by a caller that knows the contents, or by [`clear`](NewImage::clear).
    starts_as_zeroes: AtomicBool,
    /// True if the image may be cleared: its contents aren't known, and its space isn't preallocated.
    may_clear: bool,
    /// True if parts may be left unchanged.
    leaves_parts: bool,
    may_share: bool,
    flush: bool,
}

impl NewRaw {
    /// Makes `storage` a disk of `size` bytes that reads as zeroes until it is written. A block device keeps its
    /// contents until it is cleared or written. If `flush`, [`NewImage::finish`] flushes to stable storage.
    ///
    /// # Errors
    /// Returns the system's error. Returns an error if a block device is smaller than `size`, or if `preallocation`
    /// is [`Preallocation::Metadata`], since a raw image has no metadata.
    pub fn create(
        storage: Arc<dyn Storage>,
        size: u64,
        preallocation: Preallocation,
        flush: bool,
    ) -> Result<Self> {
        if preallocation == Preallocation::Metadata {
            return Err(unsupported_preallocation());
        }
        let starts_as_zeroes = storage.starts_as_zeroes();
        if starts_as_zeroes {
            storage.set_len(size)?;
        } else {
            check_space(storage.as_ref(), size)?;
        }
        let reserved = preallocation == Preallocation::Off || storage.reserve(0..size)?;
        let is_zero = starts_as_zeroes && reserved && preallocation != Preallocation::Full;
        Ok(Self {
            storage,
            size,
            starts_as_zeroes: AtomicBool::new(is_zero),
            may_clear: preallocation == Preallocation::Off,
            leaves_parts: false,
            may_share: preallocation == Preallocation::Off,
            flush,
        })
    }

    /// Prepares to overwrite the first `size` bytes of an existing raw image, and keeps the rest. `is_zero`
    /// guarantees that these bytes read as zeroes. Otherwise they keep their contents until they are cleared or
    /// written.
    ///
    /// # Errors
    /// Returns the system's error. Returns an error if the image is smaller than `size`.
    pub fn over(storage: Arc<dyn Storage>, size: u64, is_zero: bool, flush: bool) -> Result<Self> {
        check_space(storage.as_ref(), size)?;
        Ok(Self {
            storage,
            size,
            starts_as_zeroes: AtomicBool::new(is_zero || size == 0),
            may_clear: true,
            leaves_parts: false,
            may_share: true,
            flush,
        })
    }

    /// Prepares to overwrite an image as [`over`](Self::over) does. But parts that are neither data nor zero keep
    /// their contents, as if these were a backing file's.
    ///
    /// # Errors
    /// Returns the errors of [`over`](Self::over).
    pub fn over_parts(storage: Arc<dyn Storage>, size: u64, flush: bool) -> Result<Self> {
        check_space(storage.as_ref(), size)?;
        Ok(Self {
            storage,
            size,
            starts_as_zeroes: AtomicBool::new(false),
            may_clear: false,
            leaves_parts: true,
            may_share: true,
            flush,
        })
    }
}

/// Refuses a storage that is too small. The length is rounded up to whole sectors, since a file can be extended to
/// the end of its last sector.
fn check_space(storage: &dyn Storage, size: u64) -> Result<()> {
    if storage.len()?.next_multiple_of(SECTOR_SIZE) < size {
        return Err(smaller_than_input());
    }
    Ok(())
}

impl NewImage for NewRaw {
    fn allocation_unit(&self) -> usize {
        RAW_UNIT
    }

    fn zero_unit(&self) -> usize {
        // A sector of data may be next to one that is left unchanged.
        if self.leaves_parts {
            return SECTOR_LEN;
        }
        RAW_UNIT
    }

    fn starts_as_zeroes(&self) -> bool {
        self.starts_as_zeroes.load(Ordering::Relaxed)
    }

    /// Punches one hole over the whole disk, which takes no time and frees the space of a thin device. If that isn't
    /// supported, zeroes are written later.
    fn clear(&self) -> Result<()> {
        if self.may_clear && !self.starts_as_zeroes() && self.storage.punch(0..self.size)? {
            self.starts_as_zeroes.store(true, Ordering::Relaxed);
        }
        Ok(())
    }

    fn backed(&self) -> Option<Backed> {
        self.leaves_parts.then_some(Backed {
            size: self.size.next_multiple_of(SECTOR_SIZE),
            unit: SECTOR_LEN,
            copies_ends: false,
        })
    }

    fn reserve(
        &self,
        guest: GuestOffset,
        _chunk: usize,
        runs: &[Run],
        zeroes: &[Run],
    ) -> Result<Reservation> {
        // The size of the source may have been rounded up to whole sectors.
        let left = usize::try_from(self.size.saturating_sub(guest.0)).unwrap_or(usize::MAX);
        let place = |run: &Run| {
            let host = HostOffset(guest.0 + run.start as u64);
            (run.start.min(left)..run.end.min(left), host)
        };
        let mut pieces: Vec<_> = runs.iter().map(place).collect();
        for (run, host) in zeroes.iter().map(place) {
            let end = host.0 + run.len() as u64;
            if !run.is_empty() && !self.storage.punch(host.0..end)? {
                pieces.push((run, host));
            }
        }
        Ok(Reservation {
            guest,
            pieces,
            metadata: Vec::new(),
        })
    }

    fn encode(&self, _reservation: &Reservation, _chunk: &mut [u8]) -> Result<()> {
        Ok(())
    }

    fn write(&self, reservation: &Reservation, chunk: &[u8]) -> Result<()> {
        reservation.write_data(self.storage.as_ref(), chunk)
    }

    fn writes_serially(&self) -> bool {
        self.storage.writes_serially()
    }

    fn may_share(&self) -> bool {
        self.may_share
    }

    fn plain_storage(&self) -> Option<&dyn Storage> {
        Some(self.storage.as_ref())
    }

    fn write_metadata(&self, _reservation: &Reservation) -> Result<()> {
        Ok(())
    }

    fn finish(&self) -> Result<()> {
        self.storage.flush_if(self.flush)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::MemoryStorage;

    #[test]
    fn an_odd_length_is_rounded_up_with_zeroes() {
        let image = RawImage::open(Arc::new(MemoryStorage::new(vec![7; 513]))).unwrap();
        assert_eq!(image.size(), 1024);
        let mut buf = [1; 1024];
        image.read_at(GuestOffset(0), &mut buf).unwrap();
        assert!(buf[..513].iter().all(|byte| *byte == 7));
        assert!(buf[513..].iter().all(|byte| *byte == 0));
        let extent = image.extent_at(GuestOffset(512), u64::MAX).unwrap();
        assert_eq!(extent.length, 512);
        assert_eq!(extent.kind, ExtentKind::Data(HostOffset(512)));
    }

    #[test]
    fn a_file_that_shrinks_is_an_error() {
        let storage = Arc::new(MemoryStorage::new(vec![7; 4096]));
        let image = RawImage::open(Arc::<MemoryStorage>::clone(&storage)).unwrap();
        storage.set_len(1000).unwrap();
        let error = image.read_at(GuestOffset(0), &mut [0; 4096]).unwrap_err();
        assert!(error.to_string().contains("ended at byte 1000"), "{error}");
    }

    #[test]
    fn an_odd_length_has_room_for_whole_sectors() {
        let over = |length| {
            let storage = Arc::new(MemoryStorage::new(vec![7; length]));
            NewRaw::over(storage, 1024, false, false)
        };
        assert!(over(512).is_err());
        for length in [513, 1000, 1024, 1500] {
            let image = over(length).unwrap();
            let whole = 0..1024;
            let runs = std::slice::from_ref(&whole);
            let reservation = image.reserve(GuestOffset(0), 4096, runs, &[]).unwrap();
            image.write(&reservation, &[5; 4096]).unwrap();
            let written = image.storage.len().unwrap();
            assert_eq!(written, length.max(1024) as u64);
        }
    }

    #[test]
    fn holes_are_extents_of_their_own() {
        let mut data = vec![0; 4 * 4096];
        data[2 * 4096] = 1;
        let image = RawImage::open(Arc::new(MemoryStorage::new(data))).unwrap();
        let kinds = |offset| {
            let extent = image.extent_at(GuestOffset(offset), u64::MAX).unwrap();
            (extent.length, extent.kind)
        };
        let hole = |at| ExtentKind::Zero {
            kept: Some(HostOffset(at)),
        };
        assert_eq!(kinds(0), (8192, hole(0)));
        assert_eq!(kinds(8192), (4096, ExtentKind::Data(HostOffset(8192))));
        assert_eq!(kinds(12288), (4096, hole(12288)));
    }
}
