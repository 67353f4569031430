//! Tests of commits: an image's data is written into its backing file, and the image is emptied.

use std::sync::{Arc, Mutex};

use cowhide::convert::{self, Settings};
use cowhide::error::Result;
use cowhide::formats::driver::{Parts, WriteParts};
use cowhide::formats::qcow2::Version;
use cowhide::formats::{Chain, Image, OverwriteOptions, SharedSpace, ZeroImage};
use cowhide::storage::{Change, Fault, MemoryStorage, Operation, Storage};
use cowhide::units::GuestOffset;

use crate::common::Noise;
use crate::power_cut::{Log, Logged, assert_clean, lossy_cut};
use crate::{KINDS, Kind, chain, image, kind, load, open, read};

const SIZE: u64 = 300 << 10;

/// An image with a backing chain.
struct Subject {
    base: Vec<u8>,
    top: Vec<u8>,
    below: Option<Arc<Chain>>,
    /// Blocks are shared, in this space of the base.
    shares: Option<SharedSpace>,
}

fn subject(kinds: [Kind; 2], noise: &mut Noise) -> Subject {
    let below = match noise.below(2) {
        0 => None,
        _ => chain(&[SIZE - 512, 100 << 10], noise),
    };
    let over = below
        .clone()
        .map(|below| ("below", below as Arc<dyn Image>));
    let base = image(kinds[0], SIZE, over, noise);
    let over = over_base(&base, below.as_ref());
    let top = image(kinds[1], SIZE, Some(("base", over)), noise);
    let shares = [None, Some(SharedSpace::New), Some(SharedSpace::All)][noise.pick(3)];
    Subject {
        base,
        top,
        below,
        shares,
    }
}

fn over_base(base: &[u8], below: Option<&Arc<Chain>>) -> Arc<Chain> {
    let below = below.map(|below| Arc::clone(below) as Arc<dyn Image>);
    Arc::new(Chain::new(open(base), below.into_iter().collect()))
}

impl Subject {
    /// Commits the image to its backing file, and empties it.
    fn commit<S: Storage + 'static>(&self, base: &Arc<S>, top: &Arc<S>) -> Result<()> {
        let source = Chain::new(load(top).open(Parts::default())?, Vec::new());
        let parts = WriteParts {
            backing: self.below.clone().map(|below| below as Arc<dyn Image>),
            flush: true,
            ..WriteParts::default()
        };
        let options = OverwriteOptions {
            leaves_parts: true,
            source_goes: self.shares == Some(SharedSpace::All),
            ..OverwriteOptions::default()
        };
        let target = load(base).write_over(parts, source.size(), options)?;
        let settings = Settings {
            leave_unallocated: true,
            ..Settings::default()
        };
        convert::copy(&source, target.as_ref(), settings, &())?;
        load(top).make_empty(WriteParts {
            backing: Some(Arc::new(ZeroImage { size: SIZE })),
            flush: true,
            ..WriteParts::default()
        })
    }

    /// Returns the two files in memory.
    fn files(&self) -> [MemoryStorage; 2] {
        [&self.base, &self.top].map(|bytes| match self.shares {
            Some(_) => MemoryStorage::new(bytes.clone()).sharing(),
            None => MemoryStorage::new(bytes.clone()),
        })
    }

    fn read(&self, base: &[u8], top: &[u8]) -> Vec<u8> {
        read(top, Some(&over_base(base, self.below.as_ref())))
    }

    fn before(&self) -> Vec<u8> {
        self.read(&self.base, &self.top)
    }

    /// Asserts that the image's disk is unchanged, and that both files can be used.
    fn assert_kept(&self, before: &[u8], [base, top]: [&[u8]; 2], what: &str) {
        assert_clean(base, false);
        assert_clean(top, false);
        assert!(self.read(base, top) == before, "{what}");
    }
}

#[test]
fn the_disk_moves_down() {
    let mut noise = Noise(1);
    let mut shared = [0; 3];
    for round in 0..100 {
        let kinds = [KINDS[round % 5], KINDS[round / 5 % 5]];
        let subject = subject(kinds, &mut noise);
        let what = format!("round {round}: {kinds:?}");
        let before = subject.before();
        let [base, top] = subject.files().map(Arc::new);
        subject.commit(&base, &top).unwrap();
        assert!(subject.shares.is_some() || base.shared() == 0, "{what}");
        let space = subject
            .shares
            .map_or(0, |space| 1 + usize::from(space == SharedSpace::All));
        shared[space] += base.shared();
        let (base, top) = (base.contents(), top.contents());
        assert_clean(&base, true);
        assert_clean(&top, true);
        assert!(subject.read(&base, &top) == before, "{what}");
        assert!(read(&base, subject.below.as_ref()) == before, "{what}");
        // Only the header, refcounts and the L1 table remain.
        let empty = open(&top);
        let offset = GuestOffset(0);
        let extent = empty.extent_at(offset, u64::MAX).unwrap();
        assert_eq!(extent.length, SIZE, "{what}");
        assert!(
            top.len() <= 6 * usize::try_from(kinds[1].cluster_size).unwrap(),
            "{what}"
        );
    }
    let [none, new, all] = shared;
    assert!(none == 0 && new > 256 << 10 && all > new, "{shared:?}");
}

/// Space that the base has already may have been reserved for it, and stays its own while the image keeps its blocks.
#[test]
fn the_space_of_the_base_is_shared_only_with_an_image_that_is_emptied() {
    let mut noise = Noise(4);
    let kind = kind(4096, Version::V3, false);
    let full = |noise: &mut Noise, over: Option<(&str, Arc<dyn Image>)>| {
        let backing = over.clone().map(|(_, over)| over);
        let storage = Arc::new(MemoryStorage::new(image(kind, SIZE, over, noise)));
        let parts = WriteParts {
            backing,
            ..WriteParts::default()
        };
        let disk = load(&storage).open_writable(parts).unwrap();
        let bytes = noise.bytes(usize::try_from(SIZE).unwrap());
        disk.write_at(GuestOffset(0), &bytes).unwrap();
        disk.close().unwrap();
        storage.contents()
    };
    let base = full(&mut noise, None);
    let over = over_base(&base, None) as Arc<dyn Image>;
    let top = full(&mut noise, Some(("base", over)));
    for (space, shared) in [(SharedSpace::New, 0), (SharedSpace::All, SIZE)] {
        let subject = Subject {
            base: base.clone(),
            top: top.clone(),
            below: None,
            shares: Some(space),
        };
        let before = subject.before();
        let [base, top] = subject.files().map(Arc::new);
        subject.commit(&base, &top).unwrap();
        assert_eq!(base.shared(), shared, "{space:?}");
        subject.assert_kept(&before, [&base.contents(), &top.contents()], "shared");
    }
}

#[test]
fn a_power_cut_leaves_the_disk_what_it_was() {
    let mut noise = Noise(2);
    let mut cuts = 0;
    for round in 0..25 {
        let kinds = [KINDS[round % 5], KINDS[round / 5 % 5]];
        let subject = subject(kinds, &mut noise);
        let before = subject.before();
        let log: Log = Arc::new(Mutex::new(Vec::new()));
        let files = [&subject.base, &subject.top];
        let [base, top] = subject.files();
        let base = Arc::new(Logged::of_memory(0, base, &log));
        let top = Arc::new(Logged::of_memory(1, top, &log));
        subject.commit(&base, &top).unwrap();
        let record = std::mem::take(&mut *log.lock().unwrap());
        let originals = files.map(Clone::clone);
        let mut left = originals.clone();
        for (at, (file, change)) in record.iter().enumerate() {
            let what = format!("round {round}, {kinds:?}: cut after {at} changes");
            if !matches!(change, Change::Flush) {
                change.apply(&mut left[*file]);
                subject.assert_kept(&before, [&left[0], &left[1]], &what);
                cuts += 1;
            }
        }
        for _ in 0..40 {
            let cut = usize::try_from(noise.below(record.len() as u64)).unwrap() + 1;
            let (left, durable) = lossy_cut(&originals, &record, cut, &mut noise);
            let what = format!("round {round}, {kinds:?}: cut after {cut}, {durable} durable");
            subject.assert_kept(&before, [&left[0], &left[1]], &what);
            cuts += 1;
        }
    }
    assert!(cuts > 1500, "{cuts}");
}

#[test]
fn an_operation_that_fails_loses_nothing() {
    let mut noise = Noise(3);
    let mut failed = 0;
    for round in 0..10 {
        let kinds = [KINDS[round % 5], KINDS[(round + 1) % 5]];
        let subject = subject(kinds, &mut noise);
        let before = subject.before();
        for operation in [
            Operation::Read,
            Operation::Write,
            Operation::SetLen,
            Operation::Flush,
        ] {
            for (file, nth) in (0..2).flat_map(|file| (1..200).map(move |nth| (file, nth))) {
                // The test reads the header itself.
                if operation == Operation::Read && nth < 5 {
                    continue;
                }
                let fault = Fault {
                    operation,
                    nth,
                    errno: 5,
                };
                let mut memory = subject.files();
                memory[file] = std::mem::take(&mut memory[file]).with_fault(fault);
                let [base, top] = memory.map(Arc::new);
                let done = subject.commit(&base, &top);
                let what = format!("round {round}, {kinds:?}, {operation:?} {nth}: {done:?}");
                let left = [base.contents(), top.contents()];
                subject.assert_kept(&before, [&left[0], &left[1]], &what);
                failed += usize::from(done.is_err());
                if done.is_err() {
                    let [base, top] = left.map(|bytes| Arc::new(MemoryStorage::new(bytes)));
                    subject.commit(&base, &top).unwrap();
                    let left = [base.contents(), top.contents()];
                    subject.assert_kept(&before, [&left[0], &left[1]], &what);
                } else if [&base, &top][file].count(operation) < nth {
                    break;
                }
            }
        }
    }
    assert!(failed > 200, "{failed}");
}
