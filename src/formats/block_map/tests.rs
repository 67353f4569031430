//! Tests with a table in memory and blocks of all kinds.

use std::sync::{Arc, Mutex};

use super::*;
use crate::error::Result;
use crate::formats::encryption::LegacyAes;
use crate::formats::{Extent, ExtentKind, Image, WritableImage, raw::RawImage};
use crate::storage::{Change, MemoryStorage, Storage};
use crate::units::GuestOffset;

const BLOCK: usize = 4096;
/// The disk ends in the middle of a block.
const SIZE: usize = 5 * BLOCK + 512;

struct Toy {
    file: Arc<MemoryStorage>,
    entries: Arc<Mutex<Vec<Block>>>,
    stores_zeroes: bool,
}

impl BlockTable for Toy {
    fn size(&self) -> u64 {
        SIZE as u64
    }

    fn block_size(&self) -> u64 {
        BLOCK as u64
    }

    fn lookup(&self, block: u64) -> Result<Block> {
        Ok(self.entries.lock().unwrap()[usize::try_from(block).unwrap()])
    }

    fn stores_zeroes(&self) -> bool {
        self.stores_zeroes
    }

    fn set_zero(&self, block: u64) -> Result<()> {
        self.entries.lock().unwrap()[usize::try_from(block).unwrap()] = Block::Zero;
        Ok(())
    }

    /// Decompresses a block, whose bytes all have the value of its compressed byte.
    fn decompress(&self, compressed: &[u8], block: &mut [u8]) -> Result<()> {
        block.fill(compressed[0]);
        Ok(())
    }
}

impl BlockAllocator for Toy {
    fn allocate(&self, block: u64) -> Result<HostOffset> {
        let host = self.file.len()?.next_multiple_of(BLOCK as u64);
        self.file.set_len(host + BLOCK as u64)?;
        self.entries.lock().unwrap()[usize::try_from(block).unwrap()] = Block::At(HostOffset(host));
        Ok(HostOffset(host))
    }

    fn commit(&self) -> Result<()> {
        Ok(())
    }
}

impl NewBlockTable for Toy {
    fn place(&self, block: u64) -> Result<HostOffset> {
        match self.lookup(block)? {
            Block::At(host) => Ok(host),
            _ => self.allocate(block),
        }
    }

    fn compress(&self, block: &[u8], compressed: &mut Vec<u8>) -> Result<bool> {
        compressed.clear();
        compressed.push(block[0]);
        Ok(block.iter().all(|byte| *byte == block[0]))
    }

    fn place_compressed(&self, block: u64, length: u64) -> Result<HostOffset> {
        let host = HostOffset(self.file.len()?);
        self.file.set_len(host.0 + length)?;
        self.entries.lock().unwrap()[usize::try_from(block).unwrap()] =
            Block::Compressed { host, length };
        Ok(host)
    }

    fn finish(&self, _flush: bool) -> Result<()> {
        Ok(())
    }
}

/// Returns a disk in which block 0 is allocated, 1 is zero, 2 is compressed, and the others are left to the backing
/// file.
fn toy(stores_zeroes: bool) -> (Toy, Arc<MemoryStorage>) {
    let file = Arc::new(MemoryStorage::new([vec![1; BLOCK], vec![2]].concat()));
    let compressed = Block::Compressed {
        host: HostOffset(BLOCK as u64),
        length: 1,
    };
    let stored = Block::At(HostOffset(0));
    let left = Block::Absent;
    let table = Toy {
        file: Arc::clone(&file),
        entries: Arc::new(Mutex::new(vec![
            stored,
            Block::Zero,
            compressed,
            left,
            left,
            left,
        ])),
        stores_zeroes,
    };
    (table, file)
}

fn image(table: Toy, file: &Arc<MemoryStorage>) -> BlockImage<Toy> {
    BlockImage::new(table, Arc::<MemoryStorage>::clone(file), false)
}

/// Returns a backing file that ends in block 4.
fn backing() -> Arc<dyn Image> {
    let bytes = vec![9; 4 * BLOCK + 1024];
    Arc::new(RawImage::open(Arc::new(MemoryStorage::new(bytes))).unwrap())
}

/// Returns the contents of the disk over its backing file.
fn model() -> Vec<u8> {
    let mut model = [[1; BLOCK], [0; BLOCK], [2; BLOCK], [9; BLOCK], [9; BLOCK]].concat();
    model.resize(SIZE, 0);
    model[4 * BLOCK + 1024..].fill(0);
    model
}

fn read(image: &dyn Image) -> Vec<u8> {
    let mut disk = vec![0xee; SIZE];
    image.read_at(GuestOffset(0), &mut disk).unwrap();
    disk
}

#[test]
fn each_kind_of_block_is_told_and_read() {
    let (table, file) = toy(false);
    let image = image(table, &file);
    let mut at = 0;
    let mut kinds = Vec::new();
    while at < image.size() {
        let Extent { kind, length, .. } = image.extent_at(GuestOffset(at), u64::MAX).unwrap();
        kinds.push((kind, length));
        at += length;
    }
    let block = BLOCK as u64;
    let expected = [
        (ExtentKind::Data(HostOffset(0)), block),
        (ExtentKind::Zero { kept: None }, block),
        (ExtentKind::Encoded, block),
        (
            ExtentKind::Unallocated { kept: None },
            SIZE as u64 - 3 * block,
        ),
    ];
    assert_eq!(kinds, expected);
    let mut part = vec![0; 1024];
    image
        .read_at(GuestOffset(3 * block - 512), &mut part)
        .unwrap();
    assert_eq!(part, [[2; 512], [0; 512]].concat());
}

#[test]
fn the_rest_of_a_block_is_copied_with_its_first_write() {
    for stores_zeroes in [false, true] {
        for key in [None, Some(b"0123456789abcdef")] {
            for (start, length) in [
                (2 * BLOCK + 512, 512),
                (3 * BLOCK + 512, 1024),
                (4 * BLOCK + 512, BLOCK),
                (5 * BLOCK, 512),
                (BLOCK + 512, 4 * BLOCK),
                (0, SIZE),
            ] {
                let (table, file) = toy(stores_zeroes);
                let backend = crate::crypto::Backend::detect();
                let cipher = key.map(|key| LegacyAes::with_key(key, backend));
                let mut expected = model();
                if let Some(cipher) = &cipher {
                    let mut stored = vec![1; BLOCK];
                    cipher.encrypt(GuestOffset(0), HostOffset(0), &mut stored);
                    file.write_at(0, &stored).unwrap();
                }
                let image = image(table, &file).with_cipher(cipher);
                let image = WritableBlocks::new(image, true).with_backing(Some(backing()));
                assert!(read(&image) == expected);
                image
                    .write_at(GuestOffset(start as u64), &vec![7; length])
                    .unwrap();
                expected[start..start + length].fill(7);
                assert!(read(&image) == expected, "{start} {length}");
                image.close().unwrap();
                assert!(image.write_at(GuestOffset(0), &[]).is_err());
            }
        }
    }
}

#[test]
fn zeroes_hide_the_backing_file_and_take_no_room_where_they_need_none() {
    for stores_zeroes in [false, true] {
        for key in [None, Some(b"0123456789abcdef")] {
            for (start, length) in [
                (0, SIZE),
                (512, 512),
                (2 * BLOCK, BLOCK),
                (2 * BLOCK + 512, 512),
                (3 * BLOCK + 512, BLOCK),
                (4 * BLOCK + 1024, 512),
                (3 * BLOCK, SIZE - 3 * BLOCK),
            ] {
                let (table, file) = toy(stores_zeroes);
                let backend = crate::crypto::Backend::detect();
                let cipher = key.map(|key| LegacyAes::with_key(key, backend));
                if let Some(cipher) = &cipher {
                    let mut stored = vec![1; BLOCK];
                    cipher.encrypt(GuestOffset(0), HostOffset(0), &mut stored);
                    file.write_at(0, &stored).unwrap();
                }
                let before = file.len().unwrap();
                let image = image(table, &file).with_cipher(cipher);
                let image = WritableBlocks::new(image, true).with_backing(Some(backing()));
                image
                    .write_zeroes(GuestOffset(start as u64), length as u64, true)
                    .unwrap();
                let mut expected = model();
                expected[start..start + length].fill(0);
                assert!(read(&image) == expected, "{start} {length}");
                let needs_none = start == 4 * BLOCK + 1024
                    || start == 512
                    || (stores_zeroes && start == 3 * BLOCK);
                assert!(!needs_none || file.len().unwrap() == before, "{start}");
            }
        }
    }
}

#[test]
fn a_failure_while_a_block_is_replaced_ends_the_writing() {
    let (table, file) = toy(false);
    let image = image(table, &file);
    let image = WritableBlocks::new(image, true).with_backing(Some(Arc::new(Unreadable)));
    let offset = GuestOffset(3 * BLOCK as u64);
    assert!(image.write_at(offset, &[7; 512]).is_err());
    assert!(image.write_at(GuestOffset(0), &[7; 512]).is_err());
    assert!(image.flush().is_err());
}

struct Unreadable;

impl Image for Unreadable {
    fn size(&self) -> u64 {
        SIZE as u64
    }

    fn extent_at(&self, _: GuestOffset, _: u64) -> Result<Extent> {
        Err(Error::invalid("unreadable"))
    }

    fn read_at(&self, _: GuestOffset, _: &mut [u8]) -> Result<()> {
        Err(Error::invalid("unreadable"))
    }
}

#[test]
fn data_is_stored_before_the_table() {
    let file = Arc::new(MemoryStorage::default().recording());
    let table = Toy {
        file: Arc::clone(&file),
        entries: Arc::new(Mutex::new(vec![Block::Absent; 6])),
        stores_zeroes: false,
    };
    let image = WritableBlocks::new(image(table, &file), true).with_backing(Some(backing()));
    image.write_at(GuestOffset(512), &[7; 512]).unwrap();
    image.close().unwrap();
    let record = file.take_record();
    let writes = record
        .iter()
        .filter(|change| matches!(change, Change::Write(..)));
    assert_eq!(writes.count(), 1, "the block as a whole");
    assert_eq!(record.last(), Some(&Change::Flush));
}

#[test]
fn new_disks_are_packed_or_over_a_backing_file() {
    for (stores_zeroes, compresses, backing_size) in [
        (false, true, None),
        (false, false, Some(u64::MAX)),
        (true, false, Some(u64::MAX)),
        (true, true, Some(u64::MAX)),
        (false, true, Some(u64::MAX)),
    ] {
        let file = Arc::new(MemoryStorage::default());
        let entries = Arc::new(Mutex::new(vec![Block::Absent; 6]));
        let toy = || Toy {
            file: Arc::clone(&file),
            entries: Arc::clone(&entries),
            stores_zeroes,
        };
        let storage: Arc<dyn Storage> = Arc::<MemoryStorage>::clone(&file);
        let new = NewBlocks::new(toy(), storage, false, true)
            .compressing(compresses)
            .with_backing(backing_size);
        let source = model();
        let source = RawImage::open(Arc::new(MemoryStorage::new(source))).unwrap();
        crate::convert::copy(&source, &new, crate::convert::Settings::default(), &()).unwrap();
        let found = entries.lock().unwrap().clone();
        let is_zero = |block: Block| matches!(block, Block::Zero);
        let is_compressed = |block: Block| matches!(block, Block::Compressed { .. });
        assert_eq!(is_compressed(found[0]), compresses);
        match (backing_size, stores_zeroes) {
            (None, _) => assert_eq!(found[1], Block::Absent),
            (Some(_), true) => assert!(is_zero(found[1]) && is_zero(found[5])),
            (Some(_), false) => assert!(found[1] != Block::Absent && !is_zero(found[1])),
        }
        let image = image(toy(), &file);
        assert!(read(&image) == model());
    }
}
