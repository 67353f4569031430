//! The plan of a new VDI image, whose options have been checked.

use std::sync::Arc;

use super::header::{ImageType, LENGTH, LONGEST, VdiHeader};
use super::map::BlockMap;
use crate::error::{Error, Result};
use crate::formats::NewImage;
use crate::formats::block_map::NewBlocks;
use crate::formats::driver::{NewDisk, NewParts, Plan};
use crate::formats::new_image::wipe_old_header;
use crate::units::SECTOR_SIZE;

/// The plan of a new image.
pub(super) struct VdiPlan {
    header: VdiHeader,
}

impl VdiPlan {
    /// Checks the options.
    ///
    /// # Errors
    /// Returns an error if the format doesn't support a disk of that size.
    pub(super) fn new(new: &NewDisk<'_>) -> Result<Self> {
        let size = new.size.checked_next_multiple_of(SECTOR_SIZE);
        let size = size.unwrap_or(u64::MAX);
        if size > LONGEST {
            return Err(Error::invalid(format!(
                "Unsupported VDI image size (size is {size:#x}, max supported is {LONGEST:#x})"
            )));
        }
        let kind = match new.options.switch("static") {
            Some(true) => ImageType::Static,
            _ => ImageType::Dynamic,
        };
        Ok(Self {
            header: VdiHeader::new(size, kind),
        })
    }
}

impl Plan for VdiPlan {
    fn create(&self, parts: NewParts<'_>) -> Result<Box<dyn NewImage>> {
        wipe_old_header(parts.file.as_ref(), LENGTH)?;
        let map = BlockMap::new(Arc::clone(&parts.file), self.header);
        let is_fixed = self.header.kind == ImageType::Static;
        let image = NewBlocks::new(map, parts.file, is_fixed, parts.flush);
        Ok(Box::new(image))
    }
}
