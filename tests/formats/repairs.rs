//! Repairs that a power cut stops: the next repair does the rest, and no data is lost on the way.

use std::sync::Arc;

use cowhide::formats::check::{CheckReport, Repair};
use cowhide::formats::driver::Load;
use cowhide::storage::MemoryStorage;

use crate::common::Noise;
use crate::power_cut::leftovers;
use crate::{Driver, disk, formats, image, read, write_parts};

const SIZE: usize = (2 << 20) + 4096;
/// The offsets of VDI's block map and of its data, and of Parallels' table, in bytes.
const VDI_MAP: usize = 512;
const VDI_DATA: usize = 1024;
const PARALLELS_TABLE: usize = 64;

fn repair(driver: Driver, storage: &Arc<MemoryStorage>) -> CheckReport {
    let file = driver
        .load(Arc::<MemoryStorage>::clone(storage), Load::Check)
        .unwrap();
    let check = file.check().unwrap();
    check.repair(Repair::All, &mut |_| {}).unwrap()
}

fn number(bytes: &[u8], at: usize) -> usize {
    usize::try_from(u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap())).unwrap()
}

/// A damage to an image whose first blocks have data.
type Damage = fn(&mut Vec<u8>);

const DAMAGES: [(&str, &str, Damage); 8] = [
    ("vdi", "two blocks with one place", |image| {
        image.copy_within(VDI_MAP..VDI_MAP + 4, VDI_MAP + 4);
    }),
    ("vdi", "a place that nothing uses", |image| {
        image[VDI_MAP..VDI_MAP + 4].fill(0xff);
    }),
    ("vdi", "blocks that the file has not got", |image| {
        image.truncate(VDI_DATA + (1 << 20) - 5000);
    }),
    ("parallels", "two clusters with one place", |image| {
        image.copy_within(PARALLELS_TABLE..PARALLELS_TABLE + 4, PARALLELS_TABLE + 4);
    }),
    ("parallels", "a cluster beyond the end", |image| {
        image[PARALLELS_TABLE..PARALLELS_TABLE + 4].fill(0x77);
    }),
    ("parallels", "a cluster before the first one", |image| {
        // The header says that clusters start a cluster later.
        image[48..52].copy_from_slice(&4096u32.to_le_bytes());
    }),
    ("qed", "two clusters with one place", |image| {
        let table = number(image, number(image, 40));
        let used = (0..48).map(|entry| table + 8 * entry);
        let used: Vec<_> = used.filter(|at| number(image, *at) != 0).collect();
        image.copy_within(used[0]..used[0] + 8, used[1]);
    }),
    ("vmdk", "a grain beyond the end", |image| {
        let directory = number(image, 56) * 512;
        let table = (number(image, directory) & 0xffff_ffff) * 512;
        image[table..table + 4].fill(0x77);
    }),
];

#[test]
fn a_repair_may_be_cut_off() {
    for (name, what, damage) in DAMAGES {
        let driver = formats()
            .into_iter()
            .find(|driver| driver.name() == name)
            .unwrap();
        let disk = disk(SIZE, 21);
        let mut damaged = image(driver, &disk).unwrap();
        damage(&mut damaged);
        let storage = Arc::new(MemoryStorage::new(damaged.clone()).recording());
        let report = repair(driver, &storage);
        assert_eq!(report.corruptions, 0, "{name}, {what}");
        assert!(report.corruptions_fixed + report.leaks_fixed > 0, "{what}");
        let expected = read(driver, &storage.contents()).unwrap();
        if let Ok(before) = read(driver, &damaged) {
            assert!(before == expected, "{name}, {what}: data is lost");
        }
        let record = storage.take_record();
        leftovers(&damaged, &record, &mut Noise(22), 20, &mut |left, when| {
            let when = format!("{name}, {what}: {when}");
            let storage = Arc::new(MemoryStorage::new(left.to_vec()));
            assert_eq!(repair(driver, &storage).corruptions, 0, "{when}");
            assert!(
                read(driver, &storage.contents()).unwrap() == expected,
                "{when}"
            );
        });
    }
}

/// Checks that a table that overlaps the header isn't repaired, and that nothing is written through it.
#[test]
fn a_table_over_the_header_is_left_alone() {
    let mut formats = formats().into_iter();
    let driver = formats.find(|driver| driver.name() == "qed").unwrap();
    let mut damaged = image(driver, &disk(SIZE, 23)).unwrap();
    // The header has no clusters, and the L1 table is at the start of the file.
    damaged[12..16].fill(0);
    damaged[40..48].fill(0);
    let storage = Arc::new(MemoryStorage::new(damaged.clone()));
    assert_eq!(repair(driver, &storage).corruptions, 1);
    let file = driver.load(Arc::<MemoryStorage>::clone(&storage), Load::Use);
    assert!(file.unwrap().open_writable(write_parts()).is_err());
    assert!(storage.contents() == damaged);
}
