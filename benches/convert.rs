//! Benchmarks of whole conversions with the library: in one process, without start-up, and with files in
//! memory.
//!
//! They compare two versions of Cowhide during development (`cargo bench --bench convert` takes a minute).
//! `benches/compare` measures the times for users, and compares them with `qemu-img`.

#![allow(
    missing_docs,
    reason = "criterion's macros make undocumented functions"
)]

#[path = "common/disks.rs"]
#[allow(dead_code, reason = "the other programs use the rest")]
mod disks;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use cowhide::convert::{self, Settings};
use cowhide::crypto::Secret;
use cowhide::formats::encryption::{EncryptedHeader as _, EncryptionFormat, LegacyAes};
use cowhide::formats::qcow2::{NewQcow2, NewQcow2Options};
use cowhide::formats::raw::NewRaw;
use cowhide::formats::{self, Format, Preallocation};
use cowhide::storage::{Access, CacheMode, FileStorage, Storage};
use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use tempfile::{NamedTempFile, TempDir};

/// The size of the disk in bytes: small enough for a minute, and large enough that starting threads doesn't
/// matter.
const SIZE: u64 = 64 << 20;
const CLUSTER_SIZES: [u64; 3] = [512, 64 << 10, 2 << 20];

fn storage(path: &Path) -> Arc<dyn Storage> {
    Arc::new(FileStorage::open(path, Access::ReadWrite, CacheMode::Unsafe).unwrap())
}

fn secret() -> Secret {
    Secret::new(b"correct horse battery".to_vec())
}

/// Converts to a qcow2 image in an empty file.
fn to_qcow2(source: &Path, target: &Path, cluster_size: u64, encrypted: bool) {
    let source = formats::open(storage(source), Format::RAW, None).unwrap();
    let mut options = NewQcow2Options::new(source.size());
    options.cluster_size = cluster_size;
    let cipher = encrypted.then(|| {
        options.encryption = Some(EncryptionFormat::Aes);
        LegacyAes.unlock(&secret()).unwrap()
    });
    let target = NewQcow2::create(storage(target), options, cipher, false).unwrap();
    convert::copy(source.as_ref(), &target, Settings::default(), &()).unwrap();
}

/// Converts to a raw image in an empty file.
fn to_raw(source: &Path, target: &Path) {
    let source = formats::open(
        storage(source),
        Format::from_name("qcow2").unwrap(),
        Some(&secret()),
    )
    .unwrap();
    let target = NewRaw::create(storage(target), source.size(), Preallocation::Off, false).unwrap();
    convert::copy(source.as_ref(), &target, Settings::default(), &()).unwrap();
}

/// Returns a folder in memory, if the system has one, so that no disk is measured.
fn folder() -> TempDir {
    let memory = Path::new(disks::TMPFS);
    if memory.is_dir() {
        tempfile::tempdir_in(memory).unwrap()
    } else {
        tempfile::tempdir().unwrap()
    }
}

fn conversions(criterion: &mut Criterion) {
    let folder = folder();
    let raw = folder.path().join("raw");
    disks::write_random(&raw, SIZE).unwrap();
    // Making and removing the file isn't measured.
    let new_file = || NamedTempFile::new_in(&folder).unwrap();

    let mut group = criterion.benchmark_group("convert");
    group
        .throughput(Throughput::Bytes(SIZE))
        .sample_size(10)
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(2));
    for encrypted in [false, true] {
        let kind = if encrypted { "aes" } else { "plain" };
        for cluster_size in CLUSTER_SIZES {
            group.bench_function(format!("raw to qcow2/{kind}/{cluster_size}"), |bencher| {
                bencher.iter_batched(
                    new_file,
                    |target| {
                        to_qcow2(&raw, target.path(), cluster_size, encrypted);
                        target
                    },
                    BatchSize::PerIteration,
                );
            });
            let image = new_file();
            to_qcow2(&raw, image.path(), cluster_size, encrypted);
            group.bench_function(format!("qcow2 to raw/{kind}/{cluster_size}"), |bencher| {
                bencher.iter_batched(
                    new_file,
                    |target| {
                        to_raw(image.path(), target.path());
                        target
                    },
                    BatchSize::PerIteration,
                );
            });
        }
    }
    group.finish();
}

criterion_group!(benches, conversions);
criterion_main!(benches);
