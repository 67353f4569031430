//! Tests of overlays: the rest of a partially written block comes from the backing file, even after a power cut.

use std::ffi::OsString;
use std::sync::Arc;

use cowhide::formats::driver::{NewParts, WriteParts};
use cowhide::formats::{Chain, Image};
use cowhide::options::Values;
use cowhide::storage::MemoryStorage;
use cowhide::units::GuestOffset;

use crate::common::Noise;
use crate::power_cut::leftovers;
use crate::{Driver, corruptions, disk, formats, load, new_disk, parts, raw, write_parts};

const SECTOR: usize = 512;
const SIZE: usize = (1 << 20) + 1536;

/// Returns an empty overlay of a raw backing file, or `None` if the format has no backing files.
fn overlay(driver: Driver) -> Option<Vec<u8>> {
    if !driver.capabilities().backing {
        return None;
    }
    let lists = [OsString::from("backing_file=base,backing_fmt=raw")];
    let options = Values::of_lists(&[driver.create_options()], &lists).ok()?;
    let plan = driver.plan(&new_disk(SIZE as u64, &options, Some(SIZE as u64)));
    let storage = Arc::new(MemoryStorage::default());
    // VMDK stores the content id of its backing file, and there is no such file here.
    let new = plan.ok()?.create(NewParts {
        file: Arc::<MemoryStorage>::clone(&storage),
        files: Vec::new(),
        secret: None,
        flush: true,
    });
    new.ok()?.finish().unwrap();
    Some(storage.contents())
}

/// Returns the disk of an image over a backing file.
fn read_over(driver: Driver, image: &[u8], base: &Arc<dyn Image>) -> Vec<u8> {
    let storage = Arc::new(MemoryStorage::new(image.to_vec()));
    let top = load(driver, &storage).unwrap().open(parts()).unwrap();
    let chain = Chain::new(top, vec![Arc::clone(base)]);
    let mut disk = vec![0xee; SIZE];
    chain.read_at(GuestOffset(0), &mut disk).unwrap();
    disk
}

#[test]
fn a_write_over_a_backing_file_may_be_cut_off() {
    let mut tested = 0;
    for driver in formats() {
        let Some(empty) = overlay(driver) else {
            continue;
        };
        let old = disk(SIZE, 31);
        // The backing file ends before the disk.
        let base: Arc<dyn Image> = Arc::new(raw(&old[..SIZE - 1024]));
        let mut old = old;
        old[SIZE - 1024..].fill(0);
        let mut new = old.clone();
        assert!(read_over(driver, &empty, &base) == old, "{}", driver.name());
        let storage = Arc::new(MemoryStorage::new(empty.clone()).recording());
        let file = load(driver, &storage).unwrap();
        let opened = file.open_writable(WriteParts {
            backing: Some(Arc::clone(&base)),
            ..write_parts()
        });
        let image = opened.unwrap();
        let mut noise = Noise(32);
        // These are partial and whole blocks, also at both ends, and each sector only once.
        for (start, length) in [
            (0, 512),
            (8 << 10, 1024),
            (100 << 10, 130 << 10),
            (340 << 10, 20 << 10),
            (400 << 10, 512),
            (500 << 10, 200 << 10),
            (800 << 10, 3 << 10),
            (SIZE - 2048, 2048),
        ] {
            let part = &mut new[start..start + length];
            let offset = GuestOffset(start as u64);
            if start == 400 << 10 || start == 500 << 10 {
                part.fill(0);
                image.write_zeroes(offset, length as u64, true).unwrap();
            } else {
                part.copy_from_slice(&noise.bytes(length));
                image.write_at(offset, part).unwrap();
            }
            if start == 340 << 10 {
                image.flush().unwrap();
            }
        }
        image.close().unwrap();
        let name = driver.name();
        assert!(
            read_over(driver, &storage.contents(), &base) == new,
            "{name}"
        );
        let record = storage.take_record();
        leftovers(&empty, &record, &mut noise, 40, &mut |left, when| {
            let found = read_over(driver, left, &base);
            for at in (0..SIZE).step_by(SECTOR) {
                let [found, old, new] = [&found, &old, &new].map(|disk| &disk[at..at + SECTOR]);
                assert!(found == old || found == new, "{name}: {when}: byte {at}");
            }
            assert!(corruptions(driver, left).unwrap() <= 1, "{name}: {when}");
            tested += 1;
        });
    }
    assert!(tested > 300, "{tested}");
}
