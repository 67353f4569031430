//! Fuzzes the loading of headers: every format must describe or refuse any file, open nothing else, and write
//! nothing.
#![no_main]

use std::sync::Arc;

use cowhide::formats::FORMATS;
use cowhide::formats::driver::Load;
use cowhide::formats::info::ImageInfo;
use cowhide::options::Values;
use cowhide::storage::{MemoryStorage, Operation, Storage};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let memory = Arc::new(MemoryStorage::new(cowhide_fuzz::image(bytes)));
    for format in FORMATS {
        let storage: Arc<dyn Storage> = Arc::<MemoryStorage>::clone(&memory);
        let Ok(mut file) = format.load(storage, Load::Use) else {
            continue;
        };
        assert!(file.size().is_multiple_of(512));
        let mut info = ImageInfo::new(String::new(), format.name(), file.size(), None);
        let _ = file.describe(&mut info);
        let _ = file.other_files();
        let _ = file.accept(&Values::default());
        let _ = file.snapshots().map(|snapshots| snapshots.list());
        let _ = file.bitmaps().map(|bitmaps| bitmaps.list());
        let _ = (
            file.backing(),
            file.encryption(),
            file.warnings(),
            file.table_memory(),
        );
    }
    assert_eq!(memory.count(Operation::Write), 0);
    assert_eq!(memory.count(Operation::SetLen), 0);
});
