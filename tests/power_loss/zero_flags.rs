//! Tests of the removal of zero flags for version 2: after a power cut or a failure, the disk and every snapshot read
//! as before.

use std::sync::Arc;

use cowhide::error::Result;
use cowhide::formats::WritableImage as _;
use cowhide::formats::qcow2::snapshots::read_snapshots;
use cowhide::formats::qcow2::write::remove_zero_flags;
use cowhide::formats::qcow2::{Backing, Header, NewQcow2Options};
use cowhide::formats::raw::RawImage;
use cowhide::storage::{MemoryStorage, Storage};
use cowhide::units::GuestOffset;

use crate::common::Noise;
use crate::empty;
use crate::power_cut::kept::with_data;
use crate::power_cut::{Subject, assert_clean, leftovers, with_each_failure};
use crate::snapshots::{State, with};

fn run(storage: &Arc<MemoryStorage>) -> Result<()> {
    let header = Header::read(storage.as_ref())?;
    let storage: Arc<dyn Storage> = Arc::<MemoryStorage>::clone(storage);
    remove_zero_flags(&storage, &header, true)
}

/// Zeroes some parts: unallocated zero clusters, and preallocated ones, which a snapshot may share.
fn zeroed(subject: Subject, noise: &mut Noise) -> Subject {
    let storage = Arc::new(MemoryStorage::new(subject.bytes.clone()));
    let image = subject.open(&storage);
    for round in 0..8 {
        let offset = GuestOffset(noise.below(240) * 1024);
        if round % 3 == 0 {
            image.write_at(offset, &noise.bytes(1024)).unwrap();
        } else {
            image.write_zeroes(offset, 8 << 10, round % 2 == 0).unwrap();
        }
    }
    image.close().unwrap();
    Subject {
        bytes: storage.contents(),
        ..subject
    }
}

/// Returns images of 256 KiB with two snapshots, with and without a backing file.
fn subjects(noise: &mut Noise) -> Vec<Subject> {
    let mut subjects = Vec::new();
    for (cluster_size, backed) in [(512, false), (1024, true), (4096, false), (4096, true)] {
        let size = 256 << 10;
        let below = Arc::new(MemoryStorage::new(noise.bytes(size)));
        let new = empty(NewQcow2Options {
            cluster_size,
            backing: backed.then(|| Backing {
                name: b"below".to_vec(),
                format: None,
                size: size as u64,
            }),
            ..NewQcow2Options::new(size as u64)
        });
        let backing = backed.then(|| Arc::new(RawImage::open(below).unwrap()) as _);
        let subject = with_data(Subject { backing, ..new });
        let subject = with(zeroed(subject, noise), "one");
        let subject = with(zeroed(subject, noise), "two");
        subjects.push(zeroed(subject, noise));
    }
    subjects
}

/// Asserts that an image has its old contents, now and after its repair.
fn assert_kept(subject: &Subject, left: &[u8], before: &State, when: &str) {
    assert!(State::of(subject, left) == *before, "{when}");
    if let Some(repaired) = assert_clean(left, false) {
        assert!(State::of(subject, &repaired) == *before, "{when}: repaired");
    }
}

/// Returns the number of L2 entries with the flag, in all tables.
fn flags(bytes: &[u8]) -> usize {
    let storage = MemoryStorage::new(bytes.to_vec());
    let header = Header::read(&storage).unwrap();
    let snapshots = read_snapshots(&storage, &header).unwrap();
    let geometry = header.geometry();
    let tables = snapshots.iter().map(|one| one.l1_table(geometry).unwrap());
    let word = |at: u64| {
        let at = usize::try_from(at).unwrap();
        u64::from_be_bytes(bytes[at..at + 8].try_into().unwrap())
    };
    let entries = tables
        .chain([header.l1()])
        .flat_map(|l1| (0..l1.entries).map(move |index| word(l1.host.0 + index * 8)));
    let hosts = entries.map(|entry| entry & 0x00ff_ffff_ffff_fe00);
    let words = geometry.cluster_size() / 8;
    hosts
        .filter(|host| *host != 0)
        .flat_map(|host| (0..words).map(move |index| word(host + index * 8)))
        .filter(|entry| entry >> 62 & 1 == 0 && entry & 1 != 0)
        .count()
}

#[test]
fn flags_go_and_nothing_else_changes_when_the_power_is_cut() {
    let mut noise = Noise(31);
    for subject in subjects(&mut noise) {
        let before = State::of(&subject, &subject.bytes);
        assert!(flags(&subject.bytes) > 8);
        let storage = Arc::new(MemoryStorage::new(subject.bytes.clone()).recording());
        run(&storage).unwrap();
        let done = storage.contents();
        assert_clean(&done, true);
        assert_eq!(flags(&done), 0);
        assert!(State::of(&subject, &done) == before);
        let record = storage.take_record();
        let mut seen = 0;
        leftovers(
            &subject.bytes,
            &record,
            &mut noise,
            100,
            &mut |left, when| {
                seen += 1;
                assert_kept(&subject, left, &before, when);
            },
        );
        assert!(seen > 100, "{seen}");
    }
}

#[test]
fn a_failure_changes_nothing_that_is_read() {
    let mut noise = Noise(32);
    for subject in subjects(&mut noise) {
        let before = State::of(&subject, &subject.bytes);
        with_each_failure(&subject.bytes, &run, &mut |left, when| {
            assert_kept(&subject, left, &before, when);
        });
    }
}
