//! Tests of shared blocks. Memory can't share blocks, so a copy stands in for it.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use super::*;
use crate::formats::{Extent, ExtentKind, Plain, PlainPlace};
use crate::storage::NotShared;
use crate::units::HostOffset;

/// Memory that claims to share blocks.
#[derive(Debug, Default)]
struct Sharer {
    memory: MemoryStorage,
    shared: AtomicU64,
}

impl crate::storage::Filter for Sharer {
    fn inner(&self) -> &dyn Storage {
        &self.memory
    }

    fn may_share_with(&self, _: &dyn Storage) -> bool {
        true
    }

    fn share_from(
        &self,
        offset: u64,
        source: &dyn Storage,
        from: u64,
        length: u64,
    ) -> Result<(), NotShared> {
        let mut bytes = vec![0; usize::try_from(length).unwrap()];
        source.read_at(from, &mut bytes).unwrap();
        self.memory.write_at(offset, &bytes).unwrap();
        self.shared.fetch_add(length, Ordering::Relaxed);
        Ok(())
    }
}

/// A disk whose first half is stored unchanged in a storage, and whose second half isn't.
struct HalfPlain {
    storage: MemoryStorage,
    size: u64,
    longest_read: AtomicUsize,
    read_of_rest: AtomicUsize,
}

impl Image for HalfPlain {
    fn size(&self) -> u64 {
        self.size
    }

    fn extent_at(&self, start: GuestOffset, limit: u64) -> Result<Extent> {
        Ok(Extent {
            start,
            length: limit,
            kind: ExtentKind::Data(HostOffset(start.0)),
            depth: 0,
        })
    }

    fn read_at(&self, offset: GuestOffset, buf: &mut [u8]) -> Result<()> {
        self.longest_read.fetch_max(buf.len(), Ordering::Relaxed);
        if offset.0 >= self.size / 2 {
            self.read_of_rest.fetch_add(buf.len(), Ordering::Relaxed);
        }
        self.storage.read_exact_at(offset.0, buf, "the disk")
    }

    fn plain_at(&self, offset: GuestOffset, limit: u64) -> Result<Plain<'_>> {
        let half = self.size / 2;
        let (end, place) = match offset.0 < half {
            true => (half, PlainPlace::At(&self.storage, HostOffset(offset.0))),
            false => (self.size, PlainPlace::Nowhere),
        };
        let length = limit.min(end - offset.0);
        Ok(Plain { length, place })
    }
}

/// Chunks are long if blocks are shared. But buffers must not be, and data that can't be shared must not be read
/// twice, except for the few chunks in flight when that begins.
#[test]
fn what_cannot_be_shared_is_copied_in_short_pieces() {
    let disk = disk(48 << 20);
    let source = HalfPlain {
        storage: MemoryStorage::new(disk.clone()),
        size: disk.len() as u64,
        longest_read: AtomicUsize::new(0),
        read_of_rest: AtomicUsize::new(0),
    };
    let storage = Arc::new(Sharer::default());
    let options = NewQcow2Options::new(disk.len() as u64);
    let target = NewQcow2::create(Arc::<Sharer>::clone(&storage), options, None, true).unwrap();
    copy(&source, &target, workers(2), &()).unwrap();
    assert!(storage.shared.load(Ordering::Relaxed) > 8 << 20);
    assert!(source.longest_read.into_inner() <= REQUEST_SIZE);
    assert!(source.read_of_rest.into_inner() < disk.len() * 3 / 4);
    let header = Header::read(storage.as_ref()).unwrap();
    let copied = Qcow2Image::open(storage, header, None).unwrap();
    let mut bytes = vec![0; disk.len()];
    copied.read_at(GuestOffset(0), &mut bytes).unwrap();
    assert!(bytes == disk);
}
