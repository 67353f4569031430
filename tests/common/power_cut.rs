//! Random work on an image in use, which is compared with a model, and power cuts in the middle of it.
//!
//! The image is in memory, which records its changes. A power cut keeps everything before the last flush, and any
//! part of the later changes: some of the writes, complete or torn at sectors. The result must open, have no damage
//! but leaks, and have in every sector the contents at the image's last flush, or something that was written since.
//!
//! An external data file is a second file in the same record: a flush of one doesn't flush the other. [`kept`] checks
//! internal snapshots and bitmaps.
#![allow(dead_code, reason = "each test program uses some of it")]

#[path = "kept.rs"]
pub mod kept;

use std::ops::Range;
use std::sync::{Arc, Mutex};

use cowhide::crypto::Backend;
use cowhide::error::{ErrorKind, Result};
use cowhide::formats::encryption::{Cipher, LegacyAes};
use cowhide::formats::qcow2::write::Qcow2WriteParts;
use cowhide::formats::qcow2::{self, Header, Qcow2Image, ReadOptions, WritableQcow2, features};
use cowhide::formats::{Chain, Image, WritableImage};
use cowhide::storage::{Change, Fault, MemoryStorage, NotShared, Operation, Storage};
use cowhide::units::GuestOffset;

use crate::common::Noise;
use kept::Kept;

const SECTOR: usize = 512;

/// The password of encrypted images, which is the key.
pub const KEY: &[u8; 16] = b"correct horse ba";

/// An image to work on.
pub struct Subject {
    /// The file.
    pub bytes: Vec<u8>,
    /// Its external data file, if it has one.
    pub data: Option<Vec<u8>>,
    /// True if the data file must be a raw image of the disk at all times.
    pub raw: bool,
    /// True if it is encrypted with [`KEY`].
    pub encrypted: bool,
    /// The disk of its backing file, if it has one.
    pub backing: Option<Arc<dyn Image>>,
    /// A further check of the result of a power cut, which is called for one in the given number of cuts.
    pub inspect: Option<(u64, Inspect)>,
}

/// A check of the bytes of an image, which panics if they are wrong.
pub type Inspect = Box<dyn Fn(&[u8])>;

/// A step of the work.
struct Step {
    /// The number of changes that were recorded before it.
    recorded: usize,
    start: usize,
    length: usize,
    /// The bytes that may be there afterwards, besides the old ones. `None` stands for zeroes.
    data: Option<Vec<u8>>,
}

/// The image's contents at a flush.
struct Flushed {
    /// The number of changes that were recorded before it completed.
    recorded: usize,
    /// The number of steps that were done.
    steps: usize,
    contents: Vec<u8>,
}

impl Subject {
    pub fn cipher(&self) -> Option<Cipher> {
        self.encrypted
            .then(|| LegacyAes::with_key(KEY, Backend::detect()))
    }

    pub fn open<S: Storage + 'static>(&self, storage: &Arc<S>) -> WritableQcow2 {
        self.open_with(storage, None)
    }

    pub fn open_with<S: Storage + 'static>(
        &self,
        storage: &Arc<S>,
        data: Option<Arc<dyn Storage>>,
    ) -> WritableQcow2 {
        let storage: Arc<dyn Storage> = Arc::<S>::clone(storage);
        let header = Header::read(storage.as_ref()).unwrap();
        let options = Qcow2WriteParts {
            cipher: self.cipher(),
            data,
            backing: self.backing.clone(),
            ..Qcow2WriteParts::default()
        };
        WritableQcow2::open(storage, &header, options).unwrap()
    }

    /// Returns the disk of such an image.
    pub fn read(&self, bytes: Vec<u8>) -> Vec<u8> {
        self.read_files(&[bytes])
    }

    /// Returns the image's file, and its external data file if it has one.
    pub fn files(&self) -> Vec<Vec<u8>> {
        let files = [Some(&self.bytes), self.data.as_ref()];
        files.into_iter().flatten().cloned().collect()
    }

    pub fn read_files(&self, files: &[Vec<u8>]) -> Vec<u8> {
        let storage = Arc::new(MemoryStorage::new(files[0].clone()));
        let header = Header::read(storage.as_ref()).unwrap();
        self.read_at(&storage, header, files)
    }

    /// Returns the disk by a header, which may be that of a snapshot.
    pub fn read_at(
        &self,
        storage: &Arc<MemoryStorage>,
        header: Header,
        files: &[Vec<u8>],
    ) -> Vec<u8> {
        let storage = Arc::<MemoryStorage>::clone(storage);
        let data = files.get(1);
        let options = ReadOptions {
            cipher: self.cipher(),
            data: data.map(|data| Arc::new(MemoryStorage::new(data.clone())) as _),
            salvage: false,
        };
        let image = Qcow2Image::open_with(storage, &header, options).unwrap();
        let below = self.backing.iter().cloned().collect();
        let image = Chain::new(Arc::new(image), below);
        let mut contents = vec![0; usize::try_from(image.size()).unwrap()];
        image.read_at(GuestOffset(0), &mut contents).unwrap();
        contents
    }

    /// Does `count` random steps with some flushes, compares reads with the model, and closes the image. Then cuts
    /// the power at every change, and `torn` times at random ones with a part of the unflushed changes lost.
    pub fn work_and_cut(&self, seed: u64, count: usize, torn: usize) -> Vec<u8> {
        let mut noise = Noise(seed);
        let log = Log::default();
        let files = self.files();
        let files: Vec<Arc<Logged>> = (0..)
            .zip(files)
            .map(|(file, bytes)| Arc::new(Logged::new(file, bytes, &log)))
            .collect();
        let data = files.get(1).map(|data| {
            let data: Arc<dyn Storage> = Arc::<Logged>::clone(data);
            data
        });
        let image = self.open_with(&files[0], data);
        let recorded = || log.lock().unwrap().len();
        let mut model = self.read_files(&self.files());
        let mut steps = Vec::new();
        let mut flushed = vec![Flushed {
            recorded: 0,
            steps: 0,
            contents: model.clone(),
        }];
        // Existing data may be overwritten in place, at once.
        let sectors = model.chunks(SECTOR).enumerate();
        let there = sectors.filter(|(_, sector)| sector.iter().any(|byte| *byte != 0));
        let mut written: Vec<_> = there.map(|(at, _)| (at * SECTOR, SECTOR)).collect();
        let there = written.len();
        for number in 0..count {
            let step = step(&image, &mut noise, &mut model, &mut written, recorded());
            steps.push(step);
            if noise.below(6) == 0 || number + 1 == count {
                if number + 1 == count {
                    image.close().unwrap();
                } else {
                    image.flush().unwrap();
                }
                flushed.push(Flushed {
                    recorded: recorded(),
                    steps: steps.len(),
                    contents: model.clone(),
                });
            }
        }
        let record = std::mem::take(&mut *log.lock().unwrap());
        let mut left: Vec<Vec<u8>> = files.iter().map(|file| file.memory.contents()).collect();
        assert_clean(&left[0], true);
        let kept = Kept::of(self);
        kept.assert_still_there(self, &left, &model);
        // A raw data file isn't discarded, so no bits are set for that.
        if !self.raw {
            kept.assert_exact(&left[0], &written[there..]);
        }
        assert!(self.read_files(&left) == model, "seed {seed}: read back");
        if self.raw {
            assert!(raw_disk(&left[1], model.len()) == model, "seed {seed}: raw");
        }

        let cuts = Cuts {
            subject: self,
            seed,
            record: &record,
            steps: &steps,
            flushed: &flushed,
            kept: &kept,
        };
        cuts.at_every_change();
        cuts.torn(&mut noise, torn);
        left.swap_remove(0)
    }
}

/// Changes of several files, in order. Each has the index of its file.
pub type Log = Arc<Mutex<Vec<(usize, Change)>>>;

/// A file in memory that shares its record with others.
#[derive(Debug)]
pub struct Logged {
    pub memory: MemoryStorage,
    file: usize,
    log: Log,
}

impl Logged {
    pub fn new(file: usize, bytes: Vec<u8>, log: &Log) -> Self {
        Self::of_memory(file, MemoryStorage::new(bytes), log)
    }

    pub fn of_memory(file: usize, memory: MemoryStorage, log: &Log) -> Self {
        Self {
            memory,
            file,
            log: Arc::clone(log),
        }
    }

    fn record(&self, change: Change) {
        self.log.lock().unwrap().push((self.file, change));
    }
}

impl cowhide::storage::Filter for Logged {
    fn inner(&self) -> &dyn Storage {
        &self.memory
    }

    fn write_at(&self, offset: u64, data: &[u8]) -> Result<()> {
        self.record(Change::Write(offset, data.to_vec()));
        self.memory.write_at(offset, data)
    }

    fn set_len(&self, len: u64) -> Result<()> {
        self.record(Change::SetLen(len));
        self.memory.set_len(len)
    }

    fn punch(&self, range: Range<u64>) -> Result<bool> {
        self.record(Change::Punch(range.clone()));
        self.memory.punch(range)
    }

    fn reserve(&self, range: Range<u64>) -> Result<bool> {
        self.record(Change::SetLen(range.end.max(self.memory.len()?)));
        self.memory.reserve(range)
    }

    fn share_from(
        &self,
        offset: u64,
        source: &dyn Storage,
        source_offset: u64,
        length: u64,
    ) -> std::result::Result<(), NotShared> {
        self.memory
            .share_from(offset, source, source_offset, length)?;
        let mut data = vec![0; usize::try_from(length).unwrap()];
        self.memory.read_at(offset, &mut data).unwrap();
        self.record(Change::Write(offset, data));
        Ok(())
    }

    fn flush(&self) -> Result<()> {
        self.record(Change::Flush);
        self.memory.flush()
    }
}

/// Returns the contents of a raw image, up to the end of the disk.
fn raw_disk(file: &[u8], size: usize) -> Vec<u8> {
    let mut disk = file.to_vec();
    disk.resize(size, 0);
    disk
}

/// Does a random step, and checks it.
fn step(
    image: &WritableQcow2,
    noise: &mut Noise,
    model: &mut [u8],
    written: &mut Vec<(usize, usize)>,
    recorded: usize,
) -> Step {
    let size = model.len();
    let sectors = |bytes: usize| (bytes / SECTOR) as u64;
    // Steps are often at parts that were written before, and mostly short.
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

/// Asserts that a file is a complete image without damage but leaks, and without leaks if `closed`. Returns a dirty
/// image after its repair.
pub fn assert_clean(bytes: &[u8], closed: bool) -> Option<Vec<u8>> {
    let storage = MemoryStorage::new(bytes.to_vec());
    let header = Header::read(&storage).unwrap();
    assert!(!header.has_incompatible(features::CORRUPT));
    if header.has_incompatible(features::DIRTY) {
        assert!(!closed, "dirty when closed");
        // Its refcounts may have any values. They are repaired when it is opened for writing.
        qcow2::repair_dirty(&storage, &header).unwrap();
        let repaired = storage.contents();
        assert_clean(&repaired, true);
        return Some(repaired);
    }
    let mut findings = Vec::new();
    let report = qcow2::check(&storage, &header, &mut |finding| {
        findings.push(finding.to_string());
    });
    let report = match report {
        // The further check has to find it then.
        Err(error) if error.kind() == ErrorKind::Unsupported => return None,
        other => other.unwrap(),
    };
    assert_eq!(report.corruptions, 0, "{findings:#?}");
    assert!(!closed || report.leaks == 0, "{findings:#?}");
    None
}

/// Lets every read, write and flush of some work fail once, as on a full disk. `left` checks the result. The work
/// must fail, except for reads: tables that are read together are read again one by one.
pub fn with_each_failure(
    bytes: &[u8],
    run: &dyn Fn(&Arc<MemoryStorage>) -> Result<()>,
    left: &mut dyn FnMut(&[u8], &str),
) {
    let whole = Arc::new(MemoryStorage::new(bytes.to_vec()));
    run(&whole).unwrap();
    for operation in [Operation::Read, Operation::Write, Operation::Flush] {
        for nth in 1..=whole.count(operation) {
            let fault = Fault {
                operation,
                nth,
                errno: 28,
            };
            let storage = Arc::new(MemoryStorage::new(bytes.to_vec()).with_fault(fault));
            let when = format!("{fault:?}");
            match run(&storage) {
                Ok(()) => assert_eq!(operation, Operation::Read, "{when}"),
                Err(error) => {
                    let error = error.to_string();
                    assert!(error.contains("No space left"), "{when}: {error}");
                }
            }
            left(&storage.contents(), &when);
        }
    }
}

/// Makes the results of a power cut after each change to a file. The last change is complete, or torn at each of its
/// sectors, from either end. `lossy` times some unflushed changes are lost. `look` gets the time of the cut.
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
            let parts = in_sectors(*offset, data);
            // Long writes are only torn at some sectors.
            let step = parts.len() / 16 + 1;
            for sector in (1..parts.len()).step_by(step) {
                for parts in [&parts[..sector], &parts[sector..]] {
                    let mut torn = bytes.clone();
                    parts.iter().for_each(|part| part.apply(&mut torn));
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
    let before = [before.to_vec()];
    let record: Vec<(usize, Change)> = record.iter().map(|change| (0, change.clone())).collect();
    for _ in 0..lossy {
        let cut = usize::try_from(noise.below(record.len() as u64)).unwrap() + 1;
        let (files, durable) = lossy_cut(&before, &record, cut, noise);
        look(
            &files[0],
            &format!("cut after {cut} changes, {durable} durable"),
        );
    }
}

/// Splits a write into one for each sector of the file. None of those is torn.
fn in_sectors(offset: u64, data: &[u8]) -> Vec<Change> {
    let within = usize::try_from(offset).unwrap() % SECTOR;
    let (head, rest) = data.split_at((SECTOR - within).min(data.len()));
    let mut at = offset;
    let parts = std::iter::once(head).chain(rest.chunks(SECTOR));
    let parts = parts.map(|part| {
        let write = Change::Write(at, part.to_vec());
        at += part.len() as u64;
        write
    });
    parts.collect()
}

/// Returns a possible result of a power cut after `cut` changes: each file has all changes up to its last flush, and
/// any part of the later ones. Returns the number of changes that are certain, too.
pub fn lossy_cut(
    before: &[Vec<u8>],
    record: &[(usize, Change)],
    cut: usize,
    noise: &mut Noise,
) -> (Vec<Vec<u8>>, usize) {
    let record = &record[..cut];
    let flushed: Vec<usize> = (0..before.len())
        .map(|file| {
            let flush = record
                .iter()
                .rposition(|change| *change == (file, Change::Flush));
            flush.map_or(0, |flush| flush + 1)
        })
        .collect();
    let mut files = before.to_vec();
    let mut durable = cut;
    let mode = noise.below(3);
    for (at, (file, change)) in record.iter().enumerate() {
        let bytes = &mut files[*file];
        if at < flushed[*file] {
            change.apply(bytes);
            continue;
        }
        durable = durable.min(at);
        match change {
            Change::Write(offset, data) if mode > 0 => {
                for part in in_sectors(*offset, data) {
                    if noise.below(1 + mode) > 0 {
                        part.apply(bytes);
                    }
                }
            }
            _ if noise.below(2) == 0 => change.apply(bytes),
            _ => {}
        }
    }
    (files, durable)
}

/// The state for power cuts.
struct Cuts<'a> {
    subject: &'a Subject,
    seed: u64,
    record: &'a [(usize, Change)],
    steps: &'a [Step],
    flushed: &'a [Flushed],
    kept: &'a Kept,
}

impl Cuts<'_> {
    /// Cuts the power after every change (for large images after some hundred of them), with all changes before it on
    /// the disk.
    fn at_every_change(&self) {
        let mut files = self.subject.files();
        let size = self.flushed.first().map_or(0, |first| first.contents.len());
        let every = if size > 1 << 20 {
            self.record.len() / 200 + 1
        } else {
            1
        };
        for (at, (file, change)) in self.record.iter().enumerate() {
            change.apply(&mut files[*file]);
            if *change != Change::Flush && at.is_multiple_of(every) {
                self.examine(&files, at + 1, at + 1);
            }
        }
    }

    /// Cuts the power before every flush, when most is unflushed, and at random changes, with some unflushed changes
    /// lost.
    fn torn(&self, noise: &mut Noise, count: usize) {
        let flushes = self.record.iter().enumerate();
        let flushes = flushes.filter(|(_, (_, change))| *change == Change::Flush);
        let flushes: Vec<usize> = flushes.map(|(at, _)| at).collect();
        let last = self.record.len() as u64;
        let at_random = (0..count).map(|_| usize::try_from(noise.below(last)).unwrap() + 1);
        let cuts: Vec<usize> = [&flushes[..], &flushes].concat();
        for cut in cuts.into_iter().chain(at_random.collect::<Vec<_>>()) {
            let (files, durable) = lossy_cut(&self.subject.files(), self.record, cut, noise);
            self.examine(&files, durable, cut);
        }
    }

    /// Checks a result with the first `durable` changes, and some of those up to `cut`.
    fn examine(&self, files: &[Vec<u8>], durable: usize, cut: usize) {
        let what = || {
            format!(
                "seed {}, cut after {cut} changes, {durable} durable",
                self.seed
            )
        };
        let examined = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            let bytes = &files[0];
            let repaired = assert_clean(bytes, false);
            if let Some((one_in, inspect)) = &self.subject.inspect
                && ((durable + cut) as u64).is_multiple_of(*one_in)
            {
                inspect(bytes);
            }
            let contents = self.subject.read_files(files);
            self.kept.assert_still_there(self.subject, files, &contents);
            if let Some(repaired) = repaired {
                let mut files = files.to_vec();
                files[0] = repaired;
                assert!(self.subject.read_files(&files) == contents, "repaired");
                self.kept
                    .assert_still_there(self.subject, &files, &contents);
            }
            contents
        }));
        let contents = examined.unwrap_or_else(|_| panic!("{}", what()));
        self.old_or_new(&contents, durable, cut, &what);
        if self.subject.raw {
            let raw = raw_disk(&files[1], contents.len());
            self.old_or_new(&raw, durable, cut, &|| format!("{}, raw", what()));
        }
    }

    /// Asserts that every sector has its contents at the last flush, or something that was written since.
    fn old_or_new(&self, contents: &[u8], durable: usize, cut: usize, what: &dyn Fn() -> String) {
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
