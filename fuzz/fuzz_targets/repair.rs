//! Fuzzes repairs: they must report the remaining findings correctly, and never make a readable cluster of the guest
//! unreadable.
#![no_main]

use std::sync::Arc;

use cowhide::formats::qcow2::{Header, Repair, check, repair};
use cowhide::formats::{self, Format};
use cowhide::storage::{MemoryStorage, Storage};
use cowhide::units::GuestOffset;
use libfuzzer_sys::fuzz_target;

/// The greatest number of L1 entries. Three million of them, nearly all beyond the end of the file, are read six
/// times here. With instrumentation each time takes about the second that one input may take.
const MOST_L1_ENTRIES: u64 = 1 << 19;
/// The number of bytes of the disk that are compared.
const MOST: u64 = 1 << 20;

fn contents(storage: Arc<dyn Storage>) -> Option<Vec<Option<Vec<u8>>>> {
    let image = formats::open(storage, Format::from_name("qcow2").unwrap(), None).ok()?;
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
    let storage = Arc::new(MemoryStorage::new(cowhide_fuzz::image(bytes)));
    let Ok(header) = Header::read_for_check(storage.as_ref()) else {
        return;
    };
    if header.l1().entries > MOST_L1_ENTRIES {
        return;
    }
    let before = contents(Arc::new(MemoryStorage::new(cowhide_fuzz::image(bytes))));
    let repaired = repair(storage.as_ref(), &header, what, &mut |_| {});
    let header = Header::read_for_check(storage.as_ref()).expect("the header is still valid");
    let again = check(storage.as_ref(), &header, &mut |_| {});
    if let Ok(repaired) = repaired {
        let again = again.expect("what was repaired can be checked");
        if repaired.corruptions == 0 {
            assert_eq!(again.corruptions, 0, "said to be whole");
            assert_eq!(again.leaks, repaired.leaks);
        }
    }
    if let Some(before) = before {
        let after = contents(storage).expect("still opens");
        for (before, after) in before.iter().zip(&after) {
            assert!(
                before.is_none() || before == after,
                "the guest's data has changed"
            );
        }
    }
});
