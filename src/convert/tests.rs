//! Tests of copies between images in memory: the same bytes for any number of workers, and one clean error
//! for any single failure.

mod faults;
mod reading;
mod requests;
mod rows;
mod sharing;

use std::num::NonZeroUsize;
use std::sync::Arc;

use super::*;
use crate::convert::chunks::{BLOCK_SIZE, REQUEST_SIZE};
use crate::convert::runs::lengths;
use crate::crypto::Backend;
use crate::error::Error;
use crate::formats::encryption::{Cipher, EncryptionFormat, LegacyAes};
use crate::formats::qcow2::{Header, NewQcow2, NewQcow2Options, Qcow2Image, Version, check};
use crate::formats::raw::{NewRaw, RawImage};
use crate::formats::{Preallocation, Run};
use crate::storage::{Fault, MemoryStorage, Operation, Storage};
use crate::units::GuestOffset;

fn workers(count: usize) -> Settings {
    Settings {
        workers: NonZeroUsize::new(count).unwrap(),
        ..Settings::default()
    }
}

/// Returns a deterministic disk of `size` bytes with data, zeroes as data, and holes.
fn disk(size: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15u64;
    let mut disk = vec![0; size];
    for (number, block) in disk.chunks_mut(4096).enumerate() {
        if number % 7 < 3 {
            for byte in block {
                state = state
                    .wrapping_mul(6_364_136_223_846_793_005)
                    .wrapping_add(1);
                *byte = (state >> 56) as u8;
            }
        }
    }
    disk
}

fn cipher() -> Cipher {
    LegacyAes::with_key(b"0123456789abcdef", Backend::detect())
}

fn to_qcow2(
    source: Arc<MemoryStorage>,
    target: Arc<MemoryStorage>,
    options: NewQcow2Options,
    settings: Settings,
) -> Result<()> {
    let encrypted = options.encryption == Some(EncryptionFormat::Aes);
    let source = RawImage::open(source)?;
    let target = NewQcow2::create(target, options, encrypted.then(cipher), true)?;
    copy(&source, &target, settings, &())
}

fn options(
    disk: &[u8],
    cluster_size: u64,
    encryption: Option<EncryptionFormat>,
) -> NewQcow2Options {
    NewQcow2Options {
        cluster_size,
        encryption,
        ..NewQcow2Options::new(disk.len() as u64)
    }
}

#[test]
fn any_number_of_workers_writes_the_same_image_and_it_reads_back() {
    let disk = disk((5 << 20) + 1536);
    for cluster_size in [512, 4096, 65536, 2 << 20] {
        for encryption in [None, Some(EncryptionFormat::Aes)] {
            let mut first = None;
            for count in [1, 2, 3, 16] {
                let source = Arc::new(MemoryStorage::new(disk.clone()));
                let target = Arc::new(MemoryStorage::default());
                let options = options(&disk, cluster_size, encryption);
                to_qcow2(source, Arc::clone(&target), options, workers(count)).unwrap();
                let contents = target.contents();
                assert!(
                    *first.get_or_insert_with(|| contents.clone()) == contents,
                    "{count} workers, cluster size {cluster_size}"
                );
            }

            let image = Arc::new(MemoryStorage::new(first.unwrap()));
            let header = Header::read(image.as_ref()).unwrap();
            assert_eq!(header.version(), Version::V3);
            let report = check(image.as_ref(), &header, &mut |finding| {
                panic!("{finding} (cluster size {cluster_size})")
            })
            .unwrap();
            assert_eq!(report.image_end_offset, image.len().unwrap());
            let key = (encryption == Some(EncryptionFormat::Aes)).then(cipher);
            let back = Qcow2Image::open(image, header, key).unwrap();
            let raw = Arc::new(MemoryStorage::default());
            let target = NewRaw::create(
                Arc::<MemoryStorage>::clone(&raw),
                back.size(),
                Preallocation::Off,
                true,
            );
            copy(&back, &target.unwrap(), workers(2), &()).unwrap();
            assert!(raw.contents() == disk, "cluster size {cluster_size}");
        }
    }
}

#[test]
fn every_single_fault_is_one_error_and_never_a_finished_image() {
    let disk = disk(3 << 20);
    let options = options(&disk, 4096, Some(EncryptionFormat::Aes));
    let whole = Arc::new(MemoryStorage::default());
    let source = Arc::new(MemoryStorage::new(disk.clone()));
    to_qcow2(
        Arc::clone(&source),
        Arc::clone(&whole),
        options.clone(),
        workers(1),
    )
    .unwrap();
    let reads = source.count(Operation::Read);
    let writes = whole.count(Operation::Write);
    let flushes = whole.count(Operation::Flush);
    assert!(reads >= 3 && writes >= 6 && flushes == 2);

    for count in [1, 3] {
        for nth in 1..=reads {
            let fault = Fault {
                operation: Operation::Read,
                nth,
                errno: 5,
            };
            let source = Arc::new(MemoryStorage::new(disk.clone()).with_fault(fault));
            let target = Arc::new(MemoryStorage::default());
            let done = to_qcow2(source, Arc::clone(&target), options.clone(), workers(count));
            let message = done.unwrap_err().to_string();
            assert!(
                message.starts_with("error while reading at byte "),
                "{message}"
            );
            assert!(message.ends_with("Input/output error"), "{message}");
            assert!(Header::read(target.as_ref()).is_err());
        }
        let write_faults = (1..=writes).map(|nth| (Operation::Write, nth));
        let flush_faults = (1..=flushes).map(|nth| (Operation::Flush, nth));
        for (operation, nth) in write_faults.chain(flush_faults) {
            let fault = Fault {
                operation,
                nth,
                errno: 28,
            };
            let source = Arc::new(MemoryStorage::new(disk.clone()));
            let target = Arc::new(MemoryStorage::default().with_fault(fault));
            let done = to_qcow2(source, Arc::clone(&target), options.clone(), workers(count));
            let message = done.unwrap_err().to_string();
            assert!(message.ends_with("No space left on device"), "{message}");
            // The last flush comes after the header, so the image is complete although the command has
            // failed.
            if (operation, nth) != (Operation::Flush, flushes) {
                assert!(
                    Header::read(target.as_ref()).is_err(),
                    "{operation:?} {nth}"
                );
            }
        }
    }
}

#[test]
fn a_source_that_shrinks_is_an_error() {
    let disk = disk(1 << 20);
    let storage = Arc::new(MemoryStorage::new(disk.clone()));
    let source = RawImage::open(Arc::<MemoryStorage>::clone(&storage)).unwrap();
    storage.set_len(disk.len() as u64 - 4096 * 5).unwrap();
    let raw = Arc::new(MemoryStorage::default());
    let target = NewRaw::create(raw, source.size(), Preallocation::Off, false).unwrap();
    let error = copy(&source, &target, workers(2), &())
        .unwrap_err()
        .to_string();
    assert!(error.contains("ended at byte"), "{error}");
}

#[test]
fn a_device_with_old_contents_holds_exactly_the_disk() {
    let mut disk = vec![0; 3 << 20];
    disk[70_000] = 1;
    disk[1 << 20..(1 << 20) + 5000].fill(2);
    for cluster_size in [512, 65536] {
        for copy_offload in [false, true] {
            let source = Arc::new(MemoryStorage::new(disk.clone()));
            let device = Arc::new(MemoryStorage::new(vec![0xaa; 8 << 20]).as_device());
            let options = options(&disk, cluster_size, None);
            let settings = Settings {
                copy_offload,
                ..workers(2)
            };
            to_qcow2(source, Arc::clone(&device), options, settings).unwrap();
            let header = Header::read(device.as_ref()).unwrap();
            check(device.as_ref(), &header, &mut |finding| {
                panic!("{finding} (cluster size {cluster_size})")
            })
            .unwrap();
            let back = Qcow2Image::open(device, header, None).unwrap();
            let mut contents = vec![0; disk.len()];
            back.read_at(GuestOffset(0), &mut contents).unwrap();
            assert!(contents == disk, "cluster size {cluster_size}");
        }
    }
}

#[test]
fn a_failed_conversion_onto_a_device_leaves_no_old_image_behind() {
    let disk = disk(1 << 20);
    let mut old = vec![0; 8 << 20];
    old[..8].copy_from_slice(b"QFI\xfb\0\0\0\x03");
    let fault = Fault {
        operation: Operation::Write,
        nth: 3,
        errno: 5,
    };
    let device = Arc::new(MemoryStorage::new(old).as_device().with_fault(fault));
    let source = Arc::new(MemoryStorage::new(disk.clone()));
    let options = options(&disk, 4096, None);
    assert!(to_qcow2(source, Arc::clone(&device), options, workers(2)).is_err());
    assert_eq!(device.contents()[..8], [0; 8]);
}

mod compressed;
