//! Tests of power cuts during a repair, the creation of an image, and the addition of bitmaps. A power cut keeps
//! everything before the last flush, and any part of the later changes, torn at sectors.
//!
//! An interrupted repair can be repeated with the same result, and the data that could be read before. An interrupted
//! new image is no image or a complete one. After an interrupted addition of bitmaps, the image has all, only the old
//! ones, or none that is valid.

mod common;
#[path = "power_loss/one_bitmap.rs"]
mod one_bitmap;
#[path = "common/power_cut.rs"]
mod power_cut;
#[path = "power_loss/snapshots.rs"]
mod snapshots;
#[path = "power_loss/zero_flags.rs"]
mod zero_flags;

use std::sync::Arc;

use cowhide::convert::{self, Settings};
use cowhide::crypto::Backend;
use cowhide::formats::encryption::{Cipher, EncryptionFormat, LegacyAes};
use cowhide::formats::qcow2::snapshots::read_snapshots;
use cowhide::formats::qcow2::write::copy_bitmaps;
use cowhide::formats::qcow2::{
    Backing, CheckReport, Header, NewQcow2, NewQcow2Options, Qcow2Image, Repair, check, features,
    repair,
};
use cowhide::formats::raw::RawImage;
use cowhide::formats::{Image as _, NewImage, Preallocation, WritableImage as _};
use cowhide::storage::{MemoryStorage, Storage};
use cowhide::units::GuestOffset;

use common::Noise;
use power_cut::kept::{Kept, bitmaps, some_bitmaps, with_bitmaps, with_snapshot};
use power_cut::{KEY, Subject, assert_clean, leftovers};

/// Returns the readable contents of an image and its snapshots, sector by sector. `None` stands for an unreadable
/// sector.
fn contents(bytes: &[u8]) -> Vec<Option<Vec<u8>>> {
    let storage = Arc::new(MemoryStorage::new(bytes.to_vec()));
    let Ok(header) = Header::read(storage.as_ref()) else {
        return Vec::new();
    };
    let snapshots = read_snapshots(storage.as_ref(), &header).unwrap_or_default();
    let now = header.clone();
    let then = snapshots
        .iter()
        .filter_map(|snapshot| snapshot.l1_table(header.geometry()).ok())
        .map(|l1| header.clone().with_l1(l1));
    let mut sectors = Vec::new();
    for header in std::iter::once(now).chain(then) {
        let storage: Arc<dyn Storage> = Arc::<MemoryStorage>::clone(&storage);
        let Ok(image) = Qcow2Image::open(storage, header, None) else {
            continue;
        };
        for at in (0..image.size().min(1 << 20)).step_by(512) {
            let mut sector = vec![0; 512];
            let read = image.read_at(GuestOffset(at), &mut sector);
            sectors.push(read.is_ok().then_some(sector));
        }
    }
    sectors
}

/// Repairs an image, and returns the remaining findings.
fn repaired(storage: &MemoryStorage) -> Option<CheckReport> {
    let header = Header::read_for_check(storage).ok()?;
    repair(storage, &header, Repair::All, &mut |_| {}).ok()?;
    let header = Header::read_for_check(storage).unwrap();
    Some(check(storage, &header, &mut |_| {}).unwrap())
}

/// Damages an image, repairs it, and checks all results of a power cut during the repair. Returns the number of
/// changes of the repair, if it succeeded.
fn repair_and_cut(bytes: &[u8], noise: &mut Noise, name: &str) -> Option<usize> {
    let before = contents(bytes);
    let storage = MemoryStorage::new(bytes.to_vec()).recording();
    let whole = repaired(&storage)?;
    let record = storage.take_record();
    let still_there = |bytes: &[u8], when: &str| {
        for (sector, (before, after)) in before.iter().zip(contents(bytes)).enumerate() {
            let same = before.is_none() || *before == after;
            assert!(same, "{name}: {when}: sector {sector} has changed");
        }
    };
    still_there(&storage.contents(), "repaired");
    leftovers(bytes, &record, noise, 20, &mut |left, when| {
        still_there(left, when);
        let again = MemoryStorage::new(left.to_vec());
        let report = repaired(&again);
        let report = report.unwrap_or_else(|| panic!("{name}: {when}: can't be repaired again"));
        still_there(&again.contents(), when);
        assert!(
            report.corruptions <= whole.corruptions && report.leaks <= whole.leaks,
            "{name}: {when}: {report:?}, but {whole:?} without the cut"
        );
    });
    Some(record.len())
}

fn cipher() -> Cipher {
    LegacyAes::with_key(KEY, Backend::detect())
}

/// Returns an image with some data.
fn used(cluster_size: u64, refcount_bits: u64, size: u64) -> Vec<u8> {
    let storage = Arc::new(MemoryStorage::default());
    let target: Arc<dyn Storage> = Arc::<MemoryStorage>::clone(&storage);
    let options = NewQcow2Options {
        cluster_size,
        refcount_bits,
        ..NewQcow2Options::new(size)
    };
    let new = NewQcow2::create(target, options, None, true).unwrap();
    new.finish().unwrap();
    let subject = Subject {
        bytes: storage.contents(),
        data: None,
        raw: false,
        encrypted: false,
        backing: None,
        inspect: None,
    };
    let image = subject.open(&storage);
    let mut noise = Noise(cluster_size);
    for _ in 0..30 {
        let start = noise.below(size / 512 - 16) * 512;
        image
            .write_at(GuestOffset(start), &noise.bytes(4096))
            .unwrap();
    }
    image.close().unwrap();
    storage.contents()
}

const SEEDS: [(&str, &[u8]); 5] = [
    ("bitmap", include_bytes!("../fuzz/seeds/image/bitmap")),
    (
        "compressed",
        include_bytes!("../fuzz/seeds/image/compressed"),
    ),
    ("extended", include_bytes!("../fuzz/seeds/image/extended")),
    ("plain", include_bytes!("../fuzz/seeds/image/plain")),
    ("snapshot", include_bytes!("../fuzz/seeds/image/snapshot")),
];

fn field(bytes: &[u8], at: usize) -> usize {
    usize::try_from(u64::from_be_bytes(bytes[at..at + 8].try_into().unwrap())).unwrap()
}

/// Damages refcounts to some degree, so that they are repaired one by one or rebuilt.
fn damage_refcounts(bytes: &mut [u8], noise: &mut Noise, degree: u64) {
    let table = field(bytes, 48);
    let block = field(bytes, table);
    let length =
        usize::try_from(1 << (u32::from_be_bytes(bytes[20..24].try_into().unwrap()))).unwrap();
    let end = (block + length).min(bytes.len());
    match degree {
        0 => bytes[table..table + 8].fill(0),
        1 => bytes[table + 6] ^= 3,
        2 => bytes[block..end].fill(0),
        3 => bytes[56..60].fill(0),
        _ => {
            for _ in 0..1 + noise.below(degree) {
                let at = usize::try_from(noise.below(64)).unwrap();
                if let Some(byte) = bytes.get_mut(block + at) {
                    *byte = (noise.next() >> 8) as u8 & 3;
                }
            }
        }
    }
}

#[test]
fn a_repair_that_was_cut_off_can_be_repeated() {
    let mut noise = Noise(1);
    let mut changes = 0;
    let mut images: Vec<(String, Vec<u8>)> = SEEDS
        .iter()
        .map(|(name, bytes)| ((*name).to_owned(), bytes.to_vec()))
        .collect();
    for (cluster_size, bits) in [(512, 16), (512, 1), (4096, 64), (4096, 16)] {
        let image = used(cluster_size, bits, 512 << 10);
        images.push((format!("{cluster_size} bytes, {bits} bits"), image));
    }
    for (name, bytes) in &images {
        for degree in [0, 1, 2, 3, 4, 8, 16, 32] {
            let mut damaged = bytes.clone();
            damage_refcounts(&mut damaged, &mut noise, degree);
            let name = format!("{name}, degree {degree}");
            let count = repair_and_cut(&damaged, &mut noise, &name);
            changes += count.unwrap_or_else(|| panic!("{name}: can't be repaired"));
        }
    }
    assert!(changes > 300, "{changes}");
}

#[test]
fn whatever_is_wrong_a_repair_that_was_cut_off_loses_nothing() {
    let mut noise = Noise(2);
    let (mut done, mut changes) = (0, 0);
    for (name, bytes) in SEEDS {
        for round in 0..80 {
            let mut damaged = bytes.to_vec();
            for _ in 0..1 + noise.below(3) {
                // This damages table entries and refcounts, and not the header.
                let at = 0x200 + usize::try_from(noise.below(0x700)).unwrap();
                damaged[at] = match noise.below(3) {
                    0 => damaged[at] ^ 1 << noise.below(8),
                    1 => 0,
                    _ => (noise.next() >> 8) as u8,
                };
            }
            let name = format!("{name}, round {round}");
            if let Some(count) = repair_and_cut(&damaged, &mut noise, &name) {
                done += 1;
                changes += count;
            }
        }
    }
    assert!(done > 300 && changes > 500, "{done} {changes}");
}

/// Makes an image of the source in a storage.
type Make<'a> = &'a dyn Fn(Arc<dyn Storage>, NewQcow2Options) -> Box<dyn NewImage>;

#[test]
fn a_new_image_that_was_cut_off_is_none_or_whole() {
    let mut noise = Noise(3);
    let mut disk = vec![0; 96 << 10];
    for part in disk.chunks_mut(4096).step_by(3) {
        part.copy_from_slice(&noise.bytes(4096));
    }
    let plain: Make<'_> =
        &|storage, options| Box::new(NewQcow2::create(storage, options, None, true).unwrap());
    let encrypted: Make<'_> = &|storage, options| {
        Box::new(NewQcow2::create(storage, options, Some(cipher()), true).unwrap())
    };
    let compressed: Make<'_> =
        &|storage, options| Box::new(NewQcow2::create_compressed(storage, options, true).unwrap());
    let preallocated: Make<'_> = &|storage, options| {
        let metadata = Preallocation::Metadata;
        Box::new(NewQcow2::create_preallocated(storage, options, None, metadata, true).unwrap())
    };
    // An old image on a device is invalid as soon as the new one is begun.
    let old = used(512, 16, 64 << 10);
    let (mut none, mut whole) = (0, 0);
    for (name, make) in [
        ("plain", plain),
        ("encrypted", encrypted),
        ("compressed", compressed),
        ("preallocated", preallocated),
    ] {
        for is_device in [false, true] {
            let before = if is_device {
                let mut bytes = old.clone();
                bytes.resize(1 << 20, 0xdd);
                bytes
            } else {
                Vec::new()
            };
            let mut storage = MemoryStorage::new(before.clone()).recording();
            if is_device {
                storage = storage.as_device();
            }
            let storage = Arc::new(storage);
            let encryption = match name {
                "encrypted" => Some(EncryptionFormat::Aes),
                _ => None,
            };
            let options = NewQcow2Options {
                cluster_size: 1024,
                encryption,
                ..NewQcow2Options::new(disk.len() as u64)
            };
            let target = make(Arc::<MemoryStorage>::clone(&storage), options);
            // The old image may be there until this change is on the disk.
            let begun = storage.recorded();
            let source = RawImage::open(Arc::new(MemoryStorage::new(disk.clone()))).unwrap();
            convert::copy(&source, target.as_ref(), Settings::default(), &()).unwrap();
            let subject = Subject {
                bytes: Vec::new(),
                data: None,
                raw: false,
                encrypted: name == "encrypted",
                backing: None,
                inspect: None,
            };
            let record = storage.take_record();
            assert!(!is_device || begun > 0, "{name}: nothing is wiped");
            let mut start = before;
            for change in &record[..begun] {
                change.apply(&mut start);
            }
            leftovers(
                &start,
                &record[begun..],
                &mut noise,
                300,
                &mut |left, when| {
                    let when = format!("{name}, device {is_device}: {when}");
                    if Header::read_for_check(&MemoryStorage::new(left.to_vec())).is_err() {
                        none += 1;
                        return;
                    }
                    whole += 1;
                    assert_clean(left, true);
                    assert!(subject.read(left.to_vec()) == disk, "{when}: wrong data");
                },
            );
        }
    }
    assert!(none > 1000 && whole > 8, "{none} {whole}");
}

/// Returns an empty image with these options.
fn empty(options: NewQcow2Options) -> Subject {
    let storage = Arc::new(MemoryStorage::default());
    let target: Arc<dyn Storage> = Arc::<MemoryStorage>::clone(&storage);
    let new = NewQcow2::create(target, options, None, true).unwrap();
    new.finish().unwrap();
    Subject {
        bytes: storage.contents(),
        data: None,
        raw: false,
        encrypted: false,
        backing: None,
        inspect: None,
    }
}

/// Inserts an unknown header extension in front of the others, so that the bitmaps extension spans two sectors, one
/// of which may be written without the other.
fn move_extensions(bytes: &mut Vec<u8>) {
    let name = field(bytes, 8);
    let end = name + b"below".len();
    let rest = bytes[112..end].to_vec();
    let filler = [&b"moo!\0\0\x01\x70"[..], &[1; 368]].concat();
    let moved = (name + filler.len()) as u64;
    bytes.splice(112..end + filler.len(), [filler, rest].concat());
    bytes[8..16].copy_from_slice(&moved.to_be_bytes());
    let bitmaps = with_bitmaps(Subject {
        bytes: bytes.clone(),
        ..empty(NewQcow2Options::new(512))
    });
    let kind = 0x2385_2875u32.to_be_bytes();
    let header = bitmaps.bytes[..4096].windows(4);
    let at = header.clone().position(|window| window == kind).unwrap() + 8;
    assert!(at < 512 && at + 24 > 512, "{at}");
}

/// Checks the addition of bitmaps to an image without any, whose backing file's name has to be moved, and to an image
/// with bitmaps of other names.
#[test]
fn bitmaps_that_were_being_added_are_all_there_or_do_not_count() {
    let mut noise = Noise(4);
    let seen: std::cell::RefCell<[usize; 3]> = Default::default();
    for (cluster_size, lazy_refcounts, others) in [
        (512, false, false),
        (512, true, true),
        (4096, false, true),
        (4096, true, false),
    ] {
        let options = NewQcow2Options {
            cluster_size,
            lazy_refcounts,
            backing: Some(Backing {
                name: b"below".to_vec(),
                format: None,
                size: 512,
            }),
            ..NewQcow2Options::new(1 << 18)
        };
        let below = Arc::new(MemoryStorage::new(vec![7; 512]));
        let mut subject = Subject {
            backing: Some(Arc::new(RawImage::open(below).unwrap())),
            ..empty(options)
        };
        if cluster_size > 512 {
            move_extensions(&mut subject.bytes);
        }
        let subject = with_snapshot(subject);
        let subject = if others {
            with_bitmaps(subject)
        } else {
            subject
        };
        let mut added = some_bitmaps();
        for (number, bitmap) in added.iter_mut().enumerate() {
            bitmap.name = format!("added {number}").into_bytes();
        }
        let storage = Arc::new(MemoryStorage::new(subject.bytes.clone()).recording());
        let target: Arc<dyn Storage> = Arc::<MemoryStorage>::clone(&storage);
        let header = Header::read(storage.as_ref()).unwrap();
        copy_bitmaps(&target, &header, &added, true).unwrap();
        let record = storage.take_record();

        let kept = Kept::of(&subject);
        let old = bitmaps(&subject.bytes);
        let new = bitmaps(&storage.contents());
        assert_eq!(new.len(), old.len() + 3);
        assert!(
            new[old.len()..]
                .iter()
                .all(|bits| bits.bits.contains(&true))
        );
        let contents = subject.read(subject.bytes.clone());
        leftovers(
            &subject.bytes,
            &record,
            &mut noise,
            200,
            &mut |left, when| {
                let left = assert_clean(left, false).unwrap_or_else(|| left.to_vec());
                let header = Header::read(&MemoryStorage::new(left.clone())).unwrap();
                assert_eq!(header.backing_file(), Some(&b"below"[..]), "{when}");
                let files = [left];
                assert!(subject.read_files(&files) == contents, "{when}");
                kept.assert_same_snapshots(&subject, &files);
                let found = bitmaps(&files[0]);
                let same = |all: &[power_cut::kept::Bits]| {
                    let pairs = found.iter().zip(all);
                    let same = |(one, other): (&power_cut::kept::Bits, &power_cut::kept::Bits)| {
                        one.bits == other.bits && one.bitmap.name == other.bitmap.name
                    };
                    found.len() == all.len() && pairs.into_iter().all(same)
                };
                let counts = header.has_autoclear(features::BITMAPS);
                let kind = match (counts, same(&old), same(&new)) {
                    (true, _, true) => 2,
                    (true, true, _) => 1,
                    (false, ..) => 0,
                    _ => panic!("{when}: some of the bitmaps"),
                };
                seen.borrow_mut()[kind] += 1;
            },
        );
        assert_clean(&storage.contents(), true);
    }
    let seen = seen.into_inner();
    assert!(seen.iter().all(|count| *count > 20), "{seen:?}");
}

/// Checks a power cut during the repair of a dirty image's refcounts, which is done when it is opened for writing.
/// The image can be opened again without loss.
#[test]
fn the_repair_of_a_dirty_image_that_was_cut_off_is_done_again() {
    let mut noise = Noise(5);
    let mut repaired = 0;
    for (cluster_size, extended_l2) in [(512, false), (4096, false), (16384, true)] {
        let options = NewQcow2Options {
            cluster_size,
            extended_l2,
            lazy_refcounts: true,
            ..NewQcow2Options::new(1 << 18)
        };
        let subject = with_snapshot(with_bitmaps(empty(options)));
        let storage = Arc::new(MemoryStorage::new(subject.bytes.clone()));
        let image = subject.open(&storage);
        for _ in 0..20 {
            let start = noise.below(480) * 512;
            let offset = GuestOffset(start);
            match noise.below(4) {
                0 => image.discard(offset, 16384).unwrap(),
                _ => image.write_at(offset, &noise.bytes(8192)).unwrap(),
            }
        }
        image.flush().unwrap();
        // The image is never closed.
        let subject = Subject {
            bytes: storage.contents(),
            ..subject
        };
        let before = Header::read(storage.as_ref()).unwrap();
        assert!(before.has_incompatible(features::DIRTY));
        let kept = Kept::of(&subject);
        let contents = subject.read(subject.bytes.clone());
        let storage = Arc::new(MemoryStorage::new(subject.bytes.clone()).recording());
        subject.open(&storage);
        let record = storage.take_record();
        repaired += record.len();
        leftovers(
            &subject.bytes,
            &record,
            &mut noise,
            200,
            &mut |left, when| {
                assert_clean(left, false);
                let again = Arc::new(MemoryStorage::new(left.to_vec()));
                subject.open(&again).close().unwrap();
                let left = [again.contents()];
                assert_clean(&left[0], true);
                assert!(subject.read_files(&left) == contents, "{when}");
                kept.assert_still_there(&subject, &left, &contents);
            },
        );
    }
    assert!(repaired > 20, "{repaired}");
}
