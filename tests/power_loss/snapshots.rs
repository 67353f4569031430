//! Tests of internal snapshots that are created, applied and deleted: after a power cut or a failure, the disk and
//! all snapshots are old, or all are new.

use std::sync::Arc;

use cowhide::error::Result;
use cowhide::formats::WritableImage as _;
use cowhide::formats::qcow2::check::Event;
use cowhide::formats::qcow2::snapshots::read_snapshots;
use cowhide::formats::qcow2::write::{apply_snapshot, create_snapshot, delete_snapshot};
use cowhide::formats::qcow2::{Header, NewQcow2Options, Repair, Version, check, repair};
use cowhide::formats::snapshots::{NewSnapshot, SnapshotName};
use cowhide::storage::{MemoryStorage, Slowness, Storage};
use cowhide::units::GuestOffset;

use crate::common::Noise;
use crate::empty;
use crate::power_cut::kept::{with_bitmaps, with_data};
use crate::power_cut::{Subject, assert_clean, leftovers, with_each_failure};

/// An operation on the snapshots of an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Work {
    Create,
    Apply(&'static str),
    Delete(&'static str),
}

impl Work {
    fn run(self, storage: &Arc<MemoryStorage>) -> Result<()> {
        let header = Header::read(storage.as_ref())?;
        let storage: Arc<dyn Storage> = Arc::<MemoryStorage>::clone(storage);
        match self {
            Self::Create => create_snapshot(&storage, &header, &named("new"), true),
            Self::Apply(name) => {
                let name = SnapshotName::Either(name.as_bytes().to_vec());
                apply_snapshot(&storage, &header, &name, true)
            }
            Self::Delete(name) => {
                let name = SnapshotName::Both {
                    id: None,
                    name: Some(name.as_bytes().to_vec()),
                };
                delete_snapshot(&storage, &header, &name, true)
            }
        }
    }
}

fn named(name: &str) -> NewSnapshot {
    NewSnapshot {
        name: name.as_bytes().to_vec(),
        date_sec: 1,
        date_nsec: 2,
    }
}

/// The contents of an image: the disk, and each snapshot with its id, name and disk.
#[derive(PartialEq, Eq)]
pub struct State {
    disk: Vec<u8>,
    snapshots: Vec<(Vec<u8>, Vec<u8>, Vec<u8>)>,
}

impl State {
    pub fn of(subject: &Subject, bytes: &[u8]) -> Self {
        let storage = Arc::new(MemoryStorage::new(bytes.to_vec()));
        let header = Header::read(storage.as_ref()).unwrap();
        let files = [bytes.to_vec()];
        let read = |l1| subject.read_at(&storage, header.clone().with_l1(l1), &files);
        let snapshots = read_snapshots(storage.as_ref(), &header).unwrap();
        let snapshots = snapshots.into_iter().map(|snapshot| {
            let disk = read(snapshot.l1_table(header.geometry()).unwrap());
            (snapshot.id, snapshot.name, disk)
        });
        Self {
            snapshots: snapshots.collect(),
            disk: read(header.l1()),
        }
    }
}

/// Writes to some parts, so that some L2 tables and clusters are shared with snapshots and some aren't.
fn written(subject: Subject, noise: &mut Noise) -> Subject {
    let storage = Arc::new(MemoryStorage::new(subject.bytes.clone()));
    let image = subject.open(&storage);
    for _ in 0..6 {
        let offset = GuestOffset(noise.below(200) * 512);
        if noise.below(4) == 0 && image.check_compression().is_ok() {
            image
                .write_compressed(offset, &[noise.next() as u8; 4096])
                .unwrap();
        } else {
            image.write_at(offset, &noise.bytes(1024)).unwrap();
        }
    }
    image.close().unwrap();
    Subject {
        bytes: storage.contents(),
        ..subject
    }
}

/// Returns the image with a new snapshot.
pub fn with(subject: Subject, name: &str) -> Subject {
    let storage = Arc::new(MemoryStorage::new(subject.bytes.clone()));
    let target: Arc<dyn Storage> = Arc::<MemoryStorage>::clone(&storage);
    let header = Header::read(storage.as_ref()).unwrap();
    create_snapshot(&target, &header, &named(name), true).unwrap();
    Subject {
        bytes: storage.contents(),
        ..subject
    }
}

/// Returns an image with two snapshots and a disk that differs from both.
fn with_two(options: NewQcow2Options, noise: &mut Noise) -> Subject {
    let subject = with(written(with_data(empty(options)), noise), "one");
    let subject = with(written(subject, noise), "two");
    let subject = written(subject, noise);
    assert_clean(&subject.bytes, true);
    subject
}

/// Repairs the result of a power cut, if it may need that, and asserts that nothing is wrong then. Copied flags and
/// refcounts may only disagree in version 2, which has no dirty bit.
fn put_right(left: &[u8], when: &str) -> Vec<u8> {
    let storage = MemoryStorage::new(left.to_vec());
    let header = Header::read(&storage).unwrap();
    if header.version() == Version::V3 {
        return assert_clean(left, false).unwrap_or_else(|| left.to_vec());
    }
    check(&storage, &header, &mut |event| {
        let Event::Found(finding) = event else {
            panic!("{when}: {event}");
        };
        let harmless = finding.is_leak() || finding.to_string().contains("OFLAG_COPIED");
        assert!(harmless, "{when}: {finding}");
    })
    .unwrap();
    repair(&storage, &header, Repair::All, &mut |_| {}).unwrap();
    assert_clean(&storage.contents(), true);
    storage.contents()
}

/// Asserts that an image is in one of two states: now, after its repair, and after each of its clusters was
/// overwritten without a repair. Returns true for the second state.
fn old_or_new(subject: &Subject, left: &[u8], states: [&State; 2], when: &str) -> bool {
    let found = State::of(subject, left);
    let [old, new] = states;
    let is_new = found == *new;
    assert!(is_new || found == *old, "{when}: neither old nor new");
    let repaired = put_right(left, when);
    assert!(State::of(subject, &repaired) == found, "{when}: repaired");

    // A writer must not trust a copied flag or a free cluster at the cost of a snapshot.
    let storage = Arc::new(MemoryStorage::new(left.to_vec()));
    let image = subject.open(&storage);
    image
        .write_at(GuestOffset(0), &vec![0xa5; found.disk.len()])
        .unwrap();
    image.close().unwrap();
    let after = State::of(subject, &storage.contents());
    assert!(after.snapshots == found.snapshots, "{when}: written over");
    is_new
}

/// Returns kinds of images, of 256 KiB.
fn kinds() -> Vec<NewQcow2Options> {
    let new = |cluster_size, refcount_bits| NewQcow2Options {
        cluster_size,
        refcount_bits,
        ..NewQcow2Options::new(256 << 10)
    };
    vec![
        new(512, 16),
        new(4096, 2),
        new(512, 64),
        NewQcow2Options {
            lazy_refcounts: true,
            ..new(1024, 8)
        },
        NewQcow2Options {
            extended_l2: true,
            ..new(16 << 10, 16)
        },
        NewQcow2Options {
            version: Version::V2,
            ..new(512, 16)
        },
        NewQcow2Options {
            version: Version::V2,
            ..new(4096, 16)
        },
    ]
}

/// Returns [`kinds`] whose refcounts are wide enough for another snapshot.
fn roomy_kinds() -> Vec<NewQcow2Options> {
    let kinds = kinds().into_iter().map(|options| NewQcow2Options {
        refcount_bits: options.refcount_bits.max(4),
        ..options
    });
    kinds.collect()
}

const WORKS: [Work; 5] = [
    Work::Create,
    Work::Apply("1"),
    Work::Apply("two"),
    Work::Delete("one"),
    Work::Delete("two"),
];

#[test]
fn snapshots_survive_a_power_cut() {
    let mut noise = Noise(11);
    let mut seen = [0; 2];
    for options in roomy_kinds() {
        let subject = with_two(options.clone(), &mut noise);
        let old = State::of(&subject, &subject.bytes);
        assert!(old.snapshots.iter().all(|(.., disk)| *disk != old.disk));
        for work in WORKS {
            let storage = Arc::new(MemoryStorage::new(subject.bytes.clone()).recording());
            work.run(&storage).unwrap();
            let done = storage.contents();
            assert_clean(&done, true);
            let new = State::of(&subject, &done);
            let count = new.snapshots.len();
            match work {
                Work::Create => assert!(count == 3 && new.snapshots[2].2 == old.disk),
                Work::Apply(name) => {
                    let applied = &old.snapshots[usize::from(name == "two")].2;
                    assert!(count == 2 && new.disk == *applied);
                }
                Work::Delete(_) => assert!(count == 1 && new.disk == old.disk),
            }
            let record = storage.take_record();
            leftovers(
                &subject.bytes,
                &record,
                &mut noise,
                60,
                &mut |left, when| {
                    let when = format!("{work:?}, {options:?}: {when}");
                    let is_new = old_or_new(&subject, left, [&old, &new], &when);
                    seen[usize::from(is_new)] += 1;
                },
            );
        }
    }
    assert!(seen.iter().all(|count| *count > 500), "{seen:?}");
}

#[test]
fn a_failure_leaves_snapshots_as_they_were_or_as_they_are_to_be() {
    let mut noise = Noise(12);
    let mut seen = [0; 2];
    for options in roomy_kinds() {
        let subject = with_two(options.clone(), &mut noise);
        let old = State::of(&subject, &subject.bytes);
        for work in WORKS {
            let whole = Arc::new(MemoryStorage::new(subject.bytes.clone()));
            work.run(&whole).unwrap();
            let new = State::of(&subject, &whole.contents());
            let work_on = |storage: &Arc<MemoryStorage>| work.run(storage);
            with_each_failure(&subject.bytes, &work_on, &mut |left, when| {
                let when = format!("{work:?}, {options:?}: {when}");
                seen[usize::from(old_or_new(&subject, left, [&old, &new], &when))] += 1;
            });
        }
    }
    assert!(seen.iter().all(|count| *count > 100), "{seen:?}");
}

/// Creates, applies and deletes snapshots in random order, with writes in between, and compares the disk and the
/// snapshots with a model.
#[test]
fn snapshots_in_any_order_agree_with_a_model() {
    let mut noise = Noise(13);
    for options in kinds() {
        let mut subject = with_data(empty(options.clone()));
        let mut model = State::of(&subject, &subject.bytes);
        let mut done = [0; 4];
        for round in 0..60 {
            let kind = noise.pick(4);
            let storage = Arc::new(MemoryStorage::new(subject.bytes.clone()));
            let image: Arc<dyn Storage> = Arc::<MemoryStorage>::clone(&storage);
            let header = Header::read(storage.as_ref()).unwrap();
            let when = format!("{options:?}, round {round}");
            let count = model.snapshots.len();
            // Refcounts of two bits are full with three references.
            let is_full = options.refcount_bits == 2 && count == 2;
            match kind {
                0 if !is_full => {
                    let name = format!("at {round}");
                    create_snapshot(&image, &header, &named(&name), true).unwrap();
                    let ids = model.snapshots.iter().map(|(id, ..)| id);
                    let ids = ids.map(|id| String::from_utf8_lossy(id).parse().unwrap());
                    let id: u32 = ids.max().unwrap_or(0) + 1;
                    let id = id.to_string().into_bytes();
                    model.snapshots.push((id, name.into(), model.disk.clone()));
                }
                1 if count > 0 => {
                    let (id, _, disk) = &model.snapshots[noise.pick(count)];
                    let name = SnapshotName::Either(id.clone());
                    // Refcounts are full for a while if a table isn't shared and its clusters are.
                    match apply_snapshot(&image, &header, &name, true) {
                        Ok(()) => model.disk.clone_from(disk),
                        Err(error) if is_full => {
                            assert!(error.to_string().contains("Invalid argument"), "{error}");
                        }
                        Err(error) => panic!("{when}: {error}"),
                    }
                }
                2 if count > 0 => {
                    let (_, name, _) = model.snapshots.remove(noise.pick(count));
                    let name = SnapshotName::Both {
                        id: None,
                        name: Some(name),
                    };
                    delete_snapshot(&image, &header, &name, true).unwrap();
                }
                3 => {}
                _ => continue,
            }
            done[kind] += 1;
            subject.bytes = storage.contents();
            if kind == 3 {
                subject = written(subject, &mut noise);
                model.disk = subject.read(subject.bytes.clone());
            }
            assert_clean(&subject.bytes, true);
            assert!(State::of(&subject, &subject.bytes) == model, "{when}");
        }
        assert!(done.iter().all(|count| *count > 3), "{options:?}: {done:?}");
    }
}

#[test]
fn what_is_refused_changes_nothing() {
    let mut noise = Noise(14);
    let full = |bits| {
        let options = NewQcow2Options {
            refcount_bits: bits,
            ..NewQcow2Options::new(256 << 10)
        };
        with_data(empty(options))
    };
    let two_bits = with_two(kinds().swap_remove(1), &mut noise);
    let too_often = "more often than a refcount of";
    let subjects = [
        (full(1), Work::Create, too_often),
        (two_bits, Work::Create, too_often),
        (
            full(16),
            Work::Apply("one"),
            "Failed to load snapshot: No such file or directory",
        ),
        (full(16), Work::Delete("one"), "snapshot not found"),
        // The id of a snapshot isn't its name.
        (
            with(full(16), "one"),
            Work::Delete("1"),
            "snapshot not found",
        ),
        (
            with_bitmaps(with(full(16), "one")),
            Work::Apply("one"),
            "Device has active dirty bitmaps",
        ),
    ];
    for (subject, work, message) in subjects {
        let storage = Arc::new(MemoryStorage::new(subject.bytes.clone()).recording());
        let error = work.run(&storage).unwrap_err().to_string();
        assert!(error.contains(message), "{work:?}: {error}");
        assert_eq!(storage.recorded(), 0, "{work:?}");
    }
}

/// Checks snapshots with equal names, and with names that are ids of others. The first one of a name is deleted, and
/// applying prefers an id to a name.
#[test]
fn ids_and_names_are_told_apart() {
    let mut subject = with_data(empty(NewQcow2Options::new(256 << 10)));
    for name in ["same", "same", "1", "other"] {
        subject = with(subject, name);
    }
    let storage = Arc::new(MemoryStorage::new(subject.bytes.clone()));
    let ids = || {
        let header = Header::read(storage.as_ref()).unwrap();
        let snapshots = read_snapshots(storage.as_ref(), &header).unwrap();
        snapshots
            .into_iter()
            .map(|one| String::from_utf8(one.id).unwrap())
            .collect::<Vec<_>>()
    };
    Work::Delete("1").run(&storage).unwrap();
    assert_eq!(ids(), ["1", "2", "4"]);
    Work::Delete("same").run(&storage).unwrap();
    assert_eq!(ids(), ["2", "4"]);
    Work::Apply("2").run(&storage).unwrap();
    Work::Create.run(&storage).unwrap();
    assert_eq!(ids(), ["2", "4", "5"]);
    assert_clean(&storage.contents(), true);
}

/// Checks that snapshots of encrypted images need no key.
#[test]
fn snapshots_of_an_encrypted_image_keep_its_data() {
    let mut subject = empty(NewQcow2Options::new(256 << 10));
    subject.bytes[35] = 1;
    subject.encrypted = true;
    let subject = with_data(subject);
    let storage = Arc::new(MemoryStorage::new(with(subject, "one").bytes));
    let subject = Subject {
        bytes: storage.contents(),
        data: None,
        raw: false,
        encrypted: true,
        backing: None,
        inspect: None,
    };
    let before = subject.read(subject.bytes.clone());
    let image = subject.open(&storage);
    image.write_at(GuestOffset(0), &[9; 4096]).unwrap();
    image.close().unwrap();
    assert!(subject.read(storage.contents()) != before);
    Work::Apply("one").run(&storage).unwrap();
    assert!(subject.read(storage.contents()) == before);
    assert_clean(&storage.contents(), true);
}

/// Checks an L1 table of more clusters than one refcount block counts.
#[test]
fn a_long_l1_table_of_small_clusters_has_a_snapshot() {
    for (refcount_bits, size) in [(16, 1 << 30), (64, 1 << 29)] {
        let options = NewQcow2Options {
            cluster_size: 512,
            refcount_bits,
            ..NewQcow2Options::new(size)
        };
        let subject = with_data(empty(options));
        let storage = Arc::new(MemoryStorage::new(subject.bytes.clone()));
        Work::Create.run(&storage).unwrap();
        assert_clean(&storage.contents(), true);
        let image = subject.open(&storage);
        image.write_at(GuestOffset(512), &[9; 512]).unwrap();
        image.close().unwrap();
        assert_clean(&storage.contents(), true);
        for work in [Work::Apply("new"), Work::Delete("new")] {
            work.run(&storage).unwrap();
            assert_clean(&storage.contents(), true);
        }
        let mut sector = [0; 512];
        let image = subject.open(&storage);
        cowhide::formats::Image::read_at(&image, GuestOffset(512), &mut sector).unwrap();
        assert_eq!(sector, [0; 512]);
    }
}

#[test]
fn there_are_at_most_65536_snapshots() {
    let mut subject = with(with_data(empty(NewQcow2Options::new(256 << 10))), "one");
    let header = Header::read(&MemoryStorage::new(subject.bytes.clone())).unwrap();
    let [snapshot] =
        &read_snapshots(&MemoryStorage::new(subject.bytes.clone()), &header).unwrap()[..]
    else {
        panic!("not one snapshot");
    };
    let table = subject.bytes.len().next_multiple_of(65536);
    subject.bytes.resize(table, 0);
    subject.bytes.extend(snapshot.entry().repeat(65_536));
    subject.bytes[60..64].copy_from_slice(&65_536u32.to_be_bytes());
    subject.bytes[64..72].copy_from_slice(&(table as u64).to_be_bytes());
    let storage = Arc::new(MemoryStorage::new(subject.bytes.clone()).recording());
    let error = Work::Create.run(&storage).unwrap_err().to_string();
    assert_eq!(error, "File too large");
    assert_eq!(storage.recorded(), 0);
}

#[test]
fn tables_are_read_together_where_reads_wait() {
    let options = NewQcow2Options {
        cluster_size: 512,
        ..NewQcow2Options::new(4 << 20)
    };
    let subject = empty(options);
    let storage = Arc::new(MemoryStorage::new(subject.bytes.clone()));
    let image = subject.open(&storage);
    for table in 0..128 {
        image.write_at(GuestOffset(table << 15), &[1; 512]).unwrap();
    }
    image.close().unwrap();
    // The first reads take a while, which shows that reads wait. The others don't complete before 16 are in flight.
    let slow = Slowness {
        until_in_flight: 16,
        after: 30,
    };
    let storage = Arc::new(MemoryStorage::new(storage.contents()).slow(slow));
    Work::Create.run(&storage).unwrap();
    assert!(storage.most_in_flight() >= 16);
    assert_clean(&storage.contents(), true);
}
