//! Tests of VHDX images with damage under correct checksums: reading such an image and opening it for writing end
//! without a panic.

use std::ops::Range;
use std::sync::Arc;

use cowhide::formats::FORMATS;
use cowhide::storage::MemoryStorage;

use crate::common::Noise;
use crate::damage::look;
use crate::power_cut::leftovers;
use crate::{Driver, disk, image, load, read, write_parts};

/// The offsets of the headers, the region tables and the log, and the lengths of the first two, in bytes.
const HEADERS: [usize; 2] = [64 << 10, 128 << 10];
const HEADER: usize = 4096;
const REGIONS: [usize; 2] = [192 << 10, 256 << 10];
const REGION_TABLE: usize = 64 << 10;
const LOG: usize = 1 << 20;
const TABLE: usize = 2 << 20;
const METADATA: usize = 3 << 20;

/// Stores the right checksum in a structure.
fn seal(image: &mut [u8], structure: Range<usize>) {
    let structure = &mut image[structure];
    structure[4..8].fill(0);
    let sum = crc32c::crc32c(structure);
    structure[4..8].copy_from_slice(&sum.to_le_bytes());
}

/// Changes some bytes of a part of the image.
fn scribble(image: &mut [u8], part: Range<usize>, noise: &mut Noise) {
    for _ in 0..=noise.below(3) {
        let place = part.start + noise.pick(part.len());
        image[place] = match noise.below(4) {
            0 => 0xff,
            1 => 0,
            2 => image[place] ^ 1 << noise.below(8),
            _ => noise.next() as u8,
        };
    }
}

/// Returns a log entry that changes the BAT, and zeroes a part of the file.
fn log_entry(length: usize) -> Vec<u8> {
    let mut entry = vec![0; 8192];
    let mut put = |at: usize, field: &[u8]| entry[at..at + field.len()].copy_from_slice(field);
    put(0, b"loge");
    put(8, &8192u32.to_le_bytes());
    put(16, &1u64.to_le_bytes());
    put(24, &2u32.to_le_bytes());
    put(32, &[7; 16]);
    put(48, &(length as u64).to_le_bytes());
    put(56, &(length as u64).to_le_bytes());
    put(64, b"desc");
    put(72, &[2]);
    put(80, &(TABLE as u64).to_le_bytes());
    put(88, &1u64.to_le_bytes());
    put(96, b"zero");
    put(104, &(1u64 << 20).to_le_bytes());
    put(112, &(8u64 << 20).to_le_bytes());
    put(120, &1u64.to_le_bytes());
    put(4096, b"data");
    put(8188, &1u32.to_le_bytes());
    entry
}

/// Stores an entry in the log.
fn put_log(image: &mut [u8], entry: &[u8]) {
    for header in HEADERS {
        image[header + 48..header + 64].fill(7);
        seal(image, header..header + HEADER);
    }
    image[LOG..LOG + entry.len()].copy_from_slice(entry);
    seal(image, LOG..LOG + entry.len());
}

/// Changes a part of a structure, and corrects its checksum. Returns true if it was the log.
fn damage(image: &mut [u8], noise: &mut Noise) -> bool {
    match noise.below(5) {
        0 => {
            for header in HEADERS {
                scribble(image, header..header + 80, noise);
                seal(image, header..header + HEADER);
            }
        }
        1 => {
            for table in REGIONS {
                scribble(image, table..table + 80, noise);
                seal(image, table..table + REGION_TABLE);
            }
        }
        2 => {
            let part = match noise.below(2) {
                0 => METADATA..METADATA + 192,
                _ => METADATA + 65536..METADATA + 65536 + 40,
            };
            scribble(image, part, noise);
        }
        3 => scribble(image, TABLE..TABLE + 8, noise),
        _ => {
            let entry = log_entry(image.len());
            put_log(image, &entry);
            scribble(image, LOG + 8..LOG + 128, noise);
            seal(image, LOG..LOG + entry.len());
            return true;
        }
    }
    false
}

#[test]
fn damage_that_no_checksum_tells_of_is_survived() {
    let mut formats = FORMATS.iter();
    let driver: Driver = &**formats.find(|format| format.name() == "vhdx").unwrap();
    let image = image(driver, &disk(300 << 10, 31)).unwrap();
    let mut noise = Noise(32);
    let (mut readable, mut unreadable) = (0, 0);
    for _ in 0..200 {
        let mut bytes = image.clone();
        let in_log = damage(&mut bytes, &mut noise);
        let storage = Arc::new(MemoryStorage::new(bytes.clone()));
        // A log may make the file longer than memory.
        if let (false, Ok(file)) = (in_log, load(driver, &storage)) {
            drop(file.open_writable(write_parts()));
        }
        match look(driver, bytes) {
            true => readable += 1,
            false => unreadable += 1,
        }
    }
    assert!(readable > 20 && unreadable > 20, "{readable} {unreadable}");
}

/// Checks that an interrupted replay leaves an image that reads like after a complete one.
#[test]
fn a_replay_may_be_cut_off() {
    let mut formats = FORMATS.iter();
    let driver: Driver = &**formats.find(|format| format.name() == "vhdx").unwrap();
    let before = disk(300 << 10, 33);
    let mut image = image(driver, &before).unwrap();
    let entry = log_entry(image.len());
    put_log(&mut image, &entry);
    let expected = vec![0; before.len()];
    assert!(read(driver, &image).unwrap() == expected);
    let storage = Arc::new(MemoryStorage::new(image.clone()).recording());
    let file = load(driver, &storage).unwrap();
    drop(file.open_writable(write_parts()).unwrap());
    let record = storage.take_record();
    let mut cuts = 0;
    leftovers(&image, &record, &mut Noise(34), 40, &mut |left, when| {
        assert!(read(driver, left).unwrap() == expected, "{when}");
        cuts += 1;
    });
    assert!(cuts > 20, "{cuts}");
    // A replayed image has no log any more.
    let after = storage.contents();
    assert!(after != image && read(driver, &after).unwrap() == expected);
    let again = Arc::new(MemoryStorage::new(after).recording());
    drop(
        load(driver, &again)
            .unwrap()
            .open_writable(write_parts())
            .unwrap(),
    );
    assert!(again.take_record().is_empty());
}
