//! Tests of power cuts and system errors: an image loses nothing but the data that is being written.

use std::sync::Arc;

use cowhide::storage::{Fault, MemoryStorage, Operation};

use crate::common::Noise;
use crate::power_cut::leftovers;
use crate::{
    Driver, corruptions, create, disk, formats, image, load, read, write_over, write_parts,
};

const SECTOR: usize = 512;
const SIZE: usize = (2 << 20) + 4096;

/// Asserts that each sector is old or new. A raw file may be cleared as a whole first.
fn assert_old_or_new(driver: Driver, found: &[u8], old: &[u8], new: &[u8], when: &str) {
    assert_eq!(found.len(), old.len(), "{when}");
    let may_be_cleared = driver.capabilities().transparent;
    for at in (0..found.len()).step_by(SECTOR) {
        let [found, old, new] = [found, old, new].map(|disk| &disk[at..at + SECTOR]);
        let is_cleared = may_be_cleared && found.iter().all(|byte| *byte == 0);
        assert!(
            is_cleared || found == old || found == new,
            "{when}: byte {at}"
        );
    }
}

/// Asserts that an image can be used, with the old or the new disk.
fn assert_usable(driver: Driver, image: &[u8], old: &[u8], new: &[u8], when: &str) {
    let when = format!("{}: {when}", driver.name());
    let found = read(driver, image).unwrap_or_else(|error| panic!("{when}: {error}"));
    assert_old_or_new(driver, &found, old, new, &when);
    // A single count in the header may be wrong, which doesn't prevent writing.
    assert!(corruptions(driver, image).unwrap() <= 1, "{when}");
    let storage = Arc::new(MemoryStorage::new(image.to_vec()));
    if !driver.capabilities().transparent {
        let file = load(driver, &storage).unwrap();
        let opened = file.open_writable(write_parts());
        assert!(opened.is_ok(), "{when}: {:?}", opened.err());
    }
}

/// Returns a disk whose sectors are partly allocated.
fn old_disk() -> Vec<u8> {
    let mut old = disk(SIZE, 11);
    old[1 << 20..].fill(0);
    old
}

#[test]
fn a_conversion_into_an_image_may_be_cut_off() {
    let mut cuts = 0;
    for driver in formats() {
        let (old, new) = (old_disk(), disk(SIZE, 12));
        let Some(image) = image(driver, &old) else {
            continue;
        };
        let storage = Arc::new(MemoryStorage::new(image.clone()).recording());
        write_over(driver, &storage, &new).unwrap();
        let record = storage.take_record();
        leftovers(&image, &record, &mut Noise(13), 60, &mut |left, when| {
            assert_usable(driver, left, &old, &new, when);
            cuts += 1;
        });
        assert!(read(driver, &storage.contents()).unwrap() == new);
    }
    assert!(cuts > 200, "{cuts}");
}

/// Checks that an incomplete file is no image.
#[test]
fn a_new_image_may_be_cut_off() {
    for driver in formats() {
        let disk = disk(SIZE, 14);
        let storage = Arc::new(MemoryStorage::default().recording());
        if driver.capabilities().transparent || create(driver, &disk, &storage, 1).is_err() {
            continue;
        }
        let record = storage.take_record();
        let mut whole = 0;
        leftovers(&[], &record, &mut Noise(15), 60, &mut |left, when| {
            if let Ok(found) = read(driver, left) {
                assert!(found == disk, "{}: {when}", driver.name());
                whole += 1;
            }
        });
        assert!(whole > 0, "{}", driver.name());
    }
}

/// Checks that the error of each single operation is reported, and that the image stays usable.
#[test]
fn no_failure_is_passed_over() {
    for driver in formats() {
        let (old, new) = (old_disk(), disk(SIZE, 16));
        let Some(image) = image(driver, &old) else {
            continue;
        };
        for operation in [
            Operation::Read,
            Operation::Write,
            Operation::SetLen,
            Operation::Flush,
        ] {
            for nth in 1.. {
                let fault = Fault {
                    operation,
                    nth,
                    errno: 5,
                };
                let storage = Arc::new(MemoryStorage::new(image.clone()).with_fault(fault));
                let written = write_over(driver, &storage, &new);
                let when = format!("{operation:?} {nth}");
                if storage.count(operation) < nth {
                    written.unwrap();
                    break;
                }
                let error = written.expect_err(&when).to_string();
                assert!(error.contains("Input/output error"), "{when}: {error}");
                assert_usable(driver, &storage.contents(), &old, &new, &when);
            }
            for nth in 1.. {
                let fault = Fault {
                    operation,
                    nth,
                    errno: 28,
                };
                let storage = Arc::new(MemoryStorage::default().with_fault(fault));
                let made = create(driver, &new, &storage, 1);
                if storage.count(operation) < nth {
                    made.unwrap();
                    break;
                }
                assert!(made.is_err(), "{}: {operation:?} {nth}", driver.name());
            }
        }
    }
}
