//! Tests of compressed images: those of qemu-img are read and checked here, and the reverse.

use std::path::Path;

use libtest_mimic::Trial;

use crate::common::{real_disk, same_contents, write_disk};
use crate::tools::{SECRET, Tool, checks_agree, ours, qemu_img, spec, to_raw};
use crate::trial;

pub fn trials() -> Vec<Trial> {
    let mut trials = Vec::new();
    for kind in ["zlib", "zstd"] {
        for cluster_size in ["512", "4k", "64k", "2M"] {
            let name = format!("compressed::{kind}_{cluster_size}");
            trials.push(trial(name, move || read(kind, cluster_size)));
        }
    }
    for bits in 9..=21 {
        for (kind, compat) in [("zlib", "1.1"), ("zlib", "0.10"), ("zstd", "1.1")] {
            let name = format!("compressed::written_{kind}_{compat}_{}", 1 << bits);
            trials.push(trial(name, move || written(kind, compat, 1 << bits, 16)));
        }
    }
    for width in [1, 2, 8, 64] {
        for cluster_size in [512, 65536] {
            let name = format!("compressed::written_refcounts_{width}_{cluster_size}");
            trials.push(trial(name, move || {
                written("zlib", "1.1", cluster_size, width);
            }));
        }
    }
    trials.push(trial("compressed::written_in_full", written_in_full));
    trials.push(trial("compressed::written_past_the_cache", past_the_cache));
    trials.push(trial(
        "compressed::written_with_subclusters",
        with_subclusters,
    ));
    trials.push(trial("compressed::refusals", refusals));
    trials.push(trial("compressed::zlib_version_2", version_2));
    trials.push(trial(
        "compressed::plaintext_in_an_encrypted_image_is_read_as_it_is",
        in_an_encrypted_image,
    ));
    trials
}

fn compare(folder: &Path, image: &str) {
    to_raw(ours, folder, image, "back.raw");
    assert!(same_contents(&real_disk(), &folder.join("back.raw")));
    checks_agree(folder, image);
}

fn read(kind: &str, cluster_size: &str) {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let disk = real_disk();
    let options = format!("compression_type={kind},cluster_size={cluster_size}");
    let args = ["convert", "-c", "-O", "qcow2", "-o", &options];
    qemu_img(
        folder,
        &[&args[..], &[disk.to_str().unwrap(), "x.qcow2"]].concat(),
    )
    .ok();
    compare(folder, &spec("x.qcow2", "qcow2", false));
    // The image is partly overwritten, so that it has compressed and uncompressed clusters.
    let wrote = crate::common::run(
        folder,
        "qemu-io",
        ["-f", "qcow2", "-c", "write -q -P 7 70000 100000", "x.qcow2"],
    );
    assert_eq!(wrote.status, Some(0), "{wrote:?}");
    ours(folder, &["convert", "x.qcow2", "ours.raw"]).ok();
    qemu_img(folder, &["convert", "x.qcow2", "theirs.raw"]).ok();
    assert!(same_contents(
        &folder.join("ours.raw"),
        &folder.join("theirs.raw")
    ));
}

/// Returns the map of the clusters without host offsets, which is the same for both tools, with runs of one kind
/// joined.
fn clusters(folder: &Path, image: &str) -> Vec<(u64, String)> {
    let map = qemu_img(folder, &["map", "--output=json", image]).ok();
    let map: serde_json::Value = serde_json::from_str(&map).unwrap();
    let mut joined: Vec<(u64, String)> = Vec::new();
    for extent in map.as_array().unwrap() {
        let length = extent["length"].as_u64().unwrap();
        let flag = |name: &str| extent[name].as_bool().unwrap();
        let names = ["present", "zero", "data", "compressed"];
        let kind = names.map(|name| format!("{name} {}", flag(name))).join(" ");
        match joined.last_mut() {
            Some((before, last)) if *last == kind => *before += length,
            _ => joined.push((length, kind)),
        }
    }
    joined
}

/// Compresses the disk with both tools, and compares the images.
fn hold_together(folder: &Path, disk: &Path, options: &str, extra: &[&str]) {
    let disk = disk.to_str().unwrap();
    for (tool, image) in [(ours as Tool, "ours.qcow2"), (qemu_img, "theirs.qcow2")] {
        let args = ["convert", "-c", "-f", "raw", "-O", "qcow2", "-o", options];
        tool(folder, &[&args[..], extra, &[disk, image]].concat()).ok();
    }
    let report = qemu_img(folder, &["check", "ours.qcow2"]).ok();
    assert!(report.starts_with("No errors"), "{report}");
    let image = spec("ours.qcow2", "qcow2", false);
    checks_agree(folder, &image);
    for reader in [qemu_img as Tool, ours] {
        to_raw(reader, folder, &image, "back.raw");
        assert!(same_contents(Path::new(disk), &folder.join("back.raw")));
    }
    let theirs = clusters(folder, "theirs.qcow2");
    assert!(clusters(folder, "ours.qcow2") == theirs);
    assert!(
        theirs
            .iter()
            .any(|(_, kind)| kind.contains("compressed true"))
    );
    let info = |tool: Tool| tool(folder, &["info", "ours.qcow2"]).ok();
    assert_eq!(info(ours), info(qemu_img));
}

fn written(kind: &str, compat: &str, cluster_size: u64, width: u32) {
    let folder = tempfile::tempdir().unwrap();
    let mut options = format!("compat={compat},cluster_size={cluster_size},refcount_bits={width}");
    if kind != "zlib" {
        options.push_str(",compression_type=zstd");
    }
    hold_together(folder.path(), &real_disk(), &options, &[]);
}

/// Checks `-S 0`, with which zeroes are compressed like data, with a disk that ends within a cluster.
fn written_in_full() {
    let folder = tempfile::tempdir().unwrap();
    let disk = folder.path().join("disk.raw");
    write_disk(&disk, 3_000_000 / 512 * 512, 7);
    hold_together(folder.path(), &disk, "cluster_size=64k", &["-S", "0"]);
}

/// Checks writes that bypass the page cache: compressed clusters start at any byte, and there are several writers.
fn past_the_cache() {
    // Not every file system for temporary files can bypass the page cache.
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let disk = folder.path().join("disk.raw");
    write_disk(&disk, 9_000_000 / 512 * 512, 7);
    let options = "cluster_size=4k";
    hold_together(
        folder.path(),
        &disk,
        options,
        &["-t", "none", "-m", "8", "-W"],
    );
}

/// Checks images with subclusters, which only uncompressed clusters have.
fn with_subclusters() {
    let folder = tempfile::tempdir().unwrap();
    let disk = real_disk();
    hold_together(folder.path(), &disk, "extended_l2=on", &[]);
    hold_together(folder.path(), &disk, "extended_l2=on,cluster_size=16k", &[]);
}

/// Checks that targets that can't be compressed are refused with the same error, and that no file is made.
fn refusals() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let disk = real_disk();
    let disk = disk.to_str().unwrap();
    let aes = "encrypt.format=aes,encrypt.key-secret=s";
    for (args, message) in [
        (
            &["-O", "raw"][..],
            "Compression not supported for this file format",
        ),
        (
            &["-O", "qcow2", "-o", aes],
            "Compression and encryption not supported at the same time",
        ),
        (
            &["-O", "qcow2", "-o", "encryption=on,encrypt.key-secret=s"],
            "Compression and encryption not supported at the same time",
        ),
        (
            &["-O", "qcow2", "-o", "preallocation=metadata"],
            "Compression and preallocation not supported at the same time",
        ),
        (
            &["-O", "qcow2", "-C"],
            "Cannot enable copy offloading when -c is used",
        ),
        (
            &["-O", "qcow2", "-o", "compat=0.10,compression_type=zstd"],
            "Non-zlib compression type is only supported with compatibility level 1.1 and above",
        ),
    ] {
        let all = [&["convert", "--object", SECRET, "-c"], args, &[disk, "x"]].concat();
        ours(folder, &all).fails(1, message);
        let theirs = qemu_img(folder, &all);
        assert!(theirs.stderr.contains(message), "{theirs:?}");
        assert!(!folder.join("x").exists());
    }
    // This option is cowhide's own.
    let both = "Compression and encryption not supported at the same time";
    let args = [
        "convert",
        "-c",
        "--encrypt",
        "aes",
        "-O",
        "qcow2",
        disk,
        "x",
    ];
    ours(folder, &args).fails(1, both);
    let args = [
        "convert",
        "-c",
        "-O",
        "qcow2",
        "-o",
        "data_file=y",
        disk,
        "x",
    ];
    ours(folder, &args).fails(1, "Compression and an external data file");
    assert!(!folder.join("x").exists() && !folder.join("y").exists());
}

fn version_2() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let disk = real_disk();
    let args = ["convert", "-c", "-O", "qcow2", "-o", "compat=0.10"];
    qemu_img(
        folder,
        &[&args[..], &[disk.to_str().unwrap(), "x.qcow2"]].concat(),
    )
    .ok();
    compare(folder, &spec("x.qcow2", "qcow2", false));
}

/// Checks compressed clusters in an encrypted image, which qemu-img writes and reads without encryption, so that they
/// must not be decrypted.
fn in_an_encrypted_image() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let disk = real_disk();
    let options = "encrypt.format=aes,encrypt.key-secret=s";
    let args = [
        "create", "-q", "-f", "qcow2", "--object", SECRET, "-o", options,
    ];
    qemu_img(folder, &[&args[..], &["x.qcow2", "1440k"]].concat()).ok();
    let image = spec("x.qcow2", "qcow2", true);
    let args = [
        "convert",
        "-n",
        "-c",
        "--object",
        SECRET,
        "--target-image-opts",
    ];
    qemu_img(
        folder,
        &[&args[..], &[disk.to_str().unwrap(), &image]].concat(),
    )
    .ok();
    compare(folder, &image);
}
