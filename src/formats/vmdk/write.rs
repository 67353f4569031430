//! Writing to a VMDK image in place.
//!
//! The extents are written independently. Before the first change the content id changes, on stable storage, so that
//! images above this one are known to be outdated whatever happens afterwards. The new id has as many digits as the
//! old one. So nothing else of the descriptor moves, and a power cut leaves the old or the new id.

use std::sync::{Arc, Mutex, PoisonError};

use super::descriptor;
use super::text::new_cid;
use crate::error::{Error, Result};
use crate::formats::concat::part_at;
use crate::formats::status::Status;
use crate::formats::{Extent, Image, Plain, WritableImage, check_range};
use crate::storage::Storage;
use crate::units::GuestOffset;

/// A VMDK image open for writing.
pub(super) struct WritableVmdk {
    /// The guest offset of each extent, and the extent.
    extents: Vec<(u64, Box<dyn WritableImage>)>,
    size: u64,
    id: ContentId,
}

/// The content id, and its place in the descriptor.
pub(super) struct ContentId {
    /// The file with the descriptor.
    file: Arc<dyn Storage>,
    /// The offset of the digits in the file in bytes, and their number.
    place: u64,
    digits: usize,
    flushes: bool,
    is_changed: Mutex<bool>,
}

impl ContentId {
    /// Finds the content id in the descriptor, which has `length` bytes from byte `start` of the file on.
    ///
    /// # Errors
    /// Returns the system's error. Returns an error if there is no content id.
    pub(super) fn find(
        file: Arc<dyn Storage>,
        (start, length): (u64, u64),
        flushes: bool,
    ) -> Result<Self> {
        let mut text = vec![0; usize::try_from(length).unwrap_or(0)];
        file.read_padded_at(start, &mut text, file.len()?)?;
        let place = descriptor::place_of_id(&text, "CID").ok_or_else(descriptor::invalid)?;
        Ok(Self {
            file,
            place: start + place.start as u64,
            digits: place.len(),
            flushes,
            is_changed: Mutex::new(false),
        })
    }

    /// Stores a new content id, unless that has been done.
    fn change(&self) -> Result<()> {
        let mut is_changed = self
            .is_changed
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if *is_changed {
            return Ok(());
        }
        let mut old = vec![0; self.digits];
        self.file
            .read_exact_at(self.place, &mut old, "the descriptor")?;
        let new = loop {
            let digits = format!("{:0width$x}", new_cid(), width = self.digits.max(8));
            let from = digits.len() - self.digits;
            let new = digits.as_bytes().get(from..).unwrap_or_default().to_vec();
            if !new.eq_ignore_ascii_case(&old) {
                break new;
            }
        };
        self.file.write_at(self.place, &new)?;
        self.file.flush_if(self.flushes)?;
        *is_changed = true;
        Ok(())
    }
}

impl WritableVmdk {
    /// Combines the extents of an image.
    pub(super) fn new(extents: Vec<Box<dyn WritableImage>>, id: ContentId) -> Self {
        let mut size = 0;
        let extents = extents
            .into_iter()
            .map(|image| {
                let start = size;
                size += image.size();
                (start, image)
            })
            .collect();
        Self { extents, size, id }
    }

    /// Returns the extent with the byte at `offset`, and the offset in it.
    fn extent(&self, offset: GuestOffset) -> Result<(&dyn WritableImage, GuestOffset)> {
        let (image, within) = part_at(&self.extents, offset)
            .ok_or_else(|| Error::invalid("the image has no extent there"))?;
        Ok((image.as_ref(), within))
    }

    /// Calls `act` with each part of a range that is in one extent: the extent, the offset in it, and the length of
    /// the part.
    fn for_parts(
        &self,
        offset: GuestOffset,
        length: u64,
        mut act: impl FnMut(&dyn WritableImage, GuestOffset, u64) -> Result<()>,
    ) -> Result<()> {
        check_range(
            self.size,
            offset,
            usize::try_from(length).unwrap_or(usize::MAX),
        )?;
        let end = offset.0 + length;
        let mut start = offset.0;
        while start < end {
            let (image, within) = self.extent(GuestOffset(start))?;
            let part = (end - start).min(image.size().saturating_sub(within.0));
            if part == 0 {
                return Err(Error::invalid("the image has no extent there"));
            }
            act(image, within, part)?;
            start += part;
        }
        Ok(())
    }

    /// Returns the largest unit of the extents.
    fn unit(&self, of: impl Fn(&dyn WritableImage) -> usize) -> usize {
        let units = self.extents.iter().map(|(_, image)| of(image.as_ref()));
        units.max().unwrap_or(512)
    }
}

impl Image for WritableVmdk {
    fn size(&self) -> u64 {
        self.size
    }

    fn extent_at(&self, offset: GuestOffset, limit: u64) -> Result<Extent> {
        check_range(self.size, offset, 1)?;
        let (image, within) = self.extent(offset)?;
        let extent = image.extent_at(within, limit)?;
        Ok(Extent {
            start: offset,
            ..extent
        })
    }

    fn status_at(&self, offset: GuestOffset, limit: u64) -> Result<Status> {
        check_range(self.size, offset, 1)?;
        let (image, within) = self.extent(offset)?;
        image.status_at(within, limit)
    }

    fn plain_storage(&self) -> Option<&dyn Storage> {
        match self.extents.as_slice() {
            [(_, only)] => only.plain_storage(),
            _ => None,
        }
    }

    fn plain_at(&self, offset: GuestOffset, limit: u64) -> Result<Plain<'_>> {
        check_range(self.size, offset, 1)?;
        let (image, within) = self.extent(offset)?;
        image.plain_at(within, limit)
    }

    fn read_at(&self, offset: GuestOffset, buf: &mut [u8]) -> Result<()> {
        let mut rest = buf;
        self.for_parts(offset, rest.len() as u64, |image, within, length| {
            let length = usize::try_from(length).unwrap_or(usize::MAX);
            let (part, after) = std::mem::take(&mut rest).split_at_mut(length);
            rest = after;
            image.read_at(within, part)
        })
    }
}

impl WritableImage for WritableVmdk {
    fn write_at(&self, offset: GuestOffset, data: &[u8]) -> Result<()> {
        self.id.change()?;
        let mut rest = data;
        self.for_parts(offset, data.len() as u64, |image, within, length| {
            let (part, after) = rest.split_at(usize::try_from(length).unwrap_or(usize::MAX));
            rest = after;
            image.write_at(within, part)
        })
    }

    fn write_zeroes(&self, offset: GuestOffset, length: u64, may_unmap: bool) -> Result<()> {
        self.id.change()?;
        self.for_parts(offset, length, |image, within, length| {
            image.write_zeroes(within, length, may_unmap)
        })
    }

    fn discard(&self, offset: GuestOffset, length: u64) -> Result<()> {
        self.for_parts(offset, length, |image, within, length| {
            image.discard(within, length)
        })
    }

    fn flush(&self) -> Result<()> {
        self.extents.iter().try_for_each(|(_, image)| image.flush())
    }

    fn allocation_unit(&self) -> usize {
        self.unit(|image| image.allocation_unit())
    }

    fn zero_unit(&self) -> usize {
        self.unit(|image| image.zero_unit())
    }

    fn stores_zeroes(&self) -> bool {
        self.extents.iter().all(|(_, image)| image.stores_zeroes())
    }

    fn backing_size(&self) -> Option<u64> {
        let first = self.extents.first();
        // The backing file is divided among the extents.
        let mut sizes = self.extents.iter().map(|(_, image)| image.backing_size());
        first.and_then(|_| sizes.try_fold(0, |sum: u64, size| Some(sum + size?)))
    }

    fn writes_serially(&self) -> bool {
        self.extents
            .iter()
            .any(|(_, image)| image.writes_serially())
    }

    /// Accepts compressed writes, as QEMU does, and stores them uncompressed.
    fn check_compression(&self) -> Result<()> {
        Ok(())
    }

    fn write_compressed(&self, offset: GuestOffset, data: &[u8]) -> Result<()> {
        self.write_at(offset, data)
    }

    fn close(&self) -> Result<()> {
        self.extents.iter().try_for_each(|(_, image)| image.close())
    }
}
