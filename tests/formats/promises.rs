//! Tests that new and overwritten images have the written data.

use std::sync::Arc;

use cowhide::formats::FORMATS;
use cowhide::formats::driver::Load;
use cowhide::formats::info::ImageInfo;
use cowhide::storage::{MemoryStorage, Operation};
use cowhide::units::GuestOffset;

use crate::common::Noise;
use crate::{corruptions, create, disk, formats, image, load, read, write_over, write_parts};

const MIB: usize = 1 << 20;
const SIZES: [usize; 6] = [0, 512, 4096, MIB, MIB + 512, 3 * MIB - 512];

#[test]
fn disks_come_back_as_they_were() {
    for driver in formats() {
        for size in SIZES {
            let disk = disk(size, size as u64);
            let Some(image) = image(driver, &disk) else {
                continue;
            };
            let name = driver.name();
            assert!(read(driver, &image).unwrap() == disk, "{name}: {size}");
            assert_eq!(corruptions(driver, &image).unwrap(), 0, "{name}: {size}");
        }
    }
}

#[test]
fn an_image_is_taken_for_what_it_is() {
    for driver in formats() {
        let Some(image) = image(driver, &disk(MIB, 1)) else {
            continue;
        };
        let start = &image[..image.len().min(512)];
        let score = driver.probe(start);
        for other in formats() {
            let other_is_sure = other.probe(start) >= score && other.name() != driver.name();
            assert!(!other_is_sure, "{}: {}", driver.name(), other.name());
        }
        // Only a transparent format accepts a file without any magic number.
        let anything = driver.capabilities().transparent;
        assert_eq!(driver.probe(&[0; 512]) > 0, anything, "{}", driver.name());
    }
}

/// Checks that old data of a device isn't visible in a new image.
#[test]
fn nothing_old_of_a_device_shows() {
    for format in FORMATS {
        let driver = &**format;
        let disk = disk(MIB + 512, 9);
        if image(driver, &disk).is_none() {
            continue;
        }
        let storage = Arc::new(MemoryStorage::new(vec![0xee; 24 * MIB]).as_device());
        create(driver, &disk, &storage, 1).unwrap();
        let found = read(driver, &storage.contents()).unwrap();
        // In some formats the disk has the length of the device.
        assert!(found[..disk.len()] == disk, "{}", driver.name());
    }
}

#[test]
fn reports_write_nothing() {
    for driver in formats() {
        let disk = disk(2 * MIB, 2);
        let Some(image) = image(driver, &disk) else {
            continue;
        };
        let storage = Arc::new(MemoryStorage::new(image.clone()));
        for how in [Load::Use, Load::Check] {
            let file = driver
                .load(Arc::<MemoryStorage>::clone(&storage), how)
                .unwrap();
            assert_eq!(file.size(), disk.len() as u64);
            let mut info = ImageInfo::new(String::new(), driver.name(), file.size(), None);
            file.describe(&mut info).unwrap();
            assert_eq!(
                (info.format, info.virtual_size),
                (driver.name(), file.size())
            );
        }
        assert!(storage.contents() == image && storage.count(Operation::Write) == 0);
    }
}

#[test]
fn workers_make_no_difference() {
    for driver in formats() {
        let disk = disk(7 * MIB, 3);
        let images = [1, 8].map(|workers| {
            let storage = Arc::new(MemoryStorage::default());
            let made = create(driver, &disk, &storage, workers);
            made.ok().map(|()| storage.contents())
        });
        let [Some(one), Some(eight)] = images else {
            continue;
        };
        assert_eq!(one.len(), eight.len(), "{}", driver.name());
        assert!(read(driver, &eight).unwrap() == disk, "{}", driver.name());
    }
}

#[test]
fn what_lies_beyond_the_source_stays() {
    for driver in formats() {
        for before in [vec![0; 3 * MIB], vec![0xa5; 3 * MIB], disk(3 * MIB, 4)] {
            let Some(image) = image(driver, &before) else {
                continue;
            };
            let storage = Arc::new(MemoryStorage::new(image));
            let source = disk(2 * MIB + 512, 5);
            write_over(driver, &storage, &source).unwrap();
            let image = storage.contents();
            let expected = [&source[..], &before[source.len()..]].concat();
            assert!(
                read(driver, &image).unwrap() == expected,
                "{}",
                driver.name()
            );
            assert_eq!(corruptions(driver, &image).unwrap(), 0, "{}", driver.name());
            // A longer disk doesn't fit, and nothing is written.
            let error = write_over(driver, &storage, &disk(4 * MIB, 6));
            let is_same = storage.contents() == image;
            assert!(driver.capabilities().transparent || (error.is_err() && is_same));
        }
    }
}

/// Compares random writes, zeroes and discards with a model.
#[test]
fn writes_are_read_back() {
    let mut tested = 0;
    for driver in formats() {
        let mut model = disk(2 * MIB + 512, 7);
        let Some(image) = image(driver, &model) else {
            continue;
        };
        let storage = Arc::new(MemoryStorage::new(image));
        let file = load(driver, &storage).unwrap();
        let Ok(image) = file.open_writable(write_parts()) else {
            continue;
        };
        tested += 1;
        let mut noise = Noise(8);
        for _ in 0..60 {
            let start = noise.pick(model.len() / 512) * 512;
            let length = ((noise.pick(200) + 1) * 512).min(model.len() - start);
            let part = &mut model[start..start + length];
            let offset = GuestOffset(start as u64);
            match noise.below(4) {
                0 => {
                    let may_unmap = noise.below(2) == 0;
                    image
                        .write_zeroes(offset, length as u64, may_unmap)
                        .unwrap();
                    part.fill(0);
                }
                1 => {
                    image.discard(offset, length as u64).unwrap();
                    image.read_at(offset, part).unwrap();
                }
                _ => {
                    part.copy_from_slice(&noise.bytes(length));
                    image.write_at(offset, part).unwrap();
                }
            }
            if noise.below(10) == 0 {
                image.flush().unwrap();
            }
        }
        image.close().unwrap();
        assert!(image.write_at(GuestOffset(0), &[0; 512]).is_err(), "closed");
        let image = storage.contents();
        assert!(read(driver, &image).unwrap() == model, "{}", driver.name());
        assert_eq!(corruptions(driver, &image).unwrap(), 0, "{}", driver.name());
    }
    assert!(tested >= 2);
}
