//! dmg: disk images of macOS (UDIF), which can only be read.
//!
//! The last 512 bytes of the file have the places of the tables of chunks, in a property list or in a resource fork.
//! A chunk is a run of sectors that is zero, uncompressed, or compressed with one of several algorithms. All numbers
//! are big-endian. The start of the file has no magic number, so the format is recognised by the file's name.

mod adc;
mod image;
mod lzfse;
mod property_list;
mod tables;
mod trailer;

use std::ops::Range;
use std::sync::Arc;

use self::image::DmgImage;
use self::tables::{ChunkKind, DmgChunk, read_chunks};
use self::trailer::Trailer;
use super::driver::{Capabilities, FormatDriver, ImageFile, Load, Parts, Warning};
use super::info::ImageInfo;
use super::{FileUse, Image, OpaqueImage};
use crate::error::Result;
use crate::storage::Storage;

/// The suffix of file names.
const SUFFIX: &[u8] = b".dmg";

/// The format dmg.
pub struct Dmg;

impl FormatDriver for Dmg {
    fn name(&self) -> &'static str {
        "dmg"
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities::default()
    }

    fn probe(&self, _start: &[u8]) -> u8 {
        0
    }

    fn is_named(&self, name: &[u8]) -> bool {
        name.len() > SUFFIX.len() && name.ends_with(SUFFIX)
    }

    fn load(&self, file: Arc<dyn Storage>, _how: Load) -> Result<Box<dyn ImageFile>> {
        let trailer = Trailer::read(file.as_ref())?;
        let chunks = Arc::new(read_chunks(file.as_ref(), &trailer)?);
        Ok(Box::new(DmgFile {
            file,
            trailer,
            chunks,
        }))
    }
}

/// A dmg file whose tables have been read.
struct DmgFile {
    file: Arc<dyn Storage>,
    trailer: Trailer,
    chunks: Arc<Vec<DmgChunk>>,
}

impl DmgFile {
    /// Returns true if the chunks cover every sector of the disk.
    fn is_covered(&self) -> bool {
        let mut end = 0;
        for chunk in self.chunks.iter() {
            if chunk.start > end {
                return false;
            }
            end = end.max(chunk.start.saturating_add(chunk.length));
        }
        end >= self.trailer.size
    }
}

impl ImageFile for DmgFile {
    fn size(&self) -> u64 {
        self.trailer.size
    }

    fn warnings(&self) -> Vec<Warning> {
        if self.is_covered() {
            return Vec::new();
        }
        vec![Warning {
            text: "parts of the disk are in none of the image's tables, and read as zeroes",
            hint: "",
        }]
    }

    fn describe(&self, info: &mut ImageInfo) -> Result<()> {
        info.dirty_flag = None;
        Ok(())
    }

    fn parts_of(&self, used_for: FileUse, each: &mut dyn FnMut(Range<u64>)) -> Result<bool> {
        match used_for {
            FileUse::Metadata => self.trailer.metadata().into_iter().for_each(each),
            FileUse::Compressed => {
                let chunks = self.chunks.iter();
                let chunks =
                    chunks.filter(|chunk| !matches!(chunk.kind, ChunkKind::Zero | ChunkKind::Raw));
                let range = |chunk: &DmgChunk| chunk.host..chunk.host.saturating_add(chunk.stored);
                chunks.map(range).for_each(each);
            }
        }
        Ok(true)
    }

    fn open(&self, _parts: Parts<'_>) -> Result<Arc<dyn Image>> {
        let image = DmgImage::new(
            Arc::clone(&self.file),
            self.trailer.size,
            Arc::clone(&self.chunks),
        );
        Ok(Arc::new(OpaqueImage::new(image)))
    }
}
