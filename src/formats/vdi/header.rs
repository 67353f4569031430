//! The header: 512 bytes, of which the first 72 identify the format and the rest describes the disk.

use std::ops::Range;

use uuid::Uuid;

use crate::error::{Error, Result};
use crate::formats::fields::{put, u32_le, u64_le};
use crate::storage::Storage;
use crate::units::SECTOR_SIZE;

/// The offset of the signature, in bytes.
pub(super) const SIGNATURE_AT: usize = 64;
/// The signature.
pub(super) const SIGNATURE: u32 = 0xbeda_107f;
/// The only supported block size, in bytes.
pub(super) const BLOCK_SIZE: u64 = 1 << 20;
/// The largest number of blocks that QEMU accepts.
const MOST_BLOCKS: u32 = 0x1fff_ff80;
/// The largest disk that QEMU accepts, in bytes.
pub(super) const LONGEST: u64 = MOST_BLOCKS as u64 * BLOCK_SIZE;
/// The length of the header in bytes.
pub(super) const LENGTH: usize = 512;
/// Version 1.1.
const VERSION: u32 = 0x0001_0001;
/// The text at the start of the file, which identifies QEMU's images.
const TEXT: &[u8] = b"<<< QEMU VM Virtual Disk Image >>>\n";
/// The length in the header, which doesn't count the fields before it.
const STATED_LENGTH: u32 = 0x180;

/// The type of an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ImageType {
    /// Blocks are allocated when they are written.
    Dynamic,
    /// All blocks are allocated beforehand.
    Static,
}

/// A checked header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct VdiHeader {
    pub(super) kind: ImageType,
    /// The offset of the block map, in bytes.
    pub(super) map_offset: u64,
    /// The offset of the first block, in bytes.
    pub(super) data_offset: u64,
    /// The size of the disk in bytes, a multiple of 512.
    pub(super) size: u64,
    /// The number of entries of the block map.
    pub(super) blocks: u32,
    /// The number of allocated blocks according to the header.
    pub(super) allocated: u32,
}

/// The offsets of fields that are read or written separately, in bytes.
mod at {
    pub(super) const VERSION: usize = 68;
    pub(super) const HEADER_LENGTH: usize = 72;
    pub(super) const KIND: usize = 76;
    pub(super) const MAP_OFFSET: usize = 340;
    pub(super) const DATA_OFFSET: usize = 344;
    pub(super) const SECTOR_SIZE: usize = 360;
    pub(super) const DISK_SIZE: usize = 368;
    pub(super) const BLOCK_SIZE: usize = 376;
    pub(super) const BLOCK_EXTRA: usize = 380;
    pub(super) const BLOCKS: usize = 384;
    pub(super) const ALLOCATED: usize = 388;
    pub(super) const UUID: usize = 392;
    pub(super) const UUID_OF_CHANGE: usize = 408;
    pub(super) const UUID_OF_LINK: usize = 424;
    pub(super) const UUID_OF_PARENT: usize = 440;
}

impl VdiHeader {
    /// Reads the header of the image in `file`.
    ///
    /// # Errors
    /// Returns the system's error. Returns an error, in QEMU's words where it has any, if the header is invalid, or
    /// if the image depends on a parent.
    pub(super) fn read(file: &dyn Storage) -> Result<Self> {
        let mut bytes = [0; LENGTH];
        file.read_padded_at(0, &mut bytes, file.len()?)?;
        Self::parse(&bytes)
    }

    fn parse(bytes: &[u8; LENGTH]) -> Result<Self> {
        let number = |at: usize| u32_le(bytes, at);
        let size = u64_le(bytes, at::DISK_SIZE);
        let unsupported =
            |why: String| Err(Error::unsupported(format!("unsupported VDI image ({why})")));
        let signature = number(SIGNATURE_AT);
        if signature != SIGNATURE {
            return Err(Error::corrupt(format!(
                "Image not in VDI format (bad signature {signature:08x})"
            )));
        }
        // Some programs don't round the size up to whole sectors.
        let rounded = size.checked_next_multiple_of(SECTOR_SIZE);
        let Some(size) = rounded.filter(|size| *size <= LONGEST) else {
            return Err(Error::unsupported(format!(
                "Unsupported VDI image size (size is {size:#x}, max supported is {LONGEST:#x})"
            )));
        };
        let version = number(at::VERSION);
        if version != VERSION {
            return unsupported(format!("version {}.{}", version >> 16, version & 0xffff));
        }
        let (map_offset, data_offset) = (number(at::MAP_OFFSET), number(at::DATA_OFFSET));
        if !u64::from(map_offset).is_multiple_of(SECTOR_SIZE) {
            return unsupported(format!("unaligned block map offset {map_offset:#x}"));
        }
        if !u64::from(data_offset).is_multiple_of(SECTOR_SIZE) {
            return unsupported(format!("unaligned data offset {data_offset:#x}"));
        }
        let sector_size = number(at::SECTOR_SIZE);
        if u64::from(sector_size) != SECTOR_SIZE {
            return unsupported(format!("sector size {sector_size} is not {SECTOR_SIZE}"));
        }
        let block_size = number(at::BLOCK_SIZE);
        if u64::from(block_size) != BLOCK_SIZE {
            return unsupported(format!("block size {block_size} is not {BLOCK_SIZE}"));
        }
        let blocks = number(at::BLOCKS);
        let space = u64::from(blocks) * BLOCK_SIZE;
        if size > space {
            return unsupported(format!(
                "disk size {size}, image bitmap has room for {space}"
            ));
        }
        let uuid = |at: usize| bytes.get(at..at + 16).unwrap_or_default();
        let is_null = |at: usize| uuid(at).iter().all(|byte| *byte == 0);
        if !is_null(at::UUID_OF_LINK) {
            return unsupported("non-NULL link UUID".into());
        }
        if !is_null(at::UUID_OF_PARENT) {
            return unsupported("non-NULL parent UUID".into());
        }
        if blocks > MOST_BLOCKS {
            return unsupported(format!("too many blocks {blocks}, max is {MOST_BLOCKS}"));
        }
        let extra = number(at::BLOCK_EXTRA);
        if extra != 0 {
            return unsupported(format!("{extra} bytes of extra data before each block"));
        }
        let kind = match number(at::KIND) {
            1 => ImageType::Dynamic,
            2 => ImageType::Static,
            3 => return unsupported("undo images depend on another image".into()),
            4 => return unsupported("differencing images depend on another image".into()),
            other => return unsupported(format!("image type {other}")),
        };
        Ok(Self {
            kind,
            map_offset: map_offset.into(),
            data_offset: data_offset.into(),
            size,
            blocks,
            allocated: number(at::ALLOCATED),
        })
    }

    /// Returns the ranges of the header and of the block map, in bytes.
    pub(super) fn metadata(&self) -> [Range<u64>; 2] {
        let map = self.map_offset..self.map_offset + u64::from(self.blocks) * 4;
        [0..LENGTH as u64, map]
    }

    /// Returns true if the block map overlaps with the header or with a block.
    pub(super) fn overlaps(&self) -> bool {
        let [header, map] = self.metadata();
        let data = self.data_offset..self.data_offset + u64::from(self.blocks) * BLOCK_SIZE;
        let overlap = |one: &Range<u64>, other: &Range<u64>| {
            !one.is_empty() && !other.is_empty() && one.start < other.end && other.start < one.end
        };
        overlap(&map, &header) || overlap(&map, &data) || overlap(&data, &header)
    }

    /// Returns the header of a new disk of `size` bytes.
    pub(super) fn new(size: u64, kind: ImageType) -> Self {
        let blocks = u32::try_from(size.div_ceil(BLOCK_SIZE)).unwrap_or(u32::MAX);
        let map_length = (u64::from(blocks) * 4).next_multiple_of(SECTOR_SIZE);
        Self {
            kind,
            map_offset: LENGTH as u64,
            data_offset: LENGTH as u64 + map_length,
            size,
            blocks,
            allocated: match kind {
                ImageType::Dynamic => 0,
                ImageType::Static => blocks,
            },
        }
    }

    /// Encodes the header of a new image, with random UUIDs.
    pub(super) fn encode(&self) -> [u8; LENGTH] {
        let mut bytes = [0; LENGTH];
        let offset = |offset: u64| u32::try_from(offset).unwrap_or(u32::MAX).to_le_bytes();
        let kind: u32 = match self.kind {
            ImageType::Dynamic => 1,
            ImageType::Static => 2,
        };
        put(&mut bytes, 0, TEXT);
        put(&mut bytes, SIGNATURE_AT, &SIGNATURE.to_le_bytes());
        put(&mut bytes, at::VERSION, &VERSION.to_le_bytes());
        put(&mut bytes, at::HEADER_LENGTH, &STATED_LENGTH.to_le_bytes());
        put(&mut bytes, at::KIND, &kind.to_le_bytes());
        put(&mut bytes, at::MAP_OFFSET, &offset(self.map_offset));
        put(&mut bytes, at::DATA_OFFSET, &offset(self.data_offset));
        put(&mut bytes, at::SECTOR_SIZE, &offset(SECTOR_SIZE));
        put(&mut bytes, at::DISK_SIZE, &self.size.to_le_bytes());
        put(&mut bytes, at::BLOCK_SIZE, &offset(BLOCK_SIZE));
        put(&mut bytes, at::BLOCKS, &self.blocks.to_le_bytes());
        put(&mut bytes, at::ALLOCATED, &self.allocated.to_le_bytes());
        put(&mut bytes, at::UUID, Uuid::new_v4().as_bytes());
        put(&mut bytes, at::UUID_OF_CHANGE, Uuid::new_v4().as_bytes());
        bytes
    }

    /// Stores the number of allocated blocks in the header in `file`.
    ///
    /// # Errors
    /// Returns the system's error.
    pub(super) fn write_allocated(file: &dyn Storage, allocated: u32) -> Result<()> {
        file.write_at(at::ALLOCATED as u64, &allocated.to_le_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        for (size, kind) in [
            (0, ImageType::Dynamic),
            (5 << 20, ImageType::Static),
            (LONGEST, ImageType::Dynamic),
        ] {
            let header = VdiHeader::new(size, kind);
            assert_eq!(VdiHeader::parse(&header.encode()).unwrap(), header);
        }
    }

    #[test]
    fn each_image_has_uuids_of_its_own() {
        let uuids = || {
            VdiHeader::new(1 << 20, ImageType::Dynamic).encode()[at::UUID..at::UUID + 32].to_vec()
        };
        let (one, two) = (uuids(), uuids());
        assert_ne!(one, two);
        assert_ne!(one[..16], one[16..]);
    }

    #[test]
    fn wrong_fields_are_named() {
        let cases: [(usize, u32, &str); 14] = [
            (SIGNATURE_AT, 7, "bad signature 00000007"),
            (
                at::VERSION,
                0x0001_0000,
                "unsupported VDI image (version 1.0)",
            ),
            (at::MAP_OFFSET, 0x201, "unaligned block map offset 0x201"),
            (at::DATA_OFFSET, 0x401, "unaligned data offset 0x401"),
            (at::SECTOR_SIZE, 4096, "sector size 4096 is not 512"),
            (at::BLOCK_SIZE, 2 << 20, "block size 2097152 is not 1048576"),
            (at::BLOCK_EXTRA, 512, "512 bytes of extra data"),
            (
                at::BLOCKS,
                2,
                "disk size 3145728, image bitmap has room for 2097152",
            ),
            (
                at::BLOCKS,
                u32::MAX,
                "too many blocks 4294967295, max is 536870784",
            ),
            (at::KIND, 3, "undo images"),
            (at::KIND, 4, "differencing images"),
            (at::KIND, 99, "image type 99"),
            (at::UUID_OF_LINK, 1, "non-NULL link UUID"),
            (at::UUID_OF_PARENT, 1, "non-NULL parent UUID"),
        ];
        for (at, value, message) in cases {
            let mut bytes = VdiHeader::new(3 << 20, ImageType::Dynamic).encode();
            bytes[at..at + 4].copy_from_slice(&value.to_le_bytes());
            let text = VdiHeader::parse(&bytes).unwrap_err().to_string();
            assert!(text.contains(message), "{text}");
        }
        let mut bytes = VdiHeader::new(3 << 20, ImageType::Dynamic).encode();
        bytes[at::DISK_SIZE..at::DISK_SIZE + 8].copy_from_slice(&u64::MAX.to_le_bytes());
        let text = VdiHeader::parse(&bytes).unwrap_err().to_string();
        assert!(text.contains("max supported is 0x1fffff8000000"), "{text}");
    }
}
