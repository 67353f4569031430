//! Tests of damaged files: reading them ends without a panic, and writes nothing.

use std::sync::Arc;

use cowhide::formats::FileUse;
use cowhide::formats::driver::Load;
use cowhide::formats::info::ImageInfo;
use cowhide::storage::{MemoryStorage, Operation};
use cowhide::units::GuestOffset;

use crate::common::Noise;
use crate::{Driver, disk, formats, image, parts};

/// Reads a file in every way that doesn't write. Returns true if it could be read.
pub fn look(driver: Driver, bytes: Vec<u8>) -> bool {
    let storage = Arc::new(MemoryStorage::new(bytes));
    let mut is_readable = false;
    for how in [Load::Use, Load::Check] {
        let Ok(file) = driver.load(Arc::<MemoryStorage>::clone(&storage), how) else {
            continue;
        };
        let mut info = ImageInfo::new(String::new(), driver.name(), file.size(), None);
        let _ = file.describe(&mut info);
        // The time of these depends on the tables in the header.
        if let Some(check) = file.check().filter(|_| file.size() < 1 << 30) {
            let _ = check.check(&mut |event| drop(event.to_string()));
        }
        if file.size() < 1 << 30 {
            for used_for in [FileUse::Metadata, FileUse::Compressed] {
                let _ = file.parts_of(used_for, &mut |part| assert!(part.start <= part.end));
            }
        }
        let Ok(image) = file.open(parts()) else {
            continue;
        };
        let mut buffer = vec![0; 64 << 10];
        let mut at = 0;
        for _ in 0..200 {
            if at >= image.size() {
                break;
            }
            let Ok(extent) = image.extent_at(GuestOffset(at), image.size() - at) else {
                at += 64 << 10;
                continue;
            };
            assert!(extent.length > 0);
            let length = usize::try_from(extent.length).unwrap_or(usize::MAX);
            let part = &mut buffer[..length.min(64 << 10) / 512 * 512];
            is_readable |= image.read_at(GuestOffset(at), part).is_ok();
            at += extent.length;
        }
    }
    assert_eq!(storage.count(Operation::Write), 0);
    is_readable
}

#[test]
fn changed_bytes_are_survived() {
    for driver in formats() {
        let Some(image) = image(driver, &disk(300 << 10, 21)) else {
            continue;
        };
        let mut noise = Noise(22);
        let mut readable = 0;
        for _ in 0..300 {
            let mut bytes = image.clone();
            for _ in 0..=noise.below(3) {
                let place = noise.pick(bytes.len().min(1024));
                bytes[place] = match noise.below(3) {
                    0 => 0xff,
                    1 => 0,
                    _ => noise.next() as u8,
                };
            }
            readable += u32::from(look(driver, bytes));
        }
        assert!(readable > 0, "{}", driver.name());
    }
}

#[test]
fn cut_files_are_survived() {
    for driver in formats() {
        let Some(image) = image(driver, &disk(300 << 10, 23)) else {
            continue;
        };
        assert!(look(driver, image.clone()), "{}", driver.name());
        let mut noise = Noise(24);
        for _ in 0..100 {
            let most = if noise.below(2) == 0 {
                2048
            } else {
                image.len()
            };
            look(driver, image[..noise.pick(most.min(image.len()))].to_vec());
        }
    }
}
