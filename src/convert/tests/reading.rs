//! Tests of comparisons, checksums, and parts that can't be read.

use std::ops::Range;
use std::sync::Mutex;

use super::*;
use crate::convert::compare::{Side, first_difference};
use crate::convert::{Algorithm, checksum, copy_and_hash};
use crate::formats::encryption::EncryptionFormat;
use crate::formats::{Extent, ExtentKind};

fn raw(bytes: Vec<u8>) -> RawImage {
    RawImage::open(Arc::new(MemoryStorage::new(bytes))).unwrap()
}

fn count(workers: usize) -> NonZeroUsize {
    NonZeroUsize::new(workers).unwrap()
}

fn sides<'a>(one: &'a dyn Image, other: &'a dyn Image) -> [Side<'a>; 2] {
    [one, other].map(|image| Side { image, name: "it" })
}

fn encrypted(disk: &[u8]) -> Qcow2Image {
    let target = Arc::new(MemoryStorage::default());
    let options = options(disk, 4096, Some(EncryptionFormat::Aes));
    let source = Arc::new(MemoryStorage::new(disk.to_vec()));
    to_qcow2(source, Arc::clone(&target), options, workers(2)).unwrap();
    let header = Header::read(target.as_ref()).unwrap();
    Qcow2Image::open(target, header, Some(cipher())).unwrap()
}

#[test]
fn the_first_difference_is_found_wherever_it_is() {
    let disk = disk((3 << 20) + 512);
    let stored = encrypted(&disk);
    for workers in [1, 3] {
        let difference = |other: Vec<u8>| {
            let other = raw(other);
            let found = first_difference(sides(&stored, &other), count(workers), &());
            found.unwrap().map(|at| at.0)
        };
        assert_eq!(difference(disk.clone()), None);
        // The offsets are in data, in zeroes as data, in a hole, and in the last byte.
        for at in [0, 5000, 300_000, 20_480, 3 << 20, disk.len() - 1] {
            let mut other = disk.clone();
            other[at] ^= 1;
            // Later differences don't matter.
            other[at + 1..]
                .iter_mut()
                .step_by(100_000)
                .for_each(|byte| *byte ^= 3);
            let sector = at as u64 / 512 * 512;
            assert_eq!(difference(other), Some(sector), "{workers} workers");
        }
        let mut longer = disk.clone();
        longer.extend([7; 4096]);
        assert_eq!(difference(longer), None);
    }
}

#[test]
fn a_checksum_is_that_of_the_raw_bytes_with_and_without_copying() {
    use sha2::Digest as _;
    for size in [0, 512, (2 << 20) + 1536] {
        let disk = disk(size);
        let stored = encrypted(&disk);
        let sha256 = sha2::Sha256::digest(&disk);
        let sha256 = sha256.iter().map(|byte| format!("{byte:02x}"));
        let expected = [sha256.collect(), blake3::hash(&disk).to_hex().to_string()];
        for (algorithm, expected) in Algorithm::ALL.into_iter().zip(expected) {
            for workers in [1, 2, 16] {
                let read = checksum(&stored, algorithm, count(workers), &()).unwrap();
                assert_eq!(read.to_string(), expected);
                for cluster_size in [512, 2 << 20] {
                    let encryption = Some(EncryptionFormat::Aes);
                    let options = options(&disk, cluster_size, encryption);
                    let target = Arc::<MemoryStorage>::default();
                    let key = Some(cipher());
                    let new = NewQcow2::create(target, options, key, false).unwrap();
                    let settings = super::workers(workers);
                    let source = raw(disk.clone());
                    let copied = copy_and_hash(&source, &new, settings, Some(algorithm), &());
                    assert_eq!(copied.unwrap().digest.unwrap().to_string(), expected);
                }
            }
        }
    }
}

#[test]
fn a_disk_that_cannot_be_read_has_no_checksum() {
    let disk = disk(2 << 20);
    for workers in [1, 3] {
        for nth in 1..=4 {
            let faulty = || {
                let storage = MemoryStorage::new(disk.clone()).with_fault(Fault {
                    operation: Operation::Read,
                    nth,
                    errno: 5,
                });
                RawImage::open(Arc::new(storage)).unwrap()
            };
            let sum = checksum(&faulty(), Algorithm::Sha256, count(workers), &());
            let message = sum.unwrap_err().to_string();
            assert!(message.starts_with("error while reading at byte "));
        }
    }
}

/// A disk with parts that can't be read.
struct BrokenSectors {
    size: u64,
    places: Vec<Range<u64>>,
}

impl Image for BrokenSectors {
    fn size(&self) -> u64 {
        self.size
    }

    fn extent_at(&self, start: GuestOffset, limit: u64) -> Result<Extent> {
        Ok(Extent {
            start,
            length: limit.min(self.size - start.0),
            kind: ExtentKind::Data(crate::units::HostOffset(start.0)),
            depth: 0,
        })
    }

    fn read_at(&self, offset: GuestOffset, buf: &mut [u8]) -> Result<()> {
        let end = offset.0 + buf.len() as u64;
        for place in &self.places {
            if offset.0 < place.end && place.start < end {
                return Err(Error::corrupt(format!("broken from {}", place.start)));
            }
        }
        buf.fill(9);
        Ok(())
    }
}

#[derive(Default)]
struct Told(Mutex<Vec<(u64, u64)>>);

impl Observer for Told {
    fn salvaged(&self, offset: GuestOffset, length: u64, error: &Error) {
        assert_eq!(error.to_string(), format!("broken from {}", offset.0));
        self.0.lock().unwrap().push((offset.0, length));
    }
}

#[test]
fn what_cannot_be_read_is_told_once_for_neighbours_and_in_order() {
    let chunk = BLOCK_SIZE as u64;
    let broken = BrokenSectors {
        size: 8 * chunk,
        places: vec![
            0..512,
            1024..2048,
            // It ends with its chunk, and the next chunk is readable at its start.
            chunk - 512..chunk,
            chunk + 512..chunk + 1024,
            // It spans several chunks.
            2 * chunk - 1536..5 * chunk + 512,
            8 * chunk - 512..8 * chunk,
        ],
    };
    for workers in [1, 2, 7] {
        let told = Told::default();
        let target = Arc::<MemoryStorage>::default();
        let new = NewRaw::create(
            Arc::<MemoryStorage>::clone(&target),
            broken.size,
            Preallocation::Off,
            false,
        );
        let settings = Settings {
            salvage: true,
            ..super::workers(workers)
        };
        let algorithm = Some(Algorithm::Blake3);
        let copied = copy_and_hash(&broken, &new.unwrap(), settings, algorithm, &told).unwrap();
        let expected = broken.places.iter();
        let expected: Vec<_> = expected.map(|r| (r.start, r.end - r.start)).collect();
        assert_eq!(told.0.into_inner().unwrap(), expected, "{workers} workers");
        let written = target.contents();
        let mut disk = vec![9; written.len()];
        for place in &broken.places {
            let at = |offset| usize::try_from(offset).unwrap();
            disk[at(place.start)..at(place.end)].fill(0);
        }
        assert!(written == disk);
        let hash = blake3::hash(&written).to_hex().to_string();
        assert_eq!(copied.digest.unwrap().to_string(), hash);
    }
}
