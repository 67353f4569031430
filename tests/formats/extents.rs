//! Tests of power cuts of images in several files, and of the kinds of VMDK that need options.

use std::ffi::OsString;
use std::sync::Arc;

use cowhide::convert;
use cowhide::error::Result;
use cowhide::formats::driver::{Load, NewParts, Parts, WriteParts};
use cowhide::formats::{ImageFile, OverwriteOptions};
use cowhide::options::Values;
use cowhide::storage::{MemoryStorage, Storage};
use cowhide::units::GuestOffset;

use crate::common::Noise;
use crate::power_cut::{Log, Logged, lossy_cut};
use crate::{Driver, disk, formats, new_disk, raw, settings};

const SECTOR: usize = 512;
const SIZE: usize = (1 << 20) + 8192;
/// Each kind, and the number of files besides the descriptor.
pub(super) const KINDS: [(&str, usize); 5] = [
    ("monolithicSparse", 0),
    ("streamOptimized", 0),
    ("monolithicFlat", 1),
    ("twoGbMaxExtentSparse", 1),
    ("twoGbMaxExtentFlat", 1),
];

fn vmdk() -> Driver {
    let mut formats = formats().into_iter();
    formats.find(|driver| driver.name() == "vmdk").unwrap()
}

pub(super) fn load(files: &[Arc<dyn Storage>]) -> Result<Box<dyn ImageFile>> {
    let mut image = vmdk().load(Arc::clone(&files[0]), Load::Use)?;
    image.attach(&files[1..])?;
    Ok(image)
}

fn read(files: &[Vec<u8>]) -> Result<Vec<u8>> {
    let files: Vec<Arc<dyn Storage>> = files
        .iter()
        .map(|bytes| Arc::new(MemoryStorage::new(bytes.clone())) as Arc<dyn Storage>)
        .collect();
    let parts = Parts {
        files: files[1..].to_vec(),
        ..Parts::default()
    };
    let image = load(&files)?.open(parts)?;
    let mut disk = vec![0xee; usize::try_from(image.size()).unwrap()];
    image.read_at(GuestOffset(0), &mut disk)?;
    Ok(disk)
}

/// Files whose changes are recorded together.
pub(super) struct Recorded {
    files: Vec<Arc<Logged>>,
    before: Vec<Vec<u8>>,
    log: Log,
}

impl Recorded {
    fn new(before: Vec<Vec<u8>>) -> Self {
        let log = Log::default();
        let files = before.iter().enumerate();
        let files = files.map(|(file, bytes)| Arc::new(Logged::new(file, bytes.clone(), &log)));
        Self {
            files: files.collect(),
            before,
            log,
        }
    }

    pub(super) fn storages(&self) -> Vec<Arc<dyn Storage>> {
        let files = self.files.iter();
        files
            .map(|file| Arc::<Logged>::clone(file) as Arc<dyn Storage>)
            .collect()
    }

    fn contents(&self) -> Vec<Vec<u8>> {
        self.files
            .iter()
            .map(|file| file.memory.contents())
            .collect()
    }

    /// Cuts the power after every change, and with some unflushed changes lost.
    fn cut(&self, look: &mut dyn FnMut(&[Vec<u8>], &str)) {
        let log = self.log.lock().unwrap();
        let mut files = self.before.clone();
        for (at, (file, change)) in log.iter().enumerate() {
            look(&files, &format!("cut after {at} changes"));
            change.apply(&mut files[*file]);
        }
        look(&files, "all was done");
        let mut noise = Noise(31);
        for cut in (1..=log.len()).chain(1..=log.len()) {
            let (files, durable) = lossy_cut(&self.before, &log, cut, &mut noise);
            look(
                &files,
                &format!("cut after {cut} changes, {durable} durable"),
            );
        }
    }
}

/// Makes a new image of a disk.
pub(super) fn create(kind: &str, more: usize, disk: &[u8]) -> Recorded {
    let driver = vmdk();
    let list = OsString::from(format!("subformat={kind}"));
    let options = Values::of_lists(&[driver.create_options()], &[list]).unwrap();
    let plan = driver
        .plan(&new_disk(disk.len() as u64, &options, None))
        .unwrap();
    let recorded = Recorded::new(vec![Vec::new(); 1 + more]);
    let files = recorded.storages();
    let parts = NewParts {
        file: Arc::clone(&files[0]),
        files: files[1..].to_vec(),
        secret: None,
        flush: true,
    };
    let new = plan.create(parts).unwrap();
    convert::copy(&raw(disk), new.as_ref(), settings(1), &()).unwrap();
    recorded
}

/// Writes a disk over an image.
fn write_over(files: &[Arc<dyn Storage>], disk: &[u8]) {
    let image = load(files).unwrap();
    image.check_writable().unwrap();
    let parts = WriteParts {
        files: files[1..].to_vec(),
        flush: true,
        ..WriteParts::default()
    };
    let size = disk.len() as u64;
    let target = image
        .write_over(parts, size, OverwriteOptions::default())
        .unwrap();
    convert::copy(&raw(disk), target.as_ref(), settings(1), &()).unwrap();
}

#[test]
fn a_new_image_may_be_cut_off() {
    for (kind, more) in KINDS {
        let disk = disk(SIZE, 32);
        let mut whole = 0;
        create(kind, more, &disk).cut(&mut |files, when| {
            if let Ok(found) = read(files) {
                assert!(found == disk, "{kind}: {when}");
                whole += 1;
            }
        });
        assert!(whole > 0, "{kind}");
    }
}

/// Joins two images into one with two extents.
fn two_extents(kind: &str, disks: [&[u8]; 2]) -> Vec<Vec<u8>> {
    let parts = disks.map(|disk| create(kind, 1, disk).contents());
    let [(first, one), (_, other)] = parts.map(|mut files| {
        let extent = files.pop().unwrap();
        (String::from_utf8(files.pop().unwrap()).unwrap(), extent)
    });
    let line = first.lines().find(|line| line.starts_with("RW ")).unwrap();
    let text = first.replace(line, &format!("{line}\n{}", line.replace("001", "002")));
    assert_ne!(text, first);
    vec![text.into_bytes(), one, other]
}

#[test]
fn a_conversion_into_an_image_of_two_extents_may_be_cut_off() {
    for kind in ["twoGbMaxExtentSparse", "twoGbMaxExtentFlat"] {
        let mut old = disk(2 * SIZE, 33);
        old[SIZE + SIZE / 2..].fill(0);
        let new = disk(2 * SIZE, 34);
        let image = two_extents(kind, [&old[..SIZE], &old[SIZE..]]);
        assert!(read(&image).unwrap() == old);
        let recorded = Recorded::new(image);
        write_over(&recorded.storages(), &new);
        assert!(read(&recorded.contents()).unwrap() == new);
        recorded.cut(&mut |files, when| {
            let found = read(files).unwrap_or_else(|error| panic!("{kind}, {when}: {error}"));
            for at in (0..found.len()).step_by(SECTOR) {
                let [found, old, new] = [&found, &old, &new].map(|disk| &disk[at..at + SECTOR]);
                assert!(found == old || found == new, "{kind}, {when}: byte {at}");
            }
            // The next writer has nothing to repair.
            let files: Vec<Arc<dyn Storage>> = files
                .iter()
                .map(|bytes| Arc::new(MemoryStorage::new(bytes.clone())) as Arc<dyn Storage>)
                .collect();
            let parts = WriteParts {
                files: files[1..].to_vec(),
                flush: true,
                ..WriteParts::default()
            };
            assert!(
                load(&files).unwrap().open_writable(parts).is_ok(),
                "{kind}, {when}"
            );
        });
    }
}

/// Checks that a streamOptimized image without grains is rewritten in place, and is no image before it is complete.
#[test]
fn a_conversion_into_a_stream_may_be_cut_off() {
    let empty = create("streamOptimized", 0, &vec![0; SIZE]).contents();
    let new = disk(SIZE, 35);
    let recorded = Recorded::new(empty);
    write_over(&recorded.storages(), &new);
    let mut whole = 0;
    recorded.cut(&mut |files, when| {
        if let Ok(found) = read(files) {
            let is_old = found.iter().all(|byte| *byte == 0);
            assert!(found == new || is_old, "{when}");
            whole += usize::from(found == new);
        }
    });
    assert!(whole > 0);
    let image = load(&recorded.storages()).unwrap();
    let refused = image.check_writable().unwrap_err().to_string();
    assert!(
        refused.contains("Could not write to allocated cluster"),
        "{refused}"
    );
}
