//! Reading the image's own part of a differencing disk, sector by sector.
//!
//! The bitmap of an allocated block shows which sectors the image has. All others are read from the parent. Such an
//! image can't be written to.

use std::sync::Arc;

use byteorder::{BigEndian, ByteOrder as _};

use super::header::{self, DynamicDisk};
use super::table::VhdTable;
use crate::error::Result;
use crate::formats::block_map::{Block, BlockTable, LastBitmap};
use crate::formats::fields::{u32_be, u64_be};
use crate::formats::parent_name;
use crate::storage::Storage;
use crate::units::{HostOffset, SECTOR_SIZE};

/// The offsets of fields of the header, in bytes.
mod at {
    pub(super) const PARENT_ID: usize = 40;
    pub(super) const PARENT_NAME: usize = 64;
    pub(super) const PARENT_NAME_END: usize = 576;
    pub(super) const LOCATORS_END: usize = 768;
}

/// The length of a parent locator entry in bytes.
const LOCATOR: usize = 24;
/// The platform code of a locator with a relative Windows name in UTF-16LE.
const RELATIVE: &[u8] = b"W2ru";
/// The longest name that is read, in bytes.
const LONGEST_NAME: u32 = 64 << 10;

/// The parent according to a header.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct VhdParent {
    /// Its name, relative to the image.
    pub(super) name: Vec<u8>,
    /// The unique id in the parent's footer.
    pub(super) id: [u8; 16],
}

impl VhdParent {
    /// Reads the parent from the header at `offset`.
    ///
    /// # Errors
    /// Returns the system's error. Returns an error if the header has no relative name.
    pub(super) fn read(file: &dyn Storage, offset: u64) -> Result<Self> {
        let length = file.len()?;
        let mut bytes = [0; header::LENGTH];
        file.read_padded_at(offset, &mut bytes, length)?;
        let locators = bytes
            .get(at::PARENT_NAME_END..at::LOCATORS_END)
            .unwrap_or_default();
        let mut name = None;
        for locator in locators.chunks_exact(LOCATOR) {
            let name_length = u32_be(locator, 8);
            if name.is_none() && locator.starts_with(RELATIVE) && name_length <= LONGEST_NAME {
                let mut bytes = vec![0; usize::try_from(name_length).unwrap_or_default()];
                let place = u64_be(locator, 16);
                file.read_padded_at(place, &mut bytes, length)?;
                name = parent_name::relative_of_bytes(&bytes);
            }
        }
        let stated = bytes
            .get(at::PARENT_NAME..at::PARENT_NAME_END)
            .unwrap_or_default();
        let stated = stated.chunks_exact(2).map(BigEndian::read_u16);
        let name = name.or_else(|| parent_name::relative(stated.take_while(|unit| *unit != 0)));
        let name = name.ok_or_else(parent_name::not_relative)?;
        let id = bytes.get(at::PARENT_ID..at::PARENT_ID + 16);
        let id = id.and_then(|id| id.try_into().ok()).unwrap_or_default();
        Ok(Self { name, id })
    }
}

/// The image's own part of a differencing disk.
pub(super) struct DifferencingDisk {
    table: VhdTable,
    disk: DynamicDisk,
    file: Arc<dyn Storage>,
    last: LastBitmap,
}

impl DifferencingDisk {
    /// Returns the disk whose blocks `table` maps.
    pub(super) fn new(table: VhdTable, disk: DynamicDisk, file: Arc<dyn Storage>) -> Self {
        Self {
            table,
            disk,
            file,
            last: LastBitmap::default(),
        }
    }

    /// Returns true if the image has a sector of an allocated block, whose data starts at `host`.
    fn is_stored(&self, block: u64, sector: u64, host: HostOffset) -> Result<bool> {
        let byte = self.last.byte(block, sector, || {
            let length = self.disk.bitmap_length();
            let mut bitmap = vec![0; usize::try_from(length).unwrap_or_default()];
            self.file
                .read_exact_at(host.0 - length, &mut bitmap, "the bitmap of a block")?;
            Ok(bitmap)
        })?;
        // The first sector has the most significant bit.
        Ok(byte & 0x80 >> (sector % 8) != 0)
    }
}

impl BlockTable for DifferencingDisk {
    fn size(&self) -> u64 {
        self.disk.size
    }

    /// Returns the size of a sector, since each may be in the image or in its parent.
    fn block_size(&self) -> u64 {
        SECTOR_SIZE
    }

    fn status_step(&self) -> u64 {
        self.disk.block_size
    }

    fn lookup(&self, sector: u64) -> Result<Block> {
        let sectors = self.disk.block_size / SECTOR_SIZE;
        let (block, within) = (sector / sectors, sector % sectors);
        Ok(match self.table.lookup(block)? {
            Block::At(host) if self.is_stored(block, within, host)? => {
                Block::At(HostOffset(host.0 + within * SECTOR_SIZE))
            }
            _ => Block::Absent,
        })
    }
}
