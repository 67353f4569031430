//! Tests of copies to compressed targets.

use super::*;
use crate::formats::qcow2::{CompressionType, NewQcow2};

/// Returns [`disk`] with compressible data: every other block has text, or text and noise.
fn compressible_disk(size: usize) -> Vec<u8> {
    let mut disk = disk(size);
    for (number, block) in disk.chunks_mut(4096).enumerate() {
        let text = match number % 4 {
            0 => 0..block.len(),
            2 => 0..block.len() / 3,
            _ => 0..0,
        };
        for (offset, byte) in block[text].iter_mut().enumerate() {
            *byte = b'a' + u8::try_from((offset * number / 5) % 20).unwrap();
        }
    }
    disk
}

fn convert(disk: &[u8], target: Arc<MemoryStorage>, options: NewQcow2Options, count: usize) {
    let source = RawImage::open(Arc::new(MemoryStorage::new(disk.to_vec()))).unwrap();
    let target = NewQcow2::create_compressed(target, options, true).unwrap();
    copy(&source, &target, workers(count), &()).unwrap();
}

/// Checks that refcounts are right, that no cluster is leaked, and that the image has the disk.
fn verify(image: Vec<u8>, disk: &[u8], what: &str) {
    let image = Arc::new(MemoryStorage::new(image));
    let header = Header::read(image.as_ref()).unwrap();
    let report = check(image.as_ref(), &header, &mut |finding| {
        panic!("{what}: {finding}")
    });
    assert!(report.unwrap().compressed_clusters > 0, "{what}");
    let image = Qcow2Image::open(image, header, None).unwrap();
    let mut back = vec![0; usize::try_from(image.size()).unwrap()];
    image.read_at(GuestOffset(0), &mut back).unwrap();
    let (data, padding) = back.split_at(disk.len());
    assert!(data == disk && padding.iter().all(|b| *b == 0), "{what}");
}

#[test]
fn any_number_of_workers_compresses_to_the_same_image() {
    let disk = compressible_disk((3 << 20) + 1000);
    for cluster_size in [512, 4096, 65536, 2 << 20] {
        for compression in [CompressionType::Zlib, CompressionType::Zstd] {
            let what = format!("{cluster_size} {compression:?}");
            let options = NewQcow2Options {
                cluster_size,
                compression,
                ..NewQcow2Options::new(disk.len() as u64)
            };
            let mut first = None;
            for count in [1, 2, 5] {
                let target = Arc::new(MemoryStorage::default());
                convert(&disk, Arc::clone(&target), options.clone(), count);
                let contents = target.contents();
                let first = first.get_or_insert_with(|| contents.clone());
                assert!(*first == contents, "{count} workers, {what}");
            }
            verify(first.unwrap(), &disk, &what);
        }
    }
}

#[test]
fn refcounts_of_any_width_are_right() {
    let disk = compressible_disk(1 << 20);
    for refcount_bits in [1, 2, 4, 8, 32, 64] {
        for cluster_size in [512, 16384] {
            let options = NewQcow2Options {
                cluster_size,
                refcount_bits,
                ..NewQcow2Options::new(disk.len() as u64)
            };
            let target = Arc::new(MemoryStorage::default());
            convert(&disk, Arc::clone(&target), options, 2);
            let what = format!("{refcount_bits} bits, {cluster_size}");
            verify(target.contents(), &disk, &what);
        }
    }
}

#[test]
fn a_device_keeps_nothing_of_what_it_held() {
    let disk = compressible_disk(1 << 20);
    let device = Arc::new(MemoryStorage::new(vec![0xa5; 8 << 20]).as_device());
    let file = Arc::new(MemoryStorage::default());
    for target in [&device, &file] {
        let options = NewQcow2Options {
            cluster_size: 4096,
            ..NewQcow2Options::new(disk.len() as u64)
        };
        convert(&disk, Arc::clone(target), options, 2);
    }
    let contents = file.contents();
    verify(contents.clone(), &disk, "file");
    // The comparison starts after the header and the L1 table, of whose clusters only the start is used.
    let tables = 2 * 4096;
    assert!(device.contents()[tables..contents.len()] == contents[tables..]);
}

#[test]
fn every_write_that_fails_is_an_error() {
    let disk = compressible_disk(200_000);
    let total = {
        let target = Arc::new(MemoryStorage::default());
        convert(&disk, Arc::clone(&target), NewQcow2Options::new(200_000), 2);
        target.count(Operation::Write)
    };
    for nth in 1..=total {
        let fault = Fault {
            operation: Operation::Write,
            nth,
            errno: 28,
        };
        let source = RawImage::open(Arc::new(MemoryStorage::new(disk.clone()))).unwrap();
        let storage = Arc::new(MemoryStorage::default().with_fault(fault));
        let target =
            NewQcow2::create_compressed(storage, NewQcow2Options::new(200_000), true).unwrap();
        let error = copy(&source, &target, workers(2), &()).unwrap_err();
        assert!(error.to_string().contains("No space left"), "{error}");
    }
}
