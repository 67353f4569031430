//! A part of a storage as a storage: `driver=raw,offset=…,size=…`.
//!
//! The bytes around the window belong to others, so no request may read, write, punch or extend beyond it. A window
//! without a given length reaches to the end of the storage, and a change of its length moves that end.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::{Filter, NotShared, Storage};
use crate::error::{Error, Result};
use crate::units::SECTOR_SIZE;

/// The range of a window, in bytes of the storage below it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WindowRange {
    /// Its first byte.
    pub offset: u64,
    /// Its length, or `None` if it reaches to the end.
    pub size: Option<u64>,
}

/// A part of a storage.
#[derive(Debug)]
pub struct Window {
    inner: Arc<dyn Storage>,
    offset: u64,
    size: AtomicU64,
    /// True if its length was given, so that it can't change.
    is_fixed: bool,
    /// The end of the stored bytes when it was opened, in bytes of the storage below.
    stored: AtomicU64,
}

impl Window {
    /// Opens the window. The rest of a last partial sector (of 512 bytes) of the storage below reads as zeroes.
    ///
    /// # Errors
    /// Returns an error if the window isn't completely inside the storage, or if its length isn't a multiple of 512.
    pub fn open(inner: Arc<dyn Storage>, range: WindowRange) -> Result<Self> {
        let WindowRange { offset, size } = range;
        let is_fixed = size.is_some();
        let stored = inner.len()?;
        let whole = stored.next_multiple_of(SECTOR_SIZE);
        let Some(rest) = whole.checked_sub(offset) else {
            return Err(Error::invalid(format!(
                "Offset ({offset}) cannot be greater than size of the containing file ({whole})"
            )));
        };
        let size = match size {
            None => rest,
            Some(size) if size > rest => {
                // The two spaces are those of qemu-img.
                return Err(Error::invalid(format!(
                    "The sum of offset ({offset}) and size ({size}) has to be smaller or equal to \
                     the  actual size of the containing file ({whole})"
                )));
            }
            Some(size) if !size.is_multiple_of(512) => {
                return Err(Error::invalid("Specified size is not multiple of 512"));
            }
            Some(size) => size,
        };
        Ok(Self {
            inner,
            offset,
            size: AtomicU64::new(size),
            is_fixed,
            stored: AtomicU64::new(stored),
        })
    }

    fn size(&self) -> u64 {
        self.size.load(Ordering::Relaxed)
    }

    /// Returns the offset in the storage below, and the number of the `length` bytes that are inside the window.
    fn inside(&self, offset: u64, length: usize) -> (u64, usize) {
        let rest = self.size().saturating_sub(offset);
        let length = usize::try_from(rest).map_or(length, |rest| length.min(rest));
        (self.offset.saturating_add(offset), length)
    }

    fn refuse_beyond(&self, end: Option<u64>) -> Result<()> {
        if end.is_some_and(|end| end <= self.size()) {
            return Ok(());
        }
        Err(Error::invalid(format!(
            "a window of {} bytes of a file can't grow",
            self.size()
        )))
    }
}

impl Filter for Window {
    fn inner(&self) -> &dyn Storage {
        self.inner.as_ref()
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<usize> {
        let (below, length) = self.inside(offset, buf.len());
        let buf = buf.get_mut(..length).unwrap_or_default();
        let read = self.inner.read_at(below, buf)?;
        let rest = buf.get_mut(read..).unwrap_or_default();
        if below.saturating_add(read as u64) < self.stored.load(Ordering::Relaxed) {
            return Ok(read);
        }
        rest.fill(0);
        Ok(length)
    }

    fn write_at(&self, offset: u64, data: &[u8]) -> Result<()> {
        self.refuse_beyond(offset.checked_add(data.len() as u64))?;
        self.inner
            .write_at(self.offset.saturating_add(offset), data)
    }

    fn len(&self) -> Result<u64> {
        Ok(self.size())
    }

    fn set_len(&self, len: u64) -> Result<()> {
        if len == self.size() {
            return Ok(());
        }
        if self.is_fixed {
            return Err(Error::invalid("Cannot resize fixed-size raw disks"));
        }
        let end = self.offset.saturating_add(len);
        self.inner.set_len(end)?;
        self.size.store(len, Ordering::Relaxed);
        self.stored.store(end, Ordering::Relaxed);
        Ok(())
    }

    fn punch(&self, range: Range<u64>) -> Result<bool> {
        self.refuse_beyond(Some(range.end))?;
        let below = |at| self.offset.saturating_add(at);
        self.inner.punch(below(range.start)..below(range.end))
    }

    fn reserve(&self, range: Range<u64>) -> Result<bool> {
        self.refuse_beyond(Some(range.end))?;
        let below = |at| self.offset.saturating_add(at);
        self.inner.reserve(below(range.start)..below(range.end))
    }

    fn copy_from(
        &self,
        offset: u64,
        source: &dyn Storage,
        source_offset: u64,
        length: u64,
    ) -> Result<bool> {
        self.refuse_beyond(offset.checked_add(length))?;
        let below = self.offset.saturating_add(offset);
        self.inner.copy_from(below, source, source_offset, length)
    }

    fn share_from(
        &self,
        offset: u64,
        source: &dyn Storage,
        source_offset: u64,
        length: u64,
    ) -> Result<(), NotShared> {
        let beyond = |why| NotShared { ever: false, why };
        self.refuse_beyond(offset.checked_add(length))
            .map_err(beyond)?;
        let below = self.offset.saturating_add(offset);
        self.inner.share_from(below, source, source_offset, length)
    }

    fn next_data(&self, offset: u64) -> Result<Option<Range<u64>>> {
        if offset >= self.size() {
            return Ok(None);
        }
        let below = self.inner.next_data(self.offset.saturating_add(offset))?;
        Ok(below.and_then(|range| {
            let start = range.start.saturating_sub(self.offset).max(offset);
            let end = range.end.saturating_sub(self.offset).min(self.size());
            (start < end).then_some(start..end)
        }))
    }

    fn has_fixed_length(&self) -> bool {
        true
    }

    /// A window never starts as zeroes, since the bytes of the storage below stay.
    fn starts_as_zeroes(&self) -> bool {
        false
    }
}

#[cfg(test)]
mod tests {
    use super::{Arc, Result, Storage, Window, WindowRange};
    use crate::storage::MemoryStorage;

    fn window(offset: u64, size: Option<u64>) -> Result<(Arc<MemoryStorage>, Window)> {
        let bytes = (0..=255).flat_map(|byte| [byte; 8]).collect();
        let inner = Arc::new(MemoryStorage::new(bytes));
        let storage: Arc<dyn Storage> = Arc::<MemoryStorage>::clone(&inner);
        Window::open(storage, WindowRange { offset, size }).map(|window| (inner, window))
    }

    #[test]
    fn only_one_without_a_stated_length_gets_another() {
        let (_, fixed) = window(1000, Some(512)).unwrap();
        fixed.set_len(512).unwrap();
        assert!(fixed.set_len(1024).is_err() && fixed.set_len(0).is_err());
        let (inner, window) = window(1024, None).unwrap();
        window.set_len(5000).unwrap();
        assert_eq!((window.len().unwrap(), inner.len().unwrap()), (5000, 6024));
        window.write_at(4990, &[9; 10]).unwrap();
        let mut buf = [1; 20];
        assert_eq!(window.read_at(4985, &mut buf).unwrap(), 15);
        assert_eq!(buf[..15], [[0; 5], [9; 5], [9; 5]].concat());
        window.set_len(100).unwrap();
        assert_eq!((window.len().unwrap(), inner.len().unwrap()), (100, 1124));
    }

    #[test]
    fn reads_stay_inside() {
        let (_, window) = window(1000, Some(512)).unwrap();
        assert_eq!(window.len().unwrap(), 512);
        let mut buf = [0; 600];
        assert_eq!(window.read_at(0, &mut buf).unwrap(), 512);
        assert_eq!((buf[0], buf[511], buf[512]), (125, 188, 0));
        assert_eq!(window.read_at(500, &mut buf).unwrap(), 12);
        assert_eq!(window.read_at(512, &mut buf).unwrap(), 0);
        assert_eq!(window.read_at(u64::MAX, &mut buf).unwrap(), 0);
        assert_eq!(window.next_data(0).unwrap(), Some(0..512));
        assert_eq!(window.next_data(100).unwrap(), Some(100..512));
        assert_eq!(window.next_data(512).unwrap(), None);
    }

    #[test]
    fn the_last_sector_is_whole() {
        let inner = Arc::new(MemoryStorage::new(vec![7; 1000]));
        let storage: Arc<dyn Storage> = Arc::<MemoryStorage>::clone(&inner);
        let range = WindowRange {
            offset: 500,
            size: None,
        };
        let window = Window::open(storage, range).unwrap();
        assert_eq!(window.len().unwrap(), 524);
        let mut buf = [1; 600];
        assert_eq!(window.read_at(0, &mut buf).unwrap(), 524);
        assert_eq!((buf[499], buf[500], buf[523], buf[524]), (7, 0, 0, 1));
        assert_eq!(window.read_at(510, &mut buf).unwrap(), 14);
        // Bytes that are truncated later aren't replaced by zeroes.
        inner.set_len(600).unwrap();
        assert_eq!(window.read_at(0, &mut buf).unwrap(), 100);
    }

    #[test]
    fn writes_stay_inside() {
        let (inner, window) = window(1000, Some(512)).unwrap();
        let before = inner.len().unwrap();
        window.write_at(510, &[7, 8]).unwrap();
        assert!(window.write_at(511, &[7, 8]).is_err());
        assert!(window.write_at(u64::MAX, &[7]).is_err());
        assert!(window.set_len(511).is_err());
        assert!(window.set_len(513).is_err());
        assert!(window.reserve(0..513).is_err());
        assert!(window.punch(0..513).is_err());
        window.set_len(512).unwrap();
        let mut around = [0; 4];
        inner.read_at(1509, &mut around).unwrap();
        assert_eq!(around, [188, 7, 8, 189]);
        assert_eq!(inner.len().unwrap(), before);
    }

    #[test]
    fn a_window_must_be_inside_its_storage() {
        assert_eq!(window(5, None).unwrap().1.len().unwrap(), 2043);
        assert_eq!(window(2048, None).unwrap().1.len().unwrap(), 0);
        for (offset, size, message) in [
            (2049, None, "Offset (2049) cannot be greater than size"),
            (u64::MAX, Some(512), "cannot be greater than size"),
            (5, Some(2048), "The sum of offset (5) and size (2048)"),
            (5, Some(u64::MAX), "The sum of offset (5)"),
            (5, Some(511), "Specified size is not multiple of 512"),
        ] {
            let error = window(offset, size).unwrap_err().to_string();
            assert!(error.contains(message), "{error}");
        }
    }
}
