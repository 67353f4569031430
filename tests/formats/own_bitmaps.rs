//! Tests of the bitmaps of Parallels under a power cut: they record all writes, or they are removed.

use std::sync::Arc;

use cowhide::formats::driver::Load;
use cowhide::storage::MemoryStorage;

use crate::common::Noise;
use crate::parallels_extension::{self as parallels, EXTENSION, GRANULARITY};
use crate::power_cut::leftovers;
use crate::{disk, formats, image, read, write_over};

const SIZE: usize = (2 << 20) + 4096;

#[test]
fn bitmaps_are_never_out_of_date() {
    let mut formats = formats().into_iter();
    let driver = formats.find(|driver| driver.name() == "parallels").unwrap();
    let (old, new) = (disk(SIZE, 41), disk(SIZE, 42));
    let mut image = image(driver, &old).unwrap();
    let features = parallels::bitmap(SIZE as u64, &[0]);
    parallels::add(&mut image, &parallels::extension(&features, 1 << 20));
    let storage = Arc::new(MemoryStorage::new(image.clone()).recording());
    write_over(driver, &storage, &new).unwrap();
    let record = storage.take_record();
    let (mut kept, mut dropped) = (0, 0);
    leftovers(&image, &record, &mut Noise(43), 60, &mut |left, when| {
        let found = read(driver, left).unwrap_or_else(|error| panic!("{when}: {error}"));
        if left[EXTENSION..EXTENSION + 8] == [0; 8] {
            dropped += 1;
            return;
        }
        kept += 1;
        let storage = Arc::new(MemoryStorage::new(left.to_vec()));
        let file = driver.load(storage, Load::Use).unwrap();
        let bitmaps = file.bitmaps().unwrap().to_merge().unwrap();
        let mut bits = vec![0; SIZE.div_ceil(8 * 512)];
        bitmaps[0].bits.read(0, &mut bits).unwrap();
        let step = usize::try_from(GRANULARITY).unwrap();
        for (number, (found, old)) in found.chunks(step).zip(old.chunks(step)).enumerate() {
            let is_set = bits[number / 8] & (1 << (number % 8)) != 0;
            assert!(is_set || found == old, "{when}: bit {number}");
        }
    });
    assert!(kept > 1 && dropped > 1, "{kept} {dropped}");
}
