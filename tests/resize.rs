//! Tests of resizes in memory: the contents of the disk, power cuts, and failures of the storage.
//!
//! At any time the disk has the old size or the new one. It keeps its contents up to the smaller size, and has zeroes
//! beyond that. Snapshots stay, no data is lost, and a bitmap is right or marked as in use.

mod common;
#[path = "common/power_cut.rs"]
mod power_cut;

use std::sync::Arc;

use cowhide::error::Result;
use cowhide::formats::encryption::EncryptionFormat;
use cowhide::formats::qcow2::write::{Qcow2WriteParts, resize_disk};
use cowhide::formats::qcow2::{
    Backing, Header, NewFiles, NewQcow2, NewQcow2Options, Version, features,
};
use cowhide::formats::raw::RawImage;
use cowhide::formats::{NewImage as _, Preallocation, Resize, WritableImage as _};
use cowhide::storage::{Change, Fault, MemoryStorage, Operation, Storage};
use cowhide::units::GuestOffset;

use common::Noise;
use power_cut::kept::{Bits, Kept, bitmaps, some_bitmaps, with_data, with_snapshot};
use power_cut::{Log, Logged, Subject, assert_clean, lossy_cut};

const SECTOR: u64 = 512;

/// A kind of image.
#[derive(Clone, Copy, Default)]
struct Kind {
    cluster_size: u64,
    old: bool,
    extended_l2: bool,
    refcount_bits: u64,
    lazy: bool,
    encrypted: bool,
    snapshot: bool,
    bitmaps: bool,
    /// The size of the backing file in bytes, or 0 without one.
    backing: u64,
    external: bool,
    raw: bool,
}

const SIZE: u64 = 200 << 10;

const PLAIN: Kind = Kind {
    cluster_size: 512,
    old: false,
    extended_l2: false,
    refcount_bits: 16,
    lazy: false,
    encrypted: false,
    snapshot: false,
    bitmaps: false,
    backing: 0,
    external: false,
    raw: false,
};

const KINDS: [Kind; 14] = [
    PLAIN,
    Kind {
        cluster_size: 4096,
        old: true,
        ..PLAIN
    },
    Kind {
        snapshot: true,
        bitmaps: true,
        ..PLAIN
    },
    Kind {
        cluster_size: 4096,
        lazy: true,
        snapshot: true,
        bitmaps: true,
        ..PLAIN
    },
    Kind {
        cluster_size: 16384,
        extended_l2: true,
        snapshot: true,
        ..PLAIN
    },
    Kind {
        cluster_size: 16384,
        extended_l2: true,
        backing: 300 << 10,
        ..PLAIN
    },
    Kind {
        backing: 1 << 20,
        bitmaps: true,
        ..PLAIN
    },
    Kind {
        cluster_size: 4096,
        old: true,
        backing: 64 << 10,
        ..PLAIN
    },
    Kind {
        encrypted: true,
        cluster_size: 4096,
        ..PLAIN
    },
    Kind {
        encrypted: true,
        old: true,
        ..PLAIN
    },
    Kind {
        external: true,
        cluster_size: 4096,
        ..PLAIN
    },
    Kind {
        external: true,
        raw: true,
        cluster_size: 4096,
        ..PLAIN
    },
    Kind {
        external: true,
        backing: 300 << 10,
        ..PLAIN
    },
    Kind {
        refcount_bits: 64,
        snapshot: true,
        lazy: true,
        ..PLAIN
    },
];

impl Kind {
    /// Makes an image of the kind with some data.
    fn make(&self) -> Subject {
        let backing = (self.backing > 0).then(|| {
            let bytes = vec![0x5a; usize::try_from(self.backing).unwrap()];
            let image = RawImage::open(Arc::new(MemoryStorage::new(bytes))).unwrap();
            Arc::new(image) as _
        });
        let options = NewQcow2Options {
            cluster_size: self.cluster_size,
            version: if self.old { Version::V2 } else { Version::V3 },
            extended_l2: self.extended_l2,
            refcount_bits: self.refcount_bits,
            lazy_refcounts: self.lazy,
            encryption: self.encrypted.then_some(EncryptionFormat::Aes),
            data_file: self.external.then(|| b"data".to_vec()),
            data_file_raw: self.raw,
            backing: (self.backing > 0).then(|| Backing {
                name: b"below".to_vec(),
                format: None,
                size: self.backing,
            }),
            ..NewQcow2Options::new(SIZE)
        };
        let mut subject = Subject {
            bytes: Vec::new(),
            data: None,
            raw: self.raw,
            encrypted: self.encrypted,
            backing,
            inspect: None,
        };
        let storage = Arc::new(MemoryStorage::default());
        let data = self.external.then(|| Arc::new(MemoryStorage::default()));
        let files = NewFiles {
            image: Arc::<MemoryStorage>::clone(&storage),
            data: data.clone().map(|data| data as _),
            encryption_header: Vec::new(),
        };
        let cipher = subject.cipher();
        let new = match self.raw {
            true => {
                NewQcow2::create_preallocated(files, options, cipher, Preallocation::Metadata, true)
            }
            false => NewQcow2::create(files, options, cipher, true),
        };
        new.unwrap().finish().unwrap();
        subject.bytes = storage.contents();
        subject.data = data.map(|data| data.contents());
        let mut subject = match self.snapshot {
            true => with_snapshot(subject),
            false => with_data(subject),
        };
        if self.bitmaps {
            let storage = Arc::new(MemoryStorage::new(subject.bytes));
            let header = Header::read(storage.as_ref()).unwrap();
            let image: Arc<dyn Storage> = Arc::<MemoryStorage>::clone(&storage);
            let bitmaps = some_bitmaps();
            cowhide::formats::qcow2::write::copy_bitmaps(&image, &header, &bitmaps, true).unwrap();
            subject.bytes = storage.contents();
        }
        // Data reaches the end of the disk, so that a smaller disk loses some.
        let storage = Arc::new(MemoryStorage::new(subject.bytes.clone()));
        let data = subject.data.as_ref();
        let data = data.map(|data| Arc::new(MemoryStorage::new(data.clone())));
        let external = data.clone().map(|data| data as Arc<dyn Storage>);
        let image = subject.open_with(&storage, external);
        let last = 9 * SECTOR;
        let offset = GuestOffset(SIZE - last);
        image
            .write_at(offset, &vec![0xe1; usize::try_from(last).unwrap()])
            .unwrap();
        image.close().unwrap();
        subject.bytes = storage.contents();
        subject.data = data.map(|data| data.contents());
        subject
    }

    /// Returns true if the kind allows this resize.
    fn takes(&self, resize: Resize) -> bool {
        let takes_space = matches!(
            resize.preallocation,
            Preallocation::Falloc | Preallocation::Full
        );
        let is_smaller = resize.size < SIZE;
        let shows = self.old && self.backing > SIZE && !takes_space;
        !(shows || is_smaller && resize.preallocation != Preallocation::Off)
    }
}

/// Returns the tested resizes.
fn changes() -> Vec<Resize> {
    let off = [
        SECTOR,
        SIZE - 100 * SECTOR - SECTOR,
        SIZE - 5 * SECTOR,
        SIZE + SECTOR,
        SIZE + 70 * SECTOR,
        4 << 20,
    ];
    let mut changes: Vec<Resize> = off
        .iter()
        .map(|size| Resize {
            size: *size,
            preallocation: Preallocation::Off,
        })
        .collect();
    for preallocation in [
        Preallocation::Metadata,
        Preallocation::Falloc,
        Preallocation::Full,
    ] {
        changes.push(Resize {
            size: SIZE + 70 * SECTOR + SECTOR,
            preallocation,
        });
    }
    changes
}

/// Resizes the image in files that record or fail.
fn run(
    subject: &Subject,
    storage: Arc<dyn Storage>,
    data: Option<Arc<dyn Storage>>,
    wanted: Resize,
) -> Result<()> {
    let header = Header::read(storage.as_ref())?;
    let options = Qcow2WriteParts {
        cipher: subject.cipher(),
        data,
        backing: subject.backing.clone(),
        ..Qcow2WriteParts::default()
    };
    resize_disk(&storage, &header, options, wanted)
}

/// The state of an image before its resize.
struct Before<'s> {
    subject: &'s Subject,
    contents: Vec<u8>,
    kept: Kept,
    bits: Vec<Bits>,
}

impl<'s> Before<'s> {
    fn of(subject: &'s Subject) -> Self {
        Self {
            subject,
            contents: subject.read_files(&subject.files()),
            kept: Kept::of(subject),
            bits: bitmaps(&subject.bytes),
        }
    }

    /// Checks the files of an image during or after its resize.
    fn examine(&self, files: &[Vec<u8>], wanted: Resize, is_done: bool) {
        let repaired = assert_clean(&files[0], is_done);
        let mut files = files.to_vec();
        files[0] = repaired.unwrap_or_else(|| files[0].clone());
        let header = Header::read(&MemoryStorage::new(files[0].clone())).unwrap();
        let size = header.size();
        assert!(size == wanted.size || (size == SIZE && !is_done), "{size}");
        let mut expected = self.contents.clone();
        expected.resize(usize::try_from(size).unwrap(), 0);
        let found = self.subject.read_files(&files);
        let other = expected
            .iter()
            .zip(&found)
            .position(|(one, other)| one != other);
        assert_eq!(other, None, "the first byte that is wrong");
        assert_eq!(expected.len(), found.len());
        // A snapshot is read with the size of the disk, which must be the old one.
        let mut as_before = files.clone();
        as_before[0][24..32].copy_from_slice(&SIZE.to_be_bytes());
        self.kept.assert_same_snapshots(self.subject, &as_before);
        if self.subject.raw {
            let mut raw = files[1].clone();
            raw.resize(expected.len(), 0);
            assert!(raw == expected, "the data file is another disk");
            assert!(header.has_autoclear(features::DATA_FILE_RAW));
        }
        let bits = bitmaps(&files[0]);
        assert_eq!(bits.len(), self.bits.len());
        for (was, is) in self.bits.iter().zip(bits) {
            assert_eq!(was.bitmap.name, is.bitmap.name);
            assert!(!is_done || !is.bitmap.in_use);
            if !is.bitmap.in_use {
                let mut expected = was.bits.clone();
                expected.resize(is.bits.len(), false);
                assert!(is.bits == expected, "bits of {:?}", is.bitmap);
            }
        }
        if is_done && let Some(data) = files.get(1) {
            assert_eq!(data.len() as u64, size);
        }
    }
}

#[test]
fn wherever_the_power_is_cut_the_disk_has_the_old_size_or_the_new_one() {
    let mut noise = Noise(7);
    let mut cuts = 0;
    for (number, kind) in KINDS.iter().enumerate() {
        let subject = kind.make();
        let before = Before::of(&subject);
        for wanted in changes() {
            if !kind.takes(wanted) {
                continue;
            }
            let log = Log::default();
            let files: Vec<Arc<Logged>> = (0..)
                .zip(subject.files())
                .map(|(file, bytes)| Arc::new(Logged::new(file, bytes, &log)))
                .collect();
            let mut open = files
                .iter()
                .map(|file| Arc::<Logged>::clone(file) as Arc<dyn Storage>);
            run(&subject, open.next().unwrap(), open.next(), wanted)
                .unwrap_or_else(|error| panic!("kind {number}, {wanted:?}: {error}"));
            drop(open);
            let what = |when: &str| format!("kind {number}, {wanted:?}, {when}");
            let look = |files: &[Vec<u8>], is_done, when: &str| {
                let look = || before.examine(files, wanted, is_done);
                let seen = std::panic::catch_unwind(std::panic::AssertUnwindSafe(look));
                seen.unwrap_or_else(|_| panic!("{}", what(when)));
            };
            let done: Vec<_> = files.iter().map(|file| file.memory.contents()).collect();
            look(&done, true, "done");

            let record = std::mem::take(&mut *log.lock().unwrap());
            let mut left = subject.files();
            let every = record.len() / 60 + 1;
            for (at, (file, change)) in record.iter().enumerate() {
                if *change != Change::Flush && at % every == 0 {
                    look(&left, false, &format!("cut after {at} changes"));
                }
                change.apply(&mut left[*file]);
                cuts += 1;
            }
            let flushes = record.iter().enumerate();
            let flushes = flushes.filter(|(_, (_, change))| *change == Change::Flush);
            let flushes: Vec<usize> = flushes.map(|(at, _)| at).collect();
            let at_random =
                (0..40).map(|_| usize::try_from(noise.below(record.len() as u64)).unwrap() + 1);
            let all: Vec<usize> = at_random.chain(flushes).collect();
            for cut in all {
                let (left, durable) = lossy_cut(&subject.files(), &record, cut, &mut noise);
                look(&left, false, &format!("cut after {cut}, {durable} durable"));
            }
        }
    }
    assert!(cuts > 1000, "{cuts}");
}

#[test]
fn whatever_operation_fails_the_disk_has_the_old_size_or_the_new_one() {
    let mut failures = 0;
    for (number, kind) in KINDS.iter().enumerate() {
        let subject = kind.make();
        let before = Before::of(&subject);
        for wanted in changes() {
            if !kind.takes(wanted) {
                continue;
            }
            for operation in [
                Operation::Read,
                Operation::Write,
                Operation::SetLen,
                Operation::Flush,
            ] {
                for file in 0..subject.files().len() {
                    let mut nth = 1;
                    loop {
                        let files = subject.files().into_iter().enumerate();
                        let files: Vec<Arc<MemoryStorage>> = files
                            .map(|(at, bytes)| {
                                let errno = 28;
                                let storage = MemoryStorage::new(bytes);
                                let fault = Fault {
                                    operation,
                                    nth,
                                    errno,
                                };
                                Arc::new(match at == file {
                                    true => storage.with_fault(fault),
                                    false => storage,
                                })
                            })
                            .collect();
                        let mut open = files
                            .iter()
                            .map(|file| Arc::<MemoryStorage>::clone(file) as Arc<dyn Storage>);
                        let ran = run(&subject, open.next().unwrap(), open.next(), wanted);
                        drop(open);
                        let left: Vec<_> = files.iter().map(|file| file.contents()).collect();
                        let look = || before.examine(&left, wanted, false);
                        let seen = std::panic::catch_unwind(std::panic::AssertUnwindSafe(look));
                        seen.unwrap_or_else(|_| {
                            panic!("kind {number}, {wanted:?}, {operation:?} {nth} of file {file}")
                        });
                        if files[file].count(operation) < nth {
                            ran.unwrap();
                            break;
                        }
                        failures += 1;
                        // All of the first operations are tested, and some of the others.
                        nth += 1 + nth / 12;
                    }
                }
            }
        }
    }
    assert!(failures > 1000, "{failures}");
}

/// Checks a disk that gets smaller and then larger again: the data beyond the old end is gone.
#[test]
fn what_comes_back_reads_as_zeroes() {
    for (number, kind) in KINDS.iter().enumerate() {
        if kind.old && kind.backing > 0 {
            continue;
        }
        let subject = kind.make();
        let contents = subject.read_files(&subject.files());
        let files: Vec<Arc<MemoryStorage>> = subject
            .files()
            .into_iter()
            .map(|bytes| Arc::new(MemoryStorage::new(bytes)))
            .collect();
        let least = 5 * SECTOR * 7 + SECTOR;
        for size in [least, SIZE] {
            let mut open = files
                .iter()
                .map(|file| Arc::<MemoryStorage>::clone(file) as Arc<dyn Storage>);
            let wanted = Resize {
                size,
                preallocation: Preallocation::Off,
            };
            run(&subject, open.next().unwrap(), open.next(), wanted).unwrap();
        }
        let files: Vec<_> = files.iter().map(|file| file.contents()).collect();
        assert_clean(&files[0], true);
        let mut expected = contents;
        expected[usize::try_from(least).unwrap()..].fill(0);
        assert!(subject.read_files(&files) == expected, "kind {number}");
    }
}

/// Checks that the file of a shrunk disk isn't larger than that of one that never was larger.
#[test]
fn a_smaller_disk_gives_its_space_back() {
    for kind in KINDS.iter().filter(|kind| !kind.snapshot && !kind.external) {
        let subject = kind.make();
        let storage = Arc::new(MemoryStorage::new(subject.bytes.clone()));
        let wanted = Resize {
            size: SECTOR,
            preallocation: Preallocation::Off,
        };
        run(
            &subject,
            Arc::<MemoryStorage>::clone(&storage) as _,
            None,
            wanted,
        )
        .unwrap();
        let clusters = storage.contents().len() as u64 / kind.cluster_size;
        let before = subject.bytes.len() as u64 / kind.cluster_size;
        assert!(
            clusters * 2 < before || kind.cluster_size > 512,
            "{clusters} of {before}"
        );
    }
}

/// Checks an L1 table of more clusters than a refcount block counts.
#[test]
fn tables_longer_than_a_refcount_block_counts_find_a_place() {
    for kind in KINDS
        .iter()
        .filter(|kind| kind.cluster_size == 512 && !kind.external && kind.backing == 0)
    {
        let subject = kind.make();
        let storage = Arc::new(MemoryStorage::new(subject.bytes.clone()));
        let contents = subject.read(subject.bytes.clone());
        // Each L2 table has 64 entries, and maps 32 KiB.
        for size in [3 << 30, 7 << 30] {
            let wanted = Resize {
                size,
                preallocation: Preallocation::Off,
            };
            run(
                &subject,
                Arc::<MemoryStorage>::clone(&storage) as _,
                None,
                wanted,
            )
            .unwrap();
            assert_clean(&storage.contents(), true);
            let header = Header::read(storage.as_ref()).unwrap();
            assert_eq!(header.size(), size);
        }
        let wanted = Resize {
            size: SIZE,
            preallocation: Preallocation::Off,
        };
        run(
            &subject,
            Arc::<MemoryStorage>::clone(&storage) as _,
            None,
            wanted,
        )
        .unwrap();
        assert_clean(&storage.contents(), true);
        assert!(subject.read(storage.contents()) == contents);
    }
}
