//! Reading the image's own part of a differencing disk, sector by sector.
//!
//! For a partially present block, a sector bitmap shows which sectors the image has. All other sectors, and blocks
//! that aren't present, are read from the parent. Such an image can't be written to.

use byteorder::{ByteOrder as _, LittleEndian};
use uuid::{Uuid, uuid};

use super::table::{PARTIAL, VhdxTable};
use crate::error::Result;
use crate::formats::block_map::{Block, BlockTable, LastBitmap};
use crate::formats::parent_name;
use crate::formats::refusals::without_text;
use crate::storage::Storage;
use crate::units::{HostOffset, SECTOR_SIZE};

/// The locator type of a VHDX parent.
const KIND: Uuid = uuid!("b04aefb7-d19e-4a81-b789-25b8e9445913");
/// The offsets of the number of entries and of the first entry, and the length of an entry, in bytes.
const COUNT: usize = 18;
const FIRST: usize = 20;
const ENTRY: usize = 12;
/// The largest parent locator that is read, in bytes.
const LONGEST: u64 = 1 << 20;

/// The parent according to the metadata.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct VhdxParent {
    /// Its name, relative to the image.
    pub(super) name: Vec<u8>,
    /// The data write identifier that the parent must have.
    pub(super) id: [u8; 16],
}

impl VhdxParent {
    /// Reads the parent locator of `length` bytes at `offset`.
    ///
    /// # Errors
    /// Returns the system's error. Returns an error if the locator is invalid, or if it has no relative name.
    pub(super) fn read(file: &dyn Storage, offset: u64, length: u64) -> Result<Self> {
        let invalid = || without_text(file, "Invalid argument");
        let length = usize::try_from(length.min(LONGEST)).unwrap_or_default();
        let mut bytes = vec![0; length];
        file.read_exact_at(offset, &mut bytes, "the locator of the parent")?;
        if bytes.get(..16) != Some(&KIND.to_bytes_le()[..]) {
            return Err(without_text(file, "Operation not supported"));
        }
        let count = bytes.get(COUNT..FIRST).ok_or_else(invalid)?;
        let count = LittleEndian::read_u16(count);
        let entries = bytes.get(FIRST..).unwrap_or_default().chunks_exact(ENTRY);
        let (mut id, mut name) = (None, None);
        for entry in entries.take(count.into()) {
            let (places, lengths) = entry.split_at(8);
            let part = |at: usize| {
                let start = LittleEndian::read_u32(places.get(at * 4..)?);
                let start = usize::try_from(start).ok()?;
                let length = usize::from(LittleEndian::read_u16(lengths.get(at * 2..)?));
                bytes.get(start..start.checked_add(length)?)
            };
            let (Some(key), Some(value)) = (part(0), part(1)) else {
                return Err(invalid());
            };
            match text(key).as_deref() {
                Some("parent_linkage") => {
                    let stated = text(value).and_then(|value| Uuid::try_parse(&value).ok());
                    id = stated.map(|id| id.to_bytes_le());
                }
                Some("relative_path") => name = parent_name::relative_of_bytes(value),
                _ => {}
            }
        }
        let id = id.ok_or_else(invalid)?;
        let name = name.ok_or_else(parent_name::not_relative)?;
        Ok(Self { name, id })
    }
}

/// Decodes a text in UTF-16, or returns `None` if it is invalid.
fn text(bytes: &[u8]) -> Option<String> {
    let units = bytes.chunks_exact(2).map(LittleEndian::read_u16);
    char::decode_utf16(units).collect::<Result<_, _>>().ok()
}

/// The image's own part of a differencing disk.
pub(super) struct PartialDisk {
    table: VhdxTable,
    last: LastBitmap,
}

impl PartialDisk {
    /// Returns the disk whose blocks `table` maps.
    pub(super) fn new(table: VhdxTable) -> Self {
        Self {
            table,
            last: LastBitmap::default(),
        }
    }

    /// Returns true if the image has a sector of a partially present block.
    fn is_stored(&self, block: u64, sector: u64) -> Result<bool> {
        let byte = self.last.byte(block, sector, || self.table.bits(block))?;
        // The first sector has the least significant bit.
        Ok(byte & 1 << (sector % 8) != 0)
    }
}

impl BlockTable for PartialDisk {
    fn size(&self) -> u64 {
        self.table.size()
    }

    /// Returns the size of a sector, since each may be in the image or in its parent.
    fn block_size(&self) -> u64 {
        SECTOR_SIZE
    }

    fn status_step(&self) -> u64 {
        self.table.block_size()
    }

    fn lookup(&self, sector: u64) -> Result<Block> {
        let sectors = self.table.block_size() / SECTOR_SIZE;
        let (block, within) = (sector / sectors, sector % sectors);
        let state = self.table.raw_state(block)?;
        if state == 0 || (state == PARTIAL && !self.is_stored(block, within)?) {
            return Ok(Block::Absent);
        }
        Ok(match self.table.lookup(block)? {
            Block::At(host) => Block::At(HostOffset(host.0 + within * SECTOR_SIZE)),
            other => other,
        })
    }
}
