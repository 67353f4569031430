//! Tests of images in use: the results of random work, and of power cuts during it.

mod common;
#[path = "common/power_cut.rs"]
mod power_cut;

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use cowhide::crypto::Backend;
use cowhide::error::{ErrorKind, Result};
use cowhide::formats::encryption::{EncryptionFormat, LegacyAes};
use cowhide::formats::qcow2::{Header, NewFiles, NewQcow2, NewQcow2Options, Version, features};
use cowhide::formats::{Image as _, NewImage, WritableImage as _};
use cowhide::storage::{Fault, MemoryStorage, Operation, Storage};
use cowhide::units::GuestOffset;

use common::Noise;
use power_cut::kept::{Kept, with_bitmaps, with_data, with_snapshot};
use power_cut::{KEY, Log, Logged, Subject, assert_clean, lossy_cut};

/// Returns an empty image.
fn image(options: NewQcow2Options) -> Subject {
    let storage = Arc::new(MemoryStorage::default());
    let encrypted = options.encryption == Some(EncryptionFormat::Aes);
    let cipher = encrypted.then(|| LegacyAes::with_key(KEY, Backend::detect()));
    let target: Arc<dyn Storage> = Arc::<MemoryStorage>::clone(&storage);
    NewQcow2::create(target, options, cipher, true)
        .unwrap()
        .finish()
        .unwrap();
    Subject {
        bytes: storage.contents(),
        data: None,
        raw: false,
        encrypted,
        backing: None,
        inspect: None,
    }
}

/// Returns an empty image with an external data file.
fn image_with_data_file(options: NewQcow2Options) -> Subject {
    let files = [(); 2].map(|()| Arc::new(MemoryStorage::default()));
    let [storage, data]: [Arc<dyn Storage>; 2] =
        [0, 1].map(|file| Arc::<MemoryStorage>::clone(&files[file]) as _);
    let raw = options.data_file_raw;
    let options = NewQcow2Options {
        data_file: Some(b"data".to_vec()),
        ..options
    };
    let new = NewFiles {
        image: storage,
        data: Some(data),
        encryption_header: Vec::new(),
    };
    NewQcow2::create(new, options, None, true)
        .unwrap()
        .finish()
        .unwrap();
    Subject {
        bytes: files[0].contents(),
        data: Some(files[1].contents()),
        raw,
        encrypted: false,
        backing: None,
        inspect: None,
    }
}

fn options(cluster_size: u64, size: u64) -> NewQcow2Options {
    NewQcow2Options {
        cluster_size,
        ..NewQcow2Options::new(size)
    }
}

#[test]
fn the_smallest_clusters() {
    for seed in 0..4 {
        image(options(512, 400_000 / 512 * 512)).work_and_cut(seed, 60, 200);
    }
}

#[test]
fn clusters_of_4_kib_in_every_version() {
    for (seed, version) in [(10, Version::V2), (11, Version::V3)] {
        let options = NewQcow2Options {
            version,
            ..options(4096, (1 << 20) + 512)
        };
        image(options).work_and_cut(seed, 60, 200);
    }
}

#[test]
fn clusters_of_64_kib() {
    image(options(65536, 5 << 20)).work_and_cut(20, 40, 60);
}

#[test]
fn every_width_of_refcounts() {
    for (seed, refcount_bits) in (30..).zip([1, 2, 4, 8, 32, 64]) {
        let options = NewQcow2Options {
            refcount_bits,
            ..options(512, 1 << 18)
        };
        image(options).work_and_cut(seed, 40, 100);
    }
}

#[test]
fn the_refcount_table_grows() {
    // A refcount block counts 64 clusters of 512 bytes, and a refcount table of one cluster has 64 blocks: 2 MiB.
    let options = NewQcow2Options {
        refcount_bits: 64,
        ..options(512, 6 << 20)
    };
    let last = image(options).work_and_cut(60, 24, 30);
    let table_clusters = u32::from_be_bytes(last[56..60].try_into().unwrap());
    assert!(table_clusters > 1, "{table_clusters}");
}

#[test]
fn encrypted() {
    for (seed, cluster_size) in [(40, 512), (41, 4096)] {
        let options = NewQcow2Options {
            encryption: Some(EncryptionFormat::Aes),
            ..options(cluster_size, 1 << 19)
        };
        image(options).work_and_cut(seed, 40, 100);
    }
}

#[test]
fn lazy_refcounts() {
    for seed in 50..52 {
        let options = NewQcow2Options {
            lazy_refcounts: true,
            ..options(512, 1 << 18)
        };
        image(options).work_and_cut(seed, 40, 200);
    }
}

/// Checks images with an external data file: a flush of one file must not be taken for one of the other.
#[test]
fn external_data_files() {
    for (seed, data_file_raw) in [(70, false), (71, true)] {
        for (cluster_size, extended_l2) in [(512, false), (4096, false), (16384, true)] {
            let options = NewQcow2Options {
                data_file_raw,
                extended_l2,
                ..options(cluster_size, cluster_size * 300 + 512)
            };
            image_with_data_file(options).work_and_cut(seed, 40, 100);
        }
    }
}

/// Checks that bitmaps of every kind stay right in all kinds of images.
#[test]
fn bitmaps() {
    let lazy = |options| NewQcow2Options {
        lazy_refcounts: true,
        ..options
    };
    let extended = NewQcow2Options {
        extended_l2: true,
        ..options(16384, 1 << 20)
    };
    let narrow = NewQcow2Options {
        refcount_bits: 1,
        ..options(4096, 1 << 19)
    };
    let encrypted = NewQcow2Options {
        encryption: Some(EncryptionFormat::Aes),
        ..options(512, 1 << 17)
    };
    let raw = NewQcow2Options {
        data_file_raw: true,
        ..lazy(options(4096, (1 << 19) + 512))
    };
    let subjects = [
        image(options(512, 1 << 18)),
        image(lazy(options(512, 1 << 17))),
        image(lazy(extended.clone())),
        image(narrow),
        image(encrypted),
        image_with_data_file(options(512, 1 << 17)),
        image_with_data_file(extended),
        image_with_data_file(raw),
    ];
    for (seed, subject) in (80..).zip(subjects) {
        // Existing data is overwritten in place, without a metadata change.
        with_bitmaps(with_data(subject)).work_and_cut(seed, 30, 60);
    }
}

/// Checks that an internal snapshot doesn't change, and that bitmaps beside it stay right.
#[test]
fn snapshots() {
    let extended = NewQcow2Options {
        extended_l2: true,
        ..options(16384, 1 << 20)
    };
    let lazy = NewQcow2Options {
        lazy_refcounts: true,
        ..options(512, 1 << 17)
    };
    let encrypted = NewQcow2Options {
        encryption: Some(EncryptionFormat::Aes),
        version: Version::V2,
        ..options(4096, 1 << 18)
    };
    let subjects = [
        image(encrypted),
        with_bitmaps(image(options(512, 1 << 17))),
        with_bitmaps(image(lazy)),
        with_bitmaps(image(extended)),
    ];
    for (seed, subject) in (90..).zip(subjects) {
        with_snapshot(subject).work_and_cut(seed, 40, 100);
    }
}

/// Memory with slow writes, so that other threads run in between.
#[derive(Debug)]
struct Slow(MemoryStorage);

impl cowhide::storage::Filter for Slow {
    fn inner(&self) -> &dyn Storage {
        &self.0
    }

    fn write_at(&self, offset: u64, data: &[u8]) -> Result<()> {
        std::thread::sleep(Duration::from_micros(300));
        self.0.write_at(offset, data)
    }
}

/// Checks threads that write neighbouring sectors of unallocated clusters at the same time. Some write zeroes, and
/// some flush before.
#[test]
fn several_threads_share_clusters() {
    const THREADS: usize = 4;
    const CLUSTER: usize = 16384;
    const CLUSTERS: usize = 48;
    for (encryption, seed) in [(None, 1), (Some(EncryptionFormat::Aes), 2)] {
        let subject = image(NewQcow2Options {
            encryption,
            ..options(CLUSTER as u64, (CLUSTERS * CLUSTER) as u64)
        });
        let storage = Arc::new(Slow(MemoryStorage::new(subject.bytes.clone())));
        let image = subject.open(&storage);
        let together = std::sync::Barrier::new(THREADS);
        let work = &|thread: usize| {
            let mut noise = Noise(seed + 100 * thread as u64);
            let mut written = Vec::new();
            let mut done = Vec::new();
            let mut agree = true;
            for cluster in 0..CLUSTERS {
                let sector = usize::try_from(noise.below(8)).unwrap() * THREADS + thread;
                let at = cluster * CLUSTER + sector * 512;
                let mut bytes = noise.bytes(512);
                let offset = GuestOffset(at as u64);
                together.wait();
                // No thread may panic here, since the others would wait forever.
                let zeroes = noise.below(8) == 0;
                let flush = noise.below(16) == 0;
                let mut now = vec![1; 512];
                if zeroes {
                    bytes.fill(0);
                    done.push(image.write_zeroes(offset, 512, true));
                } else {
                    done.push(image.write_at(offset, &bytes));
                }
                if flush {
                    done.push(image.flush());
                }
                done.push(image.read_at(offset, &mut now));
                agree &= now == bytes;
                written.push((at, bytes));
            }
            done.into_iter().for_each(|done| done.unwrap());
            assert!(agree, "what was written isn't read");
            written
        };
        let written: Vec<(usize, Vec<u8>)> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..THREADS)
                .map(|thread| scope.spawn(move || work(thread)))
                .collect();
            let done = threads.into_iter().map(|thread| thread.join().unwrap());
            done.flatten().collect()
        });
        let mut model = vec![0; CLUSTERS * CLUSTER];
        for (at, bytes) in &written {
            model[*at..at + 512].copy_from_slice(bytes);
        }
        image.close().unwrap();
        assert_clean(&storage.0.contents(), true);
        assert!(subject.read(storage.0.contents()) == model);
    }
}

/// An operation of one of several threads: the numbers of changes that were recorded before and after it, the
/// sectors, and their byte, or a flush.
struct Done {
    before: usize,
    after: usize,
    what: Option<(Range<usize>, u8)>,
}

/// Checks threads that write to different sectors of shared clusters, and flush. After a power cut, each sector has
/// what its thread had written before a completed flush began, or something later.
#[test]
fn several_threads_are_cut_off() {
    const SECTORS: usize = 384;
    /// The number of adjacent sectors of a thread. Clusters aren't multiples of it.
    const OWN: usize = 3;
    const THREADS: usize = 2;
    let options = NewQcow2Options {
        lazy_refcounts: true,
        ..options(4096, (SECTORS * 512) as u64)
    };
    let lazy = image(options.clone());
    let extended = image(NewQcow2Options {
        cluster_size: 16384,
        extended_l2: true,
        lazy_refcounts: false,
        ..options
    });
    for subject in [with_bitmaps(lazy), with_snapshot(extended)] {
        let log = Log::default();
        let file = Arc::new(Logged::new(0, subject.bytes.clone(), &log));
        let image = subject.open(&file);
        let start = subject.read(subject.bytes.clone());
        let recorded = || log.lock().unwrap().len();
        let work = |thread: usize| {
            let mut noise = Noise(thread as u64);
            let mut done = Vec::new();
            for number in 1..=120u8 {
                let before = recorded();
                let what = if noise.below(10) == 0 {
                    image.flush().unwrap();
                    None
                } else {
                    let groups = SECTORS / OWN / THREADS;
                    let group = noise.pick(groups) * THREADS + thread;
                    let first = group * OWN + noise.pick(OWN);
                    let sectors = first..first + 1 + noise.pick(OWN - first % OWN);
                    let offset = GuestOffset((sectors.start * 512) as u64);
                    let length = sectors.len() * 512;
                    let byte = if noise.below(6) == 0 { 0 } else { number };
                    if byte == 0 {
                        image.write_zeroes(offset, length as u64, true).unwrap();
                    } else {
                        image.write_at(offset, &vec![byte; length]).unwrap();
                    }
                    Some((sectors, byte))
                };
                let after = recorded();
                done.push(Done {
                    before,
                    after,
                    what,
                });
            }
            done
        };
        let done: Vec<Vec<Done>> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..THREADS)
                .map(|thread| scope.spawn(move || work(thread)))
                .collect();
            threads
                .into_iter()
                .map(|thread| thread.join().unwrap())
                .collect()
        });
        image.close().unwrap();
        assert_clean(&file.memory.contents(), true);
        let kept = Kept::of(&subject);
        let record = std::mem::take(&mut *log.lock().unwrap());
        let mut noise = Noise(7);
        for round in 0..600 {
            let cut = 1 + noise.pick(record.len());
            let before = [subject.bytes.clone()];
            let (files, durable) = lossy_cut(&before, &record, cut, &mut noise);
            assert_clean(&files[0], false);
            let contents = subject.read_files(&files);
            kept.assert_still_there(&subject, &files, &contents);
            let flushes = done.iter().flatten().filter(|done| done.what.is_none());
            let flushed = flushes.filter(|flush| flush.after <= durable);
            let flushed = flushed.map(|flush| flush.before).max().unwrap_or(0);
            for (sector, found) in contents.chunks(512).enumerate() {
                let of_thread = &done[sector / OWN % THREADS];
                let here = of_thread.iter().filter_map(|done| {
                    let (sectors, byte) = done.what.as_ref()?;
                    sectors.contains(&sector).then_some((done, *byte))
                });
                let mut allowed = vec![start[sector * 512..][..512].to_vec()];
                for (done, byte) in here {
                    if done.after <= flushed {
                        allowed.clear();
                    }
                    if done.before <= cut {
                        allowed.push(vec![byte; 512]);
                    }
                }
                assert!(
                    allowed.iter().any(|bytes| bytes == found),
                    "round {round}: sector {sector} is neither old nor new"
                );
            }
        }
    }
}

/// Checks that the failure of any write or flush is reported, and leaves no damage but leaks.
#[test]
fn every_failure_leaves_a_whole_image() {
    let subject = image(options(512, 1 << 17));
    for operation in [Operation::Write, Operation::Flush] {
        let mut failures = 0;
        for nth in 1.. {
            let errno = 28;
            let fault = Fault {
                operation,
                nth,
                errno,
            };
            let storage = Arc::new(MemoryStorage::new(subject.bytes.clone()).with_fault(fault));
            let image = subject.open(&storage);
            let mut noise = Noise(9);
            let mut work = || {
                for _ in 0..12 {
                    let start = noise.below(200) * 512;
                    image.write_at(GuestOffset(start), &noise.bytes(5 * 512))?;
                    image.discard(GuestOffset(start / 2048 * 2048), 1024)?;
                    image.flush()?;
                }
                image.close()
            };
            let done = work();
            assert_clean(&storage.contents(), done.is_ok());
            match done {
                Ok(()) => break,
                Err(error) => {
                    assert_eq!(error.kind(), ErrorKind::Io, "{error}");
                    assert!(error.to_string().contains("No space left"), "{error}");
                    failures += 1;
                }
            }
            if operation == Operation::Flush {
                let again = image.write_at(GuestOffset(0), &[1; 512]).unwrap_err();
                assert!(again.to_string().contains("can't be written to any more"));
            }
        }
        assert!(failures > 10, "{failures}");
    }
}

/// Returns the offset in the table entry at `at`.
fn entry(bytes: &[u8], at: usize) -> usize {
    let entry = u64::from_be_bytes(bytes[at..at + 8].try_into().unwrap());
    usize::try_from(entry & 0x00ff_ffff_ffff_fe00).unwrap()
}

/// Checks that damage that a write finds stops it, and sets the corrupt bit.
#[test]
fn metadata_is_never_written_over() {
    let subject = image(options(4096, 1 << 20));
    let storage = Arc::new(MemoryStorage::new(subject.bytes.clone()));
    let whole = subject.open(&storage);
    whole.write_at(GuestOffset(0), &[1; 4 * 4096]).unwrap();
    whole.close().unwrap();
    let bytes = storage.contents();
    let l1 = entry(&bytes, 40);
    let l2 = entry(&bytes, l1);
    let refcounts = entry(&bytes, entry(&bytes, 48));
    let leads_to = |host: usize| (host as u64 | 1 << 63).to_be_bytes();
    // Each damage has an offset, bytes, and the expected error of a write to guest offset 0.
    let damages = [
        (l2, leads_to(l1), "overlaps with active L1 table"),
        (l2, leads_to(l2), "overlaps with active L2 table"),
        (l2, leads_to(refcounts), "overlaps with refcount block"),
        (l2, leads_to(4096 + 512), "not cluster-aligned"),
        (l2, [0x20, 0, 0, 0, 0, 0, 0x10, 0], "reserved bits are set"),
        // All clusters are free, including metadata.
        (refcounts, [0; 8], "refcount is 0"),
    ];
    for (at, value, message) in damages {
        let mut bytes = bytes.clone();
        bytes[at..at + 8].copy_from_slice(&value);
        if value == [0; 8] {
            bytes[refcounts..refcounts + 64].fill(0);
        }
        let storage = Arc::new(MemoryStorage::new(bytes.clone()));
        let image = subject.open(&storage);
        let error = image.write_at(GuestOffset(0), &[2; 512]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt);
        assert!(error.to_string().contains(message), "{message}: {error}");
        assert!(image.write_at(GuestOffset(8192), &[2; 512]).is_err());
        assert!(image.flush().is_err());
        let header = Header::read(storage.as_ref()).unwrap();
        assert!(header.has_incompatible(features::CORRUPT), "{message}");
        // Only the corrupt bit in the header has changed.
        let mut now = storage.contents();
        now[79] &= !2;
        assert!(now == bytes, "{message}");
    }
    // A free cluster with metadata isn't allocated.
    let mut bytes = bytes;
    bytes[refcounts + 2..refcounts + 4].fill(0);
    let storage = Arc::new(MemoryStorage::new(bytes));
    let image = subject.open(&storage);
    let error = image.write_at(GuestOffset(1 << 19), &[2; 512]).unwrap_err();
    assert!(error.to_string().contains("overlaps with"), "{error}");
}
