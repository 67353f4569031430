//! The metadata region: a table of items that describe the disk.

use std::ops::Range;

use byteorder::{ByteOrder as _, LittleEndian};
use uuid::{Uuid, uuid};

use super::layout::MIB;
use super::regions::Regions;
use crate::error::Result;
use crate::formats::fields::u32_le;
use crate::formats::refusals::without_text;
use crate::storage::Storage;
use crate::units::SECTOR_SIZE;

/// The largest disk in bytes.
pub(super) const LONGEST: u64 = 64 << 40;
/// The largest block in bytes.
pub(super) const LONGEST_BLOCK: u64 = 256 * MIB;
/// The length of the metadata table in bytes. The items follow it.
const TABLE_LENGTH: usize = 64 << 10;
/// The signature of the table.
const MARK: &[u8] = b"metadata";
/// The largest number of entries in the table.
const MOST_ENTRIES: u16 = 2047;
/// The length of an entry, and of the table's header, in bytes.
const ENTRY: usize = 32;
/// The size of the physical sectors of new disks, in bytes.
const NEW_PHYSICAL_SECTOR: u32 = 512;

const FILE_PARAMETERS: Uuid = uuid!("caa16737-fa36-4d43-b3b6-33f0aa44e76b");
const DISK_SIZE: Uuid = uuid!("2fa54224-cd1b-4876-b211-5dbed83bf4b8");
const DISK_ID: Uuid = uuid!("beca12ab-b2e6-4523-93ef-c309e000c746");
const LOGICAL_SECTOR: Uuid = uuid!("8141bf1d-a96f-4709-ba47-f233a8faab5f");
const PHYSICAL_SECTOR: Uuid = uuid!("cda348c7-445d-4471-9cc9-e9885251c556");
const PARENT: Uuid = uuid!("a8d35f2d-b30b-454d-abf7-d3d84834ab0c");

/// The flag of an item that a reader must know (`IsRequired`).
const IS_REQUIRED: u32 = 4;
/// The flag of an item that describes the disk, and not the file (`IsVirtualDisk`).
const IS_OF_DISK: u32 = 2;

/// The description of a disk in the metadata.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct DiskMetadata {
    /// The size of the disk in bytes, a multiple of 512.
    pub(super) size: u64,
    /// The size of a block in bytes: a power of two from 1 to 256 MiB.
    pub(super) block_size: u64,
    /// True if all blocks are allocated beforehand.
    pub(super) is_fixed: bool,
    /// The offset and the length of the parent locator in bytes, if there is one.
    pub(super) locator: Option<(u64, u64)>,
}

/// The offsets of items in the file, in bytes.
struct MetadataItems {
    parameters: u64,
    size: u64,
    logical_sector: u64,
    /// The offset and the length of the parent locator, if there is one.
    locator: Option<(u64, u64)>,
}

impl MetadataItems {
    /// Reads the table at the start of the metadata region, in a file of `length` bytes.
    fn read(file: &dyn Storage, region: &Range<u64>, length: u64) -> Result<Self> {
        let invalid = || without_text(file, "Invalid argument");
        let unsupported = || without_text(file, "Operation not supported");
        let mut table = vec![0; TABLE_LENGTH];
        file.read_padded_at(region.start, &mut table, length)?;
        let count = LittleEndian::read_u16(table.get(10..).unwrap_or_default());
        if !table.starts_with(MARK) || count > MOST_ENTRIES {
            return Err(invalid());
        }
        let entries = table.chunks_exact(ENTRY).skip(1);
        let mut places: [Option<u64>; 5] = [None; 5];
        let mut locator = None;
        for entry in entries.take(count.into()) {
            let (id, rest) = entry.split_at(16);
            let number = |at: usize| u32_le(rest, at);
            let id = <[u8; 16]>::try_from(id).map(Uuid::from_bytes_le);
            let index = match id {
                Ok(FILE_PARAMETERS) => 0,
                Ok(DISK_SIZE) => 1,
                Ok(DISK_ID) => 2,
                Ok(LOGICAL_SECTOR) => 3,
                Ok(PHYSICAL_SECTOR) => 4,
                Ok(PARENT) => {
                    locator = Some((region.start + u64::from(number(0)), number(4).into()));
                    continue;
                }
                _ if number(8) & IS_REQUIRED != 0 => return Err(unsupported()),
                _ => continue,
            };
            let Some(place) = places.get_mut(index).filter(|place| place.is_none()) else {
                return Err(invalid());
            };
            let (offset, length) = (u64::from(number(0)), u64::from(number(4)));
            // The longest of these items has 16 bytes.
            let end = offset + length.max(16);
            if offset < TABLE_LENGTH as u64 || end > region.end - region.start {
                return Err(invalid());
            }
            *place = Some(region.start + offset);
        }
        match places {
            [
                Some(parameters),
                Some(size),
                Some(_),
                Some(logical_sector),
                Some(_),
            ] => Ok(Self {
                parameters,
                size,
                logical_sector,
                locator,
            }),
            _ => Err(unsupported()),
        }
    }
}

impl DiskMetadata {
    /// Reads the metadata.
    ///
    /// # Errors
    /// Returns the system's error. Returns an error, in QEMU's words, if the metadata is invalid.
    pub(super) fn read(file: &dyn Storage, regions: &Regions) -> Result<Self> {
        let invalid = || without_text(file, "Invalid argument");
        let length = file.len()?;
        let items = MetadataItems::read(file, &regions.metadata, length)?;
        let item = |at: u64| {
            let mut item = [0; 8];
            file.read_padded_at(at, &mut item, length)?;
            Ok(LittleEndian::read_u64(&item))
        };
        let parameters = item(items.parameters)?;
        let (block_size, flags) = (parameters & 0xffff_ffff, parameters >> 32);
        let is_block_size = block_size.is_power_of_two() && block_size >= MIB;
        if !is_block_size || block_size > LONGEST_BLOCK {
            return Err(invalid());
        }
        if (flags & 2 != 0) != items.locator.is_some() {
            return Err(invalid());
        }
        let size = item(items.size)?;
        if size > LONGEST {
            return Err(invalid());
        }
        if item(items.logical_sector)? & 0xffff_ffff != SECTOR_SIZE {
            return Err(without_text(file, "Operation not supported"));
        }
        Ok(Self {
            size: size / SECTOR_SIZE * SECTOR_SIZE,
            block_size,
            is_fixed: flags & 1 != 0,
            locator: items.locator,
        })
    }

    /// Encodes the metadata of a new disk, with a random identifier.
    pub(super) fn encode(&self) -> Vec<u8> {
        let parameters = self.block_size | u64::from(self.is_fixed) << 32;
        let sector = |size: u32| size.to_le_bytes().to_vec();
        let logical = u32::try_from(SECTOR_SIZE).unwrap_or_default();
        let of_disk = IS_REQUIRED | IS_OF_DISK;
        let items = [
            (
                FILE_PARAMETERS,
                parameters.to_le_bytes().to_vec(),
                IS_REQUIRED,
            ),
            (DISK_SIZE, self.size.to_le_bytes().to_vec(), of_disk),
            (DISK_ID, Uuid::new_v4().to_bytes_le().to_vec(), of_disk),
            (LOGICAL_SECTOR, sector(logical), of_disk),
            (PHYSICAL_SECTOR, sector(NEW_PHYSICAL_SECTOR), of_disk),
        ];
        let mut table = MARK.to_vec();
        table.extend([0, 0, 5, 0]);
        table.resize(ENTRY, 0);
        let mut data: Vec<u8> = Vec::new();
        for (id, item, flags) in &items {
            let number = |number: usize| u32::try_from(number).unwrap_or(u32::MAX).to_le_bytes();
            table.extend(id.to_bytes_le());
            table.extend(number(TABLE_LENGTH + data.len()));
            table.extend(number(item.len()));
            table.extend(flags.to_le_bytes());
            table.extend([0; 4]);
            data.extend(item);
        }
        table.resize(TABLE_LENGTH, 0);
        table.extend(data);
        table
    }
}
