//! Tests of the parts of its file that an image reports: metadata and compressed data.

use std::ffi::OsString;
use std::sync::Arc;

use cowhide::convert;
use cowhide::formats::FileUse;
use cowhide::formats::driver::{NewDisk, NewParts, Parts};
use cowhide::options::Values;
use cowhide::storage::{MemoryStorage, Storage as _};

use crate::common::Noise;
use crate::covered::{Covered, covered};
use crate::{
    Driver, PASSWORD, disk, extents, formats, image, load, new_disk, parts, raw, settings,
};

/// The size of the disk: whole blocks of every format.
const SIZE: usize = 8 << 20;

fn of(driver: Driver, bytes: Vec<u8>) -> Covered {
    let storage = Arc::new(MemoryStorage::new(bytes));
    let length = storage.len().unwrap();
    let file = load(driver, &storage).unwrap();
    let disk = file.open(parts()).unwrap();
    covered(file.as_ref(), disk.as_ref(), length)
}

/// A disk without zeroes leaves no space of the file unused, except between the tables and the first block.
#[test]
fn metadata_and_data_are_all_of_a_full_image() {
    let disk = Noise(41).bytes(SIZE);
    let size = SIZE as u64;
    // The metadata in bytes, and the unused space.
    let known = [
        ("raw", 0, 0),
        // The header, the L1 table and an L2 table of four clusters each.
        ("qed", 9 * 65536, 0),
        // The header, four L1 entries, and four L2 tables.
        ("qcow", 48 + 4 * 8 + 4 * 4096, 4096 - 80),
        ("vdi", 512 + 8 * 4, 512 - 32),
        // Two footers, the header, the BAT, and four bitmaps.
        ("vpc", 2 * 512 + 1024 + 512 + 4 * 512, 0),
        ("parallels", 64 + 8 * 4, (1 << 20) - 96),
        // The headers, the log, the BAT and the metadata, which has room for 4 MiB more.
        ("vhdx", 4 << 20, 4 << 20),
    ];
    for driver in formats() {
        let name = driver.name();
        let Some(bytes) = image(driver, &disk) else {
            continue;
        };
        if name == "own" {
            let storage = Arc::new(MemoryStorage::new(bytes));
            let file = load(driver, &storage).unwrap();
            let tells = file.parts_of(FileUse::Metadata, &mut |part| panic!("{part:?}"));
            assert!(!tells.unwrap());
            continue;
        }
        let found = of(driver, bytes);
        assert_eq!((found.data, found.compressed), (size, 0), "{name}");
        let first = (name != "raw").then_some(0);
        assert_eq!(found.first, first, "{name}");
        let known = known.iter().find(|(known, ..)| *known == name);
        if let Some((_, metadata, rest)) = known {
            assert_eq!((found.metadata, found.rest), (*metadata, *rest), "{name}");
        } else {
            assert!(found.metadata > 512 && found.rest < 64 << 10, "{name}");
        }
    }
}

#[test]
fn parts_of_a_sparse_image_are_disjoint() {
    for driver in formats() {
        if driver.name() != "own"
            && let Some(bytes) = image(driver, &disk(SIZE - 3 * 512, 42))
        {
            of(driver, bytes);
        }
    }
}

/// Returns a compressed image.
fn compressed(driver: Driver, disk: &[u8], option: &str) -> Vec<u8> {
    let lists: &[OsString] = match option {
        "" => &[],
        option => &[option.into()],
    };
    let options = Values::of_lists(&[driver.create_options()], lists).unwrap();
    let new = NewDisk {
        compressed: true,
        ..new_disk(disk.len() as u64, &options, None)
    };
    let storage = Arc::new(MemoryStorage::default());
    let new = driver.plan(&new).unwrap().create(NewParts {
        file: Arc::<MemoryStorage>::clone(&storage) as _,
        files: Vec::new(),
        secret: Some(&PASSWORD),
        flush: true,
    });
    convert::copy(&raw(disk), new.unwrap().as_ref(), settings(1), &()).unwrap();
    storage.contents()
}

#[test]
fn compressed_data_is_all_of_the_rest() {
    let mut disk = disk(SIZE, 43);
    disk[1 << 20..2 << 20].fill(5);
    // A stream has the header, the descriptor, and tables and a footer with markers: a grain table of four sectors, a
    // directory of one, and the end.
    let stream = 512 * (1 + 20 + (1 + 4) + (1 + 1) + 3);
    for (name, option, metadata) in [
        ("qcow", "", 48 + 4 * 8 + 3 * 4096),
        ("vmdk", "subformat=streamOptimized", stream),
    ] {
        let mut formats = formats().into_iter();
        let driver = formats.find(|driver| driver.name() == name).unwrap();
        let found = of(driver, compressed(driver, &disk, option));
        assert!(found.compressed > 1000, "{name}: {found:?}");
        assert_eq!(found.metadata, metadata, "{name}");
        // Only the space before the first cluster is unused, and that before one that isn't compressed.
        assert!(found.rest < 64 << 10, "{name}: {found:?}");
    }
}

/// An image of several files reports the parts of the last one.
#[test]
fn parts_of_the_last_extent_are_those_of_its_file() {
    let disk = Noise(44).bytes(SIZE);
    for (kind, more) in extents::KINDS {
        let files = extents::create(kind, more, &disk).storages();
        let length = files.last().unwrap().len().unwrap();
        let file = extents::load(&files).unwrap();
        let parts = Parts {
            files: files[1..].to_vec(),
            ..Parts::default()
        };
        let found = covered(file.as_ref(), file.open(parts).unwrap().as_ref(), length);
        match kind.contains("Flat") {
            true => assert_eq!((found.data, found.metadata), (length, 0), "{kind}"),
            false => {
                assert_eq!(found.first, Some(0), "{kind}");
                assert!(found.rest < 64 << 10, "{kind}: {found:?}");
            }
        }
    }
}
