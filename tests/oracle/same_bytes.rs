//! Tests that new images without data are the same to the byte as those of qemu-img, and that their files take the
//! same space at their start.
//!
//! There is one deliberate difference: the clusters of preallocated encrypted images read as zeroes with cowhide, and
//! as noise with qemu-img. LUKS headers are random.

use std::fs;
use std::os::unix::fs::MetadataExt as _;

use libtest_mimic::Trial;

use crate::common::same_contents;
use crate::tools::{SECRET, Tool, ours, qemu_img};
use crate::trial;

/// The sizes of the disks.
const SIZES: &[&str] = &["0", "512", "1000", "1M", "1G", "5G", "3T"];

/// The options, each of which is tested with each size.
const OPTIONS: &[&str] = &[
    "compat=1.1",
    "compat=0.10",
    "compat=v3,lazy_refcounts=on",
    "cluster_size=4k",
    "cluster_size=2M",
    "cluster_size=128k,extended_l2=on",
    "refcount_bits=1",
    "refcount_bits=2,cluster_size=4k",
    "refcount_bits=64",
    "refcount_bits=64,cluster_size=4k",
    "compression_type=zstd",
    "data_file=data",
    "data_file=data,extended_l2=on,cluster_size=16k",
    "backing_file=below,backing_fmt=raw",
    "backing_file=below,backing_fmt=raw,compat=0.10",
    "backing_file=below,backing_fmt=raw,data_file=data",
    "encrypt.format=aes,encrypt.key-secret=s",
    "encrypt.format=aes,encrypt.key-secret=s,compat=0.10,cluster_size=64k",
];

/// The options with preallocation, and the sizes of the disks. The sizes matter, since refcount blocks are allocated
/// between runs of clusters, and a refcount table that becomes too short is moved.
const PREALLOCATED: &[(&str, &[&str])] = &[
    (
        "preallocation=metadata",
        &["0", "512", "1000", "3000k", "70000512"],
    ),
    ("preallocation=falloc", &["0", "512", "3000k"]),
    ("preallocation=full", &["1", "3000k"]),
    ("preallocation=metadata,compat=0.10", &["3000k"]),
    (
        "preallocation=metadata,cluster_size=512",
        &["0", "130048", "131072", "132096", "9M"],
    ),
    (
        "preallocation=metadata,cluster_size=512,refcount_bits=64",
        &["127k", "1513472", "2500k"],
    ),
    (
        "preallocation=metadata,cluster_size=1k,refcount_bits=1",
        &["16756224"],
    ),
    (
        "preallocation=falloc,cluster_size=512",
        &["100k", "1M", "9M"],
    ),
    (
        "preallocation=full,cluster_size=512,refcount_bits=64",
        &["100k", "4M"],
    ),
    (
        "preallocation=metadata,extended_l2=on,cluster_size=16k",
        &["5467649", "20M"],
    ),
    (
        "preallocation=falloc,extended_l2=on,cluster_size=16k",
        &["5467649", "20M"],
    ),
    (
        "preallocation=metadata,extended_l2=on,backing_file=below,backing_fmt=raw",
        &["1000", "3000k"],
    ),
    (
        "preallocation=falloc,extended_l2=on,backing_file=below,backing_fmt=raw",
        &["3000k"],
    ),
    (
        "preallocation=metadata,data_file=data,cluster_size=4k",
        &["5467649", "9M"],
    ),
    (
        "preallocation=falloc,data_file=data,cluster_size=4k",
        &["9M"],
    ),
    ("preallocation=full,data_file=data,cluster_size=4k", &["9M"]),
    (
        "data_file=data,data_file_raw=on,cluster_size=512",
        &["512", "1000", "9M"],
    ),
];

pub fn trials() -> Vec<Trial> {
    let images = OPTIONS.iter().map(|options| {
        trial(format!("same_bytes::[{options}]"), move || {
            for size in SIZES {
                same_image(options, size);
            }
        })
    });
    let small = trial("same_bytes::small_clusters", || {
        for (options, sizes) in [
            (
                "cluster_size=512",
                &["0", "512", "1M", "1G", "6G", "32G"][..],
            ),
            ("cluster_size=512,compat=0.10", &["1M", "1G"]),
            ("cluster_size=512,refcount_bits=64", &["1M", "1G", "8G"]),
            ("cluster_size=1k", &["1M", "1G", "100G"]),
            ("cluster_size=1k,refcount_bits=8", &["100G"]),
        ] {
            sizes.iter().for_each(|size| same_image(options, size));
        }
    });
    let raw = trial("same_bytes::raw", same_raw);
    let preallocated = PREALLOCATED.iter().map(|(options, sizes)| {
        trial(format!("same_bytes::preallocated_[{options}]"), move || {
            sizes.iter().for_each(|size| same_image(options, size))
        })
    });
    images.chain(preallocated).chain([small, raw]).collect()
}

/// Makes an image with both tools, and compares the files.
fn same_image(options: &str, size: &str) {
    let made = [ours as Tool, qemu_img].map(|tool| {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("below"), vec![7; 1 << 20]).unwrap();
        let create = [
            "create", "-q", "-f", "qcow2", "--object", SECRET, "-o", options,
        ];
        let args = [&create[..], &["x", size]].concat();
        (tool(folder.path(), &args), folder)
    });
    let [(our_run, ours), (their_run, theirs)] = &made;
    assert_eq!(
        our_run.status, their_run.status,
        "{options} {size}: {our_run:?}"
    );
    if their_run.status != Some(0) {
        return;
    }
    let mut names: Vec<_> = fs::read_dir(theirs.path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    names.sort();
    assert!(names.contains(&"x".into()));
    for name in names {
        let [our, their] = [ours, theirs].map(|folder| folder.path().join(&name));
        let [length, expected] = [&our, &their].map(|path| fs::metadata(path).unwrap().len());
        assert_eq!(length, expected, "{options} {size}: {}", name.display());
        if length < 64 << 20 {
            let same = same_contents(&our, &their);
            assert!(same, "{options} {size}: {}", name.display());
        }
        first_block(&our, &their);
    }
}

/// Asserts that two files without data take the same space.
fn first_block(our: &std::path::Path, their: &std::path::Path) {
    let [ours, theirs] = [our, their].map(|path| fs::metadata(path).unwrap());
    if theirs.blocks() <= 8 {
        assert_eq!(ours.blocks(), theirs.blocks(), "{}", our.display());
    }
}

fn same_raw() {
    for size in ["0", "1", "512", "4095", "4096", "1M", "3T"] {
        let made = [ours as Tool, qemu_img].map(|tool| {
            let folder = tempfile::tempdir().unwrap();
            tool(folder.path(), &["create", "-q", "-f", "raw", "x", size]).ok();
            folder
        });
        let [our, their] = [&made[0], &made[1]].map(|folder| folder.path().join("x"));
        let [ours, theirs] = [&our, &their].map(|path| fs::metadata(path).unwrap());
        assert_eq!(ours.len(), theirs.len(), "{size}");
        assert_eq!(ours.blocks(), theirs.blocks(), "{size}");
    }
}
