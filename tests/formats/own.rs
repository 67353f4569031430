//! A format that only shows what a new one needs. It has a header with a magic number and the size of the disk, and a
//! map from 512 bytes on. The map has the number of each block of 4 KiB in the file, or 0 if it reads as zeroes.

use std::sync::Arc;

use cowhide::error::{Error, Result};
use cowhide::formats::block_map::*;
use cowhide::formats::driver::*;
use cowhide::formats::{Image, NewImage, WritableImage};
use cowhide::storage::Storage;
use cowhide::units::HostOffset;

const MARK: &[u8; 8] = b"NO USE!\n";
const MAP: u64 = 512;
const BLOCK: u64 = 4096;

pub struct Own;

impl FormatDriver for Own {
    fn name(&self) -> &'static str {
        "own"
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities::default()
    }

    fn probe(&self, start: &[u8]) -> u8 {
        if start.starts_with(MARK) { 100 } else { 0 }
    }

    fn plan(&self, new: &NewDisk<'_>) -> Result<Box<dyn Plan>> {
        Ok(Box::new(OwnPlan(new.size.next_multiple_of(512))))
    }

    fn load(&self, file: Arc<dyn Storage>, _how: Load) -> Result<Box<dyn ImageFile>> {
        let mut header = [0; 16];
        file.read_exact_at(0, &mut header, "the header")?;
        let size = u64::from_le_bytes(header[8..].try_into().unwrap());
        if !header.starts_with(MARK) || size > 1 << 40 || !size.is_multiple_of(512) {
            return Err(Error::corrupt("this is no image of no use"));
        }
        Ok(Box::new(OwnFile(file, size)))
    }
}

struct OwnPlan(u64);

impl Plan for OwnPlan {
    fn create(&self, parts: NewParts<'_>) -> Result<Box<dyn NewImage>> {
        let map = Map::new(&parts.file, self.0, true);
        parts.file.set_len(MAP + map.entries.count() * 4)?;
        let image = NewBlocks::new(map, parts.file, false, parts.flush);
        Ok(Box::new(image))
    }
}

struct OwnFile(Arc<dyn Storage>, u64);

impl OwnFile {
    fn image(&self) -> BlockImage<Map> {
        let map = Map::new(&self.0, self.1, false);
        BlockImage::new(map, Arc::clone(&self.0), false)
    }
}

impl ImageFile for OwnFile {
    fn size(&self) -> u64 {
        self.1
    }

    fn open(&self, _parts: Parts<'_>) -> Result<Arc<dyn Image>> {
        Ok(Arc::new(self.image()))
    }

    fn open_writable(&self, parts: WriteParts<'_>) -> Result<Box<dyn WritableImage>> {
        Ok(Box::new(WritableBlocks::new(self.image(), parts.flush)))
    }
}

struct Map {
    file: Arc<dyn Storage>,
    size: u64,
    entries: EntryTable,
}

impl Map {
    fn new(file: &Arc<dyn Storage>, size: u64, is_new: bool) -> Self {
        let (file, table, blocks) = (Arc::clone(file), Arc::clone(file), size.div_ceil(BLOCK));
        let entries = match is_new {
            true => EntryTable::fresh(table, EntryForm::Little32, MAP, blocks, Fresh::Same(0)),
            false => EntryTable::stored(table, EntryForm::Little32, MAP, blocks),
        };
        Self {
            file,
            size,
            entries,
        }
    }
}

impl BlockTable for Map {
    fn size(&self) -> u64 {
        self.size
    }

    fn block_size(&self) -> u64 {
        BLOCK
    }

    fn lookup(&self, block: u64) -> Result<Block> {
        Ok(match self.entries.get(block)? {
            0 => Block::Zero,
            place => Block::At(HostOffset(place * BLOCK)),
        })
    }
}

impl BlockAllocator for Map {
    fn allocate(&self, block: u64) -> Result<HostOffset> {
        let host = self.file.len()?.next_multiple_of(BLOCK);
        self.file.set_len(host + BLOCK)?;
        self.entries.set(block, host / BLOCK)?;
        Ok(HostOffset(host))
    }

    fn commit(&self) -> Result<()> {
        self.entries.store()
    }
}

impl NewBlockTable for Map {
    fn place(&self, block: u64) -> Result<HostOffset> {
        match self.lookup(block)? {
            Block::At(host) => Ok(host),
            _ => self.allocate(block),
        }
    }

    fn finish(&self, flush: bool) -> Result<()> {
        let flush = || if flush { self.file.flush() } else { Ok(()) };
        self.entries.store_all()?;
        flush()?;
        let header = [&MARK[..], &self.size.to_le_bytes()].concat();
        self.file.write_at(0, &header)?;
        flush()
    }
}
