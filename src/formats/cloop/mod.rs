//! cloop: compressed disk images of live CDs, which can only be read.
//!
//! A shell script in 128 bytes is followed by a table of the offsets of blocks, each of which is a zlib stream. All
//! numbers are big-endian.

use std::ops::Range;
use std::sync::Arc;

use byteorder::{BigEndian, ByteOrder as _};

use super::block_map::{Block, BlockImage, BlockTable, compressed_parts};
use super::codec::{Codec, decompress_whole};
use super::driver::{Capabilities, FormatDriver, ImageFile, Load, Parts};
use super::info::ImageInfo;
use super::{FileUse, Image, OpaqueImage};
use crate::error::{Error, Result};
use crate::storage::Storage;
use crate::units::{HostOffset, SECTOR_SIZE};

/// The script by which QEMU recognises the format.
const SCRIPT: &[u8] =
    b"#!/bin/sh\n#V2.0 Format\nmodprobe cloop file=$0 && mount -r -t iso9660 /dev/cloop $1\n";
/// The offset and the length of the size fields, in bytes.
const SIZES: u64 = 128;
const SIZES_LENGTH: usize = 8;
/// The largest block in bytes.
const LARGEST_BLOCK: u32 = 64 << 20;
/// The largest number of blocks that QEMU accepts.
const MOST_BLOCKS: u32 = 0x1fff_ffff;
/// The largest table of offsets that QEMU accepts, in bytes.
const LONGEST_TABLE: u64 = 512 << 20;

/// The format cloop.
pub struct Cloop;

impl FormatDriver for Cloop {
    fn name(&self) -> &'static str {
        "cloop"
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities::default()
    }

    /// Returns a low score for the script, as QEMU does, since it isn't a magic number.
    fn probe(&self, start: &[u8]) -> u8 {
        if start.starts_with(SCRIPT) { 2 } else { 0 }
    }

    fn load(&self, file: Arc<dyn Storage>, _how: Load) -> Result<Box<dyn ImageFile>> {
        let blocks = Arc::new(CloopBlocks::read(file.as_ref())?);
        Ok(Box::new(CloopFile { file, blocks }))
    }
}

/// A cloop file whose table of offsets has been read.
struct CloopFile {
    file: Arc<dyn Storage>,
    blocks: Arc<CloopBlocks>,
}

impl ImageFile for CloopFile {
    fn size(&self) -> u64 {
        self.blocks.size()
    }

    fn describe(&self, info: &mut ImageInfo) -> Result<()> {
        info.dirty_flag = None;
        Ok(())
    }

    fn parts_of(&self, used_for: FileUse, each: &mut dyn FnMut(Range<u64>)) -> Result<bool> {
        match used_for {
            FileUse::Metadata => {
                let table = self.blocks.offsets.len() as u64 * 8;
                each(0..SIZES + SIZES_LENGTH as u64 + table);
            }
            FileUse::Compressed => compressed_parts(&self.blocks, each)?,
        }
        Ok(true)
    }

    fn table_memory(&self) -> u64 {
        self.blocks.offsets.len() as u64 * 8
    }

    fn open(&self, _parts: Parts<'_>) -> Result<Arc<dyn Image>> {
        let blocks = Arc::clone(&self.blocks);
        let image = BlockImage::new(blocks, Arc::clone(&self.file), false);
        Ok(Arc::new(OpaqueImage::new(image)))
    }
}

/// The table of the blocks' offsets.
#[derive(Debug)]
struct CloopBlocks {
    block_size: u64,
    /// The offset of each block in bytes, and the end of the last one.
    offsets: Vec<u64>,
}

impl CloopBlocks {
    /// Reads the size fields and the table of offsets.
    ///
    /// # Errors
    /// Returns the system's error. Returns an error, in QEMU's words, if they are invalid.
    fn read(file: &dyn Storage) -> Result<Self> {
        let length = file.len()?;
        let mut sizes = [0; SIZES_LENGTH];
        file.read_padded_at(SIZES, &mut sizes, length)?;
        let (block_size, count) = sizes.split_at(4);
        let (block_size, count) = (BigEndian::read_u32(block_size), BigEndian::read_u32(count));
        let wrong = |what: String| Err(Error::corrupt(what));
        if !u64::from(block_size).is_multiple_of(SECTOR_SIZE) {
            return wrong(format!("block_size {block_size} must be a multiple of 512"));
        }
        if block_size == 0 {
            return wrong("block_size cannot be zero".into());
        }
        if block_size > LARGEST_BLOCK {
            return wrong(format!("block_size {block_size} must be 64 MB or less"));
        }
        if count > MOST_BLOCKS {
            return wrong(format!("n_blocks {count} must be {MOST_BLOCKS} or less"));
        }
        let table_length = (u64::from(count) + 1) * 8;
        if table_length > LONGEST_TABLE {
            return wrong("image requires too many offsets, try increasing block size".into());
        }
        let start = SIZES + SIZES_LENGTH as u64;
        if start + table_length > length {
            return wrong("the table of offsets is cut off by the end of the file".into());
        }
        let mut bytes = vec![0; usize::try_from(table_length).unwrap_or_default()];
        file.read_exact_at(start, &mut bytes, "the table of offsets")?;
        let offsets: Vec<u64> = bytes.chunks_exact(8).map(BigEndian::read_u64).collect();
        for (index, pair) in (1..).zip(offsets.windows(2)) {
            let [one, next] = pair else {
                continue;
            };
            if next < one {
                return wrong(format!(
                    "offsets not monotonically increasing at index {index}, image file is corrupt"
                ));
            }
            if next - one > 2 * u64::from(LARGEST_BLOCK) {
                return wrong(format!(
                    "invalid compressed block size at index {index}, image file is corrupt"
                ));
            }
        }
        Ok(Self {
            block_size: block_size.into(),
            offsets,
        })
    }
}

impl BlockTable for Arc<CloopBlocks> {
    fn size(&self) -> u64 {
        (self.offsets.len() as u64).saturating_sub(1) * self.block_size
    }

    fn block_size(&self) -> u64 {
        self.block_size
    }

    fn lookup(&self, block: u64) -> Result<Block> {
        let first = usize::try_from(block).unwrap_or(usize::MAX);
        let start = self.offsets.get(first);
        match (start, self.offsets.get(first.saturating_add(1))) {
            (Some(start), Some(end)) => Ok(Block::Compressed {
                host: HostOffset(*start),
                length: end - start,
            }),
            _ => Err(Error::corrupt(format!("the disk has no block {block}"))),
        }
    }

    fn decompress(&self, compressed: &[u8], block: &mut [u8]) -> Result<()> {
        let yielded = decompress_whole(Codec::Zlib, compressed, block)
            .map_err(|error| Error::corrupt(format!("a block is damaged: {error}")))?;
        if yielded != block.len() {
            return Err(Error::corrupt(format!(
                "a block is damaged: the stream ends after {yielded} of {} bytes",
                block.len()
            )));
        }
        Ok(())
    }
}
