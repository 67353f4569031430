//! Writing to a raw image in place.
//!
//! The holes of the file aren't searched for, since they change with each write. Zeroes are holes if the storage
//! supports them.

use std::ops::Range;
use std::sync::Arc;

use super::image::RawImage;
use crate::error::Result;
use crate::formats::in_place::InPlaceStorage;
use crate::formats::{Extent, ExtentKind, Image, WritableImage, check_range};
use crate::storage::Storage;
use crate::units::{GuestOffset, HostOffset, SECTOR_LEN};

/// The largest number of zero bytes that are written at once.
const ZEROES: usize = 64 << 10;

/// A raw image open for reading and writing.
pub(super) struct WritableRaw {
    image: RawImage,
    storage: InPlaceStorage,
}

impl WritableRaw {
    /// Opens a raw image for reading and writing.
    ///
    /// # Errors
    /// Returns the system's error if its length can't be determined.
    pub(super) fn open(storage: Arc<dyn Storage>, flush: bool) -> Result<Self> {
        Ok(Self {
            image: RawImage::open(Arc::clone(&storage))?,
            storage: InPlaceStorage::new(storage, flush),
        })
    }

    fn range(&self, offset: GuestOffset, length: u64) -> Result<Range<u64>> {
        let bytes = usize::try_from(length).unwrap_or(usize::MAX);
        check_range(self.size(), offset, bytes)?;
        Ok(offset.0..offset.0 + length)
    }
}

impl Image for WritableRaw {
    fn size(&self) -> u64 {
        self.image.size()
    }

    fn extent_at(&self, offset: GuestOffset, limit: u64) -> Result<Extent> {
        check_range(self.size(), offset, 1)?;
        Ok(Extent {
            start: offset,
            length: limit.min(self.size() - offset.0),
            kind: ExtentKind::Data(HostOffset(offset.0)),
            depth: 0,
        })
    }

    fn plain_storage(&self) -> Option<&dyn Storage> {
        self.image.plain_storage()
    }

    fn read_at(&self, offset: GuestOffset, buf: &mut [u8]) -> Result<()> {
        // A write may have extended the file to the end of the last sector.
        self.range(offset, buf.len() as u64)?;
        let storage = self.storage.get();
        storage.read_padded_at(offset.0, buf, storage.len()?)?;
        Ok(())
    }
}

impl WritableImage for WritableRaw {
    fn write_at(&self, offset: GuestOffset, data: &[u8]) -> Result<()> {
        let storage = self.storage.usable()?;
        self.range(offset, data.len() as u64)?;
        storage.write_at(offset.0, data)
    }

    fn write_zeroes(&self, offset: GuestOffset, length: u64, may_unmap: bool) -> Result<()> {
        let storage = self.storage.usable()?;
        let range = self.range(offset, length)?;
        if may_unmap && storage.punch(range.clone())? {
            return Ok(());
        }
        let zeroes = [0; ZEROES];
        let mut at = range.start;
        while at < range.end {
            let left = usize::try_from(range.end - at).unwrap_or(usize::MAX);
            let part = zeroes.get(..left).unwrap_or(&zeroes);
            storage.write_at(at, part)?;
            at += part.len() as u64;
        }
        Ok(())
    }

    fn discard(&self, offset: GuestOffset, length: u64) -> Result<()> {
        let storage = self.storage.usable()?;
        storage.punch(self.range(offset, length)?)?;
        Ok(())
    }

    fn flush(&self) -> Result<()> {
        self.storage.flush()
    }

    fn allocation_unit(&self) -> usize {
        SECTOR_LEN
    }

    fn stores_zeroes(&self) -> bool {
        false
    }

    fn writes_serially(&self) -> bool {
        self.storage.get().writes_serially()
    }

    fn close(&self) -> Result<()> {
        self.storage.close()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::MemoryStorage;

    #[test]
    fn bytes_go_where_they_are_and_zeroes_read_as_such() {
        let storage = Arc::new(MemoryStorage::new(vec![1; 2000]));
        let image = WritableRaw::open(Arc::<MemoryStorage>::clone(&storage), true).unwrap();
        assert_eq!(image.size(), 2048);
        image.write_at(GuestOffset(512), &[2; 512]).unwrap();
        image.write_zeroes(GuestOffset(1024), 512, true).unwrap();
        let mut disk = vec![9; 2048];
        image.read_at(GuestOffset(0), &mut disk).unwrap();
        let expected = [
            vec![1; 512],
            vec![2; 512],
            vec![0; 512],
            vec![1; 464],
            vec![0; 48],
        ];
        assert_eq!(disk, expected.concat());
        // The last sector is written completely, which extends the file.
        image.write_at(GuestOffset(1536), &[3; 512]).unwrap();
        image.read_at(GuestOffset(0), &mut disk).unwrap();
        assert_eq!(disk[1536..], [3; 512]);
        image.write_zeroes(GuestOffset(0), 2048, false).unwrap();
        image.discard(GuestOffset(0), 2048).unwrap();
        assert_eq!(storage.contents(), [0; 2048]);
        assert!(image.write_at(GuestOffset(1536), &[3; 1024]).is_err());
        assert!(image.read_at(GuestOffset(2048), &mut [0; 512]).is_err());
        image.close().unwrap();
        assert!(image.write_at(GuestOffset(0), &[3; 512]).is_err());
    }
}
