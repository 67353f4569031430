//! The driver of the raw format, in which the file is the disk.

mod image;
mod plan;
mod write;

use std::ops::Range;
use std::sync::Arc;

pub use image::{NewRaw, RawImage};

use self::plan::RawPlan;
use self::write::WritableRaw;
use super::driver::{
    Capabilities, Contents, FormatDriver, ImageFile, Load, Measured, NewDisk, Parts, Plan,
    WriteParts,
};
use super::file_use::FileUse;
use super::image::{Image, WritableImage};
use super::new_image::NewImage;
use super::overwrite::OverwriteOptions;
use super::resize::Resize;
use super::resize_file::resize_file;
use crate::error::Result;
use crate::options::{Kind, OptionSpec, Values};
use crate::storage::{Storage, WindowRange};
use crate::units::SECTOR_SIZE;

/// The options of a new image. The preallocation is an option of the protocol.
const CREATE_OPTIONS: &[OptionSpec] = &[OptionSpec::new("size", Kind::Size, "Virtual disk size")];

/// The options of a node, which select the part of the file with the disk.
const OPEN_OPTIONS: &[OptionSpec] = &[
    OptionSpec::new("offset", Kind::Size, "Where the disk starts in its file"),
    OptionSpec::new("size", Kind::Size, "Virtual disk size"),
];

/// The format raw.
pub struct Raw;

impl FormatDriver for Raw {
    fn name(&self) -> &'static str {
        "raw"
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities {
            transparent: true,
            ..Capabilities::default()
        }
    }

    fn probe(&self, _start: &[u8]) -> u8 {
        1
    }

    fn open_options(&self) -> &'static [OptionSpec] {
        OPEN_OPTIONS
    }

    fn shown_options(&self) -> &'static [&'static str] {
        &["offset", "size"]
    }

    fn window(&self, options: &Values) -> Option<WindowRange> {
        let [offset, size] = ["offset", "size"].map(|name| options.number(name));
        (offset.is_some() || size.is_some()).then_some(WindowRange {
            offset: offset.unwrap_or(0),
            size,
        })
    }

    fn create_options(&self) -> &'static [OptionSpec] {
        CREATE_OPTIONS
    }

    fn plan(&self, new: &NewDisk<'_>) -> Result<Box<dyn Plan>> {
        Ok(Box::new(RawPlan::new(new)?))
    }

    fn measure(&self, _options: &Values, contents: &Contents<'_>) -> Result<Measured> {
        let length = contents.size.next_multiple_of(SECTOR_SIZE);
        Ok(Measured {
            required: length,
            fully_allocated: length,
            bitmaps: None,
        })
    }

    fn load(&self, file: Arc<dyn Storage>, _how: Load) -> Result<Box<dyn ImageFile>> {
        let size = RawImage::open(Arc::clone(&file))?.size();
        Ok(Box::new(RawFile { file, size }))
    }
}

/// A raw file; any file can be opened as one.
struct RawFile {
    file: Arc<dyn Storage>,
    size: u64,
}

impl ImageFile for RawFile {
    fn size(&self) -> u64 {
        self.size
    }

    /// Passes nothing, since all of the file is the disk.
    fn parts_of(&self, _: FileUse, _: &mut dyn FnMut(Range<u64>)) -> Result<bool> {
        Ok(true)
    }

    fn open(&self, _parts: Parts<'_>) -> Result<Arc<dyn Image>> {
        Ok(Arc::new(RawImage::open(Arc::clone(&self.file))?))
    }

    fn open_writable(&self, parts: WriteParts<'_>) -> Result<Box<dyn WritableImage>> {
        let file = Arc::clone(&self.file);
        Ok(Box::new(WritableRaw::open(file, parts.flush)?))
    }

    fn resize(&self, parts: WriteParts<'_>, resize: Resize) -> Result<()> {
        resize_file(self.file.as_ref(), 0, parts.flush, resize)
    }

    fn write_over(
        &self,
        parts: WriteParts<'_>,
        size: u64,
        options: OverwriteOptions,
    ) -> Result<Box<dyn NewImage>> {
        let file = Arc::clone(&self.file);
        Ok(Box::new(if options.leaves_parts {
            NewRaw::over_parts(file, size, parts.flush)?
        } else {
            NewRaw::over(file, size, options.is_zero, parts.flush)?
        }))
    }
}
