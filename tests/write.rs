//! Images in use: what random work leaves, and what power cuts in the middle of it leave.

mod common;
#[path = "common/power_cut.rs"]
mod power_cut;

use std::sync::Arc;

use cowhide::crypto::{AesCbc, Backend};
use cowhide::formats::NewImage;
use cowhide::formats::qcow2::{CreateOptions, EncryptionMethod, NewQcow2, Version};
use cowhide::storage::{MemoryStorage, Storage};

use power_cut::{KEY, Subject};

/// An empty image.
fn image(options: CreateOptions) -> Subject {
    let storage = Arc::new(MemoryStorage::default());
    let encrypted = options.encryption == EncryptionMethod::Aes;
    let cipher = encrypted.then(|| AesCbc::new(KEY, Backend::detect()));
    let target: Arc<dyn Storage> = Arc::<MemoryStorage>::clone(&storage);
    NewQcow2::create(target, options, cipher, true)
        .unwrap()
        .finish()
        .unwrap();
    Subject {
        bytes: storage.contents(),
        encrypted,
        backing: None,
        inspect: None,
    }
}

fn options(cluster_size: u64, size: u64) -> CreateOptions {
    CreateOptions {
        cluster_size,
        ..CreateOptions::new(size)
    }
}

#[test]
fn the_smallest_clusters() {
    for seed in 0..4 {
        image(options(512, 400_000 / 512 * 512)).work_and_cut(seed, 60, 200);
    }
}

#[test]
fn clusters_of_4_kib_in_every_version() {
    for (seed, version) in [(10, Version::V2), (11, Version::V3)] {
        let options = CreateOptions {
            version,
            ..options(4096, (1 << 20) + 512)
        };
        image(options).work_and_cut(seed, 60, 200);
    }
}

#[test]
fn clusters_of_64_kib() {
    image(options(65536, 5 << 20)).work_and_cut(20, 40, 60);
}

#[test]
fn every_width_of_refcounts() {
    for (seed, refcount_bits) in (30..).zip([1, 2, 4, 8, 32, 64]) {
        let options = CreateOptions {
            refcount_bits,
            ..options(512, 1 << 18)
        };
        image(options).work_and_cut(seed, 40, 100);
    }
}

#[test]
fn the_refcount_table_grows() {
    // A block counts 64 clusters of 512 bytes, and a table of one cluster has 64 blocks: 2 MiB.
    let options = CreateOptions {
        refcount_bits: 64,
        ..options(512, 6 << 20)
    };
    let last = image(options).work_and_cut(60, 24, 30);
    let table_clusters = u32::from_be_bytes(last[56..60].try_into().unwrap());
    assert!(table_clusters > 1, "{table_clusters}");
}

#[test]
fn encrypted() {
    for (seed, cluster_size) in [(40, 512), (41, 4096)] {
        let options = CreateOptions {
            encryption: EncryptionMethod::Aes,
            ..options(cluster_size, 1 << 19)
        };
        image(options).work_and_cut(seed, 40, 100);
    }
}

#[test]
fn lazy_refcounts() {
    for seed in 50..52 {
        let options = CreateOptions {
            lazy_refcounts: true,
            ..options(512, 1 << 18)
        };
        image(options).work_and_cut(seed, 40, 200);
    }
}
