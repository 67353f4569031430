//! Tests of changes of one bitmap: after a power cut or a failure, either all bitmaps are old or all are new.

use std::sync::Arc;

use cowhide::error::Result;
use cowhide::formats::bitmap_changes::BitmapChanges;
use cowhide::formats::driver::Load;
use cowhide::formats::qcow2::{Header, NewQcow2Options, Version};
use cowhide::formats::{Format, ImageFile};
use cowhide::storage::{MemoryStorage, Storage};

use crate::common::Noise;
use crate::empty;
use crate::power_cut::kept::{Kept, bitmaps, with_bitmaps, with_snapshot};
use crate::power_cut::{Subject, assert_clean, leftovers, with_each_failure};

/// A change of a bitmap.
#[derive(Debug, Clone, Copy)]
enum Step {
    Add(u64),
    Remove,
    Clear,
    Enable(bool),
    Merge(&'static str),
}

/// The name of a bitmap, and changes of it.
type Work = (&'static str, &'static [Step]);

const WORKS: [Work; 10] = [
    ("new", &[Step::Add(0)]),
    (
        "new",
        &[Step::Add(512), Step::Merge("coarse"), Step::Enable(false)],
    ),
    ("fine", &[Step::Remove]),
    ("fine", &[Step::Clear]),
    ("coarse", &[Step::Enable(false)]),
    ("old", &[Step::Enable(true), Step::Merge("fine")]),
    ("fine", &[Step::Merge("coarse"), Step::Merge("old")]),
    ("coarse", &[Step::Remove, Step::Add(1024)]),
    ("left", &[Step::Remove]),
    (
        "old",
        &[Step::Clear, Step::Merge("fine"), Step::Enable(true)],
    ),
];

fn image(storage: &Arc<MemoryStorage>) -> Result<Box<dyn ImageFile>> {
    let qcow2 = Format::from_name("qcow2").unwrap();
    let storage: Arc<dyn Storage> = Arc::<MemoryStorage>::clone(storage);
    qcow2.load(storage, Load::Use)
}

fn run(storage: &Arc<MemoryStorage>, (name, steps): Work) -> Result<()> {
    let image = image(storage)?;
    let mut changes = BitmapChanges::new(name.as_bytes(), image.size(), image.bitmaps())?;
    for step in steps {
        match step {
            Step::Add(granularity) => changes.add(*granularity, "x", image.as_ref())?,
            Step::Remove => changes.remove()?,
            Step::Clear => changes.clear()?,
            Step::Enable(enabled) => changes.enable(*enabled)?,
            Step::Merge(source) => changes.merge(source.as_bytes(), None)?,
        }
    }
    changes.store(true)
}

/// The bitmaps in order: name, granularity, flags, and bits.
type Listed = Vec<(String, u64, bool, bool, Vec<bool>)>;

fn listed(bytes: &[u8]) -> Listed {
    let all = bitmaps(bytes).into_iter().map(|bits| {
        let name = String::from_utf8(bits.bitmap.name).unwrap();
        let (auto, in_use) = (bits.bitmap.auto, bits.bitmap.in_use);
        (name, bits.bitmap.granularity, auto, in_use, bits.bits)
    });
    all.collect()
}

/// Returns the expected list after a change.
fn expected(before: &Listed, size: u64, (name, steps): Work) -> Listed {
    let mut all = before.clone();
    for step in steps {
        let at = all.iter().position(|one| one.0 == name);
        match (step, at) {
            (Step::Add(granularity), None) => {
                let granularity = if *granularity == 0 {
                    4096
                } else {
                    *granularity
                };
                let count = usize::try_from(size.div_ceil(granularity)).unwrap();
                all.push((name.into(), granularity, true, false, vec![false; count]));
            }
            (Step::Remove, Some(at)) => drop(all.remove(at)),
            (Step::Clear, Some(at)) => all[at].4.fill(false),
            (Step::Enable(enabled), Some(at)) => all[at].2 = *enabled,
            (Step::Merge(source), Some(at)) => {
                let source = before.iter().find(|one| one.0 == *source).unwrap();
                let granularity = all[at].1;
                for sector in 0..size / 512 {
                    let bit = |granularity| usize::try_from(sector * 512 / granularity).unwrap();
                    if source.4[bit(source.1)] {
                        all[at].4[bit(granularity)] = true;
                    }
                }
            }
            _ => panic!("{name}: {step:?}"),
        }
    }
    all
}

/// Returns an image with a snapshot and four bitmaps, one of which is left in use.
fn subject(cluster_size: u64, lazy_refcounts: bool, refcount_bits: u64) -> Subject {
    let options = NewQcow2Options {
        cluster_size,
        lazy_refcounts,
        refcount_bits,
        ..NewQcow2Options::new(1 << 18)
    };
    with_bitmaps(with_snapshot(empty(options)))
}

fn subjects() -> [Subject; 3] {
    [
        subject(512, false, 16),
        subject(4096, false, 64),
        subject(1024, true, 16),
    ]
}

/// Asserts that a result has the old or the new bitmaps. Returns true for the new ones.
fn old_or_new(subject: &Subject, left: &[u8], lists: [&Listed; 2], when: &str) -> bool {
    let left = assert_clean(left, false).unwrap_or_else(|| left.to_vec());
    let found = listed(&left);
    let [old, new] = lists;
    assert!(
        found == *new || found == *old,
        "{when}: neither old nor new"
    );
    let files = [left];
    let contents = subject.read(subject.bytes.clone());
    assert!(subject.read_files(&files) == contents, "{when}");
    Kept::of(subject).assert_same_snapshots(subject, &files);
    found == *new
}

#[test]
fn a_bitmap_survives_a_power_cut() {
    let mut noise = Noise(21);
    let mut seen = [0; 2];
    for subject in subjects() {
        let old = listed(&subject.bytes);
        for work in WORKS {
            let storage = Arc::new(MemoryStorage::new(subject.bytes.clone()).recording());
            run(&storage, work).unwrap();
            let done = storage.contents();
            assert_clean(&done, true);
            let new = listed(&done);
            let expected = expected(&old, 1 << 18, work);
            assert!(new == expected && new != old, "{work:?}");
            let record = storage.take_record();
            leftovers(
                &subject.bytes,
                &record,
                &mut noise,
                60,
                &mut |left, when| {
                    let when = format!("{work:?}: {when}");
                    seen[usize::from(old_or_new(&subject, left, [&old, &new], &when))] += 1;
                },
            );
        }
    }
    assert!(seen.iter().all(|count| *count > 300), "{seen:?}");
}

#[test]
fn a_failure_leaves_the_old_bitmaps_or_the_new_ones() {
    let mut seen = [0; 2];
    for subject in subjects() {
        let old = listed(&subject.bytes);
        for work in WORKS {
            let whole = Arc::new(MemoryStorage::new(subject.bytes.clone()));
            run(&whole, work).unwrap();
            let new = listed(&whole.contents());
            let work_on = |storage: &Arc<MemoryStorage>| run(storage, work);
            with_each_failure(&subject.bytes, &work_on, &mut |left, when| {
                let when = format!("{work:?}: {when}");
                seen[usize::from(old_or_new(&subject, left, [&old, &new], &when))] += 1;
            });
        }
    }
    assert!(seen.iter().all(|count| *count > 100), "{seen:?}");
}

#[test]
fn the_first_bitmap_comes_and_the_last_one_goes() {
    let mut noise = Noise(22);
    let without = with_snapshot(empty(NewQcow2Options::new(1 << 18)));
    let mut subject = Subject {
        bytes: without.bytes.clone(),
        ..without
    };
    for work in [("one", &[Step::Add(4096)][..]), ("one", &[Step::Remove])] {
        let old = listed(&subject.bytes);
        let storage = Arc::new(MemoryStorage::new(subject.bytes.clone()).recording());
        run(&storage, work).unwrap();
        let new = listed(&storage.contents());
        assert_eq!(new.len(), 1 - old.len());
        leftovers(
            &subject.bytes,
            &storage.take_record(),
            &mut noise,
            100,
            &mut |left, when| {
                old_or_new(&subject, left, [&old, &new], when);
            },
        );
        subject.bytes = storage.contents();
        assert_clean(&subject.bytes, true);
    }
    // A program has nothing to warn of afterwards.
    let storage = Arc::new(MemoryStorage::new(subject.bytes.clone()));
    assert!(image(&storage).unwrap().warnings().is_empty());
    let header = Header::read(storage.as_ref()).unwrap();
    let new = Header::read(&MemoryStorage::new(without_bitmaps())).unwrap();
    assert_eq!(header.extensions(), new.extensions());
}

fn without_bitmaps() -> Vec<u8> {
    empty(NewQcow2Options::new(1 << 18)).bytes
}

#[test]
fn what_is_refused_changes_no_bitmap() {
    let old = empty(NewQcow2Options {
        version: Version::V2,
        ..NewQcow2Options::new(1 << 18)
    });
    let huge = empty(NewQcow2Options::new(1 << 46));
    let long: &'static str = Box::leak("n".repeat(1024).into_boxed_str());
    let [with_some, ..] = subjects();
    let refused: [(&Subject, Work, &str); 11] = [
        (
            &old,
            ("x", &[Step::Add(0)]),
            "Can't make bitmap 'x' persistent in 'x': Cannot store dirty bitmaps in qcow2 v2 files",
        ),
        (
            &huge,
            ("x", &[Step::Add(512)]),
            "Too much space will be occupied by the bitmap. Use larger granularity",
        ),
        (
            &with_some,
            (long, &[Step::Add(0)]),
            "Name length exceeds maximum (1023 characters)",
        ),
        (
            &with_some,
            ("", &[Step::Add(0)]),
            "Bitmap name cannot be empty",
        ),
        (
            &with_some,
            ("fine", &[Step::Add(0)]),
            "Bitmap already exists: fine",
        ),
        (
            &with_some,
            ("x", &[Step::Add(768)]),
            "Granularity must be power of 2 and at least 512",
        ),
        (
            &with_some,
            ("x", &[Step::Add(1 << 32)]),
            "Granularity must be power of 2 and at least 512",
        ),
        (
            &with_some,
            ("x", &[Step::Add(0), Step::Merge("nope")]),
            "Dirty bitmap 'nope' not found",
        ),
        (
            &with_some,
            ("fine", &[Step::Clear, Step::Merge("left")]),
            "Bitmap 'left' is inconsistent and cannot be used",
        ),
        (
            &with_some,
            ("left", &[Step::Enable(true)]),
            "Bitmap 'left' is inconsistent and cannot be used",
        ),
        (
            &with_some,
            ("fine", &[Step::Remove, Step::Clear]),
            "Dirty bitmap 'fine' not found",
        ),
    ];
    for (subject, work, message) in refused {
        let storage = Arc::new(MemoryStorage::new(subject.bytes.clone()).recording());
        let error = run(&storage, work).unwrap_err().to_string();
        assert!(error.contains(message), "{work:?}: {error}");
        assert_eq!(storage.recorded(), 0, "{work:?}");
    }
    // A request without any change writes nothing.
    let nothing: [Work; 3] = [
        ("fine", &[Step::Enable(true)]),
        ("fine", &[Step::Merge("fine")]),
        ("x", &[Step::Add(0), Step::Remove]),
    ];
    for work in nothing {
        let storage = Arc::new(MemoryStorage::new(with_some.bytes.clone()).recording());
        run(&storage, work).unwrap();
        assert_eq!(storage.recorded(), 0, "{work:?}");
    }
}
