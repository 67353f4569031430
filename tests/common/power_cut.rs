//! Random work on an image in use, held against a model; and power cuts in the middle of it.
//!
//! The image is in memory, which records its changes. What a power cut may leave is everything before
//! the last flush and any part of what came after it: some of the writes, whole or torn at sectors.
//! Whatever it leaves must open, have no damage but leaks, and hold of every sector what it held at
//! the image's own last flush, or one of the things that were written since.
#![allow(dead_code, reason = "each test program uses some of it")]

use std::sync::Arc;

use cowhide::crypto::{AesCbc, Backend};
use cowhide::error::ErrorKind;
use cowhide::formats::qcow2::write::OpenOptions;
use cowhide::formats::qcow2::{self, Header, Qcow2Image, WritableQcow2, features};
use cowhide::formats::{Chain, Image, WritableImage};
use cowhide::storage::{Change, MemoryStorage, Storage};
use cowhide::units::GuestOffset;

use crate::common::Noise;

const SECTOR: usize = 512;

/// The password of encrypted images, as the key that it is.
pub const KEY: &[u8; 16] = b"correct horse ba";

/// An image to work on.
pub struct Subject {
    /// The file.
    pub bytes: Vec<u8>,
    /// Whether it is encrypted with [`KEY`].
    pub encrypted: bool,
    /// What its backing file holds, where it has one.
    pub backing: Option<Arc<dyn Image>>,
    /// Whoever else looks at what a power cut left: one in so many, how.
    pub inspect: Option<(u64, Inspect)>,
}

/// Looks at the bytes of an image, and panics if they are wrong.
pub type Inspect = Box<dyn Fn(&[u8])>;

/// One thing that was done.
struct Step {
    /// How many changes had been recorded before it.
    recorded: usize,
    start: usize,
    length: usize,
    /// The bytes that may be there afterwards, besides those of before; `None` for zeroes.
    data: Option<Vec<u8>>,
}

/// The image's contents as of a flush.
struct Flushed {
    /// How many changes had been recorded when it was done.
    recorded: usize,
    /// How many steps had been done.
    steps: usize,
    contents: Vec<u8>,
}

impl Subject {
    fn cipher(&self) -> Option<AesCbc> {
        self.encrypted.then(|| AesCbc::new(KEY, Backend::detect()))
    }

    pub fn open<S: Storage + 'static>(&self, storage: &Arc<S>) -> WritableQcow2 {
        let storage: Arc<dyn Storage> = Arc::<S>::clone(storage);
        let header = Header::read(storage.as_ref()).unwrap();
        let options = OpenOptions {
            cipher: self.cipher(),
            backing: self.backing.clone(),
            ..OpenOptions::default()
        };
        WritableQcow2::open(storage, &header, options).unwrap()
    }

    /// What a reader finds in such a file.
    pub fn read(&self, bytes: Vec<u8>) -> Vec<u8> {
        let storage = Arc::new(MemoryStorage::new(bytes));
        let header = Header::read(storage.as_ref()).unwrap();
        let image = Qcow2Image::open(storage, header, self.cipher()).unwrap();
        let below = self.backing.iter().cloned().collect();
        let image = Chain::new(Arc::new(image), below);
        let mut contents = vec![0; usize::try_from(image.size()).unwrap()];
        image.read_at(GuestOffset(0), &mut contents).unwrap();
        contents
    }

    /// Does `count` random things, comparing what the image itself reads with the model, flushing now
    /// and then; closes the image. Then cuts the power at every change, and `torn` times at random
    /// ones with part of what wasn't flushed lost.
    pub fn work_and_cut(&self, seed: u64, count: usize, torn: usize) -> Vec<u8> {
        let mut noise = Noise(seed);
        let storage = Arc::new(MemoryStorage::new(self.bytes.clone()).recording());
        let image = self.open(&storage);
        let mut model = self.read(self.bytes.clone());
        let mut steps = Vec::new();
        let mut flushed = vec![Flushed {
            recorded: 0,
            steps: 0,
            contents: model.clone(),
        }];
        let mut written = Vec::new();
        for number in 0..count {
            let step = step(
                &image,
                &mut noise,
                &mut model,
                &mut written,
                storage.recorded(),
            );
            steps.push(step);
            if noise.below(6) == 0 || number + 1 == count {
                if number + 1 == count {
                    image.close().unwrap();
                } else {
                    image.flush().unwrap();
                }
                flushed.push(Flushed {
                    recorded: storage.recorded(),
                    steps: steps.len(),
                    contents: model.clone(),
                });
            }
        }
        let record = storage.take_record();
        let last = storage.contents();
        assert_clean(&last, true);
        assert!(self.read(last.clone()) == model, "seed {seed}: read back");

        let cuts = Cuts {
            subject: self,
            seed,
            record: &record,
            steps: &steps,
            flushed: &flushed,
        };
        cuts.at_every_change();
        cuts.torn(&mut noise, torn);
        last
    }
}

/// Does one thing, and looks at it.
fn step(
    image: &WritableQcow2,
    noise: &mut Noise,
    model: &mut [u8],
    written: &mut Vec<(usize, usize)>,
    recorded: usize,
) -> Step {
    let size = model.len();
    let sectors = |bytes: usize| (bytes / SECTOR) as u64;
    // Often where something was written before, and mostly short.
    let start = match written.get(usize::try_from(noise.next()).unwrap() % (written.len() + 1)) {
        Some((start, _)) if noise.below(2) == 0 => *start,
        _ => usize::try_from(noise.below(sectors(size))).unwrap() * SECTOR,
    };
    let most = if noise.below(5) == 0 {
        size / 3
    } else {
        size / 40
    };
    let length = usize::try_from(1 + noise.below(sectors(most).max(1))).unwrap() * SECTOR;
    let length = length.min(size - start);
    let offset = GuestOffset(start as u64);
    let place = start..start + length;
    written.push((start, length));
    let mut data = None;
    match noise.below(8) {
        0 => {
            let may_unmap = noise.below(2) == 0;
            image
                .write_zeroes(offset, length as u64, may_unmap)
                .unwrap();
            model[place.clone()].fill(0);
        }
        1 => {
            image.discard(offset, length as u64).unwrap();
            let mut now = vec![1; length];
            image.read_at(offset, &mut now).unwrap();
            for (old, new) in model[place.clone()].chunks(SECTOR).zip(now.chunks(SECTOR)) {
                assert!(new == old || new.iter().all(|byte| *byte == 0), "discard");
            }
            model[place.clone()].copy_from_slice(&now);
        }
        2 if image.check_compression().is_ok() => {
            let number = noise.next() as u8;
            let bytes: Vec<u8> = (0..length).map(|at| number ^ (at / 700) as u8).collect();
            image.write_compressed(offset, &bytes).unwrap();
            model[place.clone()].copy_from_slice(&bytes);
            data = Some(bytes);
        }
        _ => {
            let bytes = noise.bytes(length);
            image.write_at(offset, &bytes).unwrap();
            model[place.clone()].copy_from_slice(&bytes);
            data = Some(bytes);
        }
    }
    let around = start.saturating_sub(64 * SECTOR)..(start + length + 64 * SECTOR).min(size);
    let mut now = vec![1; around.len()];
    image
        .read_at(GuestOffset(around.start as u64), &mut now)
        .unwrap();
    assert!(now == model[around], "what was written isn't read");
    Step {
        recorded,
        start,
        length,
        data,
    }
}

/// Asserts that a file is a whole image, without damage but leaks, and without those when `closed`.
pub fn assert_clean(bytes: &[u8], closed: bool) {
    let storage = MemoryStorage::new(bytes.to_vec());
    let header = Header::read(&storage).unwrap();
    assert!(!header.has_incompatible(features::CORRUPT));
    if header.has_incompatible(features::DIRTY) {
        assert!(!closed, "dirty when closed");
        // Its refcounts may be anything; they are repaired when it is opened for writing.
        qcow2::repair_dirty(&storage, &header).unwrap();
        return assert_clean(&storage.contents(), true);
    }
    let mut findings = Vec::new();
    let report = qcow2::check(&storage, &header, &mut |finding| {
        findings.push(finding.to_string());
    });
    let report = match report {
        // Then those who inspect have to find it.
        Err(error) if error.kind() == ErrorKind::Unsupported => return,
        other => other.unwrap(),
    };
    assert_eq!(report.corruptions, 0, "{findings:#?}");
    assert!(!closed || report.leaks == 0, "{findings:#?}");
}

/// Makes everything that a power cut may leave of changes to a file: all up to one of them; that one torn
/// at each of its sectors, from either end; and `lossy` times, some of what wasn't flushed lost. `look`
/// is told when the power was cut.
pub fn leftovers(
    before: &[u8],
    record: &[Change],
    noise: &mut Noise,
    lossy: usize,
    look: &mut dyn FnMut(&[u8], &str),
) {
    let mut bytes = before.to_vec();
    for (at, change) in record.iter().enumerate() {
        look(&bytes, &format!("cut after {at} changes"));
        if let Change::Write(offset, data) = change {
            let sectors = data.len().div_ceil(SECTOR);
            // Of long writes, some.
            let step = sectors / 16 + 1;
            for sector in (1..sectors).step_by(step) {
                let (head, tail) = data.split_at(sector * SECTOR);
                let parts = [(0, head), (head.len(), tail)];
                for (skipped, part) in parts {
                    let mut torn = bytes.clone();
                    Change::Write(offset + skipped as u64, part.to_vec()).apply(&mut torn);
                    look(&torn, &format!("torn at sector {sector} of change {at}"));
                }
            }
        }
        change.apply(&mut bytes);
    }
    look(&bytes, "all was done");
    if record.is_empty() {
        return;
    }
    for _ in 0..lossy {
        let cut = usize::try_from(noise.below(record.len() as u64)).unwrap() + 1;
        let (bytes, durable) = lossy_cut(before, record, cut, noise);
        look(
            &bytes,
            &format!("cut after {cut} changes, {durable} durable"),
        );
    }
}

/// What may be left when the power is cut after so many changes: all up to the last flush, and of
/// what follows any part. How many changes are there for sure, too.
fn lossy_cut(before: &[u8], record: &[Change], cut: usize, noise: &mut Noise) -> (Vec<u8>, usize) {
    let flush = record[..cut]
        .iter()
        .rposition(|change| *change == Change::Flush);
    let durable = flush.map_or(0, |flush| flush + 1);
    let mut bytes = before.to_vec();
    for change in &record[..durable] {
        change.apply(&mut bytes);
    }
    let mode = noise.below(3);
    for change in &record[durable..cut] {
        match change {
            Change::Write(offset, data) if mode > 0 => {
                for (sector, part) in data.chunks(SECTOR).enumerate() {
                    if noise.below(1 + mode) > 0 {
                        let offset = offset + (sector * SECTOR) as u64;
                        Change::Write(offset, part.to_vec()).apply(&mut bytes);
                    }
                }
            }
            _ if noise.below(2) == 0 => change.apply(&mut bytes),
            _ => {}
        }
    }
    (bytes, durable)
}

/// What is needed to cut the power somewhere.
struct Cuts<'a> {
    subject: &'a Subject,
    seed: u64,
    record: &'a [Change],
    steps: &'a [Step],
    flushed: &'a [Flushed],
}

impl Cuts<'_> {
    /// After every change (of big images: some hundred of them), with everything before it on the disk.
    fn at_every_change(&self) {
        let mut bytes = self.subject.bytes.clone();
        let size = self.flushed.first().map_or(0, |first| first.contents.len());
        let every = if size > 1 << 20 {
            self.record.len() / 200 + 1
        } else {
            1
        };
        for (at, change) in self.record.iter().enumerate() {
            change.apply(&mut bytes);
            if *change != Change::Flush && at.is_multiple_of(every) {
                self.examine(&bytes, at + 1, at + 1);
            }
        }
    }

    /// Before every flush, when most is at stake, and at random changes: with some of what wasn't flushed
    /// lost.
    fn torn(&self, noise: &mut Noise, count: usize) {
        let flushes = self.record.iter().enumerate();
        let flushes = flushes.filter(|(_, change)| **change == Change::Flush);
        let flushes: Vec<usize> = flushes.map(|(at, _)| at).collect();
        let last = self.record.len() as u64;
        let at_random = (0..count).map(|_| usize::try_from(noise.below(last)).unwrap() + 1);
        let cuts: Vec<usize> = [&flushes[..], &flushes].concat();
        for cut in cuts.into_iter().chain(at_random.collect::<Vec<_>>()) {
            let (bytes, durable) = lossy_cut(&self.subject.bytes, self.record, cut, noise);
            self.examine(&bytes, durable, cut);
        }
    }

    /// Looks at what was left: `durable` changes for sure, and some of those up to `cut`.
    fn examine(&self, bytes: &[u8], durable: usize, cut: usize) {
        let what = || {
            format!(
                "seed {}, cut after {cut} changes, {durable} durable",
                self.seed
            )
        };
        let examined = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            assert_clean(bytes, false);
            if let Some((one_in, inspect)) = &self.subject.inspect
                && ((durable + cut) as u64).is_multiple_of(*one_in)
            {
                inspect(bytes);
            }
            self.subject.read(bytes.to_vec())
        }));
        let contents = examined.unwrap_or_else(|_| panic!("{}", what()));
        let flushed = self.flushed.iter().rev();
        let flushed = flushed.clone().find(|flushed| flushed.recorded <= durable);
        let flushed = flushed.unwrap();
        let since = self.steps[flushed.steps..]
            .iter()
            .take_while(|step| step.recorded <= cut);
        let since: Vec<&Step> = since.collect();
        let sectors = contents.chunks(SECTOR).zip(flushed.contents.chunks(SECTOR));
        for (number, (found, before)) in sectors.enumerate() {
            if found == before {
                continue;
            }
            let at = number * SECTOR;
            let covers = |step: &&&Step| (step.start..step.start + step.length).contains(&at);
            let known = since.iter().filter(covers).any(|step| match &step.data {
                Some(data) => data[at - step.start..at - step.start + SECTOR] == *found,
                None => found.iter().all(|byte| *byte == 0),
            });
            assert!(known, "{}: sector {number} is neither old nor new", what());
        }
    }
}
