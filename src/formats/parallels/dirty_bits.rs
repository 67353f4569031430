//! The bits of dirty bitmaps: reading, and the update when the disk is written to.
//!
//! Before the first change, the extension is removed from the header. So a power cut leaves an image without bitmaps,
//! and the next backup is a full one. When the image is closed, the bits for the written ranges are set, and the
//! extension is added to the header again.

use std::sync::{Arc, Mutex, PoisonError};

use super::extension::{BitsCluster, DirtyBitmap, FormatExtension};
use super::header::ParallelsHeader;
use super::table::AllocationTable;
use crate::error::Result;
use crate::formats::bitmaps::{BitmapBits, PersistentBitmap, by_clusters};
use crate::formats::dirty_ranges::DirtyRanges;
use crate::formats::merged_bits::mark;
use crate::formats::status::Status;
use crate::formats::{Extent, Image, WritableImage};
use crate::storage::Storage;
use crate::units::GuestOffset;

/// The bits of a bitmap.
pub(super) struct DirtyBits {
    file: Arc<dyn Storage>,
    cluster_size: u64,
    clusters: Vec<BitsCluster>,
    /// The number of bits.
    count: u64,
}

impl DirtyBits {
    /// Returns a bitmap of the image in `file` in the form that all formats share.
    pub(super) fn bitmap(
        file: &Arc<dyn Storage>,
        header: &ParallelsHeader,
        bitmap: &DirtyBitmap,
    ) -> PersistentBitmap {
        PersistentBitmap {
            name: bitmap.name.clone().into_bytes(),
            granularity: bitmap.granularity,
            in_use: false,
            auto: false,
            bits: Arc::new(Self {
                file: Arc::clone(file),
                cluster_size: header.cluster_size,
                clusters: bitmap.clusters.clone(),
                count: header.size.div_ceil(bitmap.granularity),
            }),
        }
    }
}

impl BitmapBits for DirtyBits {
    fn read(&self, offset: u64, buf: &mut [u8]) -> Result<bool> {
        by_clusters(self.cluster_size, offset, buf, |index, within, part| {
            let index = usize::try_from(index).unwrap_or(usize::MAX);
            match self.clusters.get(index) {
                None | Some(BitsCluster::Clear) => part.fill(0),
                Some(BitsCluster::Set) => part.fill(0xff),
                Some(BitsCluster::At(place)) => {
                    self.file
                        .read_exact_at(place + within, part, "the bits of a dirty bitmap")?;
                }
            }
            Ok(())
        })?;
        // Bits beyond the end of the disk are 0.
        for (byte, at) in buf.iter_mut().zip(offset..) {
            let left = self.count.saturating_sub(at.saturating_mul(8));
            if left < 8 {
                *byte &= (1 << left) - 1;
            }
        }
        Ok(buf.iter().any(|byte| *byte != 0))
    }
}

/// The extension of an image that is written to.
pub(super) struct KeptExtension {
    file: Arc<dyn Storage>,
    header: ParallelsHeader,
    extension: FormatExtension,
    flushes: bool,
    /// The written ranges, or `None` before the first write.
    written: Mutex<Option<DirtyRanges>>,
}

impl KeptExtension {
    /// Keeps the extension of the image in `file` for later. `flushes` says if flushes reach stable storage.
    pub(super) fn new(
        file: Arc<dyn Storage>,
        header: ParallelsHeader,
        extension: FormatExtension,
        flushes: bool,
    ) -> Self {
        Self {
            file,
            header,
            extension,
            flushes,
            written: Mutex::default(),
        }
    }

    /// Records that a part of the disk is about to be written.
    fn note(&self, offset: GuestOffset, length: u64) -> Result<()> {
        let mut written = self.written.lock().unwrap_or_else(PoisonError::into_inner);
        let written = match &mut *written {
            Some(written) => written,
            none => {
                ParallelsHeader::write_extension(self.file.as_ref(), 0)?;
                self.file.flush_if(self.flushes)?;
                let finest = self.extension.bitmaps.iter().map(|map| map.granularity);
                none.insert(DirtyRanges::new(finest.min().unwrap_or(1)))
            }
        };
        written.add(&(offset.0..offset.0.saturating_add(length)));
        Ok(())
    }

    /// Stores the bits for the written ranges, and then the offset of the extension in the header.
    fn store(&self) -> Result<()> {
        let mut written = self.written.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(written) = written.take() else {
            return Ok(());
        };
        let table =
            AllocationTable::stored(Arc::clone(&self.file), self.header, self.flushes, None)?;
        let mut extension = self.extension.clone();
        for (number, bitmap) in self.extension.bitmaps.iter().enumerate() {
            for (entry, cluster) in bitmap.clusters.iter().enumerate() {
                if let Some(place) = self.store_bits(bitmap, entry, *cluster, &written, &table)? {
                    extension.refer(number, entry, place)?;
                }
            }
        }
        let file = self.file.as_ref();
        file.write_at(self.header.extension, &extension.encode())?;
        file.flush_if(self.flushes)?;
        ParallelsHeader::write_extension(file, self.header.extension)?;
        file.flush_if(self.flushes)
    }

    /// Sets the bits of one cluster, and returns its new offset if it was allocated by that.
    fn store_bits(
        &self,
        bitmap: &DirtyBitmap,
        entry: usize,
        cluster: BitsCluster,
        written: &DirtyRanges,
        table: &AllocationTable,
    ) -> Result<Option<u64>> {
        let file = self.file.as_ref();
        let covered = (self.header.cluster_size * 8).saturating_mul(bitmap.granularity);
        let start = covered.saturating_mul(entry as u64);
        let mut parts = written
            .within(start..start.saturating_add(covered))
            .peekable();
        if parts.peek().is_none() || cluster == BitsCluster::Set {
            return Ok(None);
        }
        let mut bits = vec![0; usize::try_from(self.header.cluster_size).unwrap_or(0)];
        let place = match cluster {
            BitsCluster::At(place) => {
                file.read_exact_at(place, &mut bits, "the bits of a dirty bitmap")?;
                place
            }
            BitsCluster::Clear | BitsCluster::Set => table.take_cluster()?,
        };
        for part in parts {
            let first = (part.start - start) / bitmap.granularity;
            let end = (part.end - start).div_ceil(bitmap.granularity);
            mark(&mut bits, first..end);
        }
        file.write_at(place, &bits)?;
        Ok((cluster != BitsCluster::At(place)).then_some(place))
    }
}

/// An image with an extension that is written to.
pub(super) struct WithExtension<I> {
    image: I,
    kept: KeptExtension,
}

impl<I: WritableImage> WithExtension<I> {
    /// Updates the extension of `image` with its writes.
    pub(super) fn new(image: I, kept: KeptExtension) -> Self {
        Self { image, kept }
    }
}

impl<I: WritableImage> Image for WithExtension<I> {
    fn size(&self) -> u64 {
        self.image.size()
    }

    fn extent_at(&self, offset: GuestOffset, limit: u64) -> Result<Extent> {
        self.image.extent_at(offset, limit)
    }

    fn status_at(&self, offset: GuestOffset, limit: u64) -> Result<Status> {
        self.image.status_at(offset, limit)
    }

    fn plain_storage(&self) -> Option<&dyn Storage> {
        self.image.plain_storage()
    }

    fn read_at(&self, offset: GuestOffset, buf: &mut [u8]) -> Result<()> {
        self.image.read_at(offset, buf)
    }
}

impl<I: WritableImage> WritableImage for WithExtension<I> {
    fn write_at(&self, offset: GuestOffset, data: &[u8]) -> Result<()> {
        self.kept.note(offset, data.len() as u64)?;
        self.image.write_at(offset, data)
    }

    fn write_zeroes(&self, offset: GuestOffset, length: u64, may_unmap: bool) -> Result<()> {
        self.kept.note(offset, length)?;
        self.image.write_zeroes(offset, length, may_unmap)
    }

    fn discard(&self, offset: GuestOffset, length: u64) -> Result<()> {
        self.kept.note(offset, length)?;
        self.image.discard(offset, length)
    }

    fn flush(&self) -> Result<()> {
        self.image.flush()
    }

    fn allocation_unit(&self) -> usize {
        self.image.allocation_unit()
    }

    fn zero_unit(&self) -> usize {
        self.image.zero_unit()
    }

    fn stores_zeroes(&self) -> bool {
        self.image.stores_zeroes()
    }

    fn writes_serially(&self) -> bool {
        self.image.writes_serially()
    }

    fn close(&self) -> Result<()> {
        self.image.close()?;
        self.kept.store()
    }
}
