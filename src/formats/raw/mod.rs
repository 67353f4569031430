//! raw: the bytes of the disk, one after the other.

mod image;

use std::sync::Arc;

pub use image::{NewRaw, RawImage, unsupported_preallocation};

use super::driver::{Capabilities, FormatDriver, ImageFile, Load, Parts, WriteParts};
use super::image::Image;
use super::new_image::NewImage;
use super::over::OverOptions;
use crate::error::Result;
use crate::storage::Storage;

/// The format raw.
pub struct Raw;

impl FormatDriver for Raw {
    fn name(&self) -> &'static str {
        "raw"
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities { transparent: true }
    }

    fn probe(&self, _start: &[u8]) -> u8 {
        1
    }

    fn load(&self, file: Arc<dyn Storage>, _how: Load) -> Result<Box<dyn ImageFile>> {
        let size = RawImage::open(Arc::clone(&file))?.size();
        Ok(Box::new(RawFile { file, size }))
    }
}

/// A file that is a raw image, as any is.
struct RawFile {
    file: Arc<dyn Storage>,
    size: u64,
}

impl ImageFile for RawFile {
    fn size(&self) -> u64 {
        self.size
    }

    fn open(&self, _parts: Parts<'_>) -> Result<Arc<dyn Image>> {
        Ok(Arc::new(RawImage::open(Arc::clone(&self.file))?))
    }

    fn write_over(
        &self,
        parts: WriteParts<'_>,
        size: u64,
        options: OverOptions,
    ) -> Result<Box<dyn NewImage>> {
        let file = Arc::clone(&self.file);
        Ok(Box::new(if options.leaves_parts {
            NewRaw::over_parts(file, size, parts.flush)?
        } else {
            NewRaw::over(file, size, options.is_zero, parts.flush)?
        }))
    }
}
