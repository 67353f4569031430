//! Checks of the parts that a writer must preserve besides the disk: internal snapshots and bitmaps.
//!
//! An enabled bitmap records changes. After a power cut it is marked as in use, or it has its old bits and those of
//! all changes since the writer began. A bitmap that is disabled, or that another program left in use, doesn't
//! change.

use std::sync::Arc;

use cowhide::formats::bitmaps::PersistentBitmap;
use cowhide::formats::qcow2::Header;
use cowhide::formats::qcow2::bitmaps::{Bitmap, read_bitmaps};
use cowhide::formats::qcow2::snapshots::read_snapshots;
use cowhide::formats::qcow2::write::copy_bitmaps;
use cowhide::storage::{MemoryStorage, Storage};

use cowhide::formats::WritableImage as _;
use cowhide::formats::qcow2::{Repair, repair};
use cowhide::units::GuestOffset;

use super::{SECTOR, Subject};

/// A bitmap, with one bit for each granule of the disk.
#[derive(Clone, PartialEq, Eq)]
pub struct Bits {
    pub bitmap: Bitmap,
    pub bits: Vec<bool>,
}

/// Returns the bitmaps of an image, in the order of the bitmap directory.
pub fn bitmaps(bytes: &[u8]) -> Vec<Bits> {
    let storage = Arc::new(MemoryStorage::new(bytes.to_vec()));
    let header = Header::read(storage.as_ref()).unwrap();
    let read = |bitmap: Bitmap| {
        let count = usize::try_from(header.size().div_ceil(bitmap.granularity)).unwrap();
        let image: Arc<dyn Storage> = Arc::<MemoryStorage>::clone(&storage);
        let stored = bitmap.persistent(&image, header.geometry()).bits;
        let mut bytes = vec![0; count.div_ceil(8)];
        stored.read(0, &mut bytes).unwrap();
        let bits = (0..count).map(|bit| bytes[bit / 8] >> (bit % 8) & 1 != 0);
        Bits {
            bits: bits.collect(),
            bitmap,
        }
    };
    let bitmaps = read_bitmaps(storage.as_ref(), &header).unwrap();
    bitmaps.into_iter().map(read).collect()
}

/// The state when the writer began.
pub struct Kept {
    contents: Vec<u8>,
    snapshots: Vec<Vec<u8>>,
    bitmaps: Vec<Bits>,
}

impl Kept {
    pub fn of(subject: &Subject) -> Self {
        let files = subject.files();
        Self {
            contents: subject.read_files(&files),
            snapshots: snapshots(subject, &files),
            bitmaps: bitmaps(&subject.bytes),
        }
    }

    /// Asserts that snapshots and bitmaps are right after a power cut that left the disk with `contents`.
    pub fn assert_still_there(&self, subject: &Subject, files: &[Vec<u8>], contents: &[u8]) {
        self.assert_same_snapshots(subject, files);
        if self.bitmaps.is_empty() {
            return;
        }
        let sectors = self.contents.chunks(SECTOR).zip(contents.chunks(SECTOR));
        let changed: Vec<bool> = sectors.map(|(was, is)| was != is).collect();
        let now = bitmaps(&files[0]);
        assert_eq!(now.len(), self.bitmaps.len(), "bitmaps");
        for (was, is) in self.bitmaps.iter().zip(&now) {
            let name = String::from_utf8_lossy(&was.bitmap.name);
            if !was.bitmap.auto || was.bitmap.in_use {
                assert!(was == is, "bitmap {name} has changed");
            } else if !is.bitmap.in_use {
                let per_bit = usize::try_from(was.bitmap.granularity).unwrap() / SECTOR;
                for (number, changed) in changed.chunks(per_bit).enumerate() {
                    let expected = was.bits[number] || changed.contains(&true);
                    assert!(is.bits[number] || !expected, "bitmap {name}: bit {number}");
                }
            }
        }
    }

    /// Does the same as [`assert_still_there`](Self::assert_still_there) for snapshots only.
    pub fn assert_same_snapshots(&self, subject: &Subject, files: &[Vec<u8>]) {
        for (number, (was, is)) in self
            .snapshots
            .iter()
            .zip(snapshots(subject, files))
            .enumerate()
        {
            assert!(*was == is, "snapshot {number} has changed");
        }
    }

    /// Asserts that a closed image has exactly its old bits and those of the written parts set. These are offsets and
    /// lengths in bytes.
    pub fn assert_exact(&self, closed: &[u8], written: &[(usize, usize)]) {
        for (was, is) in self.bitmaps.iter().zip(bitmaps(closed)) {
            let mut expected = was.clone();
            if was.bitmap.auto && !was.bitmap.in_use {
                let granularity = usize::try_from(was.bitmap.granularity).unwrap();
                for (start, length) in written {
                    let end = (start + length).div_ceil(granularity);
                    expected.bits[start / granularity..end].fill(true);
                }
            }
            let bits = expected.bits.iter().zip(&is.bits);
            let other = bits.clone().position(|(expected, is)| expected != is);
            let name = String::from_utf8_lossy(&is.bitmap.name);
            assert_eq!(other, None, "bitmap {name}: the first bit that is wrong");
            assert_eq!(expected.bitmap, is.bitmap);
        }
    }
}

/// Returns the disk of each snapshot, read as `-l` does.
fn snapshots(subject: &Subject, files: &[Vec<u8>]) -> Vec<Vec<u8>> {
    let storage = Arc::new(MemoryStorage::new(files[0].clone()));
    let header = Header::read(storage.as_ref()).unwrap();
    let snapshots = read_snapshots(storage.as_ref(), &header).unwrap();
    let read = |snapshot: &cowhide::formats::qcow2::snapshots::Snapshot| {
        let l1 = snapshot.l1_table(header.geometry()).unwrap();
        subject.read_at(&storage, header.clone().with_l1(l1), files)
    };
    snapshots.iter().map(read).collect()
}

/// Returns bitmaps to copy, each with some bits: enabled ones with fine and coarse granularity, and a disabled one.
pub fn some_bitmaps() -> Vec<PersistentBitmap> {
    let mut bytes = include_bytes!("../../fuzz/seeds/image/bitmap").to_vec();
    let header = Header::read(&MemoryStorage::new(bytes.clone())).unwrap();
    let bitmap = match &bitmaps(&bytes)[..] {
        [only] => only.bitmap.clone(),
        _ => panic!("not one bitmap"),
    };
    // This is the only cluster of its bitmap table.
    let table = usize::try_from(bitmap.table.host.0).unwrap();
    let host = bytes.len().next_multiple_of(512);
    bytes[table..table + 8].copy_from_slice(&(host as u64).to_be_bytes());
    bytes.resize(host, 0);
    bytes.extend((0..512).map(|at| if at % 5 == 0 { 0x81 } else { 0 }));
    let kinds = [
        ("fine", 512, true),
        ("coarse", 65536, true),
        ("old", 4096, false),
    ];
    let bitmaps = kinds.map(|(name, granularity, auto)| Bitmap {
        name: name.as_bytes().to_vec(),
        granularity,
        auto,
        ..bitmap.clone()
    });
    let storage: Arc<dyn Storage> = Arc::new(MemoryStorage::new(bytes));
    let geometry = header.geometry();
    let bitmaps = bitmaps.iter();
    bitmaps
        .map(|bitmap| bitmap.persistent(&storage, geometry))
        .collect()
}

/// Returns the image with [`some_bitmaps`], and with one that is left in use.
pub fn with_bitmaps(subject: Subject) -> Subject {
    let storage = Arc::new(MemoryStorage::new(subject.bytes));
    let image: Arc<dyn Storage> = Arc::<MemoryStorage>::clone(&storage);
    let header = Header::read(storage.as_ref()).unwrap();
    copy_bitmaps(&image, &header, &some_bitmaps(), true).unwrap();
    let mut more = some_bitmaps();
    more.truncate(1);
    more[0].name = b"left".to_vec();
    let header = Header::read(storage.as_ref()).unwrap();
    copy_bitmaps(&image, &header, &more, true).unwrap();
    let mut bytes = storage.contents();
    let all = bitmaps(&bytes);
    let left = usize::try_from(all.last().unwrap().bitmap.entry.0).unwrap();
    bytes[left + 15] |= 1;
    let in_use = bitmaps(&bytes)
        .iter()
        .map(|bits| bits.bitmap.in_use)
        .collect::<Vec<_>>();
    assert_eq!(in_use, [false, false, false, true]);
    Subject { bytes, ..subject }
}

/// Returns the image with data in some of its clusters.
pub fn with_data(subject: Subject) -> Subject {
    let [storage, data] = [Some(&subject.bytes), subject.data.as_ref()]
        .map(|file| file.map(|bytes| Arc::new(MemoryStorage::new(bytes.clone()))));
    let storage = storage.unwrap();
    let external = data.clone().map(|data| data as Arc<dyn Storage>);
    let image = subject.open_with(&storage, external);
    for (at, byte) in (1..20).zip(1u8..) {
        let offset = GuestOffset(at * 5 * 512);
        image.write_at(offset, &[byte; 1024]).unwrap();
    }
    image.close().unwrap();
    Subject {
        bytes: storage.contents(),
        data: data.map(|data| data.contents()),
        ..subject
    }
}

/// Returns the image with data, and with an internal snapshot of it.
pub fn with_snapshot(subject: Subject) -> Subject {
    let subject = with_data(subject);
    let storage = Arc::new(MemoryStorage::new(subject.bytes.clone()));
    let mut bytes = storage.contents();
    let header = Header::read(storage.as_ref()).unwrap();
    let cluster = header.geometry().cluster_len();
    let l1 = header.l1();
    let start = usize::try_from(l1.host.0).unwrap();
    let table = bytes[start..][..usize::try_from(l1.entries).unwrap() * 8].to_vec();
    let copy = bytes.len().next_multiple_of(cluster);
    bytes.resize(copy, 0);
    bytes.extend(table);
    let snapshots = bytes.len().next_multiple_of(cluster);
    bytes.resize(snapshots, 0);
    bytes.extend((copy as u64).to_be_bytes());
    bytes.extend(u32::try_from(l1.entries).unwrap().to_be_bytes());
    bytes.extend([0, 1, 0, 1]); // the lengths of its number and its name
    bytes.extend([0; 20]); // when it was, and the size of a machine's state
    bytes.extend(16u32.to_be_bytes());
    bytes.extend([0; 8]);
    bytes.extend(header.size().to_be_bytes());
    bytes.extend(b"1a");
    bytes.resize(bytes.len().next_multiple_of(cluster), 0);
    bytes[60..64].copy_from_slice(&1u32.to_be_bytes());
    bytes[64..72].copy_from_slice(&(snapshots as u64).to_be_bytes());
    // Clusters with a refcount of 1 are used twice now.
    let storage = MemoryStorage::new(bytes);
    let header = Header::read(&storage).unwrap();
    repair(&storage, &header, Repair::All, &mut |_| {}).unwrap();
    let bytes = storage.contents();
    super::assert_clean(&bytes, true);
    Subject { bytes, ..subject }
}
