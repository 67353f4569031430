//! Tests of the requirements on every format, in memory and without a comparison with another tool.
//!
//! The tests iterate over the list of formats, and one more that only shows what a new format needs ([`own`]). A
//! single line in [`formats`] adds it. Comparisons with other tools are in `tests/oracle`.

#[path = "../common/mod.rs"]
mod common;
#[path = "../common/covered.rs"]
mod covered;
#[path = "../common/parallels.rs"]
mod parallels_extension;
#[path = "../common/power_cut.rs"]
mod power_cut;

mod damage;
mod extents;
mod overlays;
mod own;
mod own_bitmaps;
mod places;
mod power;
mod promises;
mod repairs;
mod sealed;

use std::ffi::OsString;
use std::num::NonZeroUsize;
use std::path::Path;
use std::sync::{Arc, LazyLock};

use cowhide::convert::{self, Settings};
use cowhide::crypto::Secret;
use cowhide::error::Result;
use cowhide::formats::driver::{Load, NewDisk, NewParts, Parts, WriteParts};
use cowhide::formats::raw::RawImage;
use cowhide::formats::{FORMATS, FormatDriver, ImageFile, OverwriteOptions};
use cowhide::options::Values;
use cowhide::storage::{MemoryStorage, Storage};
use cowhide::units::GuestOffset;

use common::Noise;

type Driver = &'static dyn FormatDriver;

/// Returns every format.
fn formats() -> Vec<Driver> {
    let mut formats: Vec<Driver> = FORMATS.iter().map(|format| &**format).collect();
    formats.push(&own::Own);
    formats
}

/// Returns a disk of `size` bytes with noise at its start, at its end and in some places between.
fn disk(size: usize, seed: u64) -> Vec<u8> {
    let mut noise = Noise(seed);
    let mut disk = vec![0; size];
    let mut write = |start: usize, length: usize| {
        let end = (start + length).min(size);
        let bytes = noise.bytes(end - start.min(end));
        disk[start.min(end)..end].copy_from_slice(&bytes);
    };
    write(0, 700);
    write(size / 3, 9000);
    write(size.saturating_sub(1500), 1500);
    disk
}

fn raw(disk: &[u8]) -> RawImage {
    RawImage::open(Arc::new(MemoryStorage::new(disk.to_vec()))).unwrap()
}

fn settings(workers: usize) -> Settings {
    Settings {
        workers: NonZeroUsize::new(workers).unwrap(),
        ..Settings::default()
    }
}

/// The password of images that have one.
static PASSWORD: LazyLock<Secret> = LazyLock::new(|| Secret::new(b"correct horse".to_vec()));

/// Returns the options of a new image that make it fast, and give it exactly the wanted size.
fn test_options(driver: Driver) -> Result<Values> {
    let specs = driver.create_options();
    let wanted = [("iter-time", "0"), ("force_size", "on")];
    let known = wanted.iter().filter(|(name, _)| {
        let mut specs = specs.iter();
        specs.any(|spec| spec.name == *name)
    });
    let lists: Vec<OsString> = known
        .map(|(name, value)| format!("{name}={value}").into())
        .collect();
    Values::of_lists(&[specs], &lists)
}

/// Returns the parts for reading an image.
fn parts() -> Parts<'static> {
    Parts {
        secret: Some(&PASSWORD),
        ..Parts::default()
    }
}

/// Returns the parts for writing an image.
fn write_parts() -> WriteParts<'static> {
    WriteParts {
        secret: Some(&PASSWORD),
        flush: true,
        ..WriteParts::default()
    }
}

/// Returns the description of a new image.
fn new_disk(size: u64, options: &Values, backing_size: Option<u64>) -> NewDisk<'_> {
    NewDisk {
        size,
        options,
        backing_size,
        base: None,
        path: Path::new("image"),
        compressed: false,
        align: None,
        path_of: |name| Ok(name.into()),
    }
}

/// Makes a new image of a disk, if the driver can create images.
fn create(driver: Driver, disk: &[u8], storage: &Arc<MemoryStorage>, workers: usize) -> Result<()> {
    let options = test_options(driver)?;
    let plan = driver.plan(&new_disk(disk.len() as u64, &options, None))?;
    let new = plan.create(NewParts {
        file: Arc::<MemoryStorage>::clone(storage),
        files: Vec::new(),
        secret: Some(&PASSWORD),
        flush: true,
    })?;
    convert::copy(&raw(disk), new.as_ref(), settings(workers), &())
}

/// Returns the bytes of a new image of a disk, or `None` if the driver can't create it.
fn image(driver: Driver, disk: &[u8]) -> Option<Vec<u8>> {
    let storage = Arc::new(MemoryStorage::default());
    match create(driver, disk, &storage, 1) {
        Ok(()) => Some(storage.contents()),
        Err(error) => {
            let text = error.to_string();
            let is_empty = disk.is_empty() && text.contains("cannot be zero length");
            let makes_none = text.contains("does not support image creation");
            assert!(is_empty || makes_none, "{error}");
            None
        }
    }
}

fn load(driver: Driver, storage: &Arc<MemoryStorage>) -> Result<Box<dyn ImageFile>> {
    driver.load(
        Arc::<MemoryStorage>::clone(storage) as Arc<dyn Storage>,
        Load::Use,
    )
}

/// Returns the disk of an image.
fn read(driver: Driver, image: &[u8]) -> Result<Vec<u8>> {
    let storage = Arc::new(MemoryStorage::new(image.to_vec()));
    let image = load(driver, &storage)?.open(parts())?;
    let mut disk = vec![0xee; usize::try_from(image.size()).unwrap()];
    image.read_at(GuestOffset(0), &mut disk)?;
    Ok(disk)
}

/// Overwrites an image with a disk.
fn write_over(driver: Driver, storage: &Arc<MemoryStorage>, disk: &[u8]) -> Result<()> {
    let size = disk.len() as u64;
    let file = load(driver, storage)?;
    let target = file.write_over(write_parts(), size, OverwriteOptions::default())?;
    convert::copy(&raw(disk), target.as_ref(), settings(1), &())
}

/// Returns the number of corruptions that a check finds in an image, or 0 if its format has no check.
fn corruptions(driver: Driver, image: &[u8]) -> Result<u64> {
    let storage = Arc::new(MemoryStorage::new(image.to_vec()));
    let file = driver.load(storage, Load::Check)?;
    let report = file.check().map(|check| check.check(&mut |_| {}));
    Ok(report.transpose()?.map_or(0, |report| report.corruptions))
}
