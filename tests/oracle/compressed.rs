//! Compressed images that qemu-img made: read and checked here.

use std::path::Path;

use libtest_mimic::Trial;

use crate::common::{real_disk, same_contents};
use crate::matrix::{SECRET, checks_agree, ours, qemu_img, spec, to_raw};
use crate::trial;

pub fn trials() -> Vec<Trial> {
    let mut trials = Vec::new();
    for kind in ["zlib", "zstd"] {
        for cluster_size in ["512", "4k", "64k", "2M"] {
            let name = format!("compressed::{kind}_{cluster_size}");
            trials.push(trial(name, move || read(kind, cluster_size)));
        }
    }
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
    // Partly overwritten: compressed and plain clusters side by side.
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

/// qemu-img writes compressed clusters into encrypted images without encrypting them, and reads them
/// so; what such an image holds must not be decrypted.
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
