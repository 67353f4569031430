//! Fuzzes writes and repairs of images of any format: readable data must not change except by the writes, and a
//! repair must report the remaining findings correctly.
#![no_main]

use std::sync::Arc;

use cowhide::error::{Error, Result};
use cowhide::formats::check::Repair;
use cowhide::formats::driver::{Load, Parts, WriteParts};
use cowhide::formats::{FORMATS, Format, ImageFile, WritableImage};
use cowhide::storage::{Filter, MemoryStorage, Storage};
use cowhide::units::GuestOffset;
use libfuzzer_sys::fuzz_target;

/// The length in bytes and the number of the compared pieces.
const PIECE: usize = 4096;
const PIECES: u64 = 256;
/// The greatest length of the file in bytes.
const LONGEST: u64 = 16 << 20;

/// A file on a small device, which is full soon.
#[derive(Debug)]
struct SmallDevice(MemoryStorage);

fn fits(end: u64) -> Result<()> {
    match end <= LONGEST {
        true => Ok(()),
        false => Err(Error::invalid("the device is full")),
    }
}

impl Filter for SmallDevice {
    fn inner(&self) -> &dyn Storage {
        &self.0
    }

    fn write_at(&self, offset: u64, data: &[u8]) -> Result<()> {
        fits(offset.saturating_add(data.len() as u64))?;
        self.0.write_at(offset, data)
    }

    fn set_len(&self, len: u64) -> Result<()> {
        fits(len)?;
        self.0.set_len(len)
    }

    fn reserve(&self, range: std::ops::Range<u64>) -> Result<bool> {
        fits(range.end)?;
        self.0.reserve(range)
    }
}

fn load(format: Format, storage: &Arc<SmallDevice>, how: Load) -> Option<Box<dyn ImageFile>> {
    let storage: Arc<dyn Storage> = Arc::<SmallDevice>::clone(storage);
    let file = format.load(storage, how).ok()?;
    let is_alone = !file.has_headers_elsewhere()
        && file.encryption().is_none()
        && file.backing().is_none()
        && file.other_files().is_ok_and(|files| files.is_empty());
    is_alone.then_some(file)
}

/// Returns the start of the disk, in pieces of which some may be unreadable.
fn contents(format: Format, storage: &Arc<SmallDevice>) -> Option<Vec<Option<Vec<u8>>>> {
    let image = load(format, storage, Load::Use)?
        .open(Parts::default())
        .ok()?;
    let pieces = (0..(image.size() / PIECE as u64).min(PIECES)).map(|index| {
        let mut piece = vec![0; PIECE];
        let read = image.read_at(GuestOffset(index * PIECE as u64), &mut piece);
        read.is_ok().then_some(piece)
    });
    Some(pieces.collect())
}

fn device(bytes: &[u8]) -> Arc<SmallDevice> {
    Arc::new(SmallDevice(MemoryStorage::new(bytes.to_vec())))
}

/// Writes a piece of ones and a piece of zeroes.
fn write(image: &dyn WritableImage, [ones, zeroes]: [u64; 2]) -> Result<()> {
    let at = |piece: u64| GuestOffset(piece * PIECE as u64);
    image.write_at(at(ones), &[1; PIECE])?;
    image.write_zeroes(at(zeroes), PIECE as u64, true)?;
    image.flush()?;
    image.close()
}

fn try_writing(format: Format, bytes: &[u8], seed: u8) {
    let storage = device(bytes);
    let Some(before) = contents(format, &storage) else {
        return;
    };
    let Some(file) = load(format, &storage, Load::Use).filter(|_| before.len() > 1) else {
        return;
    };
    let parts = WriteParts {
        flush: true,
        ..WriteParts::default()
    };
    if file.check_writable().is_err() {
        return;
    }
    let Ok(image) = file.open_writable(parts) else {
        return;
    };
    let count = before.len() as u64;
    let places = [u64::from(seed) % count, (u64::from(seed) * 7 + 1) % count];
    let written = write(image.as_ref(), places);
    drop(image);
    let name = format.name();
    let after = contents(format, &storage).unwrap_or_else(|| panic!("{name} still opens"));
    assert_eq!(before.len(), after.len());
    for (index, (before, after)) in (0..).zip(before.iter().zip(&after)) {
        let is_new = |byte: u8, place: u64| {
            index == place && after.as_ref().is_some_and(|after| *after == [byte; PIECE])
        };
        let is_written = is_new(0, places[1]) || places[0] != places[1] && is_new(1, places[0]);
        match written.is_ok() && places.contains(&index) {
            true => assert!(is_written, "{name}: piece {index} isn't what was written"),
            false => assert!(
                before.is_none() || before == after || is_written || places[0] == places[1],
                "{name}: piece {index} has changed"
            ),
        }
    }
}

fn try_repairing(format: Format, bytes: &[u8], seed: u8) {
    let storage = device(bytes);
    let before = contents(format, &storage);
    let Some(file) = load(format, &storage, Load::Check) else {
        return;
    };
    let Some(check) = file.check().filter(|check| check.repairs()) else {
        return;
    };
    let what = [Repair::Leaks, Repair::All][usize::from(seed % 2)];
    let repaired = check.repair(what, &mut |_| {});
    drop(file);
    let name = format.name();
    if let Ok(repaired) = repaired {
        let file = load(format, &storage, Load::Check);
        let file = file.unwrap_or_else(|| panic!("{name} is still an image"));
        let again = file.check().map(|check| check.check(&mut |_| {}));
        let again = again.and_then(Result::ok);
        let again = again.unwrap_or_else(|| panic!("{name} can be checked again"));
        assert_eq!(again.corruptions, repaired.corruptions, "{name}");
    }
    if let Some(before) = before {
        let after = contents(format, &storage).unwrap_or_else(|| panic!("{name} still opens"));
        for (before, after) in before.iter().zip(&after) {
            let is_kept = before.is_none() || before == after;
            assert!(is_kept, "{name}: the guest's data has changed");
        }
    }
}

fuzz_target!(|bytes: &[u8]| {
    let seed = bytes.last().copied().unwrap_or(0);
    let bytes = &cowhide_fuzz::image(bytes);
    for format in FORMATS {
        // That format has its own targets.
        if format.capabilities().transparent || format.name() == "qcow2" {
            continue;
        }
        try_writing(*format, bytes, seed);
        try_repairing(*format, bytes, seed);
    }
});
