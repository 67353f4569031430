//! A backing chain: an image, its backing file, the backing file of that, and so on.
//!
//! Parts that an image doesn't store are read from the next image below it. Parts that no image stores read as
//! zeroes. If a backing file is smaller than the image above it, the rest reads as zeroes, whatever the
//! images further below store. If it is larger, the rest of it isn't visible.

use std::sync::Arc;

use super::{Extent, ExtentKind, Image, Plain, PlainPlace, Status, check_range};
use crate::error::{Error, Result};
use crate::storage::Storage;
use crate::units::GuestOffset;

/// An image and its backing files, the topmost image first.
pub struct Chain {
    top: Arc<dyn Image>,
    below: Vec<Arc<dyn Image>>,
}

impl Chain {
    /// Returns a chain of `top` and the images `below` it, the nearest first.
    pub fn new(top: Arc<dyn Image>, below: Vec<Arc<dyn Image>>) -> Self {
        Self { top, below }
    }

    /// Returns the image at `depth`; 0 is the topmost image.
    pub fn layer(&self, depth: usize) -> Option<&dyn Image> {
        match depth.checked_sub(1) {
            None => Some(self.top.as_ref()),
            Some(below) => self.below.get(below).map(AsRef::as_ref),
        }
    }

    /// Returns the number of images, at least 1.
    pub fn depth(&self) -> usize {
        1 + self.below.len()
    }

    /// Returns the part of this chain from `depth` on, or `None` beyond the last image.
    pub fn from_depth(&self, depth: usize) -> Option<Self> {
        let Some(below) = depth.checked_sub(1) else {
            return Some(Self::new(Arc::clone(&self.top), self.below.clone()));
        };
        let (top, below) = self.below.get(below..)?.split_first()?;
        Some(Self::new(Arc::clone(top), below.to_vec()))
    }

    /// Returns the status from the topmost image in which the part is present. `ask` returns one image's status, for
    /// at most as many bytes as its second argument says.
    fn status(
        &self,
        offset: GuestOffset,
        limit: u64,
        ask: impl Fn(&dyn Image, u64) -> Result<Status>,
    ) -> Result<Status> {
        let mut status = ask(self.top.as_ref(), limit)?;
        for (depth, image) in (1..).zip(&self.below) {
            // Zeroes beyond the end of a backing file are attributed to the image above it.
            if status.present || offset.0 >= image.size() {
                break;
            }
            status = Status {
                depth,
                ..ask(image.as_ref(), status.length)?
            };
        }
        status.zero |= !status.present;
        Ok(status)
    }

    /// Returns the extent that [`Image::extent_at`] returns for a chain of the topmost `layers` images alone. Parts
    /// that none of them stores are [`ExtentKind::Unallocated`].
    ///
    /// # Errors
    /// Returns an error as [`Image::extent_at`] does.
    pub fn extent_above(&self, layers: usize, offset: GuestOffset, limit: u64) -> Result<Extent> {
        let mut extent = self.top.extent_at(offset, limit)?;
        for (depth, image) in (1..layers).zip(&self.below) {
            if !matches!(extent.kind, ExtentKind::Unallocated { .. }) {
                break;
            }
            if offset.0 >= image.size() {
                extent.kind = ExtentKind::Zero { kept: None };
                extent.depth = depth;
                break;
            }
            // The extent ends at the backing file's end at the latest.
            extent = Extent {
                depth,
                ..image.extent_at(offset, extent.length)?
            };
        }
        Ok(extent)
    }
}

/// A chain of which only the topmost image counts as storing data. It is the source of a copy that leaves the rest to
/// the target's backing file. If the topmost image has no backing file, there is nothing to leave: parts that it
/// doesn't store are zero.
///
/// `qemu-img` doesn't compute the exact end of a backing file that is smaller than the image. It takes unallocated
/// parts for zero if they start beyond that end. The result depends on the offsets of its queries, and so this type
/// reproduces them. A query starts after a part that is stored in another way, and at the end of the target's backing
/// file. It also starts at the end of a part of the tables that QEMU looks up at once.
pub struct TopOnly {
    chain: Arc<Chain>,
    /// The chain from which the data is read.
    reads: Arc<Chain>,
    /// The size of the target's backing file in bytes, or 0 without one.
    below_target: u64,
}

impl TopOnly {
    /// Returns `chain`, which is read as it is, for a target whose backing file has `below_target` bytes.
    pub fn new(chain: Arc<Chain>, below_target: u64) -> Self {
        let reads = Arc::clone(&chain);
        Self {
            chain,
            reads,
            below_target,
        }
    }

    /// Returns `chain`, read as if `base`, the target's backing file, were the backing file of its topmost image.
    pub fn over(chain: Arc<Chain>, base: Arc<Chain>) -> Self {
        let below_target = base.size();
        let reads = Arc::new(Chain::new(Arc::clone(&chain.top), vec![base]));
        Self {
            chain,
            reads,
            below_target,
        }
    }
}

impl Image for TopOnly {
    fn size(&self) -> u64 {
        self.chain.size()
    }

    fn extent_at(&self, offset: GuestOffset, limit: u64) -> Result<Extent> {
        let top = self.chain.top.as_ref();
        let below = self.chain.below.first().map_or(0, |below| below.size());
        let mut limit = limit;
        if offset.0 < below && below < top.size() {
            let step = top.status_step();
            let into = offset.0.checked_rem(step).unwrap_or(0);
            limit = limit.min(step.saturating_sub(into).max(1));
            if offset.0 < self.below_target {
                limit = limit.min(self.below_target - offset.0);
            }
        }
        let mut extent = top.extent_at(offset, limit)?;
        if let ExtentKind::Unallocated { kept } = extent.kind
            && offset.0 >= below
        {
            extent.kind = ExtentKind::Zero { kept };
        }
        Ok(extent)
    }

    fn plain_at(&self, offset: GuestOffset, limit: u64) -> Result<Plain<'_>> {
        self.reads.plain_at(offset, limit)
    }

    fn memory_to_read(&self) -> usize {
        self.reads.memory_to_read()
    }

    fn read_at(&self, offset: GuestOffset, buf: &mut [u8]) -> Result<()> {
        self.reads.read_at(offset, buf)
    }
}

impl Image for Chain {
    fn size(&self) -> u64 {
        self.top.size()
    }

    fn extent_at(&self, offset: GuestOffset, limit: u64) -> Result<Extent> {
        self.extent_above(usize::MAX, offset, limit)
    }

    fn status_at(&self, offset: GuestOffset, limit: u64) -> Result<Status> {
        self.status(offset, limit, |image, limit| image.status_at(offset, limit))
    }

    /// Limits the step only by the images that are asked.
    fn status_in_step(&self, offset: GuestOffset, limit: u64) -> Result<Status> {
        self.status(offset, limit, |image, limit| {
            image.status_in_step(offset, limit)
        })
    }

    fn plain_storage(&self) -> Option<&dyn Storage> {
        // With more than one image, a host offset alone doesn't identify the file.
        if self.below.is_empty() {
            self.top.plain_storage()
        } else {
            None
        }
    }

    fn plain_at(&self, offset: GuestOffset, limit: u64) -> Result<Plain<'_>> {
        let extent = self.extent_at(offset, limit)?;
        match self.layer(extent.depth) {
            Some(image) if extent.kind.is_data() => image.plain_at(offset, extent.length),
            _ => Ok(Plain {
                length: extent.length,
                place: PlainPlace::Zeroes,
            }),
        }
    }

    fn memory_to_read(&self) -> usize {
        let below = self.below.iter().map(|image| image.memory_to_read());
        below.fold(self.top.memory_to_read(), usize::max)
    }

    fn read_at(&self, offset: GuestOffset, buf: &mut [u8]) -> Result<()> {
        if self.below.is_empty() {
            return self.top.read_at(offset, buf);
        }
        check_range(self.size(), offset, buf.len())?;
        let mut guest = offset;
        let mut rest = buf;
        while !rest.is_empty() {
            let extent = self.extent_at(guest, rest.len() as u64)?;
            let length = usize::try_from(extent.length).unwrap_or(usize::MAX);
            let (part, after) = rest
                .split_at_mut_checked(length)
                .ok_or_else(|| Error::invalid("extent longer than asked for"))?;
            match self.layer(extent.depth) {
                Some(image) if extent.kind.is_data() => image.read_at(guest, part)?,
                _ => part.fill(0),
            }
            guest.0 += extent.length;
            rest = after;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::formats::ZeroImage;
    use crate::formats::raw::RawImage;
    use crate::storage::MemoryStorage;

    fn raw(bytes: Vec<u8>) -> Arc<dyn Image> {
        Arc::new(RawImage::open(Arc::new(MemoryStorage::new(bytes))).unwrap())
    }

    #[test]
    fn what_is_missing_comes_from_below_and_beyond_its_end_is_zero() {
        let empty = |size| Arc::new(ZeroImage { size }) as Arc<dyn Image>;
        let chain = Chain::new(empty(16384), vec![empty(8192), raw(vec![7; 4096])]);
        let mut buf = vec![1; 16384];
        chain.read_at(GuestOffset(0), &mut buf).unwrap();
        assert!(buf[..4096].iter().all(|byte| *byte == 7));
        assert!(buf[4096..].iter().all(|byte| *byte == 0));
        let at = |offset| {
            let extent = chain.extent_at(GuestOffset(offset), u64::MAX).unwrap();
            (extent.length, extent.depth, extent.kind.is_data())
        };
        assert_eq!(at(0), (4096, 2, true));
        assert_eq!(at(4096), (4096, 2, false));
        assert_eq!(at(8192), (8192, 1, false));
        let above = chain.extent_above(2, GuestOffset(0), 512).unwrap();
        assert_eq!(above.kind, ExtentKind::Unallocated { kept: None });
        assert_eq!((above.length, above.depth), (512, 1));
        assert_eq!(chain.from_depth(2).unwrap().size(), 4096);
        assert!(chain.from_depth(3).is_none());
    }

    #[test]
    fn only_what_something_is_below_of_is_left() {
        let empty = |size| Arc::new(ZeroImage { size }) as Arc<dyn Image>;
        let is_left = |image: &TopOnly, offset| {
            let extent = image.extent_at(GuestOffset(offset), u64::MAX).unwrap();
            assert_eq!((extent.start.0, extent.length), (offset, 16384 - offset));
            matches!(extent.kind, ExtentKind::Unallocated { .. })
        };
        let alone = TopOnly::new(Arc::new(Chain::new(empty(16384), vec![])), 0);
        assert!(!is_left(&alone, 0));
        let chain = Arc::new(Chain::new(empty(16384), vec![empty(8192)]));
        let backed = TopOnly::new(Arc::clone(&chain), 0);
        assert!(is_left(&backed, 0) && is_left(&backed, 7680));
        assert!(!is_left(&backed, 8192));
        let extent = TopOnly::new(chain, 512).extent_at(GuestOffset(0), u64::MAX);
        assert_eq!(extent.unwrap().length, 512);
    }

    #[test]
    fn what_is_left_is_read_from_what_it_is_left_to() {
        let empty = |size| Arc::new(ZeroImage { size }) as Arc<dyn Image>;
        let source = Arc::new(Chain::new(empty(2048), vec![raw(vec![7; 2048])]));
        let base = Arc::new(Chain::new(raw(vec![5; 1024]), vec![]));
        let mut buf = vec![1; 2048];
        let at = GuestOffset(0);
        TopOnly::new(Arc::clone(&source), 0)
            .read_at(at, &mut buf)
            .unwrap();
        assert_eq!(buf, [7; 2048]);
        TopOnly::over(source, base).read_at(at, &mut buf).unwrap();
        assert_eq!(buf, [[5; 1024], [0; 1024]].concat());
    }
}
