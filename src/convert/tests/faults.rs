//! Tests of every single failure in copies between several formats. The result is an error or a complete, correct
//! target, and never a wrong one. Every read also ends early once, as if the source had been truncated.

use super::*;
use crate::formats::encryption::EncryptionFormat;
use crate::storage::ShortRead;

/// The kinds of images in the tests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ImageKind {
    Raw,
    Plain,
    Encrypted,
}

const KINDS: [ImageKind; 3] = [ImageKind::Raw, ImageKind::Plain, ImageKind::Encrypted];

impl ImageKind {
    fn key(self) -> Option<Cipher> {
        (self == Self::Encrypted).then(cipher)
    }

    fn options(self, size: u64) -> NewQcow2Options {
        let encryption = match self {
            Self::Encrypted => Some(EncryptionFormat::Aes),
            _ => None,
        };
        NewQcow2Options {
            cluster_size: 4096,
            encryption,
            ..NewQcow2Options::new(size)
        }
    }

    fn open(self, storage: Arc<MemoryStorage>) -> Result<Box<dyn Image>> {
        if self == Self::Raw {
            return Ok(Box::new(RawImage::open(storage)?));
        }
        let header = Header::read(storage.as_ref())?;
        Ok(Box::new(Qcow2Image::open(storage, header, self.key())?))
    }

    fn create(self, storage: Arc<MemoryStorage>, size: u64) -> Result<Box<dyn NewImage>> {
        if self == Self::Raw {
            let new = NewRaw::create(storage, size, Preallocation::Off, true)?;
            return Ok(Box::new(new));
        }
        let new = NewQcow2::create(storage, self.options(size), self.key(), true)?;
        Ok(Box::new(new))
    }

    /// Returns the contents of an image, if it can be read.
    fn contents(self, storage: Arc<MemoryStorage>) -> Result<Vec<u8>> {
        let image = self.open(storage)?;
        let mut contents = vec![0; usize::try_from(image.size()).unwrap()];
        image.read_at(GuestOffset(0), &mut contents)?;
        Ok(contents)
    }
}

fn convert(
    (from, source): (ImageKind, &Arc<MemoryStorage>),
    (to, target): (ImageKind, &Arc<MemoryStorage>),
    count: usize,
) -> Result<()> {
    let source = from.open(Arc::clone(source))?;
    let target = to.create(Arc::clone(target), source.size())?;
    copy(source.as_ref(), target.as_ref(), workers(count), &())
}

const OPERATIONS: [Operation; 4] = [
    Operation::Read,
    Operation::Write,
    Operation::SetLen,
    Operation::Flush,
];

fn faults(counted: &MemoryStorage) -> Vec<Fault> {
    let nth = |operation| (1..=counted.count(operation)).map(move |nth| (operation, nth));
    let all = OPERATIONS.into_iter().flat_map(nth);
    all.map(|(operation, nth)| {
        let errno = if operation == Operation::Read { 5 } else { 28 };
        Fault {
            operation,
            nth,
            errno,
        }
    })
    .collect()
}

#[test]
fn every_failure_between_any_two_formats_is_an_error_and_never_a_wrong_image() {
    let disk = disk(1 << 20);
    for from in KINDS {
        let source = Arc::<MemoryStorage>::default();
        let plain = Arc::new(MemoryStorage::new(disk.clone()));
        convert((ImageKind::Raw, &plain), (from, &source), 1).unwrap();
        let stored = source.contents();
        for to in KINDS {
            let source = Arc::new(MemoryStorage::new(stored.clone()));
            let target = Arc::<MemoryStorage>::default();
            convert((from, &source), (to, &target), 1).unwrap();
            let (reads, failures) = (faults(&source), faults(&target));
            assert!(to.contents(Arc::clone(&target)).unwrap() == disk);

            for fault in reads {
                let source = MemoryStorage::new(stored.clone()).with_fault(fault);
                let target = Arc::<MemoryStorage>::default();
                let done = convert((from, &Arc::new(source)), (to, &target), 2);
                let message = done.expect_err("a read that fails").to_string();
                assert!(message.ends_with("Input/output error"), "{message}");
                let made = to.contents(target);
                assert!(to == ImageKind::Raw || made.is_err(), "{from:?} to {to:?}");
            }
            assert!(failures.len() >= 4, "{from:?} to {to:?}: {failures:?}");
            for fault in failures {
                let source = Arc::new(MemoryStorage::new(stored.clone()));
                let target = Arc::new(MemoryStorage::default().with_fault(fault));
                let done = convert((from, &source), (to, &target), 2);
                let message = done.expect_err("a write that fails").to_string();
                let expected = match fault.operation {
                    Operation::Read => "Input/output error",
                    _ => "No space left on device",
                };
                assert!(message.ends_with(expected), "{message}");
                // If the header exists, all was written and flushed before: only the last flush comes after it. Raw
                // images have no header; their file is removed.
                if to != ImageKind::Raw
                    && let Ok(made) = to.contents(target)
                {
                    assert_eq!(fault.operation, Operation::Flush, "{from:?} to {to:?}");
                    assert!(made == disk, "{from:?} to {to:?}: {fault:?}");
                }
            }
        }
    }
}

#[test]
fn every_read_that_ends_early_is_an_error_and_never_a_wrong_image() {
    // The disk is a sector longer than whole blocks, so that some reads are legitimately short.
    let disk = disk((1 << 20) + 512);
    for from in KINDS {
        let source = Arc::<MemoryStorage>::default();
        let plain = Arc::new(MemoryStorage::new(disk.clone()));
        convert((ImageKind::Raw, &plain), (from, &source), 1).unwrap();
        let stored = source.contents();
        let source = Arc::new(MemoryStorage::new(stored.clone()));
        convert((from, &source), (ImageKind::Plain, &Arc::default()), 1).unwrap();
        let reads = source.count(Operation::Read);
        assert!(reads > 1, "{from:?}");
        for (nth, bytes) in (1..=reads).flat_map(|nth| [0, 1, 511, 512, 4095].map(|n| (nth, n))) {
            for to in KINDS {
                let short = ShortRead { nth, bytes };
                let source = MemoryStorage::new(stored.clone()).with_short_read(short);
                let target = Arc::<MemoryStorage>::default();
                let done = convert((from, &Arc::new(source)), (to, &target), 2);
                let made = to.contents(target);
                let when = format!("{from:?} to {to:?}: {short:?}: {done:?}");
                match done {
                    // The part that was cut off wasn't needed.
                    Ok(()) => assert!(made.unwrap() == disk, "{when}"),
                    Err(_) => assert!(to == ImageKind::Raw || made.is_err(), "{when}"),
                }
            }
        }
    }
}
