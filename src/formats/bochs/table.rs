//! The lookup of single sectors in the catalog and in the bitmaps of the extents.

use std::ops::Range;
use std::sync::Arc;

use super::header::BochsHeader;
use crate::error::Result;
use crate::formats::block_map::{Block, BlockTable, EntryForm, EntryTable, LastBitmap};
use crate::storage::Storage;
use crate::units::{HostOffset, SECTOR_SIZE};

/// The entry of an unallocated extent.
const ABSENT: u64 = 0xffff_ffff;

/// The catalog of an image.
pub(super) struct Catalog {
    file: Arc<dyn Storage>,
    header: BochsHeader,
    entries: EntryTable,
    /// The bitmap of the extent that was used last, by its index in the file.
    last: LastBitmap,
}

impl Catalog {
    /// Returns the catalog of the image in `file`.
    pub(super) fn new(file: Arc<dyn Storage>, header: BochsHeader) -> Self {
        Self {
            entries: EntryTable::stored(
                Arc::clone(&file),
                EntryForm::Little32,
                header.catalog,
                header.entries,
            ),
            file,
            header,
            last: LastBitmap::default(),
        }
    }

    /// Passes the range of each allocated extent's bitmap in bytes of the file to `each`.
    ///
    /// # Errors
    /// Returns an error if the catalog can't be read.
    pub(super) fn bitmaps(&self, each: &mut dyn FnMut(Range<u64>)) -> Result<()> {
        for extent in 0..self.header.size.div_ceil(self.header.extent_size) {
            let index = self.entries.get(extent)?;
            if index != ABSENT {
                let start = self.header.bitmap_offset(index);
                each(start..start.saturating_add(self.header.bitmap_length));
            }
        }
        Ok(())
    }

    /// Returns true if a sector of the extent with that index is allocated.
    fn is_stored(&self, index: u64, sector: u64) -> Result<bool> {
        let byte = self.last.byte(index, sector, || {
            let bits = self.header.extent_size / SECTOR_SIZE;
            let mut bitmap = vec![0; usize::try_from(bits.div_ceil(8)).unwrap_or_default()];
            let offset = self.header.bitmap_offset(index);
            self.file
                .read_exact_at(offset, &mut bitmap, "the bitmap of an extent")?;
            Ok(bitmap)
        })?;
        // The first sector has the least significant bit.
        Ok(byte & 1 << (sector % 8) != 0)
    }
}

impl BlockTable for Catalog {
    fn size(&self) -> u64 {
        self.header.size
    }

    fn block_size(&self) -> u64 {
        SECTOR_SIZE
    }

    fn lookup(&self, block: u64) -> Result<Block> {
        let sectors = self.header.extent_size / SECTOR_SIZE;
        let (extent, sector) = (block / sectors, block % sectors);
        match self.entries.get(extent)? {
            ABSENT => Ok(Block::Zero),
            index if self.is_stored(index, sector)? => {
                let start = self.header.bitmap_offset(index);
                let start = start.saturating_add(self.header.bitmap_length);
                Ok(Block::At(HostOffset(
                    start.saturating_add(sector * SECTOR_SIZE),
                )))
            }
            _ => Ok(Block::Zero),
        }
    }
}
