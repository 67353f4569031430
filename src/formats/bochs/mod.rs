//! Bochs: growing disk images of the Bochs emulator, which can only be read.
//!
//! A header of 512 bytes is followed by a catalog, which has the index of each allocated extent of the disk. A bitmap
//! of its sectors precedes each extent: sectors whose bit is 0 read as zeroes. All numbers are little-endian.

mod header;
mod table;

use std::ops::Range;
use std::sync::Arc;

use self::header::{BochsHeader, has_mark};
use self::table::Catalog;
use crate::error::Result;
use crate::formats::block_map::BlockImage;
use crate::formats::driver::{Capabilities, FormatDriver, ImageFile, Load, Parts};
use crate::formats::info::ImageInfo;
use crate::formats::{FileUse, Image, OpaqueImage};
use crate::storage::Storage;

/// The format Bochs.
pub struct Bochs;

impl FormatDriver for Bochs {
    fn name(&self) -> &'static str {
        "bochs"
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities::default()
    }

    fn probe(&self, start: &[u8]) -> u8 {
        if has_mark(start) { 100 } else { 0 }
    }

    fn load(&self, file: Arc<dyn Storage>, _how: Load) -> Result<Box<dyn ImageFile>> {
        let header = BochsHeader::read(file.as_ref())?;
        Ok(Box::new(BochsFile { file, header }))
    }
}

/// A Bochs file whose header has been read.
struct BochsFile {
    file: Arc<dyn Storage>,
    header: BochsHeader,
}

impl ImageFile for BochsFile {
    fn size(&self) -> u64 {
        self.header.size
    }

    fn describe(&self, info: &mut ImageInfo) -> Result<()> {
        info.dirty_flag = None;
        Ok(())
    }

    fn parts_of(&self, used_for: FileUse, each: &mut dyn FnMut(Range<u64>)) -> Result<bool> {
        if used_for == FileUse::Metadata {
            let catalog = Catalog::new(Arc::clone(&self.file), self.header);
            each(0..self.header.bitmap_offset(0));
            catalog.bitmaps(each)?;
        }
        Ok(true)
    }

    fn open(&self, _parts: Parts<'_>) -> Result<Arc<dyn Image>> {
        let catalog = Catalog::new(Arc::clone(&self.file), self.header);
        let image = BlockImage::new(catalog, Arc::clone(&self.file), false);
        Ok(Arc::new(OpaqueImage::new(image)))
    }
}
