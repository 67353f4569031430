//! Fuzzes mapping and reading of all data of images of any format: they must end, and write nothing.
#![no_main]

use std::sync::Arc;

use cowhide::formats::{self, FORMATS, Format};
use cowhide::storage::{MemoryStorage, Operation, Storage};
use cowhide::units::GuestOffset;
use libfuzzer_sys::fuzz_target;

/// The number of bytes that are read at once, and the greatest number of extents.
const PIECE: u64 = 64 << 10;
const EXTENTS: usize = 4096;

/// Maps and reads an image.
fn read(memory: &Arc<MemoryStorage>, format: Format) {
    let storage: Arc<dyn Storage> = Arc::<MemoryStorage>::clone(memory);
    let Ok(image) = formats::open(storage, format, None) else {
        return;
    };
    let mut at = 0;
    let mut buffer = vec![0; PIECE as usize];
    for _ in 0..EXTENTS {
        if at >= image.size() {
            break;
        }
        let Ok(extent) = image.extent_at(GuestOffset(at), image.size() - at) else {
            at += PIECE;
            continue;
        };
        assert!(extent.length > 0 && extent.start.0 == at);
        let length = extent.length.min(PIECE) as usize / 512 * 512;
        let _ = image.read_at(GuestOffset(at), &mut buffer[..length]);
        at += extent.length;
    }
}

fuzz_target!(|bytes: &[u8]| {
    let memory = Arc::new(MemoryStorage::new(cowhide_fuzz::image(bytes)));
    for format in FORMATS {
        read(&memory, *format);
    }
    assert_eq!(memory.count(Operation::Write), 0);
});
