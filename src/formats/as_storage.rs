//! The disk of an image as a storage, for an image inside of it.
//!
//! This makes a format inside another one work without code for it in either format. The outer image is opened like
//! any other image. The driver of the inner image sees the outer disk as a read-only file.

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use super::Image;
use crate::error::{Error, Result};
use crate::storage::{Identity, Storage};
use crate::units::{GuestOffset, SECTOR_SIZE};

/// The disk of an image, as a read-only storage.
pub struct ImageStorage {
    image: Arc<dyn Image>,
    /// The files that hold the image.
    files: Vec<Arc<dyn Storage>>,
    name: OsString,
    format: &'static str,
}

impl ImageStorage {
    /// Returns the disk of `image` as a storage. `files` are the files that hold the image; `name` is its name in
    /// messages.
    pub fn new(
        image: Arc<dyn Image>,
        files: Vec<Arc<dyn Storage>>,
        name: OsString,
        format: &'static str,
    ) -> Self {
        Self {
            image,
            files,
            name,
            format,
        }
    }

    fn read_only<T>(&self) -> Result<T> {
        Err(Error::unsupported(format!(
            "'{}' is inside of an image, and this version only reads such",
            self.name.display()
        )))
    }

    /// Reads the sectors from byte `start` on, and copies the part that begins `skipped` bytes later to `buf`.
    fn read_part(&self, start: u64, skipped: usize, buf: &mut [u8]) -> Result<()> {
        let sector = usize::try_from(SECTOR_SIZE).unwrap_or(1);
        let mut sectors = vec![0; (skipped + buf.len()).next_multiple_of(sector)];
        self.image.read_at(GuestOffset(start), &mut sectors)?;
        let part = sectors.get(skipped..skipped + buf.len());
        buf.copy_from_slice(part.unwrap_or_default());
        Ok(())
    }
}

impl fmt::Debug for ImageStorage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ImageStorage({})", self.name.display())
    }
}

impl Storage for ImageStorage {
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<usize> {
        let left = self.image.size().saturating_sub(offset);
        let length = usize::try_from(left).unwrap_or(usize::MAX).min(buf.len());
        let Some(buf) = buf.get_mut(..length).filter(|buf| !buf.is_empty()) else {
            return Ok(0);
        };
        let within = offset % SECTOR_SIZE;
        if within == 0 && (length as u64).is_multiple_of(SECTOR_SIZE) {
            self.image.read_at(GuestOffset(offset), buf)?;
        } else {
            let skipped = usize::try_from(within).unwrap_or_default();
            self.read_part(offset - within, skipped, buf)?;
        }
        Ok(length)
    }

    fn write_at(&self, _offset: u64, _data: &[u8]) -> Result<()> {
        self.read_only()
    }

    fn len(&self) -> Result<u64> {
        Ok(self.image.size())
    }

    fn set_len(&self, _len: u64) -> Result<()> {
        self.read_only()
    }

    fn punch(&self, _range: Range<u64>) -> Result<bool> {
        self.read_only()
    }

    fn reserve(&self, _range: Range<u64>) -> Result<bool> {
        self.read_only()
    }

    fn copy_from(&self, _: u64, _: &dyn Storage, _: u64, _: u64) -> Result<bool> {
        self.read_only()
    }

    fn identity(&self) -> Result<Identity> {
        let parts = self.files.iter().map(|file| file.identity());
        Ok(Identity::of_parts(&parts.collect::<Result<Vec<_>>>()?))
    }

    fn location(&self) -> &OsStr {
        &self.name
    }

    fn driver(&self) -> &'static str {
        self.format
    }

    fn next_data(&self, offset: u64) -> Result<Option<Range<u64>>> {
        let size = self.image.size();
        let mut start = offset;
        while start < size {
            let extent = self.image.extent_at(GuestOffset(start), size - start)?;
            let end = start + extent.length;
            if extent.kind.is_data() {
                return Ok(Some(start..end));
            }
            start = end;
        }
        Ok(None)
    }

    fn allocated(&self) -> Result<Option<u64>> {
        let parts = self.files.iter().map(|file| file.allocated());
        let parts: Vec<_> = parts.collect::<Result<_>>()?;
        Ok(parts.into_iter().sum())
    }

    fn flush(&self) -> Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::formats::raw::RawImage;
    use crate::storage::MemoryStorage;

    #[test]
    fn any_part_is_read_and_none_is_written() {
        let bytes: Vec<u8> = (0..2000u32).map(|at| at.to_le_bytes()[0]).collect();
        let file: Arc<dyn Storage> = Arc::new(MemoryStorage::new(bytes.clone()));
        let image = Arc::new(RawImage::open(Arc::clone(&file)).unwrap());
        let disk = ImageStorage::new(image, vec![file], "x".into(), "raw");
        let bytes = [bytes, vec![0; 48]].concat();
        assert_eq!(disk.len().unwrap(), 2048);
        for (start, length) in [
            (0, 512),
            (1, 3),
            (511, 2),
            (700, 1348),
            (1024, 1024),
            (2047, 1),
        ] {
            let mut part = vec![9; length];
            assert_eq!(disk.read_at(start as u64, &mut part).unwrap(), length);
            assert_eq!(part, bytes[start..start + length], "{start}");
        }
        assert_eq!(disk.read_at(2040, &mut [0; 100]).unwrap(), 8);
        assert_eq!(disk.read_at(5000, &mut [0; 100]).unwrap(), 0);
        assert!(disk.write_at(0, &[1]).is_err() && disk.set_len(0).is_err());
    }
}
