//! Several disks in a row, presented as one disk.

use std::sync::Arc;

use super::{Extent, Image, Plain, Status, check_range};
use crate::error::Result;
use crate::units::GuestOffset;

/// Disks in a row.
pub struct Concatenation {
    /// The guest offset at which each disk starts, and the disk.
    parts: Vec<(u64, Arc<dyn Image>)>,
    size: u64,
}

impl Concatenation {
    /// Concatenates the disks in this order. Returns `None` if the sum of their sizes is over 2^63 − 1 bytes.
    pub fn new(images: Vec<Arc<dyn Image>>) -> Option<Self> {
        let mut parts = Vec::with_capacity(images.len());
        let mut size = 0u64;
        for image in images {
            parts.push((size, Arc::clone(&image)));
            size = size.checked_add(image.size())?;
        }
        (size <= i64::MAX.cast_unsigned()).then_some(Self { parts, size })
    }

    /// Returns the disk with the byte at `offset`, and the offset in it.
    fn part(&self, offset: GuestOffset, length: usize) -> Result<(&dyn Image, GuestOffset)> {
        let (image, within) = part_at(&self.parts, offset)
            .ok_or_else(|| super::beyond_end(self.size, offset, length))?;
        Ok((image.as_ref(), within))
    }
}

/// Returns the part of a disk with the byte at `offset`, and the offset in it. Each part has the guest offset at which
/// it starts, in ascending order.
pub(super) fn part_at<T>(parts: &[(u64, T)], offset: GuestOffset) -> Option<(&T, GuestOffset)> {
    let next = parts.partition_point(|(start, _)| *start <= offset.0);
    let (start, part) = parts.get(next.checked_sub(1)?)?;
    Some((part, GuestOffset(offset.0 - start)))
}

impl Image for Concatenation {
    fn size(&self) -> u64 {
        self.size
    }

    fn extent_at(&self, offset: GuestOffset, limit: u64) -> Result<Extent> {
        check_range(self.size, offset, 1)?;
        let (image, within) = self.part(offset, 1)?;
        let extent = image.extent_at(within, limit)?;
        Ok(Extent {
            start: offset,
            ..extent
        })
    }

    fn plain_at(&self, offset: GuestOffset, limit: u64) -> Result<Plain<'_>> {
        check_range(self.size, offset, 1)?;
        let (image, within) = self.part(offset, 1)?;
        image.plain_at(within, limit)
    }

    fn status_at(&self, offset: GuestOffset, limit: u64) -> Result<Status> {
        check_range(self.size, offset, 1)?;
        let (image, within) = self.part(offset, 1)?;
        image.status_at(within, limit)
    }

    fn memory_to_read(&self) -> usize {
        let parts = self.parts.iter().map(|(_, image)| image.memory_to_read());
        parts.max().unwrap_or(0)
    }

    fn read_at(&self, offset: GuestOffset, buf: &mut [u8]) -> Result<()> {
        check_range(self.size, offset, buf.len())?;
        let mut guest = offset;
        let mut rest = buf;
        while !rest.is_empty() {
            let (image, within) = self.part(guest, rest.len())?;
            let length = usize::try_from(image.size() - within.0).unwrap_or(usize::MAX);
            let (part, after) = rest.split_at_mut(length.min(rest.len()));
            image.read_at(within, part)?;
            guest.0 += part.len() as u64;
            rest = after;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::formats::raw::RawImage;
    use crate::storage::MemoryStorage;

    #[test]
    fn each_disk_follows_the_one_before() {
        let raw = |length: usize, byte| -> Arc<dyn Image> {
            let storage = Arc::new(MemoryStorage::new(vec![byte; length]));
            Arc::new(RawImage::open(storage).unwrap())
        };
        let all = Concatenation::new(vec![raw(1024, 1), raw(0, 9), raw(100, 2), raw(512, 3)]);
        let all = all.unwrap();
        assert_eq!(all.size(), 2048);
        let mut buf = [9; 2048];
        all.read_at(GuestOffset(0), &mut buf).unwrap();
        let mut expected = [3; 2048];
        expected[..1024].fill(1);
        expected[1024..1124].fill(2);
        expected[1124..1536].fill(0);
        assert_eq!(buf, expected);
        let extent = all.extent_at(GuestOffset(512), u64::MAX).unwrap();
        assert_eq!((extent.start, extent.length), (GuestOffset(512), 512));
        assert!(all.extent_at(GuestOffset(2048), 1).is_err());
    }
}
