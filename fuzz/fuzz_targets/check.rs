//! Fuzzes checks of images of any format: they must end, and write nothing.
#![no_main]

use std::sync::Arc;

use cowhide::formats::FORMATS;
use cowhide::formats::driver::Load;
use cowhide::storage::{MemoryStorage, Operation, Storage};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let memory = Arc::new(MemoryStorage::new(cowhide_fuzz::image(bytes)));
    for format in FORMATS {
        let storage: Arc<dyn Storage> = Arc::<MemoryStorage>::clone(&memory);
        let Ok(file) = format.load(storage, Load::Check) else {
            continue;
        };
        let _ = file.snapshots().map(|snapshots| snapshots.list());
        let _ = file.bitmaps().map(|bitmaps| bitmaps.list());
        if let Some(check) = file.check() {
            let mut printed = 0;
            let _ = check.check(&mut |event| printed += event.to_string().len());
        }
    }
    assert_eq!(memory.count(Operation::Write), 0);
    assert_eq!(memory.count(Operation::SetLen), 0);
});
