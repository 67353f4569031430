//! The lookup of single sectors in the catalog and in the bitmaps of the extents.

use std::sync::{Arc, Mutex, PoisonError};

use super::header::BochsHeader;
use crate::error::Result;
use crate::formats::block_map::{Block, BlockTable, EntryForm, EntryTable};
use crate::storage::Storage;
use crate::units::{HostOffset, SECTOR_SIZE};

/// The entry of an unallocated extent.
const ABSENT: u64 = 0xffff_ffff;

/// The catalog of an image.
pub(super) struct Catalog {
    file: Arc<dyn Storage>,
    header: BochsHeader,
    entries: EntryTable,
    /// The bitmap that was used last, and the index of its extent in the file.
    last: Mutex<Option<(u64, Vec<u8>)>>,
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
            last: Mutex::default(),
        }
    }

    /// Returns true if a sector of the extent with that index is allocated.
    fn is_stored(&self, index: u64, sector: u64) -> Result<bool> {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let bitmap = match last.take() {
            Some((found, bitmap)) if found == index => bitmap,
            _ => {
                let bits = self.header.extent_size / SECTOR_SIZE;
                let mut bitmap = vec![0; usize::try_from(bits.div_ceil(8)).unwrap_or_default()];
                let offset = self.header.bitmap_offset(index);
                self.file
                    .read_exact_at(offset, &mut bitmap, "the bitmap of an extent")?;
                bitmap
            }
        };
        let place = usize::try_from(sector / 8).unwrap_or(usize::MAX);
        let is_stored = bitmap
            .get(place)
            .is_some_and(|byte| byte >> (sector % 8) & 1 != 0);
        *last = Some((index, bitmap));
        Ok(is_stored)
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
                let start = self.header.bitmap_offset(index) + self.header.bitmap_length;
                Ok(Block::At(HostOffset(start + sector * SECTOR_SIZE)))
            }
            _ => Ok(Block::Zero),
        }
    }
}
