//! Tests of rebases: an image gets another backing file.

use std::num::NonZeroUsize;
use std::sync::Arc;

use cowhide::convert::{Rebase, rebase};
use cowhide::error::{Error, Result};
use cowhide::formats::driver::WriteParts;
use cowhide::formats::raw::RawImage;
use cowhide::formats::{Chain, Extent, Image, ZeroImage};
use cowhide::storage::{Fault, MemoryStorage, Operation, Slowness};
use cowhide::units::GuestOffset;

use crate::common::Noise;
use crate::power_cut::{assert_clean, leftovers};
use crate::{KINDS, Kind, backing, chain, image, load, read};

/// The size of a disk in bytes, which isn't a multiple of all cluster sizes.
const SIZE: u64 = 300 << 10;

/// An image, its current backing chain, and its new one.
struct Subject {
    bytes: Vec<u8>,
    old: Option<Arc<Chain>>,
    new: Option<Arc<Chain>>,
    common: usize,
    compressed: bool,
}

fn subject(kind: Kind, noise: &mut Noise) -> Subject {
    let sizes = [SIZE, SIZE - 512, 100 << 10, SIZE + 7680, 512];
    let mut below = |count: u64| {
        let sizes: Vec<u64> = (0..count).map(|_| sizes[noise.pick(5)]).collect();
        chain(&sizes, noise)
    };
    let (old, new) = (below(2), below(3));
    let shown = below(1);
    let old = match noise.below(4) {
        0 => None,
        1 => new.as_ref().and_then(|new| new.from_depth(1)).map(Arc::new),
        _ => old,
    };
    let new = match noise.below(5) {
        0 => None,
        1 => shown,
        _ => new,
    };
    let over = old
        .as_ref()
        .map(|old| ("old", Arc::clone(old) as Arc<dyn Image>));
    Subject {
        bytes: image(kind, SIZE, over, noise),
        old,
        new,
        common: 0,
        compressed: noise.below(3) == 0,
    }
}

impl Subject {
    /// Rebases the image to its new backing file.
    fn rebase(&self, storage: &Arc<MemoryStorage>) -> Result<()> {
        let file = load(storage);
        let overlay = file.open_writable(WriteParts {
            backing: self.old.clone().map(|old| old as Arc<dyn Image>),
            flush: true,
            ..WriteParts::default()
        })?;
        let plan = Rebase {
            overlay: overlay.as_ref(),
            old: self.old.clone(),
            new: self.new.clone(),
            common: self.common,
            compressed: self.compressed,
        };
        rebase(&plan, NonZeroUsize::new(2).unwrap(), &())?;
        overlay.close()?;
        let name = self.new.as_ref().map(|_| backing("new"));
        file.set_backing(name.as_ref(), true)
    }

    /// Reads the disk of an image over the backing file that it names.
    fn read(&self, bytes: &[u8]) -> Vec<u8> {
        let file = load(&Arc::new(MemoryStorage::new(bytes.to_vec())));
        let below = match file.backing() {
            Some(found) if found.name == b"old" => self.old.as_ref(),
            Some(found) => {
                assert_eq!(
                    (found.name, found.format),
                    (&b"new"[..], Some(&b"qcow2"[..]))
                );
                self.new.as_ref()
            }
            None => None,
        };
        read(bytes, below)
    }

    /// Returns true if an image names the new backing file.
    fn is_done(&self, bytes: &[u8]) -> bool {
        let file = load(&Arc::new(MemoryStorage::new(bytes.to_vec())));
        let name = file.backing().map(|found| found.name.to_vec());
        name.as_deref() == self.new.as_ref().map(|_| &b"new"[..])
    }
}

#[test]
fn the_disk_stays_what_it_is() {
    let mut noise = Noise(1);
    let mut written = 0;
    let mut shared = 0;
    for round in 0..200 {
        let kind = KINDS[round % KINDS.len()];
        let subject = subject(kind, &mut noise);
        let what = format!("round {round}: {kind:?}, compressed {}", subject.compressed);
        let before = read(&subject.bytes, subject.old.as_ref());
        let mut memory = MemoryStorage::new(subject.bytes.clone());
        if round % 3 > 0 {
            memory = memory.sharing();
        }
        let storage = Arc::new(memory);
        subject.rebase(&storage).unwrap();
        shared += storage.shared();
        let after = storage.contents();
        assert!(subject.is_done(&after), "{what}");
        assert!(subject.read(&after) == before, "{what}");
        assert_clean(&after, true);
        written += usize::from(after.len() > subject.bytes.len());
        // A rebase to the current backing file changes nothing.
        let again = Subject {
            bytes: after.clone(),
            old: subject.new.clone(),
            ..subject
        };
        let storage = Arc::new(MemoryStorage::new(after.clone()));
        again.rebase(&storage).unwrap();
        assert!(storage.contents() == after, "{what}: again");
    }
    assert!(written > 100 && shared > 512 << 10, "{written} {shared}");
}

#[test]
fn a_power_cut_leaves_the_disk_over_one_or_the_other() {
    let mut noise = Noise(2);
    let (mut old, mut new) = (0, 0);
    for round in 0..20 {
        let kind = KINDS[round % KINDS.len()];
        let subject = subject(kind, &mut noise);
        let before = read(&subject.bytes, subject.old.as_ref());
        let storage = Arc::new(
            MemoryStorage::new(subject.bytes.clone())
                .sharing()
                .recording(),
        );
        subject.rebase(&storage).unwrap();
        let record = storage.take_record();
        leftovers(
            &subject.bytes,
            &record,
            &mut noise,
            60,
            &mut |left, when| {
                let what = format!("round {round}, {kind:?}: {when}");
                assert_clean(left, false);
                assert!(subject.read(left) == before, "{what}");
                if subject.is_done(left) {
                    new += 1;
                    return;
                }
                old += 1;
                if old % 7 == 0 {
                    let again = Arc::new(MemoryStorage::new(left.to_vec()));
                    subject.rebase(&again).unwrap();
                    assert!(subject.is_done(&again.contents()), "{what}");
                    assert!(subject.read(&again.contents()) == before, "{what}: again");
                }
            },
        );
    }
    assert!(old > 400 && new > 20, "{old} {new}");
}

#[test]
fn an_operation_that_fails_loses_nothing() {
    let mut noise = Noise(3);
    let mut failed = 0;
    for round in 0..10 {
        let kind = KINDS[round % KINDS.len()];
        let subject = subject(kind, &mut noise);
        let before = read(&subject.bytes, subject.old.as_ref());
        for operation in [
            Operation::Read,
            Operation::Write,
            Operation::SetLen,
            Operation::Flush,
        ] {
            for nth in 1.. {
                let fault = Fault {
                    operation,
                    nth,
                    errno: 5,
                };
                let memory = MemoryStorage::new(subject.bytes.clone()).with_fault(fault);
                let storage = Arc::new(memory);
                // The test reads the header itself.
                if operation == Operation::Read && nth < 3 {
                    continue;
                }
                let done = subject.rebase(&storage);
                let was_reached = storage.count(operation) >= nth;
                let left = storage.contents();
                let what = format!("round {round}, {kind:?}, {operation:?} {nth}: {done:?}");
                assert_clean(&left, false);
                assert!(subject.read(&left) == before, "{what}");
                match done {
                    Ok(()) => assert!(subject.is_done(&left), "{what}"),
                    Err(_) => failed += 1,
                }
                if !subject.is_done(&left) {
                    let again = Arc::new(MemoryStorage::new(left));
                    subject.rebase(&again).unwrap();
                    assert!(subject.read(&again.contents()) == before, "{what}: again");
                }
                if !was_reached {
                    break;
                }
            }
        }
    }
    assert!(failed > 200, "{failed}");
}

/// An image that must not be read.
struct Unread(Arc<dyn Image>);

impl Image for Unread {
    fn size(&self) -> u64 {
        self.0.size()
    }

    fn extent_at(&self, offset: GuestOffset, limit: u64) -> Result<Extent> {
        self.0.extent_at(offset, limit)
    }

    fn read_at(&self, offset: GuestOffset, _buf: &mut [u8]) -> Result<()> {
        Err(Error::invalid(format!("read at {offset}")))
    }
}

/// Checks that base images that both chains share aren't read, nor allocated parts of the image.
#[test]
fn what_both_have_is_not_read() {
    let mut noise = Noise(4);
    let bottom = chain(&[SIZE], &mut noise).unwrap();
    let unread: Arc<dyn Image> = Arc::new(Unread(bottom.clone()));
    let old = Arc::new(Chain::new(unread.clone(), Vec::new()));
    let empty: Arc<dyn Image> = Arc::new(ZeroImage { size: SIZE });
    let new = Arc::new(Chain::new(empty, vec![unread]));
    for kind in KINDS {
        let over = Some(("old", bottom.clone() as Arc<dyn Image>));
        let subject = Subject {
            bytes: image(kind, SIZE, over, &mut noise),
            old: Some(old.clone()),
            new: Some(new.clone()),
            common: 1,
            compressed: false,
        };
        let storage = Arc::new(MemoryStorage::new(subject.bytes.clone()));
        subject.rebase(&storage).unwrap();
        let length = storage.contents().len();
        assert_eq!(length, subject.bytes.len(), "{kind:?}");
        // Few large clusters may all be allocated.
        if kind.cluster_size > 4096 {
            continue;
        }
        let storage = Arc::new(MemoryStorage::new(subject.bytes.clone()));
        let read = Subject {
            common: 0,
            ..subject
        };
        let refused = read.rebase(&storage).unwrap_err().to_string();
        assert!(refused.contains("backing file at byte"), "{refused}");
    }
}

/// Checks that more reads are in flight than threads compute if reads wait.
#[test]
fn many_reads_are_under_way_where_they_wait() {
    const LARGE: usize = 48 << 20;
    let mut noise = Noise(5);
    let slow = Slowness {
        until_in_flight: 8,
        after: 24,
    };
    let data = Arc::new(MemoryStorage::new(noise.bytes(LARGE)).slow(slow));
    let raw = RawImage::open(Arc::<MemoryStorage>::clone(&data)).unwrap();
    let old = Arc::new(Chain::new(Arc::new(raw), Vec::new()));
    let size = LARGE as u64;
    let empty: Arc<dyn Image> = Arc::new(ZeroImage { size });
    let subject = Subject {
        bytes: image(KINDS[3], size, Some(("old", empty)), &mut noise),
        old: Some(old),
        new: None,
        common: 0,
        compressed: false,
    };
    let storage = Arc::new(MemoryStorage::new(subject.bytes.clone()));
    subject.rebase(&storage).unwrap();
    assert!(data.most_in_flight() >= 8, "{}", data.most_in_flight());
    assert!(subject.is_done(&storage.contents()));
}
