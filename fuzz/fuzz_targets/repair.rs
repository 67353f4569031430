//! A repair says what it leaves; and it never makes one of the guest's clusters unreadable.
#![no_main]

use std::sync::Arc;

use cowhide::formats::qcow2::{Header, Repair, check, repair};
use cowhide::formats::{self, Format};
use cowhide::storage::{MemoryStorage, Storage};
use cowhide::units::GuestOffset;
use libfuzzer_sys::fuzz_target;

/// How much of the disk is compared.
const MOST: u64 = 1 << 20;

fn contents(bytes: &[u8]) -> Option<Vec<Option<Vec<u8>>>> {
    let storage: Arc<dyn Storage> = Arc::new(MemoryStorage::new(bytes.to_vec()));
    let image = formats::open(storage, Format::Qcow2, None).ok()?;
    let size = image.size().min(MOST);
    let sectors = (0..size / 4096).map(|index| {
        let mut sector = vec![0; 4096];
        let read = image.read_at(GuestOffset(index * 4096), &mut sector);
        read.is_ok().then_some(sector)
    });
    Some(sectors.collect())
}

fuzz_target!(|bytes: &[u8]| {
    let odd = bytes.last().is_some_and(|last| last & 1 != 0);
    let what = if odd { Repair::Leaks } else { Repair::All };
    let storage = MemoryStorage::new(bytes.to_vec());
    let Ok(header) = Header::read_for_check(&storage) else {
        return;
    };
    let before = contents(bytes);
    let repaired = repair(&storage, &header, what, &mut |_| {});
    let header = Header::read_for_check(&storage).expect("the header is still valid");
    let again = check(&storage, &header, &mut |_| {});
    if let Ok(repaired) = repaired {
        let again = again.expect("what was repaired can be checked");
        if repaired.corruptions == 0 {
            assert_eq!(again.corruptions, 0, "said to be whole");
            assert_eq!(again.leaks, repaired.leaks);
        }
    }
    if let Some(before) = before {
        let after = contents(&storage.contents()).expect("still opens");
        for (before, after) in before.iter().zip(&after) {
            assert!(
                before.is_none() || before == after,
                "the guest's data has changed"
            );
        }
    }
});
