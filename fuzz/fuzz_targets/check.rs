//! Whatever an image says, looking at it ends, and writes nothing.
#![no_main]

use cowhide::formats::qcow2::{Header, bitmaps, check, snapshots};
use cowhide::storage::{MemoryStorage, Operation};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let storage = MemoryStorage::new(bytes.to_vec());
    if let Ok(header) = Header::read_for_check(&storage) {
        let _ = snapshots::read_snapshots(&storage, &header);
        let _ = bitmaps::read_bitmaps(&storage, &header);
        let mut printed = 0;
        let _ = check(&storage, &header, &mut |event| {
            printed += event.to_string().len()
        });
    }
    assert_eq!(storage.count(Operation::Write), 0);
    assert_eq!(storage.count(Operation::SetLen), 0);
});
