//! A VDI file whose header has been read.

use std::ops::Range;
use std::sync::Arc;

use super::check;
use super::header::{BLOCK_SIZE, ImageType, VdiHeader};
use super::map::BlockMap;
use super::repair::RepairCount;
use crate::error::Result;
use crate::formats::block_map::{BlockImage, WritableBlocks};
use crate::formats::check::{Check, CheckEvent, CheckReport, Repair, refuse_damaged};
use crate::formats::driver::{ImageFile, Parts, WriteParts};
use crate::formats::info::ImageInfo;
use crate::formats::{FileUse, Image, WritableImage};
use crate::storage::Storage;

/// A VDI file.
pub(super) struct VdiFile {
    file: Arc<dyn Storage>,
    header: VdiHeader,
}

impl VdiFile {
    /// Reads the header of the image in `file`.
    ///
    /// # Errors
    /// Returns an error as [`VdiHeader::read`] does.
    pub(super) fn load(file: Arc<dyn Storage>) -> Result<Self> {
        let header = VdiHeader::read(file.as_ref())?;
        Ok(Self { file, header })
    }

    fn map(&self) -> BlockMap {
        BlockMap::stored(Arc::clone(&self.file), self.header)
    }

    fn image(&self, map: BlockMap) -> BlockImage<BlockMap> {
        let is_fixed = self.header.kind == ImageType::Static;
        BlockImage::new(map, Arc::clone(&self.file), is_fixed)
    }
}

impl ImageFile for VdiFile {
    fn size(&self) -> u64 {
        self.header.size
    }

    fn describe(&self, info: &mut ImageInfo) -> Result<()> {
        info.cluster_size = Some(BLOCK_SIZE);
        Ok(())
    }

    fn parts_of(&self, used_for: FileUse, each: &mut dyn FnMut(Range<u64>)) -> Result<bool> {
        if used_for == FileUse::Metadata {
            self.header.metadata().into_iter().for_each(each);
        }
        Ok(true)
    }

    fn open(&self, _parts: Parts<'_>) -> Result<Arc<dyn Image>> {
        Ok(Arc::new(self.image(self.map())))
    }

    fn open_writable(&self, parts: WriteParts<'_>) -> Result<Box<dyn WritableImage>> {
        let map = self.map();
        // A wrong count isn't refused: the allocation doesn't use it, and a power cut may leave one.
        let found = check::count(&map, &mut |_| {})?;
        refuse_damaged(found.corruptions)?;
        map.find_space()?;
        Ok(Box::new(WritableBlocks::new(self.image(map), parts.flush)))
    }

    fn check(&self) -> Option<&dyn Check> {
        Some(self)
    }
}

impl Check for VdiFile {
    fn check(&self, on_event: &mut dyn FnMut(&CheckEvent<'_>)) -> Result<CheckReport> {
        Ok(check::count(&self.map(), on_event)?.report())
    }

    fn repair(
        &self,
        what: Repair,
        on_event: &mut dyn FnMut(&CheckEvent<'_>),
    ) -> Result<CheckReport> {
        let map = self.map();
        let found = check::count(&map, on_event)?;
        let fixed = map.repair(what, &found, on_event)?;
        if fixed == RepairCount::default() {
            return Ok(found.report());
        }
        let again = Self::load(Arc::clone(&self.file))?;
        Ok(CheckReport {
            corruptions_fixed: fixed.corruptions,
            leaks_fixed: fixed.leaks,
            ..Check::check(&again, on_event)?
        })
    }
}
